// Quantising and back: by given scales (static), by each row's or block's range (dynamic), with
// shared powers of two (MX), alone or after a normalisation or a gated activation.
#include "operators/quantisation.h"

#include <cmath>

using namespace cannsim;

namespace {

// A scale of one dimension lies along `axis` of x; one of several dimensions broadcasts as it is.
Tensor along(const Tensor& scale, const Tensor& x, int64_t axis) {
  const Tensor values = wide(scale);
  if (values.dim() != 1 || values.size(0) == 1) return values;
  std::vector<int64_t> shape(size_t(x.dim()), 1);
  shape[size_t(axis < 0 ? axis + x.dim() : axis)] = values.size(0);
  return values.view(shape);
}

// y = round(x * scale + offset); with sqrt_mode the scale is applied twice (AscendQuant's document).
void quantise(const Tensor& x, const Tensor& scale, const OptionalTensor& offset, bool sqrt_mode, Text rounding, int64_t axis, Codes& y) {
  const Tensor factor = along(scale, x, axis);
  Tensor made = wide(x) * factor;
  if (sqrt_mode) made = made * factor;
  if (given(offset)) made = made + along(*offset, x, axis);
  y.assign(made, rounding == "round" ? "rint" : rounding);
}

template <typename Arguments>
void check_quantise(const Arguments& arguments) {
  const auto& x = std::get<0>(arguments).kept;
  const std::string& rounding = std::get<4>(arguments).kept;
  refuse_unless(x.type == at::kFloat || x.type == at::kHalf || x.type == at::kBFloat16,
                std::string("the data type of x is ") + at::toString(x.type) + "; float32, float16 and bfloat16 are taken");
  refuse_unless(rounding == "round" || rounding == "floor" || rounding == "ceil" || rounding == "trunc",
                "round mode " + rounding + "; round, floor, ceil and trunc exist");
}

}  // namespace

CHECKED_OPERATOR(aclnnAscendQuant, check_quantise, const Tensor& x, const Tensor& scale, const OptionalTensor& offset, bool sqrt_mode,
                 Text rounding, int32_t type, Codes& y) {
  quantise(x, scale, offset, sqrt_mode, rounding, -1, y);
}
// axis -2 is the last but one; every other value means the last (the document of V3).
CHECKED_OPERATOR(aclnnAscendQuantV3, check_quantise, const Tensor& x, const Tensor& scale, const OptionalTensor& offset, bool sqrt_mode,
                 Text rounding, int32_t type, int32_t axis, Codes& y) {
  quantise(x, scale, offset, sqrt_mode, rounding, axis == -2 ? -2 : -1, y);
}
OPERATOR(aclnnQuantize, const Tensor& x, const Tensor& scales, const OptionalTensor& zero_points, int32_t type, int32_t axis, Tensor& out) {
  Tensor made = at::round(wide(x) / along(scales, x, axis));
  if (given(zero_points)) made = made + along(*zero_points, x, axis);
  if (out.scalar_type() == at::kChar) made = made.clamp(-128, 127);
  if (out.scalar_type() == at::kByte) made = made.clamp(0, 255);
  out.copy_(made);
}
OPERATOR(aclnnAscendAntiQuant, const Codes& x, const Tensor& scale, const OptionalTensor& offset, int64_t type, bool sqrt_mode, Tensor& out) {
  Tensor made = x.values();
  if (given(offset)) made = made + wide(*offset);
  made = made * wide(scale);
  out.copy_(sqrt_mode ? made * wide(scale) : made);
}

// ---- dynamic: per row, tensor, channel -----------------------------------------------------------

