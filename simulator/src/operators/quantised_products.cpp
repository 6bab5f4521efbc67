// Matrix products of quantised operands: one, in batches, in groups of rows; and the packing of
// their weights and scales.
#include "operators/quantisation.h"

using namespace cannsim;

namespace {

const OptionalTensor kNone;
const Codes kNoCodes;

// What the fixed-point unit makes of float32: int8 with an offset, or the output's own type.
void write(const Tensor& product, const OptionalTensor& offset, Tensor& out) {
  if (out.scalar_type() == at::kChar) {
    out.copy_(at::round(given(offset) ? product + wide(*offset) : product).clamp(-128, 127));
  } else {
    out.copy_(product);
  }
}

struct Product {
  const Codes &x1, &x2, &x1_scale, &x2_scale;
  const OptionalTensor &y_scale, &y_offset, &bias;
  bool transpose1, transpose2;
  int64_t group_size;
  Tensor& out;
};
void multiply(const Product& p) {
  const Codes x = p.transpose1 ? p.x1.transposed() : p.x1, weight = p.transpose2 ? p.x2.transposed() : p.x2;
  Tensor product = scaled_product({x, weight, p.x1_scale, p.x2_scale, nullptr, &p.bias, p.group_size});
  const bool words = p.x2_scale && (p.x2_scale.type == ACL_INT64 || p.x2_scale.type == ACL_UINT64);
  Tensor out = p.out;
  if (given(p.y_scale)) product = product * wide(*p.y_scale);
  if (out.scalar_type() == at::kChar && words) product = product + unpack_offset(p.x2_scale.words());
  write(product, p.y_offset, out);
}

std::string shape(const Codes& codes) {
  std::string text;
  for (int64_t size : codes.sizes()) text += (text.empty() ? "" : " x ") + std::to_string(size);
  return text;
}

bool float_of_few_bits(aclDataType type) {
  return type == ACL_HIFLOAT8 || type == ACL_FLOAT8_E5M2 || type == ACL_FLOAT8_E4M3FN || type == ACL_FLOAT4_E2M1 || type == ACL_FLOAT4_E1M2;
}

void check_operands(const Codes& x1, const Codes& x2, bool transpose1, bool transpose2) {
  if (!x1 || !x2) throw Error(kParameterNull, "x1 and x2 are required");
  const bool few = float_of_few_bits(x1.type) || float_of_few_bits(x2.type);
  refuse_unless(few || x1.integer(), "the data type of x1 is " + std::to_string(x1.type) + "; int8 and int4 (packed in int32) are taken");
  refuse_unless(!few || chip_is("Ascend950"), std::string("float8 and float4 operands; the chip ") + settings().chip.soc + " has none, Ascend950 does");
  refuse_unless(x1.dim() >= 2 && x2.dim() >= 2 && x1.dim() <= 6 && x2.dim() <= 6, "x1 and x2 must have from 2 to 6 dimensions");
  const int64_t k1 = x1.size(transpose1 ? -2 : -1), k2 = x2.size(transpose2 ? -1 : -2);
  refuse_unless(k1 == k2, "x1 (" + shape(x1) + ") and x2 (" + shape(x2) + ") do not have the same k: " + std::to_string(k1) + " and " +
                              std::to_string(k2));
  refuse_unless(few || x1.size(-1) <= 65535, "the last dimension of x1 is " + std::to_string(x1.size(-1)) + "; at most 65535 are taken");
  refuse_unless(few || x2.size(-1) <= 65535, "the last dimension of x2 is " + std::to_string(x2.size(-1)) + "; at most 65535 are taken");
}
void check_scales(const Codes& x1_scale, const Codes& x2_scale, const View& out, int64_t m, int64_t n) {
  if (x2_scale && x2_scale.dim() == 1)
    refuse_unless(x2_scale.size(0) == 1 || x2_scale.size(0) == n,
                  "the scale of x2 has " + std::to_string(x2_scale.size(0)) + " elements; it must have 1 or n, " + std::to_string(n));
  if (!x1_scale || x1_scale.scale_exponent() || x1_scale.dim() > 1) return;
  refuse_unless(x1_scale.size(0) == m || x1_scale.size(0) == 1,
                "the per-token scale has " + std::to_string(x1_scale.size(0)) + " elements; it must have m, " + std::to_string(m));
  refuse_unless(out.type == at::kHalf || out.type == at::kBFloat16 || chip_is("Ascend950"),
                std::string("an output of ") + at::toString(out.type) + " with a per-token scale; float16 and bfloat16 are made");
}
template <typename Arguments>
void check_v5(const Arguments& arguments) {
  const Codes& x1 = std::get<0>(arguments).kept;
  const Codes& x2 = std::get<1>(arguments).kept;
  const bool transpose1 = std::get<9>(arguments).kept, transpose2 = std::get<10>(arguments).kept;
  check_operands(x1, x2, transpose1, transpose2);
  check_scales(std::get<2>(arguments).kept, std::get<3>(arguments).kept, std::get<12>(arguments).kept, x1.size(transpose1 ? -1 : -2),
               x2.size(transpose2 ? -2 : -1));
}
template <typename Arguments>
void check_v4(const Arguments& arguments) {
  const Codes& x1 = std::get<0>(arguments).kept;
  const Codes& x2 = std::get<1>(arguments).kept;
  check_operands(x1, x2, std::get<6>(arguments).kept, std::get<7>(arguments).kept);
  check_scales(std::get<4>(arguments).kept, std::get<2>(arguments).kept, std::get<8>(arguments).kept, x1.size(-2), x2.size(-1));
}

}  // namespace

