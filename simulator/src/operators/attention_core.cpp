// Scores, masks and the softmax of one sequence (attention.h).
#include "operators/attention.h"

#include <cstdlib>
#include <limits>

namespace cannsim {
namespace {

constexpr int64_t kQueryRows = 512;  // rows of scores computed at once: bounds the memory of a long prefill
constexpr double kLowest = -std::numeric_limits<double>::infinity();

// The mask's part for rows first..first + count: [count, length], or [heads, count, length]. It has
// two dimensions for all sequences, three with one for each, four with one for each head too.
Tensor given_mask(const AttentionRule& rule, const AttentionSequence& s, int64_t first, int64_t count) {
  Tensor mask = rule.mask->to(at::kBool);
  if (mask.dim() >= 3) mask = mask.select(0, mask.size(0) == 1 ? 0 : s.batch);
  if (mask.dim() == 3 && mask.size(0) == 1) mask = mask.select(0, 0);
  return mask.narrow(-2, first, count).narrow(-1, 0, s.key.size(0));
}

// Distance of key j from row i's own place; the last row stands at the last key, or (left-up) the
// first row at the first key.
Tensor distances(const AttentionSequence& s, int64_t first, int64_t count, bool left_up) {
  const int64_t rows = s.query.size(0), length = s.key.size(0) - s.prefix;
  const int64_t corner = left_up ? 0 : length - rows;
  const Tensor row = at::arange(first + corner, first + corner + count, at::kLong).unsqueeze(1);
  const Tensor distance = at::arange(-s.prefix, length, at::kLong).unsqueeze(0) - row;
  if (s.prefix > 0) distance.narrow(1, 0, s.prefix).zero_();  // the prefix is near to every row
  return distance;
}

// Which keys the rows may not see; undefined: they see all.
Tensor hidden(const AttentionRule& rule, const AttentionSequence& s, int64_t first, int64_t count) {
  if (rule.sparse_mode == 0 || rule.sparse_mode == 1) {
    if (!given(rule.mask)) return {};
    const Tensor mask = given_mask(rule, s, first, count);
    if (rule.sparse_mode == 1 || (rule.before >= INT32_MAX && rule.after >= INT32_MAX)) return mask;
    const Tensor distance = distances(s, first, count, true);
    return mask.logical_or(distance > rule.after).logical_or(distance < -rule.before);
  }
  if (rule.sparse_mode == 3 && count == 1 && s.query.size(0) == 1) return {};
  const Tensor distance = distances(s, first, count, rule.sparse_mode == 2);
  if (rule.sparse_mode != 4) return distance > 0;
  return (distance > rule.after).logical_or(distance < -rule.before);
}

// Weights of the keys, [key heads, groups, count, length], and what the softmax divided by.
Tensor weigh(const AttentionRule& rule, const AttentionSequence& s, const Tensor& scores, int64_t first, int64_t count) {
  const int64_t groups = rule.heads / rule.key_heads, length = scores.size(-1);
  Tensor greatest = scores.amax(-1, true);
  if (rule.sink) {
    const Tensor sink = wide(*rule.sink).view({rule.key_heads, groups, 1, 1}).expand_as(greatest);
    const Tensor weights = at::softmax(at::cat({scores, sink}, -1), -1).narrow(-1, 0, length);
    if (!s.lse.defined() && !s.sum.defined()) return weights;
  }
  const Tensor none = greatest == kLowest;  // rows that see nothing
  const Tensor anchor = greatest.masked_fill(none, 0);
  Tensor raised = at::exp(scores - anchor);
  Tensor sum = raised.sum(-1, true);
  if (rule.sink) sum = sum + at::exp(wide(*rule.sink).view({rule.key_heads, groups, 1, 1}) - anchor);
  const auto by_row = [&](const Tensor& x) { return x.permute({2, 0, 1, 3}).reshape({count, rule.heads}); };
  if (s.lse.defined())
    s.lse.narrow(0, first, count).copy_(by_row((anchor + at::log(sum)).masked_fill(none, std::numeric_limits<double>::infinity())));
  if (s.greatest.defined()) s.greatest.narrow(0, first, count).copy_(by_row(greatest));
  if (s.sum.defined()) s.sum.narrow(0, first, count).copy_(by_row(sum));
  return raised.div_(sum.masked_fill(none, 1));
}

}  // namespace

void attend(const AttentionRule& rule, const AttentionSequence& s) {
  const int64_t groups = rule.heads / rule.key_heads, rows = s.query.size(0), length = s.key.size(0), width = s.query.size(2);
  if (rows == 0) return;
  if (length == 0) {
    s.out.zero_();
    if (s.lse.defined()) s.lse.fill_(std::numeric_limits<double>::infinity());
    return;
  }
  const Tensor key = s.key.permute({1, 2, 0}), value = s.value.transpose(0, 1);  // [K, D, L], [K, L, Dv]
  for (int64_t first = 0; first < rows; first += kQueryRows) {
    const int64_t count = std::min(kQueryRows, rows - first);
    // [count, K, G, D] -> [K, G * count, D]
    const Tensor query = s.query.narrow(0, first, count).view({count, rule.key_heads, groups, width}).permute({1, 2, 0, 3});
    Tensor scores = at::bmm(query.reshape({rule.key_heads, groups * count, width}), key).mul_(rule.scale * rule.score_scale);
    scores = scores.view({rule.key_heads, groups, count, length});
    if (given(rule.shift)) {
      const Tensor shift = wide(*rule.shift).select(0, rule.shift->size(0) == 1 ? 0 : s.batch);
      scores += shift.narrow(1, first, count).narrow(2, 0, length).unflatten(0, {rule.key_heads, groups});
    }
    Tensor mask = hidden(rule, s, first, count);
    if (mask.defined() && mask.dim() == 3) mask = mask.unflatten(0, {rule.key_heads, groups});
    if (mask.defined()) scores.masked_fill_(mask, kLowest);
    Tensor weights = weigh(rule, s, scores, first, count);
    if (rule.weight_scale > 0) weights = at::round(weights * rule.weight_scale).clamp(-128, 127);
    Tensor mixed = at::bmm(weights.reshape({rule.key_heads, groups * count, length}), value);
    if (rule.value_scale != 1) mixed = mixed * rule.value_scale;
    s.out.narrow(0, first, count)
        .copy_(mixed.view({rule.key_heads, groups, count, -1}).permute({2, 0, 1, 3}).reshape({count, rule.heads, -1}));
  }
}

Tensor heads_of(const Tensor& x, Text layout, int64_t heads) {
  if (layout == "BNSD") return x.transpose(1, 2);
  if (layout == "BSH") return x.view({x.size(0), x.size(1), heads, -1});
  if (layout == "SBH") return x.view({x.size(0), x.size(1), heads, -1}).transpose(0, 1);
  if (layout == "NBSD") return x.permute({1, 2, 0, 3});
  if (layout == "NTD") return x.transpose(0, 1);
  return x;  // BSND, TND
}

bool float32_attention() {
  static const char* extensions = std::getenv("CANNSIM_EXTENSIONS");
  return extensions != nullptr && std::string(extensions).find("float32-attention") != std::string::npos;
}

}  // namespace cannsim