namespace {

struct Dynamic {
  const Tensor& x;
  const OptionalTensor& smooth;  // [row], or [groups, row] with group_index
  const OptionalTensor& group_index;  // running totals of rows
  bool symmetrical;
  Text mode;  // pertoken, pertensor, perchannel
  double greatest;
  Codes& y;
  const OptionalTensor& scale;
  const OptionalTensor& offset;
};

Tensor smoothed(const Dynamic& d) {
  const Tensor x = wide(d.x);
  if (!given(d.smooth)) return x;
  if (d.mode == "perchannel") return x * wide(*d.smooth).unsqueeze(-1);
  if (!given(d.group_index)) return x * wide(*d.smooth);
  const auto counts = group_counts(*d.group_index, 0, d.smooth->size(0));
  const Tensor rows = wide(*d.smooth).repeat_interleave(at::tensor(at::IntArrayRef(counts)), 0);
  return (x.flatten(0, -2) * rows).view(x.sizes());
}

void quantise_dynamically(const Dynamic& d) {
  const Tensor x = smoothed(d);
  std::vector<int64_t> over;
  if (d.mode == "pertensor") {
    for (int64_t dim = 0; dim < x.dim(); ++dim) over.push_back(dim);
  } else {
    over = {d.mode == "perchannel" ? -2 : -1};
  }
  const double greatest = d.greatest > 0 ? d.greatest : d.y.greatest();
  const auto keep = [](const OptionalTensor& out, const Tensor& value) {
    if (out && out->numel() > 0) Tensor(*out).copy_(value.reshape(out->sizes()));
  };
  if (d.symmetrical) {
    const Tensor scale = x.abs().amax(over, true).div_(greatest);
    keep(d.scale, scale);
    d.y.assign(x / at::where(scale == 0, at::ones_like(scale), scale));
    return;
  }
  const double least = d.y.integer() ? -greatest - 1 : -greatest;
  const Tensor most = x.amax(over, true);
  const Tensor scale = (most - x.amin(over, true)).div_(greatest - least);
  const Tensor divisor = at::where(scale == 0, at::ones_like(scale), scale);
  const Tensor offset = greatest - most / divisor;
  keep(d.scale, scale);
  keep(d.offset, offset);
  d.y.assign(x / divisor + offset);
}

const OptionalTensor kNone;

template <typename Arguments>
void check_dynamic(const Arguments& arguments) {
  const auto& x = std::get<0>(arguments).kept;
  const auto& smooth = std::get<1>(arguments).kept;
  refuse_unless(x.type == at::kHalf || x.type == at::kBFloat16,
                std::string("the data type of x is ") + at::toString(x.type) + "; float16 and bfloat16 are taken");
  refuse_unless(x.sizes.size() >= 2, "x has " + std::to_string(x.sizes.size()) + " dimensions; from 2 to 8 are taken");
  refuse_unless(!smooth.present || smooth.type == x.type,
                std::string("the data type of smooth_scales is ") + at::toString(smooth.type) + "; it must be x's, " + at::toString(x.type));
}
template <typename Arguments>
void check_dynamic_grouped(const Arguments& arguments) {
  check_dynamic(arguments);
  const auto& smooth = std::get<1>(arguments).kept;
  const auto& group = std::get<2>(arguments).kept;
  refuse_unless(!group.present || smooth.present, "group_index needs smooth_scales");
  refuse_unless(!group.present || group.type == at::kInt, "group_index must be int32");
}
template <typename Arguments>
void check_dynamic_mode(const Arguments& arguments) {
  check_dynamic_grouped(arguments);
  const std::string& mode = std::get<5>(arguments).kept;
  refuse_unless(mode == "pertoken" || mode == "pertensor" || mode == "perchannel",
                "quantisation mode " + mode + "; pertoken, pertensor and perchannel exist");
}

}  // namespace

CHECKED_OPERATOR(aclnnDynamicQuant, check_dynamic, const Tensor& x, const OptionalTensor& smooth, Codes& y, const OptionalTensor& scale) {
  quantise_dynamically({x, smooth, kNone, true, "pertoken", 0, y, scale, kNone});
}
// Symmetrical exactly when no offset is asked for.
CHECKED_OPERATOR(aclnnDynamicQuantV2, check_dynamic_grouped, const Tensor& x, const OptionalTensor& smooth, const OptionalTensor& group_index,
                 int64_t type, Codes& y, const OptionalTensor& scale, const OptionalTensor& offset) {
  quantise_dynamically({x, smooth, group_index, !offset, "pertoken", 0, y, scale, offset});
}
CHECKED_OPERATOR(aclnnDynamicQuantV3, check_dynamic_mode, const Tensor& x, const OptionalTensor& smooth, const OptionalTensor& group_index,
                 int64_t type, bool symmetrical, Text mode, Codes& y, const OptionalTensor& scale, const OptionalTensor& offset) {
  quantise_dynamically({x, smooth, group_index, symmetrical, mode, 0, y, scale, offset});
}
CHECKED_OPERATOR(aclnnDynamicQuantV4, check_dynamic_mode, const Tensor& x, const OptionalTensor& smooth, const OptionalTensor& group_index,
                 int64_t type, bool symmetrical, Text mode, double greatest, Codes& y, const OptionalTensor& scale, const OptionalTensor& offset) {
  quantise_dynamically({x, smooth, group_index, symmetrical, mode, greatest, y, scale, offset});
}

