// The operator compiler: its switches are kept, and operators that come by their type's name go to
// libopapi.so (operators/legacy.cpp), which is loaded with the first of them.
#include <dlfcn.h>

#include <cstring>
#include <map>
#include <mutex>
#include <string>

#include "acl/acl_op_compiler.h"
#include "runtime/descriptors.h"
#include "runtime/runtime.h"

using namespace cannsim;

namespace {

std::mutex mutex;

// Just-in-time compilation is off: operators take the aclnn path, as on a binary installation.
std::map<int, std::string>& options() {
  static std::map<int, std::string> all{{ACL_OP_JIT_COMPILE, "disable"}, {ACL_OP_DETERMINISTIC, "0"}, {ACL_ALLOW_HF32, "11"}};
  return all;
}

LegacyExecute executor() {
  void* library = dlopen("libopapi.so", RTLD_NOW | RTLD_LOCAL);
  return library == nullptr ? nullptr : reinterpret_cast<LegacyExecute>(dlsym(library, kLegacyExecute));
}

aclError execute(const LegacyRequest& request) {
  static const LegacyExecute run = executor();
  if (run == nullptr) return report(ACL_ERROR_OP_NOT_FOUND, std::string("operator ") + request.type + ": libopapi.so cannot be loaded");
  return run(request);
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

aclError aclopCompileAndExecute(const char* type, int inputs, const aclTensorDesc* const input_descriptions[],
                                const aclDataBuffer* const input_buffers[], int outputs, const aclTensorDesc* const output_descriptions[],
                                aclDataBuffer* const output_buffers[], const aclopAttr* attributes, aclopEngineType, aclopCompileType,
                                const char*, aclrtStream stream) {
  return execute({type, inputs, input_descriptions, input_buffers, outputs, const_cast<aclTensorDesc* const*>(output_descriptions),
                  output_buffers, attributes, false, stream});
}
aclError aclopCompileAndExecuteV2(const char* type, int inputs, aclTensorDesc* input_descriptions[], aclDataBuffer* input_buffers[],
                                  int outputs, aclTensorDesc* output_descriptions[], aclDataBuffer* output_buffers[], aclopAttr* attributes,
                                  aclopEngineType, aclopCompileType, const char*, aclrtStream stream) {
  return execute({type, inputs, input_descriptions, input_buffers, outputs, output_descriptions, output_buffers, attributes, true, stream});
}

}  // extern "C"
