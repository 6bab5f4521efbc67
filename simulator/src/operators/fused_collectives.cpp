// Products fused with a collective: the product is rounded to the output's type once, with its bias
// and addend, and summed over the ranks as HCCL sums.
//
// Source of the formulas and rules: CANN's documents of aclnnMatmulReduceScatter, aclnnMatmulAllReduceV2,
// aclnnQuantMatmulAllReduceV3 and aclnnAlltoAllvGroupedMatMul. Assumed: when rounding takes place, that
// the second versions follow the first, and that counts of alltoallv lie rank by rank, then expert by
// expert.
#include <algorithm>

#include "operators/quantisation.h"
#include "operators/ranks.h"

using namespace cannsim;

namespace {

const Codes kNoCodes;
const OptionalTensor kNone;

std::string text(int64_t number) { return std::to_string(number); }

// ---- a product's operands ------------------------------------------------------------------------------

struct Product {
  const Codes &x, &weight, &x_scale, &weight_scale;
  const OptionalTensor& bias;
  const OptionalTensor& weight_offset;
  int64_t group_size;
};
Tensor multiply(const Product& p) {
  const bool rows_of_rows = p.x.dim() == 3;
  const Codes x = rows_of_rows ? p.x.flattened() : p.x;
  Tensor product = scaled_product({x, p.weight, p.x_scale, p.weight_scale, &p.weight_offset, &p.bias, p.group_size});
  return rows_of_rows ? product.view({p.x.size(0), p.x.size(1), -1}) : product;
}

void check_product(const Codes& x, const Codes& weight) {
  if (!x || !weight) throw Error(kParameterNull, "x1 and x2 are required");
  refuse_unless(weight.dim() == 2, "x2 must have two dimensions");
  refuse_unless(x.dim() == 2 || x.dim() == 3, "x1 must have two or three dimensions");
  refuse_unless(x.size(-1) == weight.size(0), "x1 has k of " + text(x.size(-1)) + " and x2 of " + text(weight.size(0)) + "; they must be the same");
}
void check_modes(const std::string& operation, int64_t turns, int64_t mode) {
  refuse_unless(operation == "sum", "reduce_op '" + operation + "'; sum is taken");
  refuse_unless(turns == 0, "comm_turn " + text(turns) + "; 0 is taken");
  refuse_unless(mode == 1, "the stream mode is " + text(mode) + "; 1 is taken");
}
// Documented for cards: 2, 4 and 8 on Atlas A2, up to 32 on A3; one for the products with all-reduce.
void check_ranks(const Ranks& group, bool one) {
  const int64_t ranks = group.ranks(), most = chip_is("Ascend910B") ? 8 : chip_is("Ascend950") ? 64 : 32;
  if (!((one || ranks > 1) && ranks <= most && (ranks & (ranks - 1)) == 0))
    throw Error(kTilingFailed, "a communicator of " + text(ranks) + " ranks; powers of two from " + (one ? "1" : "2") + " to " + text(most) + " are taken");
}
// The reduced dimension of the products with reduce-scatter and all-gather.
void check_k(int64_t k) { refuse_unless(k >= 256 && k < 65535, "k is " + text(k) + "; from 256 to 65534 are taken"); }

void check_float(const View& x, const char* what) {
  refuse_unless(x.type == at::kHalf || x.type == at::kBFloat16,
                std::string("the data type of ") + what + " is " + at::toString(x.type) + "; float16 and bfloat16 are taken");
}
void check_same(const View& x, const char* what, const View& other, const char* other_what) {
  refuse_unless(x.type == other.type, std::string("the data types of ") + what + " (" + at::toString(x.type) + ") and " + other_what + " (" +
                                          at::toString(other.type) + ") differ");
}

}  // namespace

// ---- with a reduce-scatter of its rows -----------------------------------------------------------------