// ---- dynamic: per block --------------------------------------------------------------------------

namespace {

// x [..., rows, columns] in blocks: one scale each, at most 1 / min_scale.
void quantise_blocks(const Tensor& x, double min_scale, int64_t row_block, int64_t column_block, double greatest, Codes& y, Tensor& scale) {
  const int64_t rows = x.size(-2), columns = x.size(-1), down = scale.size(-2), across = scale.size(-1);
  const Tensor padded = at::constant_pad_nd(wide(x), {0, across * column_block - columns, 0, down * row_block - rows});
  const Tensor blocks = padded.unflatten(-1, {across, column_block}).unflatten(-3, {down, row_block});  // [.., down, rows, across, columns]
  Tensor each = blocks.abs().amax({-3, -1}).div_(greatest > 0 ? greatest : y.greatest());
  if (min_scale > 0) each = each.clamp_max(1 / min_scale);
  scale.copy_(each);
  const Tensor divisor = at::where(each == 0, at::ones_like(each), each).unsqueeze(-2).unsqueeze(-1);
  y.assign((blocks / divisor).flatten(-2).flatten(-3, -2).narrow(-2, 0, rows).narrow(-1, 0, columns));
}

template <typename Arguments>
void check_blocks(const Arguments& arguments) {
  const int64_t type = std::get<3>(arguments).kept, rows = std::get<4>(arguments).kept, columns = std::get<5>(arguments).kept;
  refuse_unless(std::get<1>(arguments).kept >= 0, "min_scale must not be negative");
  if (chip_is("Ascend910")) {
    refuse_unless(type == ACL_INT8, "the output's data type " + std::to_string(type) + "; this chip quantises blocks to int8 (2)");
    refuse_unless(rows == 1 && columns == 128, "a block of " + std::to_string(rows) + " x " + std::to_string(columns) + "; this chip takes 1 x 128");
  }
}

}  // namespace

CHECKED_OPERATOR(aclnnDynamicBlockQuant, check_blocks, const Tensor& x, double min_scale, Text rounding, int64_t type, int64_t rows,
                 int64_t columns, Codes& y, Tensor& scale) {
  quantise_blocks(x, min_scale, rows, columns, 0, y, scale);
}
CHECKED_OPERATOR(aclnnDynamicBlockQuantV2, check_blocks, const Tensor& x, double min_scale, Text rounding, int64_t type, int64_t rows,
                 int64_t columns, double greatest, Codes& y, Tensor& scale) {
  quantise_blocks(x, min_scale, rows, columns, greatest, y, scale);
}

// ---- MX ------------------------------------------------------------------------------------------

namespace {

void check_mx_numbers(int64_t type, const std::string& rounding, int64_t block, int64_t algorithm) {
  const bool four = type == ACL_FLOAT4_E2M1 || type == ACL_FLOAT4_E1M2, eight = type == ACL_FLOAT8_E5M2 || type == ACL_FLOAT8_E4M3FN;
  refuse_unless(four || eight, "the output's data type " + std::to_string(type) + " is no MX type; 35, 36, 40 and 41 are");
  refuse_unless(rounding.empty() || rounding == "rint" || (four && (rounding == "floor" || rounding == "round")),
                "round mode " + rounding + "; " + (four ? "rint, floor and round exist" : "rint alone is taken for float8"));
  refuse_unless(block > 0 && block % 32 == 0 && block <= 1024,
                "a block of " + std::to_string(block) + " numbers; it must be a multiple of 32 and at most 1024");
  refuse_unless(algorithm == 0 || (eight && algorithm == 1) || (type == ACL_FLOAT4_E2M1 && algorithm == 2),
                "scale algorithm " + std::to_string(algorithm) + " does not fit the output's data type " + std::to_string(type));
}
template <typename Arguments>
void check_mx(const Arguments& arguments) {
  only_on_950();
  const auto& x = std::get<0>(arguments).kept;
  check_mx_numbers(std::get<3>(arguments).kept, std::get<2>(arguments).kept, std::get<4>(arguments).kept, std::get<5>(arguments).kept);
  const bool four = std::get<3>(arguments).kept >= ACL_FLOAT4_E2M1;
  refuse_unless(!four || x.sizes.empty() || x.sizes.back() % 2 == 0, "float4 needs an even last dimension");
}

}  // namespace

