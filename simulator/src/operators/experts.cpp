// Mixture of experts: gating, and the ways of tokens to their experts and back, on one device.
#include <limits>

#include "operators/quantisation.h"

using namespace cannsim;

namespace {

const OptionalTensor kNone;
constexpr double kLowest = -std::numeric_limits<double>::infinity();

void copy_to(const OptionalTensor& out, const Tensor& value) {
  if (given(out)) Tensor(*out).copy_(value.reshape(out->sizes()));
}

Tensor positions(int64_t count) { return at::arange(count, at::kLong); }

// ---- gating --------------------------------------------------------------------------------------

// The k largest of softmax(x); with renorm, of x, and the softmax of these alone.
void gate_softmax(const Tensor& x, const OptionalTensor& finished, int64_t k, bool renorm, Tensor& y, Tensor& experts, Tensor* rows,
                  const OptionalTensor& softmax) {
  const Tensor logits = wide(x);
  auto [values, indices] = at::topk(renorm ? logits : at::softmax(logits, -1), k, -1);
  y.copy_(renorm ? at::softmax(values, -1) : values);
  if (given(finished)) indices = indices.masked_fill(finished->to(at::kBool).unsqueeze(-1), x.size(-1));
  experts.copy_(indices);
  copy_to(softmax, at::softmax(logits, -1));
  // Row i's j-th choice has the number j * rows + i.
  if (rows != nullptr) rows->copy_(positions(rows->numel()).view({k, -1}).t().reshape(rows->sizes()));
}
template <typename Arguments>
void check_gate(const Arguments& arguments) {
  const auto& x = std::get<0>(arguments).kept;
  const int64_t k = std::get<2>(arguments).kept;
  refuse_unless(x.type == at::kHalf || x.type == at::kBFloat16 || x.type == at::kFloat,
                std::string("the data type of x is ") + at::toString(x.type) + "; float16, bfloat16 and float32 are taken");
  refuse_unless(x.sizes.size() == 2 || x.sizes.size() == 3, "x must have two or three dimensions");
  refuse_unless(k > 0 && k <= x.sizes.back() && k <= 1024, "k of " + std::to_string(k) + "; from 1 to " + std::to_string(x.sizes.back()) + " are taken");
}

struct Gating {
  const Tensor& x;
  const OptionalTensor &bias, &input_ids, &table;
  int64_t k, k_group, groups, group_mode, renorm, norm;
  bool with_scores;
  double factor, epsilon;
  Tensor &y, &experts;
  const OptionalTensor& scores;
};
// Scores of groups: the greatest of each, or the sum of its two greatest; the others are left out.
Tensor within_groups(const Gating& g, const Tensor& choice) {
  if (g.groups <= 1 || g.k_group >= g.groups) return choice;
  const Tensor grouped = choice.view({choice.size(0), g.groups, -1});
  const Tensor score = g.group_mode == 0 ? grouped.amax(-1) : std::get<0>(grouped.topk(2, -1)).sum(-1);
  const Tensor best = std::get<1>(score.topk(g.k_group, -1));
  const Tensor kept = at::zeros_like(score, at::kBool).scatter(1, best, true).unsqueeze(-1);
  return grouped.masked_fill(kept.logical_not(), kLowest).view_as(choice);
}
void gate(const Gating& g) {
  const Tensor x = wide(g.x);
  const Tensor scores = g.norm == 0 ? at::softmax(x, -1) : at::sigmoid(x);
  Tensor experts;
  if (given(g.table)) {  // the experts of a token are looked up by its id
    experts = g.table->index({g.input_ids->to(at::kLong).flatten()}).to(at::kLong);
  } else {
    const Tensor choice = given(g.bias) ? scores + wide(*g.bias) : scores;
    experts = std::get<1>(within_groups(g, choice).topk(g.k, -1));
  }
  Tensor y = scores.gather(-1, experts);
  if (g.norm == 1 || g.renorm == 1) y = y / (y.sum(-1, true) + g.epsilon);
  g.y.copy_(y * g.factor);
  g.experts.copy_(experts);
  if (g.with_scores) copy_to(g.scores, scores);
}
void check_gating(const View& x, int64_t k, int64_t k_group, int64_t groups, int64_t group_mode, int64_t renorm, int64_t norm) {
  const int64_t experts = x.sizes.back();
  refuse_unless(x.sizes.size() == 2, "x must have two dimensions");
  refuse_unless(experts <= 2048, "x has " + std::to_string(experts) + " experts; at most 2048 are taken");
  refuse_unless(groups > 0 && experts % groups == 0, std::to_string(experts) + " experts cannot be divided into " + std::to_string(groups) + " groups");
  refuse_unless(k_group >= 1 && k_group <= groups, "k_group of " + std::to_string(k_group) + "; from 1 to group_count, " + std::to_string(groups));
  refuse_unless(k >= 1 && k <= experts / groups * k_group,
                "k of " + std::to_string(k) + "; from 1 to " + std::to_string(experts / groups * k_group) + " can be chosen from the groups");
  refuse_unless(group_mode == 0 || group_mode == 1, "group_select_mode " + std::to_string(group_mode) + "; 0 and 1 exist");
  refuse_unless(norm == 0 || norm == 1, "norm_type " + std::to_string(norm) + "; 0 (softmax) and 1 (sigmoid) are simulated");
  refuse_unless(renorm == 0 || renorm == 1, "renorm " + std::to_string(renorm) + "; 0 and 1 exist");
}
template <size_t first, typename Arguments>
void check_gating(const Arguments& a) {
  check_gating(std::get<0>(a).kept, std::get<first>(a).kept, std::get<first + 1>(a).kept, std::get<first + 2>(a).kept, std::get<first + 3>(a).kept,
               std::get<first + 4>(a).kept, std::get<first + 5>(a).kept);
}

}  // namespace