namespace {

void check_scattered(const Codes& x, const Codes& weight, const Ranks& group) {
  check_product(x, weight);
  check_ranks(group, false);
  check_k(x.size(-1));
  refuse_unless(x.dim() == 2 && x.size(0) % group.ranks() == 0,
                "x1 has " + text(x.size(0)) + " rows, which are not equally many for each of the " + text(group.ranks()) + " ranks");
}
template <typename Arguments>
void check_scatter(const Arguments& a) {
  check_float(std::get<0>(a).kept, "x1");
  check_same(std::get<0>(a).kept, "x1", std::get<1>(a).kept, "x2");
  check_modes(std::get<4>(a).kept, std::get<5>(a).kept, std::get<6>(a).kept);
  const auto codes = [](const View& view) { return Codes::of(view.tensor()); };
  check_scattered(codes(std::get<0>(a).kept), codes(std::get<1>(a).kept), std::get<3>(a).kept);
}
template <typename Arguments>
void check_scatter_v2(const Arguments& a) {
  check_modes(std::get<8>(a).kept, std::get<9>(a).kept, std::get<10>(a).kept);
  check_scattered(std::get<0>(a).kept, std::get<1>(a).kept, std::get<7>(a).kept);
}
void scatter(const char* name, Ranks& group, const Product& p, Tensor& out) {
  group.perform(name, [&] { out.copy_(group.sum_of_own_rows(multiply(p).to(out.scalar_type()))); });
}

}  // namespace

CHECKED_OPERATOR(aclnnMatmulReduceScatter, check_scatter, const Tensor& x1, const Tensor& x2, const OptionalTensor& bias, Ranks& group, Text operation,
                 int64_t turns, int64_t mode, Tensor& out) {
  const Codes x = Codes::of(x1), weight = Codes::of(x2);
  scatter("aclnnMatmulReduceScatter", group, {x, weight, kNoCodes, kNoCodes, bias, kNone, 0}, out);
}
CHECKED_OPERATOR(aclnnMatmulReduceScatterV2, check_scatter_v2, const Codes& x1, const Codes& x2, const OptionalTensor& bias, const Codes& x1_scale,
                 const Codes& x2_scale, const OptionalTensor& y_scale, int64_t block_size, Ranks& group, Text operation, int64_t turns, int64_t mode,
                 int64_t group_size, Text comm_mode, Tensor& out, const OptionalTensor& amax) {
  scatter("aclnnMatmulReduceScatterV2", group, {x1, x2, x1_scale, x2_scale, bias, kNone, group_size}, out);
}

// ---- with an all-gather of its first operand -----------------------------------------------------------

namespace {

void check_gathered(const Codes& x, const Codes& weight, const Ranks& group, int64_t index) {
  check_product(x, weight);
  check_ranks(group, false);
  check_k(x.size(-1));
  refuse_unless(x.dim() == 2, "x1 must have two dimensions");
  refuse_unless(index == 0, "gather_index " + text(index) + "; 0 (x1 is gathered) is taken");
}
template <typename Arguments>
void check_gather(const Arguments& a) {
  check_float(std::get<0>(a).kept, "x1");
  check_same(std::get<0>(a).kept, "x1", std::get<1>(a).kept, "x2");
  check_modes("sum", std::get<5>(a).kept, std::get<6>(a).kept);
  const auto codes = [](const View& view) { return Codes::of(view.tensor()); };
  check_gathered(codes(std::get<0>(a).kept), codes(std::get<1>(a).kept), std::get<3>(a).kept, std::get<4>(a).kept);
}
template <typename Arguments>
void check_gather_v2(const Arguments& a) {
  const Codes &x = std::get<0>(a).kept, &scale = std::get<3>(a).kept;
  check_modes("sum", std::get<9>(a).kept, std::get<10>(a).kept);
  check_gathered(x, std::get<1>(a).kept, std::get<7>(a).kept, std::get<8>(a).kept);
  if (!scale) return;
  int64_t count = 1;
  for (int64_t size : scale.sizes()) count *= size;
  refuse_unless(count == 1 || count == x.size(0) || count == x.size(0) * std::get<7>(a).kept.ranks(),
                "x1_scale has " + text(count) + " numbers; 1, or one for each of x1's " + text(x.size(0)) + " rows, is simulated");
}
// Scales of x's rows are gathered with the rows, unless they are all there.
void gather(const char* name, Ranks& group, const Product& p, Tensor& out, const OptionalTensor& gathered) {
  group.perform(name, [&] {
    const Tensor all = group.gather(p.x.tensor());
    Codes scale = p.x_scale;
    Tensor all_scales;  // kept while `scale` refers to it
    if (scale && scale.values().numel() == p.x.size(0) && p.x.size(0) > 1) {
      all_scales = group.gather(scale.values().flatten());
      scale = Codes::of(all_scales);
    }
    const Codes x = Codes::of(all);
    if (given(gathered)) Tensor(*gathered).copy_(all);
    out.copy_(multiply({x, p.weight, scale, p.weight_scale, p.bias, p.weight_offset, p.group_size}));
  });
}

}  // namespace