CHECKED_OPERATOR(aclnnDynamicMxQuant, check_mx, const Tensor& x, int64_t axis, Text rounding, int64_t type, int64_t block, int64_t algorithm,
                 Codes& y, Codes& scale) {
  quantise_mx(x, axis, {block, algorithm}, rounding, y, scale);
}
CHECKED_OPERATOR(aclnnDynamicMxQuantV2, check_mx, const Tensor& x, int64_t axis, Text rounding, int64_t type, int64_t block, int64_t algorithm,
                 double greatest, Codes& y, Codes& scale) {
  quantise_mx(x, axis, {block, algorithm, greatest}, rounding, y, scale);
}
CHECKED_OPERATOR(aclnnDynamicMxQuantV3, check_mx, const Tensor& x, int64_t axis, Text rounding, int64_t type, int64_t block, int64_t algorithm,
                 double greatest, double lower_bound, Codes& y, Codes& scale) {
  quantise_mx(x, axis, {block, algorithm, greatest, lower_bound}, rounding, y, scale);
}

// ---- after a normalisation -----------------------------------------------------------------------

namespace {

struct Normalised {
  Tensor y, rstd;  // float32
};
Normalised rms_norm(const Tensor& x, const Tensor& gamma, const OptionalTensor& beta, double epsilon) {
  Tensor weight = wide(gamma);
  while (weight.dim() > 1 && weight.size(0) == 1) weight = weight.squeeze(0);
  std::vector<int64_t> dims;
  for (int64_t dim = x.dim() - weight.dim(); dim < x.dim(); ++dim) dims.push_back(dim);
  const Tensor rstd = at::rsqrt(x.square().mean(dims, true).add_(epsilon));
  Tensor y = x * rstd * weight;
  if (given(beta)) y = y + wide(*beta);
  return {y, rstd};
}

void quantise_by(const Tensor& y, const Tensor& scale, const OptionalTensor& zero_point, bool divide, Codes& out) {
  Tensor made = divide ? y / wide(scale) : y * wide(scale);
  if (given(zero_point)) made = made + wide(*zero_point);
  out.assign(made);
}

struct AddNormQuant {
  const Tensor &x1, &x2, &gamma, &scales1;
  const OptionalTensor &scales2, &zero_points1, &zero_points2, &beta;
  double epsilon;
  bool divide;
  Codes &y1, &y2;
  const OptionalTensor &x, &normalised;
};
void add_norm_quantise(const AddNormQuant& a) {
  const Tensor sum = wide(a.x1) + wide(a.x2);
  if (a.x) Tensor(*a.x).copy_(sum);
  const Tensor y = rms_norm(sum, a.gamma, a.beta, a.epsilon).y;
  if (a.normalised) Tensor(*a.normalised).copy_(y);
  quantise_by(y, a.scales1, a.zero_points1, a.divide, a.y1);
  if (given(a.scales2)) quantise_by(y, *a.scales2, a.zero_points2, a.divide, a.y2);
}

template <typename Arguments>
void check_halves(const Arguments& arguments) {
  const auto& x1 = std::get<0>(arguments).kept;
  const auto& x2 = std::get<1>(arguments).kept;
  refuse_unless(x1.type == at::kHalf || x1.type == at::kBFloat16,
                std::string("the data type of x1 is ") + at::toString(x1.type) + "; float16 and bfloat16 are taken");
  refuse_unless(x2.type == x1.type && x2.sizes == x1.sizes, "x1 and x2 must have the same data type and shape");
}

}  // namespace

