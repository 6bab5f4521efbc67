// Reductions of two buffers, and the types and operations that HCCL takes on each chip.
#include "collectives/reduction.h"

#include <bit>
#include <cmath>
#include <cstring>
#include <type_traits>

namespace cannsim::collectives {
namespace {

struct BFloat16 {
  uint16_t bits;
  float get() const { return std::bit_cast<float>(uint32_t(bits) << 16); }
  static BFloat16 of(float value) {
    const uint32_t all = std::bit_cast<uint32_t>(value);
    const uint32_t rounded = (all + 0x7fff + ((all >> 16) & 1)) >> 16;
    return {uint16_t(value != value ? 0x7fc0 : rounded)};
  }
};

// Written without branches, so that the compiler makes vector code of them on every x86-64 and AArch64.
struct Float16 {
  uint16_t bits;
  float get() const {
    const uint32_t sign = uint32_t(bits & 0x8000) << 16, rest = uint32_t(bits & 0x7fff) << 13;
    // 2^112 moves the exponent's bias from 15 to 127 and makes subnormals normal.
    const float scaled = std::bit_cast<float>(rest) * 0x1p112f;
    const uint32_t special = rest >= (0x7c00u << 13) ? 0xffu << 23 : 0;
    return std::bit_cast<float>(std::bit_cast<uint32_t>(scaled) | special | sign);
  }
  static Float16 of(float value) {
    const uint32_t all = std::bit_cast<uint32_t>(value);
    const uint32_t sign = (all >> 16) & 0x8000, rest = all & 0x7fffffff;
    const uint32_t normal = (rest - (112u << 23) + 0xfff + ((rest >> 13) & 1)) >> 13;
    // Adding a half makes the floating-point unit round a subnormal result to its last bit.
    const uint32_t subnormal = std::bit_cast<uint32_t>(std::bit_cast<float>(rest) + 0.5f) - std::bit_cast<uint32_t>(0.5f);
    uint32_t found = rest < (113u << 23) ? subnormal : normal;
    found = rest >= 0x47800000u ? 0x7c00u : found;
    found = rest > 0x7f800000u ? 0x7e00u : found;
    return {uint16_t(found | sign)};
  }
};

template <typename T>
constexpr bool kHalf = std::is_same_v<T, BFloat16> || std::is_same_v<T, Float16>;

template <HcclReduceOp op, typename T>
T apply(T a, T b) {
  // Signed overflow is undefined in C++; unsigned wraps.
  using Wide = std::conditional_t<std::is_integral_v<T>, std::make_unsigned<std::conditional_t<std::is_integral_v<T>, T, int>>, std::type_identity<T>>;
  using Unsigned = typename Wide::type;
  if constexpr (op == HCCL_REDUCE_SUM) return T(Unsigned(a) + Unsigned(b));
  if constexpr (op == HCCL_REDUCE_PROD) {
    if constexpr (std::is_integral_v<T>) return T(uint64_t(a) * uint64_t(b));
    else return a * b;
  }
  if constexpr (op == HCCL_REDUCE_MAX) return a != a || a > b ? a : b;
  if constexpr (op == HCCL_REDUCE_MIN) return a != a || a < b ? a : b;
}

template <HcclReduceOp op, typename T>
void combine(void* target, const void* source, size_t count) {
  T* to = static_cast<T*>(target);
  const T* from = static_cast<const T*>(source);
  for (size_t i = 0; i < count; ++i) {
    if constexpr (kHalf<T>) {
      to[i] = T::of(apply<op>(to[i].get(), from[i].get()));
    } else {
      to[i] = apply<op>(to[i], from[i]);
    }
  }
}

template <typename T>
Combine of_type(HcclReduceOp op) {
  switch (op) {
    case HCCL_REDUCE_SUM: return combine<HCCL_REDUCE_SUM, T>;
    case HCCL_REDUCE_PROD: return combine<HCCL_REDUCE_PROD, T>;
    case HCCL_REDUCE_MAX: return combine<HCCL_REDUCE_MAX, T>;
    case HCCL_REDUCE_MIN: return combine<HCCL_REDUCE_MIN, T>;
    default: return nullptr;
  }
}

struct TypeRow {
  HcclDataType type;
  const char* name;
  size_t bytes;
  Combine (*combine)(HcclReduceOp);
};
const TypeRow kTypes[] = {
    {HCCL_DATA_TYPE_INT8, "int8", 1, of_type<int8_t>},         {HCCL_DATA_TYPE_INT16, "int16", 2, of_type<int16_t>},
    {HCCL_DATA_TYPE_INT32, "int32", 4, of_type<int32_t>},      {HCCL_DATA_TYPE_FP16, "float16", 2, of_type<Float16>},
    {HCCL_DATA_TYPE_FP32, "float32", 4, of_type<float>},       {HCCL_DATA_TYPE_INT64, "int64", 8, of_type<int64_t>},
    {HCCL_DATA_TYPE_UINT64, "uint64", 8, of_type<uint64_t>},   {HCCL_DATA_TYPE_UINT8, "uint8", 1, of_type<uint8_t>},
    {HCCL_DATA_TYPE_UINT16, "uint16", 2, of_type<uint16_t>},   {HCCL_DATA_TYPE_UINT32, "uint32", 4, of_type<uint32_t>},
    {HCCL_DATA_TYPE_FP64, "float64", 8, of_type<double>},      {HCCL_DATA_TYPE_BFP16, "bfloat16", 2, of_type<BFloat16>},
    {HCCL_DATA_TYPE_INT128, "int128", 16, nullptr},            {HCCL_DATA_TYPE_HIF8, "hifloat8", 1, nullptr},
    {HCCL_DATA_TYPE_FP8E4M3, "float8_e4m3", 1, nullptr},       {HCCL_DATA_TYPE_FP8E5M2, "float8_e5m2", 1, nullptr},
    {HCCL_DATA_TYPE_FP8E8M0, "float8_e8m0", 1, nullptr},
};

const TypeRow& row(HcclDataType type) {
  for (const TypeRow& known : kTypes) {
    if (known.type == type) return known;
  }
  throw Failure(HCCL_E_PARA, "data type " + std::to_string(int(type)) + " is not one of HcclDataType", ACL_ERROR_RT_PARAM_INVALID);
}

// What each chip reduces. Source: HcclAllReduce in the collective communication guides of CANN
// 8.3.RC1 and 9.0.0 ("dataType", "op"); that the other reductions take the same is assumed.
struct ChipRow {
  const char* soc;  // a prefix of the chip's name
  std::vector<HcclDataType> reduced;
  std::vector<HcclDataType> never_prod, never_extremes;
  bool float8;  // moves 8-bit floating point (assumed: documented for the newest chip only)
};

const ChipRow& chip() {
  static const std::vector<HcclDataType> kUsual = {HCCL_DATA_TYPE_INT8, HCCL_DATA_TYPE_INT16, HCCL_DATA_TYPE_INT32, HCCL_DATA_TYPE_INT64,
                                                   HCCL_DATA_TYPE_FP16, HCCL_DATA_TYPE_FP32,  HCCL_DATA_TYPE_BFP16};
  static const std::vector<ChipRow> kChips = {
      {"Ascend910", kUsual, {HCCL_DATA_TYPE_INT16, HCCL_DATA_TYPE_BFP16}, {}, false},
      {"Ascend310P",
       {HCCL_DATA_TYPE_INT8, HCCL_DATA_TYPE_INT16, HCCL_DATA_TYPE_INT32, HCCL_DATA_TYPE_FP16, HCCL_DATA_TYPE_FP32},
       {HCCL_DATA_TYPE_INT16},
       {HCCL_DATA_TYPE_INT16},
       false},
      {"Ascend950",
       {HCCL_DATA_TYPE_INT8, HCCL_DATA_TYPE_INT16, HCCL_DATA_TYPE_INT32, HCCL_DATA_TYPE_INT64, HCCL_DATA_TYPE_UINT64, HCCL_DATA_TYPE_FP16,
        HCCL_DATA_TYPE_FP32, HCCL_DATA_TYPE_FP64, HCCL_DATA_TYPE_BFP16},
       {HCCL_DATA_TYPE_INT16, HCCL_DATA_TYPE_BFP16},
       {},
       true},
  };
  const std::string soc = settings().chip.soc;
  for (const ChipRow& known : kChips) {
    if (soc.rfind(known.soc, 0) == 0) return known;
  }
  return kChips.front();
}

bool among(const std::vector<HcclDataType>& list, HcclDataType type) {
  for (HcclDataType one : list) {
    if (one == type) return true;
  }
  return false;
}

std::string names(const std::vector<HcclDataType>& list) {
  std::string all;
  for (HcclDataType one : list) all += (all.empty() ? "" : ", ") + std::string(name_of(one));
  return all;
}

// EI0003 is HCCL's number for an argument that it does not take.
[[noreturn]] void refuse(const char* call, const std::string& message) {
  throw Failure(HCCL_E_NOT_SUPPORT, std::string("EI0003: ") + call + " " + message, ACL_ERROR_RT_FEATURE_NOT_SUPPORT);
}

}  // namespace

size_t size_of(HcclDataType type) { return row(type).bytes; }
const char* name_of(HcclDataType type) { return row(type).name; }

const char* name_of(HcclReduceOp op) {
  switch (op) {
    case HCCL_REDUCE_SUM: return "sum";
    case HCCL_REDUCE_PROD: return "prod";
    case HCCL_REDUCE_MAX: return "max";
    case HCCL_REDUCE_MIN: return "min";
    default: throw Failure(HCCL_E_PARA, "reduction " + std::to_string(int(op)) + " is not one of HcclReduceOp: sum, prod, max, min", ACL_ERROR_RT_PARAM_INVALID);
  }
}

Combine combine_of(HcclDataType type, HcclReduceOp op) { return row(type).combine(op); }

void check_type(const char* call, HcclDataType type) {
  const std::string name = name_of(type);
  if (type == HCCL_DATA_TYPE_INT128 || (type >= HCCL_DATA_TYPE_HIF8 && !chip().float8))
    refuse(call, "does not take " + name + " on " + settings().chip.soc);
}

void check_reduction(const char* call, HcclDataType type, HcclReduceOp op) {
  const std::string operation = name_of(op), name = name_of(type), on = std::string(" on ") + settings().chip.soc;
  if (!among(chip().reduced, type)) refuse(call, "does not reduce " + name + on + "; it takes " + names(chip().reduced));
  const bool extreme = op == HCCL_REDUCE_MAX || op == HCCL_REDUCE_MIN;
  if ((op == HCCL_REDUCE_PROD && among(chip().never_prod, type)) || (extreme && among(chip().never_extremes, type)))
    refuse(call, "does not take the operation " + operation + " for " + name + on);
}

}  // namespace cannsim::collectives