CHECKED_OPERATOR(aclnnMoeGatingTopKSoftmax, check_gate, const Tensor& x, const OptionalTensor& finished, int64_t k, Tensor& y, Tensor& experts,
                 Tensor& rows) {
  gate_softmax(x, finished, k, false, y, experts, &rows, kNone);
}
CHECKED_OPERATOR(aclnnMoeGatingTopKSoftmaxV2, check_gate, const Tensor& x, const OptionalTensor& finished, int64_t k, int64_t renorm,
                 bool with_softmax, Tensor& y, Tensor& experts, const OptionalTensor& softmax) {
  gate_softmax(x, finished, k, renorm == 1, y, experts, nullptr, with_softmax ? softmax : kNone);
}
#define GATING_NUMBERS                                                                                                                \
  int64_t k, int64_t k_group, int64_t groups, int64_t group_mode, int64_t renorm, int64_t norm, bool with_scores, double factor, \
      double epsilon, Tensor &y, Tensor &experts, const OptionalTensor &scores
CHECKED_OPERATOR(aclnnMoeGatingTopK, check_gating<2>, const Tensor& x, const OptionalTensor& bias, GATING_NUMBERS) {
  gate({x, bias, kNone, kNone, k, k_group, groups, group_mode, renorm, norm, with_scores, factor, epsilon, y, experts, scores});
}
CHECKED_OPERATOR(aclnnMoeGatingTopKV2, check_gating<4>, const Tensor& x, const OptionalTensor& bias, const OptionalTensor& input_ids,
                 const OptionalTensor& table, GATING_NUMBERS) {
  gate({x, bias, input_ids, table, k, k_group, groups, group_mode, renorm, norm, with_scores, factor, epsilon, y, experts, scores});
}

// ---- to the experts ------------------------------------------------------------------------------

