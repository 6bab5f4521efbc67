// Fused inference attention: every layout, over a contiguous or a paged cache.
#include <cmath>
#include <cstdlib>
#include <limits>

#include "operators/operator.h"

using namespace cannsim;

namespace {

constexpr int64_t kQueryRows = 512;  // rows of scores computed at once: bounds the memory of a long prefill
constexpr int64_t kCompressedMask = 2048;

struct Attention {
  const Tensor& query;
  const Tensor& key;
  const Tensor& value;
  const OptionalTensor& mask;
  OptionalIntArray query_lengths, key_lengths;
  const OptionalTensor& block_table;
  const OptionalTensor& sink;  // [heads]: a logit that takes part in the softmax only
  int64_t heads;
  double scale;
  int64_t before, after;
  Text layout;
  int64_t key_heads, sparse_mode, block_size;
  bool with_lse;
  Tensor& out;
  Tensor& lse;
};

// One sequence: query [rows, heads, D], key and value [length, key_heads, D] in float32.
struct Sequence {
  Tensor query, key, value, out, lse;
  int64_t batch;
};

// Which keys row i of `rows` may not see, for rows first..first+count; undefined: it sees all.
Tensor hidden(const Attention& a, const Sequence& s, int64_t first, int64_t count) {
  const int64_t rows = s.query.size(0), length = s.key.size(0);
  if (a.sparse_mode == 0 || a.sparse_mode == 1) {
    if (!a.mask) return {};
    Tensor mask = a.mask->to(at::kBool);
    while (mask.dim() > 3) mask = mask.select(1, 0);
    if (mask.dim() == 3) mask = mask.select(0, mask.size(0) == 1 ? 0 : s.batch);
    return mask.narrow(0, first, count).narrow(1, 0, length);
  }
  // Distance of key j from the row's own position; the last row stands at the last key, or, in
  // mode 2 (left up), the first row at the first key.
  const int64_t corner = a.sparse_mode == 2 ? 0 : length - rows;
  const Tensor row = at::arange(first + corner, first + corner + count, at::kLong).unsqueeze(1);
  const Tensor distance = at::arange(length, at::kLong).unsqueeze(0) - row;
  const int64_t after = a.sparse_mode == 4 ? a.after : 0;
  Tensor mask = distance > after;
  if (a.sparse_mode == 4) mask = mask.logical_or(distance < -a.before);
  return mask;
}

void attend(const Attention& a, const Sequence& s) {
  const int64_t groups = a.heads / a.key_heads, rows = s.query.size(0), length = s.key.size(0), width = s.query.size(2);
  if (rows == 0) return;
  const Tensor key = s.key.permute({1, 2, 0}), value = s.value.transpose(0, 1);  // [K, D, L], [K, L, Dv]
  for (int64_t first = 0; first < rows; first += kQueryRows) {
    const int64_t count = std::min(kQueryRows, rows - first);
    // [count, K, G, D] -> [K, G * count, D]
    const Tensor query = s.query.narrow(0, first, count).view({count, a.key_heads, groups, width}).permute({1, 2, 0, 3});
    Tensor scores = at::bmm(query.reshape({a.key_heads, groups * count, width}), key).mul_(a.scale);
    scores = scores.view({a.key_heads, groups, count, length});
    const Tensor mask = count == 1 && a.sparse_mode == 3 ? Tensor() : hidden(a, s, first, count);
    if (mask.defined()) scores.masked_fill_(mask, -std::numeric_limits<float>::infinity());
    Tensor weights;
    if (a.sink) {
      const Tensor sink = a.sink->to(at::kFloat).view({a.key_heads, groups, 1, 1}).expand({a.key_heads, groups, count, 1});
      weights = at::softmax(at::cat({scores, sink}, -1), -1).narrow(-1, 0, length);
    } else {
      weights = at::softmax(scores, -1);
    }
    if (a.with_lse) s.lse.narrow(0, first, count).copy_(at::logsumexp(scores, -1).permute({2, 0, 1}).reshape({count, a.heads, 1}));
    const Tensor mixed = at::bmm(weights.reshape({a.key_heads, groups * count, length}), value);
    s.out.narrow(0, first, count)
        .copy_(mixed.view({a.key_heads, groups, count, -1}).permute({2, 0, 1, 3}).reshape({count, a.heads, -1}));
  }
}

Tensor wide(const Tensor& x) { return x.scalar_type() == at::kFloat ? x : x.to(at::kFloat); }

// A paged cache, [blocks, block_size, heads * D] or [blocks, heads, block_size, D], as
// [length, heads, D] of one sequence.
Tensor gather_pages(const Attention& a, const Tensor& cache, int64_t batch, int64_t length) {
  const int64_t pages = (length + a.block_size - 1) / a.block_size;
  const Tensor blocks = cache.index_select(0, (*a.block_table)[batch].narrow(0, 0, pages));
  const Tensor tokens = cache.dim() == 4 ? blocks.transpose(1, 2).reshape({pages * a.block_size, a.key_heads, -1})
                                         : blocks.view({pages * a.block_size, a.key_heads, -1});
  return wide(tokens.narrow(0, 0, length));
}

// [batch, rows, heads, D] of any layout that has a batch dimension.
Tensor batched(const Tensor& x, Text layout, int64_t heads) {
  if (layout.starts_with("BNSD")) return x.transpose(1, 2);
  return layout == "BSH" ? x.view({x.size(0), x.size(1), heads, -1}) : x;
}

int64_t length_at(OptionalIntArray lengths, int64_t index, int64_t otherwise) {
  if (!lengths || lengths->empty()) return otherwise;
  return lengths->size() == 1 ? (*lengths)[0] : (*lengths)[size_t(index)];
}

void run_packed(const Attention& a) {  // TND: lengths of queries are running totals
  int64_t first = 0, key_first = 0;
  for (size_t i = 0; i < a.query_lengths->size(); ++i) {
    const int64_t last = (*a.query_lengths)[i], rows = last - first;
    Sequence s{wide(a.query.narrow(0, first, rows)), {}, {}, a.out.narrow(0, first, rows), {}, int64_t(i)};
    if (a.with_lse) s.lse = a.lse.narrow(0, first, rows);
    if (a.block_table) {
      s.key = gather_pages(a, a.key, s.batch, (*a.key_lengths)[i]);
      s.value = gather_pages(a, a.value, s.batch, (*a.key_lengths)[i]);
    } else {
      const int64_t key_last = (*a.key_lengths)[i];
      s.key = wide(a.key.narrow(0, key_first, key_last - key_first));
      s.value = wide(a.value.narrow(0, key_first, key_last - key_first));
      key_first = key_last;
    }
    attend(a, s);
    first = last;
  }
}

void run_batched(const Attention& a) {
  const Tensor query = batched(a.query, a.layout, a.heads);
  Tensor out = batched(a.out, a.layout, a.heads);
  for (int64_t i = 0; i < query.size(0); ++i) {
    const int64_t rows = length_at(a.query_lengths, i, query.size(1));
    Sequence s{wide(query[i].narrow(0, 0, rows)), {}, {}, out[i].narrow(0, 0, rows), {}, i};
    if (a.with_lse) s.lse = a.lse[i].transpose(0, 1).narrow(0, 0, rows);
    if (a.block_table) {
      const int64_t length = length_at(a.key_lengths, i, 0);
      s.key = gather_pages(a, a.key, i, length);
      s.value = gather_pages(a, a.value, i, length);
    } else {
      const Tensor key = batched(a.key, a.layout, a.key_heads)[i], value = batched(a.value, a.layout, a.key_heads)[i];
      const int64_t length = length_at(a.key_lengths, i, key.size(0));
      s.key = wide(key.narrow(0, 0, length));
      s.value = wide(value.narrow(0, 0, length));
    }
    attend(a, s);
  }
}

void run(Attention a) {
  if (a.key_heads == 0) a.key_heads = a.heads;
  a.layout == "TND" ? run_packed(a) : run_batched(a);
}

bool float32_accepted() {
  static const char* extensions = std::getenv("CANNSIM_EXTENSIONS");
  return extensions != nullptr && std::string(extensions).find("float32-attention") != std::string::npos;
}

}  // namespace

