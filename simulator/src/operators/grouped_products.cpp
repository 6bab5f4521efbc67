// Products by groups of rows: each group of x's rows has a weight of its own (mixture of experts).
#include "operators/quantisation.h"

using namespace cannsim;

namespace {

const OptionalTensor kNone;
const Codes kNoCodes;

Tensor activated(const Tensor& x, int64_t type) {  // GroupedMatmulV4's act_type
  switch (type) {
    case 0: return x;
    case 1: return at::relu(x);
    case 2: return at::gelu(x, "tanh");
    case 4: return x * at::sigmoid(x * 1.702);
    case 5: return at::silu(x);
    default: throw Error(kParameterInvalid, "activation " + std::to_string(type) + " does not exist; 0, 1, 2, 4 and 5 do");
  }
}

struct Grouped {
  const CodesList &x, &weight;
  const TensorList& bias;
  const CodesList &scale, &antiquant_scale;
  const TensorList& antiquant_offset;
  const CodesList& token_scale;
  std::vector<int64_t> counts;  // rows of each group; empty: x is a list, one for each group
  int64_t activation = 0, group_size = 0;
  TensorList& out;
};

int64_t groups_of(const CodesList& weight) { return weight.size() == 1 && weight[0].dim() >= 3 ? weight[0].size(0) : int64_t(weight.size()); }

// Entry of group i: of a list with one for each, or of the first dimension of a single table.
const Codes entry(const CodesList& list, int64_t i, bool single) {
  if (list.empty() || !list[0].present) return kNoCodes;
  return single ? list[0].at(i) : list[size_t(i)];
}
OptionalTensor entry(const TensorList& list, int64_t i, bool single) {
  if (list.empty() || !list[0].defined() || list[0].numel() == 0) return kNone;
  return single ? list[0][i] : list[size_t(i)];
}

// One group. int8 by int4 with a floating bias: that bias is CANN's aid for splitting int8 into two
// int4 (8 times the weight's sums), which exact arithmetic does not need; it is not added.
Tensor group_product(const Grouped& g, int64_t i, const Codes& x, const Codes& token_scale, bool single) {
  const Codes weight = single ? g.weight[0].at(i) : g.weight[size_t(i)];
  const OptionalTensor bias = entry(g.bias, i, single);
  const bool aid = x.type == ACL_INT8 && (weight.type == ACL_INT4 || weight.type == ACL_INT32);
  const OptionalTensor& added = aid ? kNone : bias;
  if (const Codes antiquant = entry(g.antiquant_scale, i, single)) {
    const OptionalTensor offset = entry(g.antiquant_offset, i, single);
    return scaled_product({x, weight, kNoCodes, antiquant, &offset, &added, g.group_size});
  }
  return scaled_product({x, weight, token_scale, entry(g.scale, i, single), nullptr, &added, g.group_size});
}

void multiply(const Grouped& g) {
  const int64_t groups = groups_of(g.weight);
  const bool single = g.weight.size() == 1 && g.weight[0].dim() >= 3, one_x = g.x.size() == 1 && !g.counts.empty(), one_out = g.out.size() == 1;
  const bool tokens = !g.token_scale.empty() && g.token_scale[0].present;
  int64_t first = 0;
  for (int64_t i = 0; i < groups; ++i) {
    const int64_t count = one_x ? g.counts[size_t(i)] : g.x[size_t(i)].size(0);
    if (count > 0) {
      const Codes x = one_x ? g.x[0].rows(first, count) : g.x[size_t(i)];
      const bool own = tokens && g.token_scale.size() > 1;
      const Codes token_scale = !tokens ? kNoCodes : own ? g.token_scale[size_t(i)] : g.token_scale[0].rows(first, count);
      const Tensor product = activated(group_product(g, i, x, token_scale, single), g.activation);
      Tensor out = one_out ? g.out[0].narrow(0, first, count) : g.out[size_t(i)];
      if (out.scalar_type() == at::kChar) out.copy_(at::round(product).clamp(-128, 127));
      else out.copy_(product);
    }
    first += count;
  }
}

template <typename Arguments>
void check(const Arguments& arguments) {
  const CodesList& x = std::get<0>(arguments).kept;
  const CodesList& weight = std::get<1>(arguments).kept;
  if (x.empty() || weight.empty()) throw Error(kParameterNull, "x and weight are required");
  refuse_unless(x.size() <= 128 && weight.size() <= 128, "x and weight are lists of at most 128 tensors");
  const int64_t groups = groups_of(weight);
  refuse_unless(x.size() == 1 || int64_t(x.size()) == groups,
                "x has " + std::to_string(x.size()) + " tensors; it must have 1 or as many as there are weights, " + std::to_string(groups));
  const bool single = weight.size() == 1 && weight[0].dim() >= 3;
  const Codes first = single ? weight[0].at(0) : weight[0];
  refuse_unless(x[0].size(-1) == first.size(-2), "x has k of " + std::to_string(x[0].size(-1)) + " and weight of " + std::to_string(first.size(-2)) +
                                                     "; they must be the same");
  // CANN's document of aclnnGroupedMatmulV4: the last dimensions of x and weight are below 65536.
  for (const CodesList* list : {&x, &weight}) {
    for (const Codes& one : *list)
      refuse_unless(one.size(-1) < 65536, "the last dimension of " + std::string(list == &x ? "x" : "weight") + " has " + std::to_string(one.size(-1)) +
                                              " entries; at most 65535 are taken");
  }
}
template <typename Arguments>
void check_list(const Arguments& arguments) {
  check(arguments);
  const auto& list = std::get<8>(arguments).kept;
  const int64_t group_type = std::get<13>(arguments).kept, list_type = std::get<14>(arguments).kept;
  refuse_unless(group_type == 0 || group_type == -1, "group type " + std::to_string(group_type) + "; 0 (rows) and -1 (none) are simulated");
  refuse_unless(group_type == -1 || list.present || std::get<0>(arguments).kept.size() > 1, "group type 0 needs a group list");
  refuse_unless(!list.present || list.type == at::kLong, "the group list must be int64");
  refuse_unless(list_type >= 0 && list_type <= 2, "group list type " + std::to_string(list_type) + "; 0 (running totals), 1 (counts) and 2 (pairs) exist");
  if (list.present && list_type != 2) {
    const int64_t groups = groups_of(std::get<1>(arguments).kept);
    refuse_unless(list.sizes.size() == 1 && list.sizes[0] == groups,
                  "the group list must have one number for each of the " + std::to_string(groups) + " weights");
  }
}

std::vector<int64_t> counted(const OptionalTensor& list, int64_t type, const CodesList& x, const CodesList& weight) {
  if (!list || x.size() > 1) return {};
  return group_counts(*list, type, groups_of(weight));
}

}  // namespace