#define PRODUCT_V5                                                                                                                           \
  const Codes &x1, const Codes &x2, const Codes &x1_scale, const Codes &x2_scale, const OptionalTensor &y_scale,                             \
      const OptionalTensor &x1_offset, const OptionalTensor &x2_offset, const OptionalTensor &y_offset, const OptionalTensor &bias,          \
      bool transpose1, bool transpose2, int64_t group_size, Tensor &out
CHECKED_OPERATOR(aclnnQuantMatmulV5, check_v5, PRODUCT_V5) {
  multiply({x1, x2, x1_scale, x2_scale, y_scale, y_offset, bias, transpose1, transpose2, group_size, out});
}
CHECKED_OPERATOR(aclnnQuantMatmulWeightNz, check_v5, PRODUCT_V5) {
  multiply({x1, x2, x1_scale, x2_scale, y_scale, y_offset, bias, transpose1, transpose2, group_size, out});
}
CHECKED_OPERATOR(aclnnQuantMatmulV4, check_v4, const Codes& x1, const Codes& x2, const Codes& scale, const OptionalTensor& offset,
                 const Codes& token_scale, const OptionalTensor& bias, bool transpose1, bool transpose2, Tensor& out) {
  multiply({x1, x2, token_scale, scale, kNone, offset, bias, transpose1, transpose2, 0, out});
}
OPERATOR(aclnnQuantMatmulV3, const Codes& x1, const Codes& x2, const Codes& scale, const OptionalTensor& offset, const OptionalTensor& bias,
         bool transpose1, bool transpose2, Tensor& out) {
  multiply({x1, x2, kNoCodes, scale, kNone, offset, bias, transpose1, transpose2, 0, out});
}
// The sum over the batch of the products, in the output's type (weights in NZ).
OPERATOR(aclnnQuantMatmulReduceSumWeightNz, const Codes& x1, const Codes& x2, const Codes& x1_scale, const Codes& x2_scale,
         const OptionalTensor& y_scale, const OptionalTensor& x1_offset, const OptionalTensor& x2_offset, const OptionalTensor& y_offset,
         const OptionalTensor& bias, bool transpose1, bool transpose2, int64_t group_size, IntArray dims, bool keep_dims, Tensor& out) {
  const Codes x = transpose1 ? x1.transposed() : x1, weight = transpose2 ? x2.transposed() : x2;
  Tensor product = at::matmul(x.values(), weight.values()) * x2_scale.values();
  product = product * x1_scale.values().view({x.size(0), -1, 1});
  out.copy_(product.sum(dims, keep_dims));
}

