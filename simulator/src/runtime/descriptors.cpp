// Tensor descriptions, data buffers and attributes of the older operator interface, and its entry
// points, which refuse: operators are reached through aclnn functions.
#include <cstdarg>
#include <cstdio>
#include <cstdlib>

#include "acl/acl_op.h"
#include "acl/acl_op_compiler.h"
#include "runtime/runtime.h"

struct aclTensorDesc {
  aclDataType type;
  aclFormat format;
  std::vector<int64_t> dims;
  std::string name;
};
struct aclDataBuffer {
  void* data;
  size_t size;
};
struct aclopAttr {};

using namespace cannsim;

extern "C" {

aclTensorDesc* aclCreateTensorDesc(aclDataType type, int number, const int64_t* dims, aclFormat format) {
  return new aclTensorDesc{type, format, {dims, dims + number}, {}};
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
  description->dims.assign(dims, dims + number);
  return ACL_SUCCESS;
}
aclError aclSetTensorPlaceMent(aclTensorDesc*, aclMemType) { return ACL_SUCCESS; }

aclDataBuffer* aclCreateDataBuffer(void* data, size_t size) { return new aclDataBuffer{data, size}; }
aclError aclDestroyDataBuffer(const aclDataBuffer* buffer) {
  delete buffer;
  return ACL_SUCCESS;
}

aclopAttr* aclopCreateAttr() { return new aclopAttr; }
void aclopDestroyAttr(const aclopAttr* attributes) { delete attributes; }
aclError aclopSetAttrBool(aclopAttr*, const char*, uint8_t) { return ACL_SUCCESS; }
aclError aclopSetAttrInt(aclopAttr*, const char*, int64_t) { return ACL_SUCCESS; }
aclError aclopSetAttrFloat(aclopAttr*, const char*, float) { return ACL_SUCCESS; }
aclError aclopSetAttrString(aclopAttr*, const char*, const char*) { return ACL_SUCCESS; }
aclError aclopSetAttrDataType(aclopAttr*, const char*, aclDataType) { return ACL_SUCCESS; }
aclError aclopSetAttrListBool(aclopAttr*, const char*, int, const uint8_t*) { return ACL_SUCCESS; }
aclError aclopSetAttrListInt(aclopAttr*, const char*, int, const int64_t*) { return ACL_SUCCESS; }
aclError aclopSetAttrListFloat(aclopAttr*, const char*, int, const float*) { return ACL_SUCCESS; }
aclError aclopSetAttrListListInt(aclopAttr*, const char*, int, const int*, const int64_t* const[]) { return ACL_SUCCESS; }

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

static int no_sharing() { return report(ACL_ERROR_RT_FEATURE_NOT_SUPPORT, "memory is not shared between simulated processes yet"); }
aclError aclrtMemExportToShareableHandle(aclrtDrvMemHandle, aclrtMemHandleType, uint64_t, uint64_t*) { return no_sharing(); }
aclError aclrtMemImportFromShareableHandle(uint64_t, int32_t, aclrtDrvMemHandle*) { return no_sharing(); }
aclError aclrtMemSetPidToShareableHandle(uint64_t, int32_t*, size_t) { return no_sharing(); }

}  // extern "C"