namespace {

// Choices of experts in [first, last), sorted by expert: which choice (row * k + j), of which expert.
struct Order {
  Tensor choice, expert;
  int64_t rows, k;
};
Order order_of(const Tensor& experts, int64_t first, int64_t last) {
  const Tensor flat = experts.to(at::kLong).flatten();
  const Tensor inside = (flat >= first).logical_and(flat < last).nonzero().flatten();
  auto [expert, place] = at::sort(flat.index({inside}), std::optional<bool>(true), 0, false);
  return {inside.index({place}), expert, experts.size(0), experts.dim() == 2 ? experts.size(1) : 1};
}

Tensor counts_of(const Order& order, int64_t first, int64_t count) {
  return at::bincount(order.expert - first, {}, count).narrow(0, 0, count);
}

void write_counts(const Order& order, int64_t type, int64_t first, Tensor out) {
  if (out.numel() == 0) return;
  if (type == 2) {  // pairs of expert and count, of those that have any; the rest is zero
    out.zero_();
    const Tensor counts = at::bincount(order.expert, {}, out.size(0));
    const Tensor used = counts.nonzero().flatten();
    out.narrow(0, 0, used.size(0)).copy_(at::stack({used, counts.index({used})}, 1));
    return;
  }
  const Tensor counts = counts_of(order, first, out.numel());
  out.copy_((type == 0 ? counts.cumsum(0) : counts).view(out.sizes()));
}

struct Routing {
  const Tensor& x;
  const Tensor& experts;
  const OptionalTensor &scale, &offset;
  int64_t active = 0, capacity = 0, expert_count = 0;
  bool drop = false;
  int64_t quant_mode = -1, first = 0, last = 0, row_index_type = 0;
  Codes& out;
  Tensor& row_index;
  const OptionalTensor& out_scale;
};

// The rows of x that go out, quantised as asked: -1 not at all, 0 by a scale, 1 by each row's range
// (smoothed by the expert's scales).
void write_rows(const Routing& r, const Tensor& source, const Tensor& expert, const Tensor& target, int64_t rows) {
  Tensor x = wide(r.x).index({source});
  Tensor full = at::zeros({rows, r.x.size(1)}, at::kFloat), scales = at::zeros({rows}, at::kFloat);
  if (r.quant_mode == 0) {
    x = x * wide(*r.scale) + wide(*r.offset);
  } else if (r.quant_mode == 1) {
    if (given(r.scale)) x = x * (r.scale->size(0) == 1 ? wide(*r.scale) : wide(*r.scale).index({expert - r.first}));
    const Tensor each = x.abs().amax(-1).div_(127);
    scales.index_put_({target}, each);
    x = x / at::where(each == 0, at::ones_like(each), each).unsqueeze(-1);
  } else if (given(r.scale)) {
    scales.index_put_({target}, wide(*r.scale).flatten().index({source}));
  }
  full.index_put_({target}, x);
  r.out.assign(full.view(r.out.sizes()));
  if (r.quant_mode != 0 && (r.quant_mode == 1 || given(r.scale))) copy_to(r.out_scale, scales);
}

Order route(const Routing& r) {
  Order order = order_of(r.experts, r.first, r.last);
  const int64_t width = r.x.size(1), rows = c10::multiply_integers(r.out.sizes()) / std::max<int64_t>(width, 1);
  Tensor target = positions(order.choice.size(0)), choice = order.choice, expert = order.expert;
  Tensor index = at::full({r.experts.numel()}, -1, at::kLong);
  if (r.drop) {  // every expert has `capacity` places; who comes later is dropped
    const Tensor counts = counts_of(order, r.first, r.last - r.first);
    const Tensor rank = target - (counts.cumsum(0) - counts).index({expert - r.first});
    const Tensor kept = (rank < r.capacity).nonzero().flatten();
    choice = choice.index({kept}), expert = expert.index({kept});
    target = expert * r.capacity + rank.index({kept});
    index.index_put_({choice}, target);
  } else {
    if (r.row_index_type == 1) index.narrow(0, 0, choice.size(0)).copy_(choice);
    else index.index_put_({choice}, target);
    const int64_t most = std::min(rows, choice.size(0));
    choice = choice.narrow(0, 0, most), expert = expert.narrow(0, 0, most), target = target.narrow(0, 0, most);
  }
  r.row_index.copy_(index.view(r.row_index.sizes()));
  write_rows(r, choice.div(order.k, "floor"), expert, target, rows);
  return order;
}

template <typename Arguments>
void check_routing_v3(const Arguments& arguments) {
  const auto& x = std::get<0>(arguments).kept;
  const auto& experts = std::get<1>(arguments).kept;
  const int64_t capacity = std::get<5>(arguments).kept, count = std::get<6>(arguments).kept, drop = std::get<7>(arguments).kept;
  const int64_t type = std::get<8>(arguments).kept, mode = std::get<10>(arguments).kept;
  const std::vector<int64_t>& range = std::get<11>(arguments).kept;
  refuse_unless(experts.type == at::kInt, std::string("the data type of expert_idx is ") + at::toString(experts.type) + "; it must be int32");
  refuse_unless(experts.sizes.size() == 2 && x.dim() == 2 && experts.sizes[0] == x.size(0), "x and expert_idx must have two dimensions and the same rows");
  refuse_unless(drop == 0 || drop == 1, "drop_pad_mode " + std::to_string(drop) + "; 0 and 1 exist");
  refuse_unless(drop == 0 || (capacity > 0 && capacity <= x.size(0)),
                "an expert capacity of " + std::to_string(capacity) + "; from 1 to the number of rows, " + std::to_string(x.size(0)));
  refuse_unless(type >= 0 && type <= 2, "expert_tokens_num_type " + std::to_string(type) + "; 0, 1 and 2 exist");
  refuse_unless(count > 0 && count <= (type == 2 ? 5120 : 10240), std::to_string(count) + " experts; from 1 to " + (type == 2 ? "5120" : "10240"));
  refuse_unless(mode >= -1 && mode <= 1, "quant_mode " + std::to_string(mode) + "; this chip has -1, 0 and 1");
  refuse_unless(range.empty() || (range.size() == 2 && range[0] >= 0 && range[0] < range[1] && range[1] <= count),
                "active_expert_range must be [start, end) within the " + std::to_string(count) + " experts");
}

}  // namespace

