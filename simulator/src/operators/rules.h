// What CANN refuses of an operator's tensors before anything is queued; the rules are data, in
// rules.cpp.
#pragma once

#include <c10/core/ScalarType.h>

#include <cstdint>
#include <vector>

namespace cannsim {

struct TypeRule;
// The rule for an operator, or null.
const TypeRule* type_rule(const char* name);
// Throws ACLNN_ERR_PARAM_INVALID unless the first tensor has a data type and a number of dimensions
// that the operator takes.
void obey(const TypeRule& rule, at::ScalarType type, const std::vector<int64_t>& sizes);

// Finds operands that lie on more than one device, where an NPU would fault. `seen` starts at -1.
// Throws ACL_ERROR_RT_AICORE_EXCEPTION.
void same_device(const void* data, int& seen);
// Copies between devices are made by operators too.
bool crosses_devices(const char* name);

}  // namespace cannsim