#define OPERANDS                                                                                                                             \
  const CodesList &x, const CodesList &weight, const TensorList &bias, const CodesList &scale, const TensorList &offset,                     \
      const CodesList &antiquant_scale, const TensorList &antiquant_offset
#define GROUPING                                                                                                                          \
  const CodesList &token_scale, const OptionalTensor &group_list, const TensorList &activation_input, const TensorList &activation_scale, \
      const TensorList &activation_offset, int64_t split_item, int64_t group_type, int64_t group_list_type, int64_t activation
#define RESULTS TensorList &out, const TensorList &activation_out, const TensorList &dynamic_scale_out
#define MULTIPLY(GROUP_SIZE)                                                                                                           \
  multiply({x, weight, bias, scale, antiquant_scale, antiquant_offset, token_scale, counted(group_list, group_list_type, x, weight), \
            activation, GROUP_SIZE, out})

CHECKED_OPERATOR(aclnnGroupedMatmulV4, check_list, OPERANDS, GROUPING, RESULTS) { MULTIPLY(0); }
CHECKED_OPERATOR(aclnnGroupedMatmulV5, check_list, OPERANDS, GROUPING, IntArray tuning, RESULTS) { MULTIPLY(0); }
CHECKED_OPERATOR(aclnnGroupedMatmulWeightNz, check_list, OPERANDS, GROUPING, IntArray tuning, int64_t group_size, RESULTS) { MULTIPLY(group_size); }
CHECKED_OPERATOR(aclnnGroupedMatmul, check, OPERANDS, IntArray group_list, int64_t split_item, TensorList& out) {
  const CodesList none;
  std::vector<int64_t> counts;
  for (size_t i = 0; i < group_list.size() && x.size() == 1; ++i) counts.push_back(i == 0 ? group_list[0] : group_list[i] - group_list[i - 1]);
  multiply({x, weight, bias, scale, antiquant_scale, antiquant_offset, none, counts, 0, 0, out});
}