// What CANN checks before it queues the operator. The first 24 arguments are the same in every
// version; the numbers begin at `numbers`.
template <size_t numbers, typename Arguments>
static void check(const Arguments& arguments) {
  const auto& query = std::get<0>(arguments).kept;
  const auto& mask = std::get<4>(arguments).kept;
  const auto& block_table = std::get<14>(arguments).kept;
  const int64_t heads = std::get<numbers>(arguments).kept, key_heads = std::get<numbers + 5>(arguments).kept;
  const int64_t sparse_mode = std::get<numbers + 6>(arguments).kept, block_size = std::get<numbers + 8>(arguments).kept;
  const std::string& layout = std::get<numbers + 4>(arguments).kept;
  refuse_unless(std::get<1>(arguments).kept.size() == 1 && std::get<2>(arguments).kept.size() == 1,
                "key and value must be lists of one tensor");
  const bool half = query.type == at::kHalf || query.type == at::kBFloat16;
  refuse_unless(half || (query.type == at::kFloat && float32_accepted()),
                std::string("the data type of query is ") + at::toString(query.type) +
                    "; the chip takes float16 and bfloat16 (CANNSIM_EXTENSIONS=float32-attention lets the simulator take float32)");
  refuse_unless(layout == "TND" || layout == "BSH" || layout == "BSND" || layout == "BNSD", "input layout " + layout + " is not simulated");
  refuse_unless(heads > 0 && (key_heads == 0 || heads % key_heads == 0),
                "the number of query heads (" + std::to_string(heads) + ") must be a multiple of the number of key heads (" +
                    std::to_string(key_heads) + ")");
  refuse_unless(sparse_mode >= 0 && sparse_mode <= 4, "sparse mode " + std::to_string(sparse_mode) + " is not simulated");
  if (sparse_mode >= 2)
    refuse_unless(mask.present && mask.sizes.size() >= 2 && mask.sizes.back() == kCompressedMask &&
                      mask.sizes[mask.sizes.size() - 2] == kCompressedMask,
                  "sparse mode " + std::to_string(sparse_mode) + " needs an attention mask of 2048 x 2048");
  if (block_table.present) {
    refuse_unless(block_size > 0 && block_size <= 512 && block_size % 16 == 0,
                  "a block size of " + std::to_string(block_size) + "; it must be a multiple of 16 and at most 512");
    refuse_unless(block_table.type == at::kInt, "the block table must be int32");
  }
  // Arguments that are accepted by the interface and not simulated yet: refused, never ignored.
  const auto refuse_present = [](const auto& argument, const char* name) {
    refuse_unless(!argument.kept.present, std::string(name) + " is not simulated");
  };
  refuse_present(std::get<3>(arguments), "pse_shift");
  refuse_present(std::get<7>(arguments), "dequant_scale1");
  refuse_present(std::get<10>(arguments), "quant_scale2");
  refuse_present(std::get<12>(arguments), "antiquant_scale");
  refuse_present(std::get<17>(arguments), "key_antiquant_scale");
  refuse_present(std::get<21>(arguments), "key_shared_prefix");
  if constexpr (numbers > 24) refuse_present(std::get<24>(arguments), "query_rope");
}