CHECKED_OPERATOR(aclnnAllGatherMatmul, check_gather, const Tensor& x1, const Tensor& x2, const OptionalTensor& bias, Ranks& group, int64_t index,
                 int64_t turns, int64_t mode, Tensor& out, const OptionalTensor& gathered) {
  const Codes x = Codes::of(x1), weight = Codes::of(x2);
  gather("aclnnAllGatherMatmul", group, {x, weight, kNoCodes, kNoCodes, bias, kNone, 0}, out, gathered);
}
CHECKED_OPERATOR(aclnnAllGatherMatmulV2, check_gather_v2, const Codes& x1, const Codes& x2, const OptionalTensor& bias, const Codes& x1_scale,
                 const Codes& x2_scale, const OptionalTensor& y_scale, int64_t block_size, Ranks& group, int64_t index, int64_t turns, int64_t mode,
                 int64_t group_size, Text comm_mode, Tensor& out, const OptionalTensor& gathered, const OptionalTensor& amax) {
  gather("aclnnAllGatherMatmulV2", group, {x1, x2, x1_scale, x2_scale, bias, kNone, group_size}, out, gathered);
}

// ---- with an all-reduce --------------------------------------------------------------------------------

namespace {

// `group`: the position of the communicator's name; `modes`: of comm_turn.
template <size_t group, size_t modes, typename Arguments>
void check_reduced(const Arguments& a) {
  const auto codes = [](const auto& kept) {
    if constexpr (std::is_same_v<std::remove_cvref_t<decltype(kept)>, View>) return Codes::of(kept.tensor());
    else return kept;
  };
  check_product(codes(std::get<0>(a).kept), codes(std::get<1>(a).kept));
  check_ranks(std::get<group>(a).kept, true);
  check_modes(std::get<group + 1>(a).kept, std::get<modes>(a).kept, std::get<modes + 1>(a).kept);
}
template <size_t group, size_t modes, typename Arguments>
void check_reduced_floats(const Arguments& a) {
  check_float(std::get<0>(a).kept, "x1");
  check_same(std::get<0>(a).kept, "x1", std::get<1>(a).kept, "x2");
  check_reduced<group, modes>(a);
}
// int8 operands; the scale's and the bias's types, and the scales of quantised communication.
template <size_t group, size_t modes, size_t comm_scale, typename Arguments>
void check_reduced_codes(const Arguments& a) {
  const Codes &x = std::get<0>(a).kept, &weight = std::get<1>(a).kept;
  refuse_unless(chip_is("Ascend950") || (x.type == ACL_INT8 && weight.type == ACL_INT8),
                "the data types of x1 and x2 are " + text(x.type) + " and " + text(weight.type) + "; int8 is taken");
  const View& bias = std::get<2>(a).kept;
  refuse_unless(!bias.present || !x.integer() || bias.type == at::kInt, std::string("the data type of the bias is ") + at::toString(bias.type) + "; int32 is taken");
  if constexpr (comm_scale > 0)
    refuse_unless(std::get<comm_scale>(a).kept.present == std::get<comm_scale + 1>(a).kept.present,
                  "comm_quant_scale_1 and comm_quant_scale_2 must be given together");
  check_reduced<group, modes>(a);
}

// int8 on the way: quantised by the first scales, summed, and quantised again by the second.
Tensor sum_of_codes(Ranks& group, const Tensor& product, const Tensor& scale1, const Tensor& scale2) {
  const auto rounded = [](const Tensor& x) { return at::round(x).clamp(-128, 127); };
  const Tensor first = wide(scale1).reshape({1, -1}), second = wide(scale2).reshape({1, -1});
  const Tensor sum = group.sum(rounded(product / first).to(at::kInt));
  return rounded(sum.to(at::kFloat) * (first / second)) * second;
}
struct Reduced {
  const char* name;
  Ranks& group;
  Product product;
  const OptionalTensor& addend;
  const OptionalTensor &comm_scale1, &comm_scale2;
  Tensor& out;
};
void reduce(const Reduced& r) {
  r.group.perform(r.name, [&] {
    Tensor product = multiply(r.product);
    if (given(r.addend)) product = product + wide(*r.addend).view(product.sizes());
    if (given(r.comm_scale1)) {
      r.out.copy_(sum_of_codes(r.group, product, *r.comm_scale1, *r.comm_scale2));
    } else {
      r.out.copy_(r.group.sum(product.to(r.out.scalar_type())));
    }
  });
}

}  // namespace