// ---- with SwiGLU and quantisation ----------------------------------------------------------------

namespace {

struct SwigluProduct {
  const Codes& x;
  const CodesList &weight, &weight_scale;
  const OptionalTensor &bias, &smooth;
  const Codes& x_scale;
  const Tensor& group_list;
  int64_t list_type;
  Codes &out, &out_scale;
};

// y of a group's rows: silu of the left half of the product times the right, quantised per row.
void multiply_and_gate(const SwigluProduct& s) {
  const int64_t groups = groups_of(s.weight);
  const bool single = s.weight.size() == 1;
  const auto counts = group_counts(s.group_list, s.list_type, groups);
  TensorList no_bias;
  if (given(s.bias)) no_bias.push_back(*s.bias);
  const CodesList none;
  const TensorList no_tensors;
  TensorList no_out;
  const Grouped g{{}, s.weight, no_bias, s.weight_scale, none, no_tensors, none, {}, 0, 0, no_out};
  int64_t first = 0;
  for (int64_t i = 0; i < groups; ++i) {
    const int64_t count = counts[size_t(i)];
    if (count == 0) continue;
    const Codes token_scale = s.x_scale ? s.x_scale.rows(first, count) : kNoCodes;
    const auto halves = group_product(g, i, s.x.rows(first, count), token_scale, single).chunk(2, -1);
    Tensor gated = at::silu(halves[0]) * halves[1];
    if (given(s.smooth)) gated = gated * wide((*s.smooth)[i]);
    Codes out = s.out.rows(first, count), out_scale = s.out_scale.rows(first, count);
    if (s.out_scale.scale_exponent()) {
      quantise_mx(gated, -1, {}, "rint", out, out_scale);
    } else {
      const Tensor each = gated.abs().amax(-1).div_(out.greatest());
      out_scale.assign(each);
      out.assign(gated / at::where(each == 0, at::ones_like(each), each).unsqueeze(-1));
    }
    first += count;
  }
}
template <typename Arguments>
void check_swiglu(const Arguments& arguments) {
  const Codes& x = std::get<0>(arguments).kept;
  refuse_unless(x.type == ACL_INT8 || x.type == ACL_INT4 || x.type == ACL_INT32 || chip_is("Ascend950"),
                "the data type of x is " + std::to_string(x.type) + "; int8 and int4 are taken on this chip");
}

}  // namespace

#define SWIGLU_PRODUCT_V2                                                                                                                    \
  const Codes &x, const CodesList &weight, const CodesList &weight_scale, const TensorList &assist, const OptionalTensor &bias,              \
      const Codes &x_scale, const OptionalTensor &smooth, const Tensor &group_list, int64_t dequant_mode, int64_t dequant_type,              \
      int64_t quant_mode, int64_t list_type, IntArray tuning, Codes &out, Codes &out_scale
CHECKED_OPERATOR(aclnnGroupedMatmulSwigluQuantV2, check_swiglu, SWIGLU_PRODUCT_V2) {
  multiply_and_gate({x, weight, weight_scale, bias, smooth, x_scale, group_list, list_type, out, out_scale});
}
CHECKED_OPERATOR(aclnnGroupedMatmulSwigluQuantWeightNzV2, check_swiglu, SWIGLU_PRODUCT_V2) {
  multiply_and_gate({x, weight, weight_scale, bias, smooth, x_scale, group_list, list_type, out, out_scale});
}
#define SWIGLU_PRODUCT                                                                                                             \
  const Codes &x, const Codes &weight, const OptionalTensor &bias, const OptionalTensor &offset, const Codes &weight_scale,        \
      const Codes &x_scale, const Tensor &group_list, Codes &out, Codes &out_scale, const OptionalTensor &out_offset