// ---- weights of few bits, activations in full ----------------------------------------------------

namespace {

// y = x ((weight + offset) scale) + bias; with a quantisation scale, rounded to int8.
struct WeightOnly {
  const Tensor& x;
  const Codes& weight;
  const Codes& scale;
  const OptionalTensor& offset;
  const Codes& y_scale;
  const OptionalTensor& y_offset;
  const OptionalTensor& bias;
  int64_t group;
  Tensor& out;
};
Tensor spread_groups(const Tensor& scale, int64_t length, int64_t group) {  // [groups, n] -> [k, n]
  if (scale.dim() < 2 || scale.size(-2) == 1) return scale;
  const int64_t each = group > 0 ? group : (length + scale.size(-2) - 1) / scale.size(-2);
  return scale.repeat_interleave(each, -2).narrow(-2, 0, length);
}
void multiply_weight_only(const WeightOnly& w) {
  Tensor weight = w.weight.values();
  const int64_t k = weight.size(-2);
  Tensor scale = w.scale.values();
  if (w.scale.type == ACL_INT64 || w.scale.type == ACL_UINT64) scale = unpack_scale(w.scale.words());
  if (given(w.offset)) weight = weight + spread_groups(wide(*w.offset), k, w.group);
  weight = weight * spread_groups(scale, k, w.group);
  Tensor product = at::matmul(wide(w.x), weight);
  if (given(w.bias)) product = product + wide(*w.bias);
  if (given(w.y_scale)) {
    const bool words = w.y_scale.type == ACL_INT64 || w.y_scale.type == ACL_UINT64;
    product = product * (words ? unpack_scale(w.y_scale.words()) : w.y_scale.values());
    if (words) product = product + unpack_offset(w.y_scale.words());
  }
  write(product, w.y_offset, w.out);
}
template <typename Arguments>
void check_weight_only(const Arguments& arguments) {
  const auto& x = std::get<0>(arguments).kept;
  const Codes& weight = std::get<1>(arguments).kept;
  const int32_t group = std::get<7>(arguments).kept;
  refuse_unless(x.type == at::kHalf || x.type == at::kBFloat16,
                std::string("the data type of x is ") + at::toString(x.type) + "; float16 and bfloat16 are taken");
  refuse_unless(x.sizes.size() == 2 && weight.dim() == 2, "x and weight must have two dimensions");
  refuse_unless(weight.integer() || chip_is("Ascend950"),
                "the data type of the weight is " + std::to_string(weight.type) + "; int8 and int4 (packed in int32) are taken");
  refuse_unless(x.sizes[1] == weight.size(0), "x (k of " + std::to_string(x.sizes[1]) + ") and weight (" + shape(weight) + ") do not have the same k");
  refuse_unless(group == 0 || (group % 32 == 0 && group >= 32 && group <= x.sizes[1] - 1),
                "a group of " + std::to_string(group) + " numbers; it must be a multiple of 32 in [32, k - 1]");
}

}  // namespace

#define WEIGHT_ONLY                                                                                                                   \
  const Tensor &x, const Codes &weight, const Codes &scale, const OptionalTensor &offset, const Codes &y_scale,                       \
      const OptionalTensor &y_offset, const OptionalTensor &bias, int32_t group
