// Packing, rounding and scaling of quantised tensors (quantisation.h).
#include <cmath>
#include <limits>

#include "operators/quantisation.h"

namespace cannsim {
namespace {

constexpr double kHifloat8Greatest = 32768;  // CANN's DynamicBlockQuant document: HiF8_MAX

bool four_bits(aclDataType type) { return type == ACL_INT4 || type == ACL_FLOAT4_E2M1 || type == ACL_FLOAT4_E1M2; }

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

Tensor rounded(const Tensor& x, Text rounding) {
  if (rounding == "floor") return at::floor(x);
  if (rounding == "ceil") return at::ceil(x);
  if (rounding == "trunc") return at::trunc(x);
  if (rounding == "away") return at::sign(x) * at::floor(at::abs(x) + 0.5);
  return at::round(x);  // nearest, ties to even
}

// The magnitudes that float4 E2M1 has, by code, and E1M2's: multiples of a quarter.
const std::vector<float> kE2M1 = {0, 0.5, 1, 1.5, 2, 3, 4, 6};
const std::vector<float> kE1M2 = {0, 0.25, 0.5, 0.75, 1, 1.25, 1.5, 1.75};

const std::vector<float>& magnitudes(aclDataType type) { return type == ACL_FLOAT4_E2M1 ? kE2M1 : kE1M2; }

// Code of each number: sign bit 8, then the place among the magnitudes.
Tensor float4_codes(const Tensor& x, aclDataType type, Text rounding) {
  const auto& grid = magnitudes(type);
  const Tensor size = x.abs();
  Tensor code = at::zeros(x.sizes(), at::kFloat);
  for (size_t i = 0; i + 1 < grid.size(); ++i) {
    const double middle = (double(grid[i]) + grid[i + 1]) / 2;
    Tensor beyond;
    if (rounding == "floor") {
      beyond = at::where(x < 0, size > grid[i], size >= grid[i + 1]);
    } else if (rounding == "round" || i % 2 == 1) {
      beyond = size >= middle;  // a tie goes up: away from zero, or to the even code
    } else {
      beyond = size > middle;
    }
    code += beyond;
  }
  return code + x.signbit().to(at::kFloat) * 8;
}

Tensor float4_values(const Tensor& codes, aclDataType type) {
  const Tensor grid = at::tensor(at::ArrayRef<float>(magnitudes(type)));
  const Tensor place = codes.to(at::kLong);
  return grid.index({place.bitwise_and(7)}) * at::where(place >= 8, -1.0, 1.0).to(at::kFloat);
}

// HiFloat8: sign, a dot field that tells how many exponent bits follow, exponent, mantissa
// ("Ascend HiFloat8 Format for Deep Learning", table 1). The 256 values, made once.
float hifloat8_value(int code) {
  const int sign = code >> 7, body = code & 127;
  if (body == 0) return sign == 0 ? 0.0f : std::numeric_limits<float>::quiet_NaN();
  int dot, digits, used;  // digits of the exponent, bits of the dot field
  if (body >> 5 == 3) dot = 4, used = 2;
  else if (body >> 5 == 2) dot = 3, used = 2;
  else if (body >> 5 == 1) dot = 2, used = 2;
  else if (body >> 4 == 1) dot = 1, used = 3;
  else if (body >> 3 == 1) dot = 0, used = 4;
  else return std::ldexp(sign == 0 ? 1.0f : -1.0f, (body & 7) - 23);  // subnormal
  digits = dot;
  const int mantissa_bits = 7 - used - digits;
  const int mantissa = body & ((1 << mantissa_bits) - 1);
  int exponent = 0;
  if (digits > 0) {
    const int field = (body >> mantissa_bits) & ((1 << digits) - 1);
    const int negative = field >> (digits - 1);
    const int magnitude = (1 << (digits - 1)) | (field & ((1 << (digits - 1)) - 1));
    exponent = negative ? -magnitude : magnitude;
  }
  if (exponent == 15 && mantissa == 1) return sign == 0 ? HUGE_VALF : -HUGE_VALF;
  return std::ldexp((1.0f + float(mantissa) / float(1 << mantissa_bits)) * (sign == 0 ? 1.0f : -1.0f), exponent);
}
const Tensor& hifloat8_table() {
  static const Tensor table = [] {
    std::vector<float> values(256);
    for (int i = 0; i < 256; ++i) values[size_t(i)] = hifloat8_value(i);
    return at::tensor(at::ArrayRef<float>(values));
  }();
  return table;
}
Tensor hifloat8_codes(const Tensor& x) {
  static const std::pair<Tensor, Tensor> positive = [] {
    const Tensor half = hifloat8_table().narrow(0, 0, 128);
    auto [sorted, order] = at::sort(half);
    return std::pair(sorted.narrow(0, 0, 127).contiguous(), order.narrow(0, 0, 127).contiguous());  // without infinity
  }();
  const Tensor middle = (positive.first.narrow(0, 1, 126) + positive.first.narrow(0, 0, 126)) / 2;
  const Tensor place = at::searchsorted(middle, x.abs().contiguous(), false, true);  // ties away from zero
  const Tensor code = positive.second.index({place});
  return at::where((x < 0).logical_and(code > 0), code + 128, code);
}

}  // namespace

Codes::Codes(const aclTensor* tensor) {
  if (tensor == nullptr) return;
  present = true;
  type = tensor->type;
  sizes_ = tensor->sizes;
  strides_ = tensor->strides;
  offset_ = tensor->offset;
  data_ = static_cast<char*>(tensor->data);
  given_ = c10::multiply_integers(sizes_) > 0;
  if (!four_bits(type) && type != ACL_HIFLOAT8) scalar_type(type);  // refuses what is not simulated
}

Codes Codes::of(const Tensor& tensor) {
  Codes codes;
  codes.present = codes.given_ = true;
  codes.type = acl_type(tensor.scalar_type());
  codes.sizes_ = tensor.sizes().vec();
  codes.strides_ = tensor.strides().vec();
  codes.data_ = static_cast<char*>(tensor.data_ptr());
  return codes;
}

int64_t Codes::packed_dim() const {
  if (!four_bits(type) && type != ACL_INT32) return -1;
  const int64_t last = int64_t(sizes_.size()) - 1;
  for (int64_t dim = last; dim >= 0; --dim) {
    if (strides_[size_t(dim)] == 1) return dim;
  }
  return last;
}

Tensor Codes::carrier() const {
  std::vector<int64_t> sizes = sizes_, strides = strides_;
  at::ScalarType carried = at::kByte;
  if (four_bits(type)) {
    const size_t packed = size_t(packed_dim());
    for (size_t dim = 0; dim < sizes.size(); ++dim) {
      if (dim == packed) sizes[dim] /= 2;
      else if (strides[dim] > 1) strides[dim] /= 2;
    }
  } else if (type != ACL_HIFLOAT8 && type != ACL_FLOAT8_E8M0) {
    carried = scalar_type(type);
  }
  return at::from_blob(data_ + offset_ * int64_t(c10::elementSize(carried)), sizes, strides, at::TensorOptions().dtype(carried));
}

void Codes::advance(int64_t elements) { offset_ += four_bits(type) ? elements / 2 : elements; }

Codes Codes::at(int64_t index) const {
  Codes entry = *this;
  entry.advance(index * strides_[0]);
  entry.sizes_.erase(entry.sizes_.begin());
  entry.strides_.erase(entry.strides_.begin());
  return entry;
}
Codes Codes::rows(int64_t first, int64_t count) const {
  Codes part = *this;
  part.advance(first * strides_[0]);
  part.sizes_[0] = count;
  return part;
}
Codes Codes::flattened() const {
  Codes flat = *this;
  flat.sizes_ = {sizes_[0] * sizes_[1], sizes_[2]};
  flat.strides_ = {strides_[1], strides_[2]};
  return flat;
}
Codes Codes::transposed() const {
  Codes turned = *this;
  const size_t last = sizes_.size() - 1;
  std::swap(turned.sizes_[last], turned.sizes_[last - 1]);
  std::swap(turned.strides_[last], turned.strides_[last - 1]);
  return turned;
}

std::vector<int64_t> Codes::sizes() const {
  std::vector<int64_t> sizes = sizes_;
  if (type == ACL_INT32 && !sizes.empty()) sizes[size_t(packed_dim())] *= 8;
  return sizes;
}
int64_t Codes::size(int64_t dim) const {
  const auto all = sizes();
  return all[size_t(dim < 0 ? dim + int64_t(all.size()) : dim)];
}
uint64_t Codes::bytes() const {
  if (!present) return 0;
  uint64_t count = 1;
  for (int64_t size : sizes_) count *= uint64_t(size);
  if (four_bits(type)) return count / 2;
  return type == ACL_HIFLOAT8 ? count : count * c10::elementSize(scalar_type(type));
}

double Codes::greatest_of(int type) {
  switch (type) {
    case ACL_INT8: return 127;
    case ACL_INT4:
    case ACL_INT32: return 7;
    case ACL_FLOAT8_E5M2: return 57344;
    case ACL_FLOAT8_E4M3FN: return 448;
    case ACL_HIFLOAT8: return kHifloat8Greatest;
    case ACL_FLOAT4_E2M1: return 6;
    case ACL_FLOAT4_E1M2: return 1.75;
    default: throw Error(kParameterInvalid, "data type " + std::to_string(type) + " is no type to quantise to");
  }
}

Tensor Codes::values() const { return numbers(carrier(), type, packed_dim()); }

Tensor Codes::numbers(const Tensor& raw, aclDataType type, int64_t dim) {
  if (type == ACL_FLOAT8_E8M0) return at::exp2(raw.to(at::kFloat) - 127);
  if (type == ACL_HIFLOAT8) return hifloat8_table().index({raw.to(at::kLong)});
  if (dim < 0) return raw.to(at::kFloat).contiguous();
  const int64_t count = type == ACL_INT32 ? 8 : 2;
  const Tensor word = raw.to(at::kLong);
  std::vector<Tensor> parts;
  for (int64_t i = 0; i < count; ++i) parts.push_back(word.bitwise_right_shift(4 * i).bitwise_and(15));
  const Tensor code = at::stack(parts, dim + 1).flatten(dim, dim + 1);
  if (type == ACL_FLOAT4_E2M1 || type == ACL_FLOAT4_E1M2) return float4_values(code, type);
  return at::where(code >= 8, code - 16, code).to(at::kFloat);
}

void Codes::assign(const Tensor& values) { assign(values, "rint"); }

void Codes::assign(const Tensor& values, Text rounding) {
  Tensor out = carrier();
  if (type == ACL_FLOAT8_E8M0) {
    out.copy_(at::log2(wide(values)).add(127).round().clamp(0, 254));
  } else if (type == ACL_HIFLOAT8) {
    out.copy_(hifloat8_codes(wide(values)));
  } else if (type == ACL_FLOAT8_E4M3FN || type == ACL_FLOAT8_E5M2) {
    out.copy_(wide(values).clamp(-greatest(), greatest()));
  } else if (const int64_t dim = packed_dim(); dim >= 0) {
    const bool integers = type == ACL_INT4 || type == ACL_INT32;
    const Tensor code = integers ? rounded(wide(values), rounding).clamp(-8, 7).to(at::kLong).bitwise_and(15)
                                 : float4_codes(wide(values), type, rounding).to(at::kLong);
    const int64_t count = type == ACL_INT32 ? 8 : 2;
    Tensor word = code.slice(dim, 0, std::nullopt, count);
    for (int64_t i = 1; i < count; ++i) word = word.bitwise_or(code.slice(dim, i, std::nullopt, count).bitwise_left_shift(4 * i));
    out.copy_(word);
  } else if (type == ACL_INT8 || type == ACL_UINT8) {
    const double least = type == ACL_INT8 ? -128 : 0;
    out.copy_(rounded(wide(values), rounding).clamp(least, least + 255));
  } else {
    out.copy_(values);
  }
}

void quantise_rows(const Tensor& x, Codes& y, const OptionalTensor& scale, double greatest) {
  const Tensor rows = wide(x);
  const Tensor each = rows.abs().amax(-1, true).div_(greatest > 0 ? greatest : y.greatest());
  if (scale) Tensor(*scale).copy_(each.reshape(scale->sizes()));
  y.assign(rows / at::where(each == 0, at::ones_like(each), each));
}

namespace {

double exponent_of_greatest(aclDataType type) {  // emax of the format
  switch (type) {
    case ACL_FLOAT4_E2M1: return 2;
    case ACL_FLOAT4_E1M2: return 0;
    case ACL_FLOAT8_E4M3FN: return 8;
    case ACL_FLOAT8_E5M2: return 15;
    default: throw Error(kParameterInvalid, "data type " + std::to_string(type) + " is no MX type; 35, 36, 40 and 41 are");
  }
}

// The shared exponent of each block, from its greatest magnitude (CANN's DynamicMxQuantV2 document).
Tensor shared_exponent(const Tensor& greatest, const MxRule& rule, aclDataType type) {
  const Tensor amount = rule.lower_bound > 0 ? greatest.clamp_min(rule.lower_bound) : greatest;
  auto [fraction, exponent] = at::frexp(amount);  // amount = fraction * 2^exponent, fraction in [0.5, 1)
  const Tensor floor_log = exponent.to(at::kFloat) - 1;
  Tensor made;
  const bool special = rule.greatest == 0 || rule.greatest == 6 || rule.greatest == 7;
  if (rule.algorithm == 0) {
    made = floor_log - exponent_of_greatest(type);
  } else if (rule.algorithm == 2 && special) {
    // Up where the mantissa begins with one (dst max 0 or 6) or two (7) set bits and is more than that.
    const double limit = rule.greatest == 7 ? 0.875 : 0.75;
    made = floor_log + (fraction > limit).to(at::kFloat) - exponent_of_greatest(type);
  } else {
    const double most = rule.greatest > 0 ? rule.greatest : Codes::greatest_of(type);
    auto [part, power] = at::frexp(amount / most);
    made = power.to(at::kFloat) - 1 + (part > 0.5).to(at::kFloat);
  }
  return at::where(amount == 0, at::full_like(made, -127), made).clamp(-127, 127);
}

}  // namespace

void quantise_mx(const Tensor& x, int64_t axis, const MxRule& rule, Text rounding, Codes& y, Codes& scale) {
  if (axis < 0) axis += x.dim();
  const int64_t length = x.size(axis), blocks = ceil_div(length, rule.block), pairs = (blocks + 1) / 2;
  const Tensor rows = wide(x).movedim(axis, -1).contiguous();  // [..., length]
  const Tensor padded = at::constant_pad_nd(rows, {0, blocks * rule.block - length}).unflatten(-1, {blocks, rule.block});
  const Tensor exponent = shared_exponent(padded.abs().amax(-1), rule, y.type);  // [..., blocks]
  const Tensor scaled = (padded * at::exp2(-exponent).unsqueeze(-1)).flatten(-2).narrow(-1, 0, length);
  y.assign(scaled.movedim(-1, axis).contiguous(), rounding);
  // An absent second of a pair has the byte 0, the exponent -127.
  const Tensor even = at::constant_pad_nd(exponent, {0, 2 * pairs - blocks}, -127).unflatten(-1, {pairs, 2});
  scale.assign(at::exp2(even).movedim(-2, axis));
}

Tensor unpack_scale(const Tensor& words) {
  return words.view(at::kLong).bitwise_and(0xFFFFFFFF).to(at::kInt).view(at::kFloat);
}
Tensor unpack_offset(const Tensor& words) {
  const Tensor field = words.view(at::kLong).bitwise_right_shift(37).bitwise_and(0x1FF);
  return at::where(field >= 256, field - 512, field).to(at::kFloat);
}

namespace {

// A scale of [.., k / group] by k numbers, each scale repeated over its group.
Tensor spread(const Tensor& scale, int64_t dim, int64_t length, int64_t group) {
  if (scale.dim() < 2) return scale;
  const int64_t count = scale.size(dim);
  if (count == length || count == 1) return scale;
  const int64_t each = group > 0 ? group : ceil_div(length, count);
  return scale.repeat_interleave(each, dim).narrow(dim, 0, length);
}

// Exponents lie in pairs: x [.., k / 64, 2]; weight [.., k / 64, n, 2]. Returns [.., k / 32] or [.., k / 32, n].
Tensor unpaired(const Codes& scale, bool of_weight, int64_t dims) {
  Tensor values = scale.values();
  if (int64_t(scale.sizes().size()) != dims + 1) return values;
  if (of_weight) values = values.transpose(-1, -2);
  return of_weight ? values.flatten(-3, -2) : values.flatten(-2);
}

Tensor exact(const Tensor& x, const Tensor& weight) {
  // Sums of products of int8 fit float32's 24 bits up to this many terms.
  constexpr int64_t kTerms = 1024;
  if (x.size(-1) <= kTerms) return at::matmul(x, weight);
  return at::matmul(x.to(at::kDouble), weight.to(at::kDouble));
}

}  // namespace

Tensor scaled_product(const ScaledProduct& p) {
  Tensor x = p.x.values(), weight = p.weight.values();
  const int64_t m = x.size(-2), k = x.size(-1), n = weight.size(-1);
  // Each of the scales is one per row or column (applied to the product), or varies along k
  // (applied to the operand).
  Tensor rows, columns;
  if (p.x_scale) {
    Tensor scale = p.x_scale.scale_exponent() ? unpaired(p.x_scale, false, x.dim()) : p.x_scale.values();
    if (scale.dim() >= 2 && (scale.size(-1) > 1 || p.x_scale.scale_exponent())) {
      x = x * spread(spread(scale, -1, k, p.x_scale.scale_exponent() ? 32 : p.group_size & 0xFFFF), -2, m, 0);
    } else {
      rows = scale.reshape({-1, 1});
    }
  }
  if (p.weight_offset != nullptr && given(*p.weight_offset)) weight = weight + spread(wide(**p.weight_offset), -2, k, p.group_size & 0xFFFF);
  if (p.weight_scale) {
    const bool words = p.weight_scale.type == ACL_INT64 || p.weight_scale.type == ACL_UINT64;
    Tensor scale = p.weight_scale.scale_exponent() ? unpaired(p.weight_scale, true, weight.dim()) : p.weight_scale.values();
    if (words) scale = unpack_scale(p.weight_scale.words());
    if (scale.dim() >= 2 && (scale.size(-2) > 1 || p.weight_scale.scale_exponent())) {
      weight = weight * spread(spread(scale, -2, k, p.weight_scale.scale_exponent() ? 32 : p.group_size & 0xFFFF), -1, n, 0);
    } else {
      columns = scale.reshape({1, -1});
    }
  }
  Tensor product = p.x.integer() && p.weight.integer() ? exact(x, weight) : at::matmul(x, weight);
  const bool biased = p.bias != nullptr && given(*p.bias);
  if (biased && (*p.bias)->scalar_type() == at::kInt) product = product + **p.bias;
  product = product.to(at::kFloat);
  if (columns.defined()) product = product * columns;
  if (rows.defined()) product = product * rows;
  if (biased && (*p.bias)->scalar_type() != at::kInt) product = product + wide(**p.bias);
  return product;
}

std::vector<int64_t> group_counts(const Tensor& list, int64_t type, int64_t groups) {
  const Tensor numbers = list.to(at::kLong).contiguous();
  std::vector<int64_t> counts(size_t(groups), 0);
  const int64_t* at = numbers.data_ptr<int64_t>();
  if (type == 2) {  // pairs of group and count
    for (int64_t i = 0; i < numbers.size(0) && at[2 * i + 1] > 0; ++i) counts[size_t(at[2 * i])] = at[2 * i + 1];
    return counts;
  }
  for (int64_t i = 0; i < std::min(groups, numbers.numel()); ++i) counts[size_t(i)] = type == 1 || i == 0 ? at[i] : at[i] - at[i - 1];
  return counts;
}

}  // namespace cannsim