// x: rows, or rows that are quantised already (they pass as they are).
CHECKED_OPERATOR(aclnnMoeInitRoutingV3, check_routing_v3, const Codes& x, const Tensor& experts, const OptionalTensor& scale,
                 const OptionalTensor& offset, int64_t active, int64_t capacity, int64_t expert_count, int64_t drop, int64_t count_type,
                 bool with_counts, int64_t quant_mode, IntArray range, int64_t row_index_type, Codes& out, Tensor& row_index, Tensor& counts,
                 const OptionalTensor& out_scale) {
  const int64_t first = range.empty() ? 0 : range[0], last = range.empty() ? expert_count : range[1];
  const Tensor rows = x.values();
  const Order order = route({rows, experts, scale, offset, active, capacity, expert_count, drop == 1, quant_mode, first, last, row_index_type, out,
                             row_index, out_scale});
  if (with_counts) write_counts(order, count_type, first, counts);
}
// before: the experts' counts before places ran out. flag 1: running totals, 2: counts.
OPERATOR(aclnnMoeInitRoutingV2, const Tensor& x, const Tensor& experts, int64_t active, int64_t capacity, int64_t expert_count, int64_t drop,
         int64_t count_flag, bool before_flag, Codes& out, Tensor& row_index, const OptionalTensor& counts, const OptionalTensor& before) {
  const int64_t last = expert_count > 0 ? expert_count : std::numeric_limits<int32_t>::max();
  const Order order =
      route({x, experts, kNone, kNone, active, capacity, expert_count, drop == 1, -1, 0, last, 0, out, row_index, kNone});
  if (count_flag > 0 && given(counts)) write_counts(order, count_flag == 1 ? 0 : 1, 0, *counts);
  if (before_flag && given(before)) write_counts(order, 1, 0, *before);
}
OPERATOR(aclnnMoeInitRoutingQuantV2, const Tensor& x, const Tensor& experts, const OptionalTensor& scale, const OptionalTensor& offset,
         int64_t active, int64_t capacity, int64_t expert_count, int64_t drop, int64_t count_flag, bool before_flag, int64_t quant_mode, Codes& out,
         Tensor& row_index, const OptionalTensor& counts, const OptionalTensor& before, const OptionalTensor& out_scale) {
  const int64_t last = expert_count > 0 ? expert_count : std::numeric_limits<int32_t>::max();
  const Order order =
      route({x, experts, scale, offset, active, capacity, expert_count, drop == 1, quant_mode, 0, last, 0, out, row_index, out_scale});
  if (count_flag > 0 && given(counts)) write_counts(order, count_flag == 1 ? 0 : 1, 0, *counts);
  if (before_flag && given(before)) write_counts(order, 1, 0, *before);
}
// row_idx numbers the choices; the row of choice n is n % rows (MoeGatingTopKSoftmax's numbering).
OPERATOR(aclnnMoeInitRouting, const Tensor& x, const Tensor& row_idx, const Tensor& experts, int64_t active, Tensor& out, Tensor& row_index,
         Tensor& sorted_experts) {
  auto [expert, place] = at::sort(experts.to(at::kLong).flatten(), std::optional<bool>(true), 0, false);
  const Tensor number = row_idx.to(at::kLong).flatten().index({place});
  Tensor index = at::empty({number.size(0)}, at::kLong);
  index.index_put_({number}, positions(number.size(0)));
  row_index.copy_(index.view(row_index.sizes()));
  sorted_experts.copy_(expert.view(sorted_experts.sizes()));
  out.copy_(x.index({number.remainder(x.size(0)).narrow(0, 0, out.size(0))}));
}
// How many rows experts 0..i have together.
OPERATOR(aclnnMoeComputeExpertTokens, const Tensor& sorted_experts, int64_t count, Tensor& out) {
  out.copy_(at::searchsorted(sorted_experts.to(at::kLong).contiguous(), positions(count), false, true));
}
OPERATOR(aclnnMoeTokenPermute, const Tensor& tokens, const Tensor& indices, int64_t count, bool padded, Tensor& out, Tensor& sorted_indices) {
  const int64_t k = indices.dim() == 2 ? indices.size(1) : 1;
  const Tensor place = std::get<1>(at::sort(indices.to(at::kLong).flatten(), std::optional<bool>(true), 0, false));
  Tensor index = at::empty({place.size(0)}, at::kLong);
  index.index_put_({place}, positions(place.size(0)));
  sorted_indices.copy_(index);
  out.copy_(tokens.index({place.narrow(0, 0, out.size(0)).div(k, "floor")}));
}
// From rank by rank to expert by expert: counts[rank][expert] rows lie rank by rank.
OPERATOR(aclnnMoeReRouting, const Codes& tokens, const Tensor& counts, const OptionalTensor& scales, int64_t count_type, int64_t index_type,
         Codes& out, const OptionalTensor& out_scales, Tensor& index, Tensor& expert_counts) {
  const Tensor sizes = counts.to(at::kLong);
  const Tensor block = at::arange(sizes.numel(), at::kLong).view(sizes.sizes());
  const Tensor expert = (block.remainder(sizes.size(1))).flatten().repeat_interleave(sizes.flatten());
  const Tensor place = std::get<1>(at::sort(expert, std::optional<bool>(true), 0, false));
  out.assign(tokens.values().narrow(0, 0, place.size(0)).index({place}));
  if (given(scales)) copy_to(out_scales, scales->index({place}));
  index.copy_(place);
  const Tensor per_expert = sizes.sum(0);
  expert_counts.copy_(count_type == 0 ? per_expert.cumsum(0) : per_expert);
}