CHECKED_OPERATOR(aclnnWeightQuantBatchMatmulV2, check_weight_only, WEIGHT_ONLY, Tensor& out) {
  multiply_weight_only({x, weight, scale, offset, y_scale, y_offset, bias, group, out});
}
CHECKED_OPERATOR(aclnnWeightQuantBatchMatmulV3, check_weight_only, WEIGHT_ONLY, int32_t inner_precise, Tensor& out) {
  multiply_weight_only({x, weight, scale, offset, y_scale, y_offset, bias, group, out});
}
CHECKED_OPERATOR(aclnnWeightQuantBatchMatmulNz, check_weight_only, WEIGHT_ONLY, Tensor& out) {
  multiply_weight_only({x, weight, scale, offset, y_scale, y_offset, bias, group, out});
}

// ---- packing of weights and scales ---------------------------------------------------------------

// float32 -> the 19 bits that the fixed-point unit keeps (the mantissa's last 13 are dropped, or
// rounded in mode 1), bit 46 set, and the offset as int9 in bits 37 to 45.
static void pack_scale(const Tensor& scale, const OptionalTensor& offset, int64_t rounding, Tensor& out) {
  Tensor bits = wide(scale).contiguous().view(at::kInt).to(at::kLong).bitwise_and(0xFFFFFFFF);
  if (rounding == 1) bits = bits + 0xFFF + bits.bitwise_right_shift(13).bitwise_and(1);
  Tensor words = bits.bitwise_and(0xFFFFE000).bitwise_or(int64_t(1) << 46);
  if (given(offset)) {
    const Tensor field = at::round(wide(*offset)).clamp(-256, 255).to(at::kLong).bitwise_and(0x1FF);
    words = words.bitwise_or(field.bitwise_left_shift(37));
  }
  out.view(at::kLong).copy_(words.expand(out.sizes()));
}
OPERATOR(aclnnTransQuantParamV2, const Tensor& scale, const OptionalTensor& offset, Tensor& out) { pack_scale(scale, offset, 0, out); }
OPERATOR(aclnnTransQuantParamV3, const Tensor& scale, const OptionalTensor& offset, int64_t rounding, Tensor& out) {
  pack_scale(scale, offset, rounding, out);
}

template <typename Arguments>
static void check_pack(const Arguments& arguments) {
  const auto& weight = std::get<0>(arguments).kept;
  refuse_unless(weight.type == at::kInt || weight.type == at::kFloat,
                std::string("the data type of weight is ") + at::toString(weight.type) + "; int32 (and float32 on Ascend950) is taken");
  refuse_unless(!weight.sizes.empty() && weight.sizes.back() % 8 == 0,
                "the last dimension of weight must be a multiple of 8");
}
CHECKED_OPERATOR(aclnnConvertWeightToINT4Pack, check_pack, const Tensor& weight, Codes& out) { out.assign(weight); }