#define FLOAT_OPERANDS const Tensor &x1, const Tensor &x2, const OptionalTensor &bias
#define MODES int64_t turns, int64_t mode
#define REDUCE_FLOATS(NAME, ADDEND)                 \
  const Codes x = Codes::of(x1), w = Codes::of(x2); \
  reduce({NAME, group, {x, w, kNoCodes, kNoCodes, bias, kNone, 0}, ADDEND, kNone, kNone, out})
CHECKED_OPERATOR(aclnnMatmulAllReduce, (check_reduced_floats<3, 5>), FLOAT_OPERANDS, Ranks& group, Text operation, MODES, Tensor& out) {
  REDUCE_FLOATS("aclnnMatmulAllReduce", kNone);
}
CHECKED_OPERATOR(aclnnMatmulAllReduceV2, (check_reduced_floats<4, 6>), FLOAT_OPERANDS, const OptionalTensor& x3, Ranks& group, Text operation, MODES,
                 Tensor& out) {
  REDUCE_FLOATS("aclnnMatmulAllReduceV2", x3);
}
CHECKED_OPERATOR(aclnnMatmulAllReduceV3, (check_reduced_floats<4, 7>), FLOAT_OPERANDS, const OptionalTensor& x3, Ranks& group, Text operation,
                 Text comm_mode, MODES, Tensor& out) {
  REDUCE_FLOATS("aclnnMatmulAllReduceV3", x3);
}

#define CODE_OPERANDS const Codes &x1, const Codes &x2, const OptionalTensor &bias, const OptionalTensor &x3
#define COMM_SCALES const OptionalTensor &comm_scale1, const OptionalTensor &comm_scale2
#define REDUCE_CODES(NAME, TOKEN_SCALE, GROUP_SIZE, SCALE1, SCALE2) \
  reduce({NAME, group, {x1, x2, TOKEN_SCALE, scale, bias, kNone, GROUP_SIZE}, x3, SCALE1, SCALE2, out})
CHECKED_OPERATOR(aclnnQuantMatmulAllReduce, (check_reduced_codes<5, 7, 0>), CODE_OPERANDS, const Codes& scale, Ranks& group, Text operation, MODES,
                 Tensor& out) {
  REDUCE_CODES("aclnnQuantMatmulAllReduce", kNoCodes, 0, kNone, kNone);
}
CHECKED_OPERATOR(aclnnQuantMatmulAllReduceV2, (check_reduced_codes<6, 8, 0>), CODE_OPERANDS, const Codes& scale, const Codes& token_scale, Ranks& group,
                 Text operation, MODES, Tensor& out) {
  REDUCE_CODES("aclnnQuantMatmulAllReduceV2", token_scale, 0, kNone, kNone);
}
CHECKED_OPERATOR(aclnnQuantMatmulAllReduceV3, (check_reduced_codes<8, 10, 6>), CODE_OPERANDS, const Codes& scale, const Codes& token_scale, COMM_SCALES,
                 Ranks& group, Text operation, MODES, Tensor& out) {
  REDUCE_CODES("aclnnQuantMatmulAllReduceV3", token_scale, 0, comm_scale1, comm_scale2);
}
CHECKED_OPERATOR(aclnnQuantMatmulAllReduceV4, (check_reduced_codes<8, 10, 6>), CODE_OPERANDS, const Codes& token_scale, const Codes& scale, COMM_SCALES,
                 Ranks& group, Text operation, MODES, int64_t group_size, int64_t comm_quant, Tensor& out) {
  REDUCE_CODES("aclnnQuantMatmulAllReduceV4", token_scale, group_size, comm_scale1, comm_scale2);
}
CHECKED_OPERATOR(aclnnQuantMatmulAllReduceV5, (check_reduced_codes<8, 11, 6>), CODE_OPERANDS, const Codes& token_scale, const Codes& scale, COMM_SCALES,
                 Ranks& group, Text operation, Text comm_mode, MODES, int64_t group_size, int64_t comm_quant, Tensor& out) {
  REDUCE_CODES("aclnnQuantMatmulAllReduceV5", token_scale, group_size, comm_scale1, comm_scale2);
}

// Weights of few bits, activations in full.
#define WEIGHT_OPERANDS                                                                                                      \
  const Tensor &x1, const Codes &x2, const OptionalTensor &bias, const Codes &scale, const OptionalTensor &offset, const OptionalTensor &x3