CHECKED_OPERATOR(aclnnAddRmsNormQuant, check_halves, const Tensor& x1, const Tensor& x2, const Tensor& gamma, const Tensor& scales1,
                 const OptionalTensor& scales2, const OptionalTensor& zero_points1, const OptionalTensor& zero_points2, int64_t axis,
                 double epsilon, bool divide, Codes& y1, Codes& y2, const OptionalTensor& x) {
  add_norm_quantise({x1, x2, gamma, scales1, scales2, zero_points1, zero_points2, kNone, epsilon, divide, y1, y2, x, kNone});
}
CHECKED_OPERATOR(aclnnAddRmsNormQuantV2, check_halves, const Tensor& x1, const Tensor& x2, const Tensor& gamma, const Tensor& scales1,
                 const OptionalTensor& scales2, const OptionalTensor& zero_points1, const OptionalTensor& zero_points2,
                 const OptionalTensor& beta, int64_t axis, double epsilon, bool divide, Codes& y1, Codes& y2, const OptionalTensor& x,
                 const OptionalTensor& normalised) {
  add_norm_quantise({x1, x2, gamma, scales1, scales2, zero_points1, zero_points2, beta, epsilon, divide, y1, y2, x, normalised});
}
OPERATOR(aclnnRmsNormQuant, const Tensor& x, const Tensor& gamma, const OptionalTensor& beta, const Tensor& scale, const OptionalTensor& offset,
         double epsilon, Codes& y) {
  quantise_by(rms_norm(wide(x), gamma, beta, epsilon).y, scale, offset, true, y);
}
OPERATOR(aclnnRmsNormQuantV3, const Tensor& x, const Tensor& gamma, const Tensor& scale, const OptionalTensor& offset,
         const OptionalTensor& beta, double epsilon, bool divide, bool with_rstd, Codes& y, const OptionalTensor& rstd) {
  const auto normalised = rms_norm(wide(x), gamma, beta, epsilon);
  quantise_by(normalised.y, scale, offset, divide, y);
  if (with_rstd && rstd) Tensor(*rstd).copy_(normalised.rstd.reshape(rstd->sizes()));
}
// The normalised sum in float32 beside the same in x's type.
CHECKED_OPERATOR(aclnnAddRmsNormCast, check_halves, const Tensor& x1, const Tensor& x2, const Tensor& gamma, double epsilon, Tensor& y1,
                 Tensor& y2, Tensor& rstd, Tensor& x) {
  const Tensor sum = wide(x1) + wide(x2);
  x.copy_(sum);
  const auto normalised = rms_norm(sum, gamma, kNone, epsilon);
  y1.copy_(normalised.y);
  y2.copy_(normalised.y);
  if (rstd.numel() > 0) rstd.copy_(normalised.rstd.reshape(rstd.sizes()));
}
// `mask` says which of the two outputs are wanted; without it, the smoothing scales that are given do.
CHECKED_OPERATOR(aclnnAddRmsNormDynamicQuantV2, check_halves, const Tensor& x1, const Tensor& x2, const Tensor& gamma,
                 const OptionalTensor& smooth1, const OptionalTensor& smooth2, const OptionalTensor& beta, double epsilon, BoolArray mask,
                 Codes& y1, Codes& y2, Tensor& x, const OptionalTensor& scale1, const OptionalTensor& scale2) {
  const Tensor sum = wide(x1) + wide(x2);
  x.copy_(sum);
  const Tensor y = rms_norm(sum, gamma, beta, epsilon).y;
  const bool first = mask.empty() || mask[0], second = mask.empty() ? given(smooth2) : bool(mask[1]);
  if (first) quantise_rows(given(smooth1) ? y * wide(*smooth1) : y, y1, scale1);
  if (second) quantise_rows(given(smooth2) ? y * wide(*smooth2) : y, y2, scale2);
}

namespace {

template <size_t numbers, typename Arguments>
void check_norm_mx(const Arguments& arguments) {
  only_on_950();
  check_mx_numbers(std::get<numbers + 2>(arguments).kept, std::get<numbers + 1>(arguments).kept, 32, std::get<numbers>(arguments).kept);
}
void norm_mx(const Tensor& x, const Tensor& gamma, const OptionalTensor& beta, double epsilon, int64_t algorithm, Text rounding, bool with_rstd,
             Codes& y, Codes& scale, const OptionalTensor& rstd) {
  const auto normalised = rms_norm(x, gamma, beta, epsilon);
  quantise_mx(normalised.y, -1, {32, algorithm}, rounding, y, scale);
  if (with_rstd && rstd) Tensor(*rstd).copy_(normalised.rstd.reshape(rstd->sizes()));
}

}  // namespace