// Activations are quantised to int8 here: by the given scale, or by each row's range.
static Tensor weight_scale_of(const Tensor& scale) { return scale.scalar_type() == at::kLong ? unpack_scale(scale) : wide(scale); }
struct DequantProduct {
  const Tensor& x;
  const Codes& weight;
  const Tensor& weight_scale;
  const OptionalTensor &bias, &x_scale, &x_offset, &smooth;
  bool transposed;
};
static Tensor dequant_product(const DequantProduct& d) {
  Tensor x = wide(d.x);
  if (given(d.smooth)) x = x * wide(*d.smooth);
  Tensor scale;
  if (given(d.x_scale)) {
    scale = wide(*d.x_scale).reshape({-1, 1});
  } else {
    scale = x.abs().amax(-1, true).div_(127);
  }
  const Tensor codes = at::round(x / at::where(scale == 0, at::ones_like(scale), scale)).clamp(-128, 127);
  const Tensor weight = d.transposed ? d.weight.transposed().values() : d.weight.values();
  Tensor product = at::matmul(codes.to(at::kDouble), weight.to(at::kDouble));
  if (given(d.bias) && d.bias->scalar_type() == at::kInt) product = product + *d.bias;
  product = product.to(at::kFloat) * weight_scale_of(d.weight_scale) * scale;
  return given(d.bias) && d.bias->scalar_type() != at::kInt ? product + wide(*d.bias) : product;
}
OPERATOR(aclnnQuantMatmulDequant, const Tensor& x, const Codes& weight, const Tensor& weight_scale, const OptionalTensor& bias,
         const OptionalTensor& x_scale, const OptionalTensor& x_offset, const OptionalTensor& smooth, Text mode, bool transposed, Tensor& out) {
  out.copy_(dequant_product({x, weight, weight_scale, bias, x_scale, x_offset, smooth, transposed}));
}
static void grouped_dequant_product(const Tensor& x, const Codes& weight, const Tensor& weight_scale, const Tensor& group_list,
                                    const OptionalTensor& bias, const OptionalTensor& x_scale, const OptionalTensor& x_offset,
                                    const OptionalTensor& smooth, bool transposed, Tensor& out) {
  const auto counts = group_counts(group_list, 0, weight.size(0));
  const auto of = [](const OptionalTensor& table, int64_t i) { return given(table) ? OptionalTensor((*table)[i]) : kNone; };
  int64_t first = 0;
  for (int64_t i = 0; i < int64_t(counts.size()); ++i) {
    const int64_t count = counts[size_t(i)];
    if (count == 0) continue;
    const OptionalTensor scale = given(x_scale) && x_scale->numel() == x.size(0) ? OptionalTensor(x_scale->narrow(0, first, count)) : x_scale;
    const Codes own = weight.at(i);
    out.narrow(0, first, count)
        .copy_(dequant_product({x.narrow(0, first, count), own, weight_scale[i], of(bias, i), scale, x_offset, of(smooth, i), transposed}));
    first += count;
  }
}
#define GROUPED_DEQUANT                                                                                                                      \
  const Tensor &x, const Codes &weight, const Tensor &weight_scale, const Tensor &group_list, const OptionalTensor &bias,                    \
      const OptionalTensor &x_scale, const OptionalTensor &x_offset, const OptionalTensor &smooth, Text mode, bool transposed, Tensor &out
OPERATOR(aclnnQuantGroupedMatmulDequant, GROUPED_DEQUANT) {
  grouped_dequant_product(x, weight, weight_scale, group_list, bias, x_scale, x_offset, smooth, transposed, out);
}
OPERATOR(aclnnQuantGroupedMatmulDequantWeightNZ, GROUPED_DEQUANT) {
  grouped_dequant_product(x, weight, weight_scale, group_list, bias, x_scale, x_offset, smooth, transposed, out);
}

// ---- products with a permutation of operands and output ------------------------------------------

static Tensor permuted(const Tensor& x, IntArray order) { return order.empty() ? x : x.permute(order); }

// y [batch, m, n] permuted, its batch split off in `split` parts: [split, m, batch n / split].
static Tensor laid_out(const Tensor& product, IntArray order, int64_t split, at::IntArrayRef sizes) {
  const Tensor turned = permuted(product, order);
  if (split <= 1) return turned.reshape(sizes);
  // order {1, 0, 2} has put m first: [m, batch, n].
  return turned.reshape({turned.size(0), split, -1}).transpose(0, 1).reshape(sizes);
}
static void transposed_product(const Tensor& input, const Tensor& weight, const OptionalTensor& bias, const Codes& scale, IntArray order1,
                               IntArray order2, IntArray order, int64_t split, Tensor& out) {
  Tensor product = at::matmul(wide(permuted(input, order1)), wide(permuted(weight, order2)));
  if (given(bias)) product = product + wide(*bias);
  if (given(scale)) {  // [batch n]: the output is int8, [m, 1, batch n]
    const bool words = scale.type == ACL_INT64 || scale.type == ACL_UINT64;
    const Tensor factor = (words ? unpack_scale(scale.words()) : scale.values()).view({product.size(0), 1, product.size(2)});
    out.copy_(at::round(laid_out(product * factor, order, 1, out.sizes())).clamp(-128, 127));
    return;
  }
  out.copy_(laid_out(product, order, split, out.sizes()));
}
template <typename Arguments>
static void check_transposed(const Arguments& arguments) {
  const auto& input = std::get<0>(arguments).kept;
  const auto& weight = std::get<1>(arguments).kept;
  refuse_unless(input.sizes.size() == 3 && weight.sizes.size() == 3, "input and weight must have three dimensions");
  refuse_unless(input.type == weight.type, std::string("input is ") + at::toString(input.type) + " and weight " + at::toString(weight.type) +
                                               "; they must have the same data type");
}
#define TRANSPOSED_PRODUCT                                                                                                         \
  const Tensor &input, const Tensor &weight, const OptionalTensor &bias, const Codes &scale, IntArray order1, IntArray order2,     \
      IntArray order, int8_t cube_math_type, int32_t split, Tensor &out