// ---- and back ------------------------------------------------------------------------------------

namespace {

struct Gathering {
  const Tensor& rows;
  Tensor index;  // [tokens, k] into rows; negative or beyond them: no row
  const OptionalTensor &skip1, &skip2, &bias, &scales, &experts;
  Tensor& out;
};
// out[i] = skips[i] + sum over j of scales[i, j] * (rows[index[i, j]] + bias[experts[i, j]]).
void gather(const Gathering& g) {
  const Tensor rows = wide(g.rows).flatten(0, -2);
  const Tensor there = (g.index >= 0).logical_and(g.index < rows.size(0));
  Tensor each = rows.index({g.index.clamp(0, std::max<int64_t>(rows.size(0) - 1, 0))});
  each = each * there.unsqueeze(-1);
  if (given(g.bias)) each = each + wide(*g.bias).index({g.experts->to(at::kLong)});
  if (given(g.scales)) each = each * wide(*g.scales).unsqueeze(-1);
  Tensor sum = each.sum(1);
  if (given(g.skip1)) sum = sum + wide(*g.skip1);
  if (given(g.skip2)) sum = sum + wide(*g.skip2);
  g.out.copy_(sum);
}
// Modes 0 and 1 number the choices j * tokens + i, modes 2 and 3 i * k + j; odd modes drop and pad.
Tensor choices(const Tensor& index, int64_t tokens, int64_t mode) {
  const Tensor flat = index.to(at::kLong).flatten();
  return mode >= 2 ? flat.view({tokens, -1}) : flat.view({-1, tokens}).t();
}

}  // namespace

#define SKIPS const OptionalTensor &skip1, const OptionalTensor &skip2, const OptionalTensor &bias, const OptionalTensor &scales
OPERATOR(aclnnMoeFinalizeRouting, const Tensor& rows, SKIPS, const Tensor& index, const OptionalTensor& experts, Tensor& out) {
  gather({rows, choices(index, out.size(0), 0), skip1, skip2, bias, scales, experts, out});
}
OPERATOR(aclnnMoeFinalizeRoutingV2, const Tensor& rows, const Tensor& index, SKIPS, const OptionalTensor& experts, int64_t mode, Tensor& out) {
  gather({rows, choices(index, out.size(0), mode), skip1, skip2, bias, scales, experts, out});
}
OPERATOR(aclnnMoeFinalizeRoutingV4, const Tensor& rows, const Tensor& index, SKIPS, const OptionalTensor& experts, const OptionalTensor& unused1,
         const OptionalTensor& unused2, const OptionalTensor& unused3, const OptionalTensor& unused4, int64_t mode, IntArray range1, IntArray range2,
         IntArray range3, int64_t k, Tensor& out) {
  gather({rows, choices(index, out.size(0), mode), skip1, skip2, bias, scales, experts, out});
}
OPERATOR(aclnnMoeTokenUnpermute, const Tensor& rows, const Tensor& index, const OptionalTensor& probabilities, bool padded, IntArray shape,
         Tensor& out) {
  gather({rows, index.to(at::kLong).view({out.size(0), -1}), kNone, kNone, kNone, probabilities, kNone, out});
}