CHECKED_OPERATOR(aclnnRmsNormDynamicMxQuant, check_norm_mx<4>, const Tensor& x, const Tensor& gamma, const OptionalTensor& beta, double epsilon,
                 int64_t algorithm, Text rounding, int64_t type, bool with_rstd, Codes& y, Codes& scale, const OptionalTensor& rstd) {
  norm_mx(wide(x), gamma, beta, epsilon, algorithm, rounding, with_rstd, y, scale, rstd);
}
CHECKED_OPERATOR(aclnnAddRmsNormDynamicMxQuant, check_norm_mx<5>, const Tensor& x1, const Tensor& x2, const Tensor& gamma,
                 const OptionalTensor& beta, double epsilon, int64_t algorithm, Text rounding, int64_t type, bool with_rstd, Codes& y, Tensor& x,
                 Codes& scale, const OptionalTensor& rstd) {
  const Tensor sum = wide(x1) + wide(x2);
  x.copy_(sum);
  norm_mx(sum, gamma, beta, epsilon, algorithm, rounding, with_rstd, y, scale, rstd);
}

// ---- after a gated activation --------------------------------------------------------------------

namespace {

// The variant of SwiGLU that GPT-OSS has: pairs lie interleaved, both are clamped, the linear part
// gets a bias (CANN's DequantSwigluQuantV2 and ClippedSwiglu documents).
Tensor clipped_swiglu(const Tensor& x, double alpha, double limit, double bias, bool interleaved) {
  const int64_t half = x.size(-1) / 2;
  const Tensor gate = (interleaved ? x.slice(-1, 0, std::nullopt, 2) : x.narrow(-1, 0, half)).clamp_max(limit);
  const Tensor linear = (interleaved ? x.slice(-1, 1, std::nullopt, 2) : x.narrow(-1, half, half)).clamp(-limit, limit);
  return gate * at::sigmoid(gate * alpha) * (linear + bias);
}
Tensor swiglu(const Tensor& x, bool activate_left) {
  auto halves = x.chunk(2, -1);
  return at::silu(halves[activate_left ? 0 : 1]) * halves[activate_left ? 1 : 0];
}

// Row `i` of a table for the rows of group i; one row without groups. Rows beyond the groups: none.
struct Groups {
  std::vector<int64_t> counts;
  int64_t rows = 0;
  Groups(const OptionalTensor& list, int64_t type, int64_t all) {
    if (given(list)) {
      const int64_t kind = list->dim() == 2 ? 2 : type;
      counts = group_counts(*list, kind, kind == 2 ? list->select(1, 0).max().item<int64_t>() + 1 : list->size(0));
    } else {
      counts = {all};
    }
    for (int64_t count : counts) rows += count;
  }
  Tensor table(const OptionalTensor& values) const {  // [groups, width] or [groups] or [width]
    Tensor each = wide(*values);
    if (each.dim() == 1 && each.size(0) == int64_t(counts.size()) && counts.size() > 1) each = each.unsqueeze(-1);
    if (each.dim() < 2) return each;
    if (each.size(0) == 1) return each;
    return each.repeat_interleave(at::tensor(at::IntArrayRef(counts)), 0);
  }
};

// Static quantisation divides by DequantSwigluQuant's scale and multiplies by SwiGluQuant's (assumed:
// the documents name the one a scale and the other smoothing, and print no formula).
enum class Static { Divide, Multiply };
void quantise_gated(const Tensor& gated, const Groups& groups, const OptionalTensor& scale, const OptionalTensor& offset, bool dynamic,
                    Static rule, Codes& y, const OptionalTensor& scale_out, const std::vector<int64_t>& out_sizes) {
  // Only the groups' rows are computed; the others keep what was there, here zeros.
  const auto all = [&](const Tensor& rows, at::IntArrayRef sizes) {
    Tensor full = at::zeros(sizes, at::kFloat);
    full.narrow(0, 0, rows.size(0)).copy_(rows);
    return full;
  };
  const std::vector<int64_t> flat = {out_sizes[0], gated.size(-1)};
  if (dynamic) {
    const Tensor rows = given(scale) ? gated * groups.table(scale) : gated;
    const Tensor each = rows.abs().amax(-1, true).div_(y.greatest());
    if (scale_out) Tensor(*scale_out).copy_(all(each, {out_sizes[0], 1}).reshape(scale_out->sizes()));
    y.assign(all(rows / at::where(each == 0, at::ones_like(each), each), flat).reshape(y.sizes()));
  } else {
    Tensor rows = gated;
    if (given(scale)) rows = rule == Static::Divide ? rows / groups.table(scale) : rows * groups.table(scale);
    if (given(offset)) rows = rows + groups.table(offset);
    y.assign(all(rows, flat).reshape(y.sizes()));
  }
}

struct DequantSwiglu {
  const Tensor& x;
  const OptionalTensor &weight_scale, &activation_scale, &bias, &scale, &offset, &group_index;
  bool left;
  Text mode;
  int64_t variant = 0;
  double limit = 7, alpha = 1.702, glu_bias = 1;
  Codes& y;
  const OptionalTensor& scale_out;
};
void dequantise_swiglu(const DequantSwiglu& d) {
  const Tensor all = d.x.flatten(0, -2);
  const Groups groups(d.group_index, 1, all.size(0));
  Tensor x = wide(all.narrow(0, 0, groups.rows));
  const bool early = given(d.bias) && d.bias->scalar_type() == at::kInt;
  if (early) x = x + groups.table(d.bias);
  if (given(d.weight_scale)) x = x * groups.table(d.weight_scale);
  if (given(d.activation_scale)) x = x * wide(*d.activation_scale).reshape({-1, 1}).narrow(0, 0, groups.rows);
  if (given(d.bias) && !early) x = x + groups.table(d.bias);
  const Tensor gated = d.variant == 1 ? clipped_swiglu(x, d.alpha, d.limit, d.glu_bias, true) : swiglu(x, d.left);
  quantise_gated(gated, groups, d.scale, d.offset, d.mode == "dynamic", Static::Divide, d.y, d.scale_out, {all.size(0)});
}

template <typename Arguments>
void check_dequant_swiglu(const Arguments& arguments) {
  const auto& x = std::get<0>(arguments).kept;
  refuse_unless(x.type == at::kInt || x.type == at::kBFloat16 || x.type == at::kHalf,
                std::string("the data type of x is ") + at::toString(x.type) + "; int32, bfloat16 and float16 are taken");
  if (x.type == at::kInt && !std::get<1>(arguments).kept.present) throw Error(kParameterNull, "x of int32 needs weight_scale");
  refuse_unless(!x.sizes.empty() && x.sizes.back() % 2 == 0, "the last dimension of x must be even");
  const std::string& mode = std::get<8>(arguments).kept;
  refuse_unless(mode.empty() || mode == "dynamic" || mode == "static", "quantisation mode " + mode + "; static and dynamic exist");
}

}  // namespace