CHECKED_OPERATOR(aclnnTransposeBatchMatMul, check_transposed, TRANSPOSED_PRODUCT) {
  transposed_product(input, weight, bias, scale, order1, order2, order, split, out);
}
CHECKED_OPERATOR(aclnnTransposeBatchMatMulWeightNz, check_transposed, TRANSPOSED_PRODUCT) {
  transposed_product(input, weight, bias, scale, order1, order2, order, split, out);
}

static void transposed_scaled_product(const Codes& x1, const Codes& x2, const OptionalTensor& bias, const Codes& x1_scale, const Codes& x2_scale,
                                      int64_t group_size, IntArray order1, IntArray order2, IntArray order, int64_t split, Tensor& out) {
  const auto turned = [](const Codes& codes, IntArray by) { return permuted(codes.values(), by); };
  Tensor left = turned(x1, order1), right = turned(x2, order2);
  if (x1_scale.scale_exponent()) {  // MX: 32 numbers of k to an exponent, the exponents in pairs
    const int64_t k = left.size(-1);
    const auto exponents = [&](const Codes& scale, IntArray by) {
      Tensor values = scale.values();
      std::vector<int64_t> full = by.vec();
      if (!full.empty()) full.push_back(int64_t(full.size()));
      return full.empty() ? values : values.permute(full);
    };
    left = left * exponents(x1_scale, order1).flatten(-2).repeat_interleave(32, -1).narrow(-1, 0, k);
    right = right * exponents(x2_scale, order2).transpose(-1, -2).flatten(-3, -2).repeat_interleave(32, -2).narrow(-2, 0, k);
    out.copy_(laid_out(at::matmul(left, right), order, split, out.sizes()));
    return;
  }
  Tensor product = at::matmul(left, right);  // [batch, m, n]
  if (x1_scale) product = product * x1_scale.values().view({1, -1, 1});
  if (x2_scale) product = product * x2_scale.values().view({1, 1, -1});
  if (given(bias)) product = product + wide(*bias);
  out.copy_(laid_out(product, order, split, out.sizes()));
}
template <typename Arguments>
static void check_950(const Arguments&) {
  only_on_950();
}
#define TRANSPOSED_SCALED                                                                                                              \
  const Codes &x1, const Codes &x2, const OptionalTensor &bias, const Codes &x1_scale, const Codes &x2_scale, int32_t type,            \
      int64_t group_size, IntArray order1, IntArray order2, IntArray order, int32_t split, Tensor &out
CHECKED_OPERATOR(aclnnTransposeQuantBatchMatMul, check_950, TRANSPOSED_SCALED) {
  transposed_scaled_product(x1, x2, bias, x1_scale, x2_scale, group_size, order1, order2, order, split, out);
}
CHECKED_OPERATOR(aclnnTransposeQuantBatchMatMulWeightNz, check_950, TRANSPOSED_SCALED) {
  transposed_scaled_product(x1, x2, bias, x1_scale, x2_scale, group_size, order1, order2, order, split, out);
}
