// CANN's argument objects (tensors, scalars, arrays, lists) and the launch of a planned operator.
#include <sstream>

#include "operators/operator.h"

namespace cannsim {
namespace {

struct TypePair {
  aclDataType acl;
  at::ScalarType torch;
};
constexpr TypePair kTypes[] = {
    {ACL_FLOAT, at::kFloat},
    {ACL_FLOAT16, at::kHalf},
    {ACL_BF16, at::kBFloat16},
    {ACL_DOUBLE, at::kDouble},
    {ACL_INT8, at::kChar},
    {ACL_UINT8, at::kByte},
    {ACL_INT16, at::kShort},
    {ACL_UINT16, at::kUInt16},
    {ACL_INT32, at::kInt},
    {ACL_UINT32, at::kUInt32},
    {ACL_INT64, at::kLong},
    {ACL_UINT64, at::kUInt64},
    {ACL_BOOL, at::kBool},
    {ACL_COMPLEX32, at::kComplexHalf},
    {ACL_COMPLEX64, at::kComplexFloat},
    {ACL_COMPLEX128, at::kComplexDouble},
    {ACL_FLOAT8_E5M2, at::kFloat8_e5m2},
    {ACL_FLOAT8_E4M3FN, at::kFloat8_e4m3fn},
    {ACL_FLOAT8_E8M0, at::kFloat8_e8m0fnu},
};

// torch's name of a type, e.g. bfloat16.
std::string type_name(at::ScalarType type) { return std::string(c10::getDtypeNames(type).first); }

template <typename T>
T read(const void* value) {
  T copy;
  std::memcpy(&copy, value, sizeof(T));
  return copy;
}

at::Scalar scalar_from(const void* value, aclDataType type) {
  switch (type) {
    case ACL_FLOAT: return read<float>(value);
    case ACL_DOUBLE: return read<double>(value);
    case ACL_FLOAT16: return read<at::Half>(value);
    case ACL_BF16: return read<at::BFloat16>(value);
    case ACL_BOOL: return read<bool>(value);
    case ACL_INT8: return read<int8_t>(value);
    case ACL_UINT8: return read<uint8_t>(value);
    case ACL_INT16: return read<int16_t>(value);
    case ACL_INT32: return read<int32_t>(value);
    case ACL_INT64: return read<int64_t>(value);
    case ACL_COMPLEX64: return read<c10::complex<float>>(value);
    case ACL_COMPLEX128: return read<c10::complex<double>>(value);
    default: throw Error(kParameterInvalid, "a scalar of data type " + std::to_string(type));
  }
}

// Which types this chip has no arithmetic for, by ATen's number.
const std::vector<bool>& absent_types() {
  static const auto* absent = [] {
    auto* made = new std::vector<bool>(size_t(at::ScalarType::NumOptions));
    for (const auto& pair : kTypes) (*made)[size_t(pair.torch)] = chip_lacks_type(type_name(pair.torch).c_str());
    return made;
  }();
  return *absent;
}

void refuse_type(at::ScalarType type) {
  if (!absent_types()[size_t(type)]) return;
  std::string known;
  for (const auto& pair : kTypes) {
    if (!absent_types()[size_t(pair.torch)]) known += (known.empty() ? "" : ", ") + type_name(pair.torch);
  }
  throw Error(kParameterInvalid, "a tensor of " + type_name(type) + ": " + settings().chip.soc + " does not have this data type; it has " + known);
}

}  // namespace

void refuse_on_chip() {
  throw Error(kKernelNotFound, std::string("no kernel for ") + settings().chip.soc + " (" + settings().chip.series +
                                   "): the operator is not among those of this chip (cannsim/profiles/chips.toml)");
}

at::ScalarType scalar_type(aclDataType type) {
  for (const auto& pair : kTypes) {
    if (pair.acl == type) return pair.torch;
  }
  throw Error(kParameterInvalid, "data type " + std::to_string(type) + " is not simulated");
}

aclDataType acl_type(at::ScalarType type) {
  for (const auto& pair : kTypes) {
    if (pair.torch == type) return pair.acl;
  }
  throw Error(kParameterInvalid, std::string("data type ") + at::toString(type) + " has no ACL counterpart");
}

View::View(const aclTensor* tensor) {
  if (tensor == nullptr) return;
  present = true;
  sizes = tensor->sizes;
  strides = tensor->strides;
  type = scalar_type(tensor->type);
  refuse_type(type);
  for (int64_t stride : strides) refuse_unless(stride >= 0, "a tensor with a negative stride");
  data = static_cast<char*>(tensor->data) + tensor->offset * int64_t(c10::elementSize(type));
}

Tensor View::tensor() const { return at::from_blob(data, sizes, strides, at::TensorOptions().dtype(type)); }

uint64_t View::elements() const {
  if (!present) return 0;
  uint64_t product = 1;
  for (size_t i = 0; i < sizes.size(); ++i) product *= strides[i] == 0 ? 1 : uint64_t(sizes[i]);
  return product;
}

std::string describe(const aclTensor& tensor) {
  std::ostringstream out;
  out << at::toString(scalar_type(tensor.type)) << at::IntArrayRef(tensor.sizes);
  return out.str();
}

int launch(void*, uint64_t, aclOpExecutor* executor, aclrtStream stream) {
  if (executor == nullptr) return report(kParameterNull, "the executor is null");
  std::unique_ptr<aclOpExecutor> owned(executor);
  return guarded([&] {
    Stream& queue = stream_of(stream);
    owned->task->prepare(queue);
    queue.submit(std::move(owned->task));
  });
}

}  // namespace cannsim

