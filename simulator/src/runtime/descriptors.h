// What the older operator interface describes a call by: tensors, buffers and attributes.
#pragma once

#include <map>
#include <string>
#include <variant>
#include <vector>

#include "acl/acl_op.h"

struct aclTensorDesc {
  aclDataType type;
  aclFormat format;
  std::vector<int64_t> dims;
  std::vector<int64_t> storage_dims;  // of an internal format; the numbers lie as `dims` says
  std::string name;
  aclMemType place = ACL_MEMTYPE_DEVICE;
};
struct aclDataBuffer {
  void* data;
  size_t size;
};
struct aclopAttr {
  using Value = std::variant<int64_t, float, bool, std::string, std::vector<int64_t>, std::vector<float>, std::vector<bool>,
                             std::vector<std::vector<int64_t>>>;
  std::map<std::string, Value> values;
};

namespace cannsim {

// One call of an operator by its type's name, as aclopCompileAndExecute[V2] receives it.
struct LegacyRequest {
  const char* type;
  int inputs;
  const aclTensorDesc* const* input_descriptions;
  const aclDataBuffer* const* input_buffers;
  int outputs;
  aclTensorDesc* const* output_descriptions;
  aclDataBuffer* const* output_buffers;
  const aclopAttr* attributes;
  bool shapes_unknown;  // the outputs' descriptions are to say their sizes when the call returns
  aclrtStream stream;
};
// The function of libopapi.so that runs one; returns an ACL code, the text is reported.
using LegacyExecute = int (*)(const LegacyRequest&);
inline constexpr const char* kLegacyExecute = "cannsim_legacy_execute";

}  // namespace cannsim