#define REDUCE_WEIGHTS(NAME)      \
  const Codes x = Codes::of(x1);  \
  reduce({NAME, group, {x, x2, kNoCodes, scale, bias, offset, weight_group}, x3, kNone, kNone, out})
CHECKED_OPERATOR(aclnnWeightQuantMatmulAllReduce, (check_reduced<6, 8>), WEIGHT_OPERANDS, Ranks& group, Text operation, MODES, int64_t weight_group,
                 Tensor& out) {
  REDUCE_WEIGHTS("aclnnWeightQuantMatmulAllReduce");
}
CHECKED_OPERATOR(aclnnWeightQuantMatmulAllReduceV2, (check_reduced<6, 9>), WEIGHT_OPERANDS, Ranks& group, Text operation, Text comm_mode, MODES,
                 int64_t weight_group, Tensor& out) {
  REDUCE_WEIGHTS("aclnnWeightQuantMatmulAllReduceV2");
}

// ---- grouped products with an exchange of rows -----------------------------------------------------------

namespace {

// Rows between rank by rank and expert by expert: counts[rank * experts + expert].
struct Blocks {
  IntArray counts;
  int64_t ranks, experts;
  Rows by_rank() const {
    Rows made(size_t(ranks), 0);
    for (int64_t i = 0; i < int64_t(counts.size()); ++i) made[size_t(i / experts)] += counts[size_t(i)];
    return made;
  }
  int64_t of_expert(int64_t expert) const {
    int64_t sum = 0;
    for (int64_t rank = 0; rank < ranks; ++rank) sum += counts[size_t(rank * experts + expert)];
    return sum;
  }
  // Where each row of the order by experts lies in the order by ranks.
  Tensor to_experts() const {
    const Tensor sizes = at::tensor(counts, at::kLong), block = at::arange(sizes.numel(), at::kLong);
    const Tensor expert = block.remainder(experts).repeat_interleave(sizes);
    return std::get<1>(at::sort(expert, std::optional<bool>(true), 0, false));
  }
};

// Rows of each expert by its weight [experts, k, n], or [experts, n, k] transposed.
Tensor grouped_product(const Tensor& rows, const Tensor& weight, bool transposed, const Blocks& blocks) {
  std::vector<Tensor> parts;
  int64_t first = 0;
  for (int64_t expert = 0; expert < blocks.experts; ++expert) {
    const int64_t count = blocks.of_expert(expert);
    const Tensor own = wide(weight[expert]);
    parts.push_back(at::matmul(wide(rows.narrow(0, first, count)), transposed ? own.t() : own));
    first += count;
  }
  return at::cat(parts);
}
void shared_product(const OptionalTensor& x, const OptionalTensor& weight, bool transposed, const OptionalTensor& out) {
  if (!given(x) || !given(weight) || !given(out)) return;
  Tensor(*out).copy_(at::matmul(wide(*x), transposed ? wide(*weight).t() : wide(*weight)));
}

// `group`: the position of the communicator's name; `world`: of ep_world_size.
template <size_t group, size_t world, typename Arguments>
void check_grouped(const Arguments& a) {
  const View &x = std::get<0>(a).kept, &weight = std::get<1>(a).kept;
  const Ranks& ranks = std::get<group>(a).kept;
  const std::vector<int64_t>&sent = std::get<world + 1>(a).kept, &received = std::get<world + 2>(a).kept;
  check_float(x, "gmm_x");
  check_same(x, "gmm_x", weight, "gmm_weight");
  refuse_unless(x.sizes.size() == 2 && weight.sizes.size() == 3, "gmm_x must have two dimensions and gmm_weight three");
  refuse_unless(!std::get<2>(a).kept.present && !std::get<3>(a).kept.present, "counts as tensors are not taken; they are given as lists");
  const bool transposed = std::get<world + 3>(a).kept;
  refuse_unless(x.sizes[1] == weight.sizes[transposed ? 2 : 1], "gmm_x has k of " + text(x.sizes[1]) + " and gmm_weight of " + text(weight.sizes[transposed ? 2 : 1]));
  refuse_unless(std::get<4>(a).kept.present == std::get<5>(a).kept.present, "mm_x and mm_weight must be given together");
  const int64_t experts = weight.sizes[0], given_world = std::get<world>(a).kept;
  if (given_world != ranks.ranks())
    throw Error(kTilingFailed, "ep_world_size is " + text(given_world) + ", the communicator '" + ranks.name() + "' has " + text(ranks.ranks()) + " ranks");
  refuse_unless(experts <= 32 && experts * given_world <= 256, text(experts) + " experts on each of " + text(given_world) + " ranks; at most 32, and 256 on all, are taken");
  const int64_t wanted = experts * given_world;
  refuse_unless(int64_t(sent.size()) == wanted && int64_t(received.size()) == wanted,
                "send_counts and recv_counts must have " + text(wanted) + " numbers, one for each expert of each rank");
  int64_t sum = 0;
  for (int64_t count : sent) sum += count;
  refuse_unless(sum == x.sizes[0], "send_counts add up to " + text(sum) + "; gmm_x has " + text(x.sizes[0]) + " rows");
}

}  // namespace