CHECKED_OPERATOR(aclnnDequantSwigluQuant, check_dequant_swiglu, const Tensor& x, const OptionalTensor& weight_scale,
                 const OptionalTensor& activation_scale, const OptionalTensor& bias, const OptionalTensor& scale, const OptionalTensor& offset,
                 const OptionalTensor& group_index, bool left, Text mode, Codes& y, const OptionalTensor& scale_out) {
  dequantise_swiglu({x, weight_scale, activation_scale, bias, scale, offset, group_index, left, mode, 0, 7, 1.702, 1, y, scale_out});
}
CHECKED_OPERATOR(aclnnDequantSwigluQuantV2, check_dequant_swiglu, const Tensor& x, const OptionalTensor& weight_scale,
                 const OptionalTensor& activation_scale, const OptionalTensor& bias, const OptionalTensor& scale, const OptionalTensor& offset,
                 const OptionalTensor& group_index, bool left, Text mode, int64_t type, Text rounding, int64_t dim, int64_t variant, double limit,
                 double alpha, double glu_bias, Codes& y, const OptionalTensor& scale_out) {
  dequantise_swiglu({x, weight_scale, activation_scale, bias, scale, offset, group_index, left, mode, variant, limit, alpha, glu_bias, y, scale_out});
}
OPERATOR(aclnnSwiGluQuantV2, const Tensor& x, const OptionalTensor& smooth, const OptionalTensor& offset, const OptionalTensor& group_index,
         bool left, Text mode, int64_t group_type, int64_t type, Codes& y, const OptionalTensor& scale_out) {
  const Tensor all = x.flatten(0, -2);
  const Groups groups(group_index, group_type, all.size(0));
  quantise_gated(swiglu(wide(all.narrow(0, 0, groups.rows)), left), groups, smooth, offset, mode == "dynamic", Static::Multiply, y, scale_out, {all.size(0)});
}
// Only the first sum(group_index) rows are computed.
OPERATOR(aclnnClippedSwiglu, const Tensor& x, const OptionalTensor& group_index, int64_t dim, double alpha, double limit, double bias,
         bool interleaved, Tensor& out) {
  const int64_t axis = dim < 0 ? dim + x.dim() : dim;
  const Tensor rows = wide(x).flatten(axis, -1);
  Tensor flat = axis == 0 ? rows.unsqueeze(0) : rows.flatten(0, axis - 1);
  Tensor made = at::zeros({flat.size(0), flat.size(1) / 2}, at::kFloat);
  const int64_t count = given(group_index) ? std::min(flat.size(0), group_index->sum().item<int64_t>()) : flat.size(0);
  made.narrow(0, 0, count).copy_(clipped_swiglu(flat.narrow(0, 0, count), alpha, limit, bias, interleaved));
  out.copy_(made.view(out.sizes()));
}
OPERATOR(aclnnFastGelu, const Tensor& self, Tensor& out) {
  // x * sigmoid(1.702 x), as CANN's FastGelu document writes it: x / (1 + exp(-1.702 |x|)) * exp(0.851 (x - |x|)).
  const Tensor x = wide(self);
  out.copy_(x * at::sigmoid(x * 1.702));
}

