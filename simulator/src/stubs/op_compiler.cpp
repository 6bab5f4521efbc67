// The operator compiler: its switches are kept, and operators without an aclnn function, which
// come here, are refused by name.
#include <cstring>
#include <map>
#include <mutex>
#include <string>

#include "acl/acl_op_compiler.h"
#include "runtime/runtime.h"

using namespace cannsim;

namespace {

std::mutex mutex;

// Just-in-time compilation is off: operators take the aclnn path, as on a binary installation.
std::map<int, std::string>& options() {
  static std::map<int, std::string> all{{ACL_OP_JIT_COMPILE, "disable"}, {ACL_OP_DETERMINISTIC, "0"}, {ACL_ALLOW_HF32, "11"}};
  return all;
}

aclError refuse(const char* type) {
  return report(ACL_ERROR_OP_NOT_FOUND,
                std::string("operator ") + type +
                    " is not simulated: libopapi.so has no aclnn function for it and the compiled path does not exist. Add it in "
                    "simulator/src/operators, one entry in the file of its family");
}

}  // namespace

extern "C" {

aclError aclSetCompileopt(aclCompileOpt option, const char* value) {
  std::lock_guard lock(mutex);
  options()[option] = value;
  return ACL_SUCCESS;
}
size_t aclGetCompileoptSize(aclCompileOpt option) {
  std::lock_guard lock(mutex);
  return options()[option].size() + 1;
}
aclError aclGetCompileopt(aclCompileOpt option, char* value, size_t length) {
  std::lock_guard lock(mutex);
  const std::string& text = options()[option];
  if (length < text.size() + 1) return report(ACL_ERROR_INVALID_PARAM, "the buffer is shorter than the option's value");
  std::memcpy(value, text.c_str(), text.size() + 1);
  return ACL_SUCCESS;
}
aclGraphDumpOption* aclCreateGraphDumpOpt() { return nullptr; }
aclError aclDestroyGraphDumpOpt(const aclGraphDumpOption*) { return ACL_SUCCESS; }

aclError aclopCompileAndExecute(const char* type, int, const aclTensorDesc* const[], const aclDataBuffer* const[], int,
                                const aclTensorDesc* const[], aclDataBuffer* const[], const aclopAttr*, aclopEngineType, aclopCompileType,
                                const char*, aclrtStream) {
  return refuse(type);
}
aclError aclopCompileAndExecuteV2(const char* type, int, aclTensorDesc*[], aclDataBuffer*[], int, aclTensorDesc*[], aclDataBuffer*[],
                                  aclopAttr*, aclopEngineType, aclopCompileType, const char*, aclrtStream) {
  return refuse(type);
}

}  // extern "C"