CHECKED_OPERATOR(aclnnGroupedMatmulSwigluQuant, check_swiglu, SWIGLU_PRODUCT) {
  multiply_and_gate({x, {weight}, {weight_scale}, bias, kNone, x_scale, group_list, 0, out, out_scale});
}
CHECKED_OPERATOR(aclnnGroupedMatmulSwigluQuantWeightNZ, check_swiglu, SWIGLU_PRODUCT) {
  multiply_and_gate({x, {weight}, {weight_scale}, bias, kNone, x_scale, group_list, 0, out, out_scale});
}

// ---- with the weighted sum over each token's experts ---------------------------------------------

namespace {

// out[row_index[i]] += logit[i] * product[i]; the shared experts' part is added to its rows first.
struct Routed {
  const Codes &x, &weight, &scale;
  const OptionalTensor& bias;
  const Codes& token_scale;
  const Tensor& group_list;
  const OptionalTensor &shared, &logit, &row_index;
  double shared_weight;
  int64_t shared_offset;
  bool transposed;
  int64_t list_type;
  Tensor& out;
};
void multiply_and_gather(const Routed& r) {
  const Codes weight = r.transposed ? r.weight.transposed() : r.weight;
  const CodesList xs{r.x}, weights{weight}, scales{r.scale}, tokens{r.token_scale}, none;
  TensorList biases, no_tensors;
  if (given(r.bias)) biases.push_back(*r.bias);
  TensorList rows{at::zeros({r.x.size(0), weight.size(-1)}, at::kFloat)};
  multiply({xs, weights, biases, r.scale ? scales : none, none, no_tensors, r.token_scale ? tokens : none,
            group_counts(r.group_list, r.list_type, weight.size(0)), 0, 0, rows});
  Tensor sum = at::zeros({r.out.size(0), r.out.size(1)}, at::kFloat);
  if (given(r.shared)) sum.narrow(0, r.shared_offset, r.shared->size(0)).add_(wide(*r.shared), r.shared_weight);
  const Tensor weighted = r.logit ? rows[0] * wide(*r.logit).unsqueeze(-1) : rows[0];
  sum.index_add_(0, r.row_index->to(at::kLong), weighted);
  r.out.copy_(sum);
}

}  // namespace

#define ROUTED_HEAD const Codes &x, const Codes &weight, const Codes &scale, const OptionalTensor &bias
#define ROUTED_ANTIQUANT const OptionalTensor &offset, const OptionalTensor &antiquant_scale, const OptionalTensor &antiquant_offset
#define ROUTED_TAIL                                                                                                                  \
  const Codes &token_scale, const Tensor &group_list, const OptionalTensor &shared, const OptionalTensor &logit,                     \
      const OptionalTensor &row_index, int64_t type, float shared_weight, int64_t shared_offset, bool transpose_x, bool transposed,  \
      int64_t list_type
#define GATHER \
  multiply_and_gather({x, weight, scale, bias, token_scale, group_list, shared, logit, row_index, shared_weight, shared_offset, transposed, list_type, out})
OPERATOR(aclnnGroupedMatmulFinalizeRoutingV2, ROUTED_HEAD, ROUTED_ANTIQUANT, ROUTED_TAIL, Tensor& out) { GATHER; }
OPERATOR(aclnnGroupedMatmulFinalizeRoutingV3, ROUTED_HEAD, ROUTED_ANTIQUANT, ROUTED_TAIL, IntArray tuning, Tensor& out) { GATHER; }
OPERATOR(aclnnGroupedMatmulFinalizeRoutingWeightNz, ROUTED_HEAD, ROUTED_TAIL, Tensor& out) { GATHER; }
OPERATOR(aclnnGroupedMatmulFinalizeRoutingWeightNzV2, ROUTED_HEAD, ROUTED_ANTIQUANT, ROUTED_TAIL, IntArray tuning, Tensor& out) { GATHER; }
