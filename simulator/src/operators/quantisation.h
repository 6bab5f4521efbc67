// Numbers of few bits: tensors of int8, int4, float8 and float4 as float32 values, the types'
// ranges and roundings, and the arithmetic that quantised operators share.
#pragma once

#include "operators/operator.h"

namespace cannsim {

// A tensor of a quantised type. int4 and float4 lie two to a byte, the first in the low half, along
// the dimension of stride one; an int32 tensor among quantised operands holds eight int4 to a word,
// in the same order (CANN's documents of QuantMatmul and DynamicQuant). Any other type is read as
// it is, so that an operand may also be in a plain type.
class Codes {
 public:
  Codes() = default;
  explicit Codes(const aclTensor* tensor);
  static Codes of(const Tensor& tensor);  // a view of a plain tensor
  explicit operator bool() const { return present && given_; }

  Tensor values() const;              // float32, dense, of `sizes()`
  Tensor words() const { return carrier().contiguous(); }  // as they lie in memory
  void assign(const Tensor& values);  // rounds to nearest even (or as `rounding` says) and saturates
  void assign(const Tensor& values, Text rounding);
  void copy(const Codes& other) { carrier().copy_(other.carrier()); }  // of the same type and sizes
  std::vector<int64_t> sizes() const;  // in numbers, whatever they are packed in
  int64_t size(int64_t dim) const;
  int64_t dim() const { return int64_t(sizes_.size()); }
  Codes at(int64_t index) const;                    // entry `index` of the first dimension
  Codes rows(int64_t first, int64_t count) const;   // part of the first dimension
  Codes flattened() const;                          // [a, b, c] as [a * b, c]
  Tensor tensor() const { return carrier(); }       // as it lies in memory, one element to a number or a pack
  Codes transposed() const;                         // the last two dimensions exchanged
  double greatest() const { return greatest_of(type); }
  bool integer() const { return type == ACL_INT8 || type == ACL_INT4 || type == ACL_INT32 || type == ACL_UINT8; }
  bool scale_exponent() const { return type == ACL_FLOAT8_E8M0; }
  uint64_t bytes() const;
  // What elements `raw` of a packed or plain type stand for, packed along `packed_dim` (-1: none).
  static Tensor numbers(const Tensor& raw, aclDataType type, int64_t packed_dim);
  int64_t packed_dim() const;  // -1: one number to an element
  static double greatest_of(int type);  // the largest finite value of an ACL data type

  bool present = false;
  aclDataType type = ACL_FLOAT;

 private:
  Tensor carrier() const;
  void advance(int64_t elements);
  std::vector<int64_t> sizes_, strides_;
  int64_t offset_ = 0;
  bool given_ = false;  // torch-npu passes some absent operands as empty tensors
  char* data_ = nullptr;
};

template <>
struct Argument<const Codes&> {
  using C = const aclTensor*;
  Codes kept;
  explicit Argument(C value) : kept(value) {}
  const Codes& get() { return kept; }
  uint64_t bytes() const { return kept.bytes(); }
};
template <>
struct Argument<Codes&> {
  using C = const aclTensor*;
  Codes kept;
  explicit Argument(C value) : kept(value) {}
  Codes& get() { return kept; }
  uint64_t bytes() const { return kept.bytes(); }
};
using CodesList = std::vector<Codes>;
template <>
struct Argument<const CodesList&> {
  using C = const aclTensorList*;
  CodesList kept;
  explicit Argument(C value) {
    if (value == nullptr) return;
    for (const aclTensor* tensor : value->tensors) kept.emplace_back(tensor);
  }
  const CodesList& get() { return kept; }
  uint64_t bytes() const {
    uint64_t sum = 0;
    for (const auto& codes : kept) sum += codes.bytes();
    return sum;
  }
};

// torch-npu passes some absent operands as empty tensors.
inline bool given(const OptionalTensor& tensor) { return tensor && tensor->numel() > 0; }

inline bool given(const Codes& codes) { return bool(codes); }

using BoolArray = const std::vector<char>&;
template <>
struct Argument<BoolArray> {
  using C = const aclBoolArray*;
  std::vector<char> kept;
  explicit Argument(C value) {
    if (value != nullptr) kept = value->values;
  }
  BoolArray get() { return kept; }
  uint64_t bytes() const { return 0; }
};

inline Tensor wide(const Tensor& x) { return x.scalar_type() == at::kFloat ? x : x.to(at::kFloat); }

// Scale by row, y = round(x / scale) with scale = max|x| / greatest: the last dimension is a row.
// `scale` [rows...] and `y` are outputs; greatest 0 stands for the largest value of y's type.
void quantise_rows(const Tensor& x, Codes& y, const OptionalTensor& scale, double greatest = 0);

// MX: every `block` numbers along `axis` share a power of two. Returns the scaled values (not yet
// rounded) and writes the exponents: [..., blocks / 2 of axis, ..., 2].
struct MxRule {
  int64_t block = 32, algorithm = 0;
  double greatest = 0, lower_bound = 0;
};
void quantise_mx(const Tensor& x, int64_t axis, const MxRule& rule, Text rounding, Codes& y, Codes& scale);

// x [..., m, k] by weight [..., k, n], as the cube unit does it: integers exactly, before any scale.
// Scales may be per tensor [1], per row of x [m], per column of weight [n], per block of k (two
// dimensions or, as exponents, three), or TransQuantParam's 64-bit words; absent is one.
struct ScaledProduct {
  const Codes& x;
  const Codes& weight;
  const Codes& x_scale;
  const Codes& weight_scale;
  const OptionalTensor* weight_offset = nullptr;  // added to the weight before its scale
  const OptionalTensor* bias = nullptr;           // int32: before the scales; floating: after
  int64_t group_size = 0;                         // numbers of k to a scale; 0: from the scales' shapes
};
Tensor scaled_product(const ScaledProduct& p);

// The float32 scale and the int9 offset that TransQuantParam packs in a 64-bit word.
Tensor unpack_scale(const Tensor& words);
Tensor unpack_offset(const Tensor& words);

// Row counts of groups from a group list: running totals (type 0), counts (1), or pairs of group
// and count (2). The result has one count for each of `groups` groups.
std::vector<int64_t> group_counts(const Tensor& list, int64_t type, int64_t groups);

inline bool chip_is(const char* prefix) { return std::string(settings().chip.soc).starts_with(prefix); }
inline void only_on_950() {
  if (!chip_is("Ascend950")) refuse_on_chip();
}

}  // namespace cannsim
