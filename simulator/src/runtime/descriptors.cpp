// Tensor descriptions, data buffers and attributes of the older operator interface (what runs them
// is operators/legacy.cpp); hooks of the log, the profiler and of kernels, which are refused.
#include <cstdarg>
#include <cstdio>
#include <cstdlib>

#include "acl/acl_op_compiler.h"
#include "runtime/descriptors.h"
#include "runtime/runtime.h"

using namespace cannsim;

extern "C" {

aclTensorDesc* aclCreateTensorDesc(aclDataType type, int number, const int64_t* dims, aclFormat format) {
  return new aclTensorDesc{type, format, {dims, dims + number}, {}, {}};
}
void aclDestroyTensorDesc(const aclTensorDesc* description) { delete description; }
aclDataType aclGetTensorDescType(const aclTensorDesc* description) { return description->type; }
aclFormat aclGetTensorDescFormat(const aclTensorDesc* description) { return description->format; }
size_t aclGetTensorDescNumDims(const aclTensorDesc* description) { return description->dims.size(); }
aclError aclGetTensorDescDimV2(const aclTensorDesc* description, size_t index, int64_t* size) {
  if (index >= description->dims.size()) return report(ACL_ERROR_INVALID_PARAM, "dimension " + std::to_string(index) + " does not exist");
  *size = description->dims[index];
  return ACL_SUCCESS;
}
void aclSetTensorDescName(aclTensorDesc* description, const char* name) { description->name = name; }
aclError aclSetTensorFormat(aclTensorDesc* description, aclFormat format) {
  description->format = format;
  return ACL_SUCCESS;
}
aclError aclSetTensorShape(aclTensorDesc* description, int number, const int64_t* dims) {
  description->storage_dims.assign(dims, dims + number);
  return ACL_SUCCESS;
}
aclError aclSetTensorPlaceMent(aclTensorDesc* description, aclMemType place) {
  description->place = place;
  return ACL_SUCCESS;
}

aclDataBuffer* aclCreateDataBuffer(void* data, size_t size) { return new aclDataBuffer{data, size}; }
aclError aclDestroyDataBuffer(const aclDataBuffer* buffer) {
  delete buffer;
  return ACL_SUCCESS;
}

aclopAttr* aclopCreateAttr() { return new aclopAttr; }
void aclopDestroyAttr(const aclopAttr* attributes) { delete attributes; }
static aclError keep(aclopAttr* attributes, const char* name, aclopAttr::Value value) {
  if (attributes == nullptr || name == nullptr) return report(ACL_ERROR_INVALID_PARAM, "an attribute without a name or a place to keep it");
  attributes->values[name] = std::move(value);
  return ACL_SUCCESS;
}
aclError aclopSetAttrBool(aclopAttr* all, const char* name, uint8_t value) { return keep(all, name, value != 0); }
aclError aclopSetAttrInt(aclopAttr* all, const char* name, int64_t value) { return keep(all, name, value); }
aclError aclopSetAttrFloat(aclopAttr* all, const char* name, float value) { return keep(all, name, value); }
aclError aclopSetAttrString(aclopAttr* all, const char* name, const char* value) { return keep(all, name, std::string(value)); }
aclError aclopSetAttrDataType(aclopAttr* all, const char* name, aclDataType value) { return keep(all, name, int64_t(value)); }
aclError aclopSetAttrListBool(aclopAttr* all, const char* name, int number, const uint8_t* values) {
  return keep(all, name, std::vector<bool>(values, values + number));
}
aclError aclopSetAttrListInt(aclopAttr* all, const char* name, int number, const int64_t* values) {
  return keep(all, name, std::vector<int64_t>(values, values + number));
}
aclError aclopSetAttrListFloat(aclopAttr* all, const char* name, int number, const float* values) {
  return keep(all, name, std::vector<float>(values, values + number));
}
aclError aclopSetAttrListListInt(aclopAttr* all, const char* name, int number, const int* sizes, const int64_t* const values[]) {
  std::vector<std::vector<int64_t>> lists;
  for (int i = 0; i < number; ++i) lists.emplace_back(values[i], values[i] + sizes[i]);
  return keep(all, name, std::move(lists));
}

// CANN's log of an application, shown from ASCEND_GLOBAL_LOG_LEVEL on when it goes to stdout.
void aclAppLog(aclLogLevel level, const char* function, const char* file, uint32_t line, const char* format, ...) {
  static const char* wanted = std::getenv("ASCEND_SLOG_PRINT_TO_STDOUT");
  static const char* least = std::getenv("ASCEND_GLOBAL_LOG_LEVEL");
  if (wanted == nullptr || *wanted != '1' || int(level) < (least ? std::atoi(least) : int(ACL_ERROR))) return;
  std::va_list arguments;
  va_start(arguments, format);
  std::fprintf(stderr, "[%s:%u %s] ", file, line, function);
  std::vfprintf(stderr, format, arguments);
  std::fputc('\n', stderr);
  va_end(arguments);
}

// The profiler's hooks: accepted, nothing is collected.
typedef int32_t (*ProfilerHandle)(uint32_t, void*, uint32_t);
CANNSIM_API int32_t MsprofRegisterCallback(uint32_t, ProfilerHandle) { return 0; }
CANNSIM_API int32_t MsprofReportApi(uint32_t, const void*) { return 0; }
CANNSIM_API int32_t MsprofReportCompactInfo(uint32_t, const void*, uint32_t) { return 0; }
CANNSIM_API int32_t MsprofReportAdditionalInfo(uint32_t, const void*, uint32_t) { return 0; }
CANNSIM_API uint64_t MsprofGetHashId(const char* text, size_t length) { return std::hash<std::string>{}(std::string(text, length)); }
CANNSIM_API uint64_t MsprofSysCycleTime() { return uint64_t(std::chrono::steady_clock::now().time_since_epoch().count()); }

// Kernels compiled for the chip cannot run here.
static int no_kernels() { return report(ACL_ERROR_RT_FEATURE_NOT_SUPPORT, "binary kernels of the chip cannot be simulated"); }
CANNSIM_API int rtDevBinaryRegister(const void*, void**) { return no_kernels(); }
CANNSIM_API int rtFunctionRegister(void*, const void*, const char*, const void*, uint32_t) { return no_kernels(); }
CANNSIM_API int rtGetC2cCtrlAddr(uint64_t*, uint32_t*) { return no_kernels(); }
CANNSIM_API int rtKernelLaunch(const void*, uint32_t, void*, uint32_t, void*, void*) { return no_kernels(); }
aclError aclrtBinaryLoadFromData(const void*, size_t, const aclrtBinaryLoadOptions*, aclrtBinHandle*) { return no_kernels(); }
aclError aclrtBinaryGetFunction(const aclrtBinHandle, const char*, aclrtFuncHandle*) { return no_kernels(); }
aclError aclrtGetFunctionAddr(aclrtFuncHandle, void**, void**) { return no_kernels(); }

}  // extern "C"