using namespace cannsim;

#define EXPORT __attribute__((visibility("default")))

extern "C" {

EXPORT aclTensor* aclCreateTensor(const int64_t* sizes, uint64_t dims, aclDataType type, const int64_t* strides, int64_t offset,
                                  aclFormat format, const int64_t*, uint64_t, void* data) {
  return new aclTensor{{sizes, sizes + dims}, {strides, strides + dims}, offset, type, format, data};
}
EXPORT aclScalar* aclCreateScalar(void* value, aclDataType type) {
  aclScalar* made = nullptr;
  guarded([&] { made = new aclScalar{scalar_from(value, type)}; });
  return made;
}
EXPORT aclIntArray* aclCreateIntArray(const int64_t* values, uint64_t size) { return new aclIntArray{{values, values + size}}; }
EXPORT aclFloatArray* aclCreateFloatArray(const float* values, uint64_t size) { return new aclFloatArray{{values, values + size}}; }
EXPORT aclBoolArray* aclCreateBoolArray(const bool* values, uint64_t size) { return new aclBoolArray{{values, values + size}}; }
EXPORT aclTensorList* aclCreateTensorList(const aclTensor* const* values, uint64_t size) {
  return new aclTensorList{{values, values + size}};
}
EXPORT aclScalarList* aclCreateScalarList(const aclScalar* const* values, uint64_t size) {
  return new aclScalarList{{values, values + size}};
}
EXPORT int aclDestroyTensor(const aclTensor* tensor) {
  delete tensor;
  return 0;
}
EXPORT int aclDestroyScalar(const aclScalar* scalar) {
  delete scalar;
  return 0;
}
EXPORT int aclDestroyIntArray(const aclIntArray* array) {
  delete array;
  return 0;
}
EXPORT int aclDestroyFloatArray(const aclFloatArray* array) {
  delete array;
  return 0;
}
EXPORT int aclDestroyBoolArray(const aclBoolArray* array) {
  delete array;
  return 0;
}
// A list owns its members.
EXPORT int aclDestroyTensorList(const aclTensorList* list) {
  for (const aclTensor* tensor : list->tensors) delete tensor;
  delete list;
  return 0;
}
EXPORT int aclDestroyScalarList(const aclScalarList* list) {
  if (list == nullptr) return 0;
  for (const aclScalar* scalar : list->scalars) delete scalar;
  delete list;
  return 0;
}
EXPORT int aclDestroyAclOpExecutor(aclOpExecutor* executor) {
  delete executor;
  return 0;
}
EXPORT int aclGetViewShape(const aclTensor* tensor, int64_t** sizes, uint64_t* dims) {
  *dims = tensor->sizes.size();
  *sizes = new int64_t[tensor->sizes.size()];
  std::copy(tensor->sizes.begin(), tensor->sizes.end(), *sizes);
  return 0;
}

}  // extern "C"