#define GROUPED_OPERANDS                                                                                                           \
  const Tensor &x, const Tensor &weight, const OptionalTensor &sent_tensor, const OptionalTensor &received_tensor,                 \
      const OptionalTensor &mm_x, const OptionalTensor &mm_weight
#define GROUPED_COUNTS int64_t world, IntArray sent, IntArray received, bool transposed, bool mm_transposed
// Tokens go to their experts' ranks, and are multiplied there.
#define EXCHANGE_AND_MULTIPLY(NAME)                                                                                        \
  group.perform(NAME, [&] {                                                                                                \
    const int64_t experts = weight.size(0);                                                                                \
    const Blocks out{sent, world, experts}, in{received, world, experts};                                                  \
    const Tensor rows = group.exchange(x, out.by_rank(), in.by_rank(), {uint64_t(experts), 0, 0}).index({in.to_experts()}); \
    if (permuted && given(permute_out)) Tensor(*permute_out).copy_(rows);                                                  \
    y.copy_(grouped_product(rows, weight, transposed, in));                                                                \
    shared_product(mm_x, mm_weight, mm_transposed, mm_y);                                                                  \
  })
CHECKED_OPERATOR(aclnnAlltoAllvGroupedMatMul, (check_grouped<6, 7>), GROUPED_OPERANDS, Ranks& group, GROUPED_COUNTS, bool permuted, Tensor& y,
                 const OptionalTensor& mm_y, const OptionalTensor& permute_out) {
  EXCHANGE_AND_MULTIPLY("aclnnAlltoAllvGroupedMatMul");
}
CHECKED_OPERATOR(aclnnAlltoAllvGroupedMatMulV2, (check_grouped<6, 8>), GROUPED_OPERANDS, Ranks& group, Text comm_mode, GROUPED_COUNTS,
                 bool permuted, Tensor& y, const OptionalTensor& mm_y, const OptionalTensor& permute_out) {
  EXCHANGE_AND_MULTIPLY("aclnnAlltoAllvGroupedMatMulV2");
}
// And back: rows of the experts are multiplied, and go to the ranks that they came from.
#define MULTIPLY_AND_EXCHANGE(NAME)                                                                                        \
  group.perform(NAME, [&] {                                                                                                \
    const int64_t experts = weight.size(0);                                                                                \
    const Blocks out{sent, world, experts}, in{received, world, experts};                                                  \
    const Tensor product = grouped_product(x, weight, transposed, out).to(y.scalar_type());                                \
    Tensor rows = at::empty_like(product);                                                                                 \
    rows.index_put_({out.to_experts()}, product);                                                                          \
    y.copy_(group.exchange(rows, out.by_rank(), in.by_rank(), {uint64_t(experts), 0, 0}));                                 \
    shared_product(mm_x, mm_weight, mm_transposed, mm_y);                                                                  \
  })
CHECKED_OPERATOR(aclnnGroupedMatMulAlltoAllv, (check_grouped<6, 7>), GROUPED_OPERANDS, Ranks& group, GROUPED_COUNTS, Tensor& y,
                 const OptionalTensor& mm_y) {
  MULTIPLY_AND_EXCHANGE("aclnnGroupedMatMulAlltoAllv");
}
CHECKED_OPERATOR(aclnnGroupedMatMulAlltoAllvV2, (check_grouped<6, 8>), GROUPED_OPERANDS, Ranks& group, Text comm_mode, GROUPED_COUNTS, Tensor& y,
                 const OptionalTensor& mm_y) {
  MULTIPLY_AND_EXCHANGE("aclnnGroupedMatMulAlltoAllvV2");
}