// ---- FlatQuant: two small products, then int4 per token, or MX float4 ----------------------------

namespace {

template <typename Arguments>
void check_flat(const Arguments& arguments) {
  const auto& x = std::get<0>(arguments).kept;
  const double clip = std::get<3>(arguments).kept;
  refuse_unless(x.sizes.size() == 3, "x has " + std::to_string(x.sizes.size()) + " dimensions; it must have 3");
  refuse_unless(x.sizes[1] <= 256 && x.sizes[2] <= 256 && x.sizes[2] % 8 == 0,
                "x is " + std::to_string(x.sizes[1]) + " x " + std::to_string(x.sizes[2]) + "; both at most 256, the second a multiple of 8");
  for (size_t i : {1, 2}) {
    const auto& p = i == 1 ? std::get<1>(arguments).kept : std::get<2>(arguments).kept;
    refuse_unless(p.type == x.type, "kronecker_p1 and kronecker_p2 must have the data type of x");
    refuse_unless(p.sizes.size() == 2 && p.sizes[0] == x.sizes[i] && p.sizes[1] == x.sizes[i],
                  "kronecker_p" + std::to_string(i) + " must be " + std::to_string(x.sizes[i]) + " x " + std::to_string(x.sizes[i]));
  }
  refuse_unless(clip > 0 && clip <= 1, "clip ratio " + std::to_string(clip) + "; it must be in (0, 1]");
}

void flat_quantise(const Tensor& x, const Tensor& left, const Tensor& right, double clip, double greatest, Codes& out, Codes& scale) {
  const Tensor product = at::matmul(wide(left), at::matmul(wide(x), wide(right)));  // [tokens, m, n]
  if (scale.scale_exponent()) {
    quantise_mx(product.flatten(1), -1, {32, greatest > 0 ? 2 : 0, greatest}, "rint", out, scale);
    return;
  }
  const Tensor each = product.abs().amax({1, 2}).mul_(clip / 7);
  scale.assign(each);
  out.assign(product / at::where(each == 0, at::ones_like(each), each).view({-1, 1, 1}));
}

}  // namespace

CHECKED_OPERATOR(aclnnFlatQuant, check_flat, const Tensor& x, const Tensor& left, const Tensor& right, double clip, Codes& out, Codes& scale) {
  flat_quantise(x, left, right, clip, 0, out, scale);
}
CHECKED_OPERATOR(aclnnFlatQuantV2, check_flat, const Tensor& x, const Tensor& left, const Tensor& right, double clip, double greatest, Codes& out,
                 Codes& scale) {
  flat_quantise(x, left, right, clip, greatest, out, scale);
}