#define QUANTISATION_A                                                                                             \
  const OptionalTensor &dequant_scale1, const OptionalTensor &quant_scale1, const OptionalTensor &dequant_scale2,  \
      const OptionalTensor &quant_scale2, const OptionalTensor &quant_offset2, const OptionalTensor &antiquant_scale, \
      const OptionalTensor &antiquant_offset
#define QUANTISATION_B                                                                        \
  const OptionalTensor &key_scale, const OptionalTensor &key_offset, const OptionalTensor &value_scale, \
      const OptionalTensor &value_offset, const OptionalTensor &key_prefix, const OptionalTensor &value_prefix, \
      OptionalIntArray prefix_lengths
#define BEGINNING                                                                                                            \
  const Tensor &query, const TensorList &keys, const TensorList &values, const OptionalTensor &pse, const OptionalTensor &mask, \
      OptionalIntArray query_lengths, OptionalIntArray key_lengths, QUANTISATION_A, const OptionalTensor &block_table,        \
      const OptionalTensor &query_padding, const OptionalTensor &key_padding, QUANTISATION_B
#define NUMBERS                                                                                                            \
  int64_t heads, double scale, int64_t before, int64_t after, Text layout, int64_t key_heads, int64_t sparse_mode,         \
      int64_t inner_precise, int64_t block_size, int64_t antiquant_mode, bool with_lse, int64_t key_mode, int64_t value_mode
#define RUN(SINK)                                                                                                           \
  run({query, keys[0], values[0], mask, query_lengths, key_lengths, block_table, SINK, heads, scale, before, after, layout, \
       key_heads, sparse_mode, block_size, with_lse, out, lse})

static const OptionalTensor kNone;

CHECKED_OPERATOR(aclnnFusedInferAttentionScoreV2, check<24>, BEGINNING, NUMBERS, Tensor& out, Tensor& lse) { RUN(kNone); }
CHECKED_OPERATOR(aclnnFusedInferAttentionScoreV3, check<27>, BEGINNING, const OptionalTensor& query_rope, const OptionalTensor& key_rope,
         const OptionalTensor& key_rope_scale, NUMBERS, Tensor& out, Tensor& lse) {
  RUN(kNone);
}
CHECKED_OPERATOR(aclnnFusedInferAttentionScoreV4, check<29>, BEGINNING, const OptionalTensor& query_rope, const OptionalTensor& key_rope,
         const OptionalTensor& key_rope_scale, const OptionalTensor& query_scale, const OptionalTensor& sink, NUMBERS, int64_t query_mode,
         Tensor& out, Tensor& lse) {
  RUN(sink);
}
CHECKED_OPERATOR(aclnnFusedInferAttentionScoreV5, check<31>, BEGINNING, const OptionalTensor& query_rope, const OptionalTensor& key_rope,
         const OptionalTensor& key_rope_scale, const OptionalTensor& query_scale, const OptionalTensor& sink, OptionalIntArray query_start,
         OptionalIntArray key_start, NUMBERS, int64_t query_mode, int64_t pse_type, Tensor& out, Tensor& lse) {
  RUN(sink);
}

LARGEST_WORKSPACE(aclnnFusedInferAttentionScoreV3)
LARGEST_WORKSPACE(aclnnFusedInferAttentionScoreV4)
LARGEST_WORKSPACE(aclnnFusedInferAttentionScoreV5)
