// Devices: the current one of each thread, their streams, and what a program can ask of them.
#include <cstdlib>
#include <cstdio>
#include <cstring>

#include <unistd.h>

#include "runtime/faults.h"
#include "runtime/graph.h"
#include "runtime/shared.h"

namespace cannsim {
namespace {

thread_local int tls_device = -1;
thread_local std::string tls_message;

std::vector<std::unique_ptr<Device>>& devices() {
  // Never destroyed: streams may still run while the process leaves.
  static auto* all = [] {
    auto* made = new std::vector<std::unique_ptr<Device>>;
    for (size_t i = 0; i < settings().visible.size(); ++i) made->push_back(std::make_unique<Device>(int(i)));
    load_faults();
    return made;
  }();
  return *all;
}

}  // namespace

int report(int code, const std::string& message) {
  tls_message = "[cannsim] " + message;
  return code;
}

Device& device(int id) {
  auto& all = devices();
  if (id < 0 || size_t(id) >= all.size())
    throw Error(ACL_ERROR_RT_INVALID_DEVICEID, "device " + std::to_string(id) + " does not exist: " + std::to_string(all.size()) +
                                                   " are visible (CANNSIM_DEVICES, ASCEND_RT_VISIBLE_DEVICES)");
  return *all[size_t(id)];
}

int current_device() {
  if (tls_device < 0) throw Error(ACL_ERROR_RT_CONTEXT_NULL, "no device is set on this thread");
  return tls_device;
}

void set_current_device(int id) { tls_device = device(id).id; }

Stream& stream_of(aclrtStream handle) {
  if (handle == nullptr) return device(current_device()).default_stream();
  return *static_cast<Stream*>(handle);
}

Stream& Device::default_stream() {
  std::lock_guard lock(mutex_);
  if (streams_.empty()) streams_.push_back(std::make_shared<Stream>(id, next_stream_++));
  return *streams_.front();
}

Stream* Device::create_stream(uint32_t priority) {
  default_stream();
  std::lock_guard lock(mutex_);
  streams_.push_back(std::make_shared<Stream>(id, next_stream_++, priority));
  return streams_.back().get();
}

// What was put on the stream runs first; its error, which nobody can be told any more, goes with it.
void Device::destroy_stream(Stream* stream) {
  std::shared_ptr<Stream> gone;
  {
    std::lock_guard lock(mutex_);
    for (auto it = streams_.begin(); it != streams_.end() && !gone; ++it) {
      if (it->get() != stream) continue;
      if (it == streams_.begin()) throw Error(ACL_ERROR_RT_PARAM_INVALID, "the default stream cannot be destroyed");
      gone = std::move(*it);
      it = streams_.erase(it);
      break;
    }
  }
  if (!gone) throw Error(ACL_ERROR_RT_PARAM_INVALID, "the stream does not exist, or has been destroyed");
  gone->drain();
}

bool Device::has_stream(const Stream* stream) {
  std::lock_guard lock(mutex_);
  for (const auto& own : streams_) {
    if (own.get() == stream) return true;
  }
  return false;
}

std::vector<std::shared_ptr<Stream>> Device::streams() {
  std::lock_guard lock(mutex_);
  return streams_;
}

void Device::synchronize(int timeout_ms) {
  for (const auto& stream : streams()) stream->synchronize(timeout_ms);
}

void Device::drain() {
  for (const auto& stream : streams()) stream->drain();
}

void Device::forget_errors() {
  for (const auto& stream : streams()) stream->forget_error();
}

std::vector<std::shared_ptr<Stream>> Device::borrow_streams(size_t count) {
  std::lock_guard lock(mutex_);
  std::vector<std::shared_ptr<Stream>> lent;
  while (lent.size() < count) {
    if (spare_.empty()) spare_.push_back(std::make_shared<Stream>(id, next_stream_++));
    lent.push_back(std::move(spare_.back()));
    spare_.pop_back();
  }
  return lent;
}

void Device::give_back(std::vector<std::shared_ptr<Stream>> streams) {
  std::lock_guard lock(mutex_);
  for (auto it = streams.rbegin(); it != streams.rend(); ++it) spare_.push_back(std::move(*it));
}

void Device::take(size_t bytes) {
  if (faulting.load(std::memory_order_relaxed)) strike_allocation(id, bytes);
  auto& memory = counters().memory[id];
  const int64_t now = memory.current.fetch_add(int64_t(bytes)) + int64_t(bytes);
  if (now > settings().device_memory) {
    memory.current.fetch_sub(int64_t(bytes));
    throw Error(ACL_ERROR_RT_MEMORY_ALLOCATION, "out of memory on device " + std::to_string(id) + ": " + std::to_string(bytes) +
                                                    " bytes asked, " + std::to_string(settings().device_memory - used()) + " free of " +
                                                    std::to_string(settings().device_memory));
  }
  int64_t seen = memory.peak.load();
  while (now > seen && !memory.peak.compare_exchange_weak(seen, now)) {
  }
}

void Device::give(size_t bytes) { counters().memory[id].current.fetch_sub(int64_t(bytes)); }

}  // namespace cannsim

using namespace cannsim;

extern "C" {

aclError aclInit(const char* configuration) {
  counters();
  return ACL_SUCCESS;
}
aclError aclFinalize() { return ACL_SUCCESS; }
const char* aclGetRecentErrMsg() { return tls_message.c_str(); }
aclError aclrtPeekAtLastError(aclrtLastErrLevel) { return ACL_SUCCESS; }
aclError aclrtGetLastError(aclrtLastErrLevel) { return ACL_SUCCESS; }
const char* aclrtGetSocName() { return settings().chip.soc; }

aclError aclrtGetDeviceCount(uint32_t* count) {
  *count = uint32_t(settings().visible.size());
  return ACL_SUCCESS;
}
aclError aclrtSetDevice(int32_t id) {
  return guarded([&] { set_current_device(id); });
}
aclError aclrtGetDevice(int32_t* id) {
  return guarded([&] { *id = current_device(); });
}
aclError aclrtResetDevice(int32_t id) {
  return guarded([&] {
    device(id).drain();
    forget_memory(id);
    find_again(id);
    device(id).forget_errors();
  });
}
// A context is its device: one primary context each, as torch-npu uses them.
aclError aclrtGetCurrentContext(aclrtContext* context) {
  return guarded([&] { *context = &device(current_device()); });
}
aclError aclrtSetCurrentContext(aclrtContext context) {
  return guarded([&] {
    if (context == nullptr) throw Error(ACL_ERROR_RT_CONTEXT_NULL, "context is null");
    set_current_device(static_cast<Device*>(context)->id);
  });
}
aclError aclrtGetPrimaryCtxState(int32_t id, uint32_t* flags, int32_t* active) {
  return guarded([&] {
    if (flags != nullptr) *flags = 0;
    *active = device(id).used() > 0 || tls_device == id;
  });
}
aclError aclrtSynchronizeDeviceWithTimeout(int32_t timeout) {
  return guarded([&] {
    refuse_in_capture("aclrtSynchronizeDevice", ACL_ERROR_RT_STREAM_CAPTURED);
    HostWait wait(Wait::device);
    device(current_device()).synchronize(timeout);
  });
}
aclError aclrtSynchronizeDevice() { return aclrtSynchronizeDeviceWithTimeout(-1); }

aclError aclrtGetMemInfo(aclrtMemAttr, size_t* free, size_t* total) {
  return guarded([&] {
    *total = size_t(settings().device_memory);
    *free = *total - size_t(device(current_device()).used());
  });
}
aclError aclrtGetDeviceUtilizationRate(int32_t id, aclrtUtilizationInfo* rates) {
  return guarded([&] {
    const int64_t used = device(id).used();
    *rates = {};
    rates->memoryUtilization = int32_t(100 * used / settings().device_memory);
  });
}
aclError aclGetDeviceCapability(uint32_t id, aclDeviceInfo info, int64_t* value) {
  const auto& chip = settings().chip;
  switch (info) {
    case ACL_DEVICE_INFO_AI_CORE_NUM: *value = chip.cube_cores; return ACL_SUCCESS;
    case ACL_DEVICE_INFO_VECTOR_CORE_NUM: *value = chip.vector_cores; return ACL_SUCCESS;
    case ACL_DEVICE_INFO_L2_SIZE: *value = chip.l2_bytes; return ACL_SUCCESS;
    default: return report(ACL_ERROR_INVALID_PARAM, "unknown device capability " + std::to_string(info));
  }
}
aclError aclrtGetDeviceInfo(uint32_t id, aclrtDevAttr attribute, int64_t* value) {
  const auto& chip = settings().chip;
  switch (attribute) {
    case ACL_DEV_ATTR_AICORE_CORE_NUM:
    case ACL_DEV_ATTR_CUBE_CORE_NUM: *value = chip.cube_cores; return ACL_SUCCESS;
    case ACL_DEV_ATTR_VECTOR_CORE_NUM: *value = chip.vector_cores; return ACL_SUCCESS;
    case ACL_DEV_ATTR_TOTAL_GLOBAL_MEM_SIZE: *value = settings().device_memory; return ACL_SUCCESS;
    case ACL_DEV_ATTR_L2_CACHE_SIZE: *value = chip.l2_bytes; return ACL_SUCCESS;
    case ACL_DEV_ATTR_PHY_CHIP_ID: *value = settings().visible.at(id); return ACL_SUCCESS;
    default: return report(ACL_ERROR_RT_FEATURE_NOT_SUPPORT, "device attribute " + std::to_string(attribute) + " is not modelled");
  }
}
aclError aclrtGetStreamResLimit(aclrtStream, aclrtDevResLimitType type, uint32_t* value) {
  const auto& chip = settings().chip;
  *value = uint32_t(type == ACL_RT_DEV_RES_CUBE_CORE ? chip.cube_cores : chip.vector_cores);
  return ACL_SUCCESS;
}
aclError aclrtGetDeviceResLimit(int32_t, aclrtDevResLimitType type, uint32_t* value) {
  return aclrtGetStreamResLimit(nullptr, type, value);
}
aclError aclrtGetResInCurrentThread(aclrtDevResLimitType type, uint32_t* value) {
  return aclrtGetStreamResLimit(nullptr, type, value);
}
aclError aclrtGetLogicDevIdByUserDevId(const int32_t user, int32_t* const logic) {
  *logic = user;
  return ACL_SUCCESS;
}
aclError aclrtDeviceCanAccessPeer(int32_t* can, int32_t, int32_t) {
  *can = 1;
  return ACL_SUCCESS;
}
aclError aclrtDeviceEnablePeerAccess(int32_t, uint32_t) { return ACL_SUCCESS; }
aclError aclrtDeviceGetBareTgid(int32_t* pid) {
  *pid = int32_t(getpid());
  return ACL_SUCCESS;
}

// Settings of the compiler and the task scheduler that change nothing here.
aclError aclrtSetSysParamOpt(aclSysParamOpt, int64_t) { return ACL_SUCCESS; }
aclError aclrtCtxSetSysParamOpt(aclSysParamOpt, int64_t) { return ACL_SUCCESS; }
aclError aclrtGetSysParamOpt(aclSysParamOpt, int64_t* value) {
  *value = 0;
  return ACL_SUCCESS;
}
aclError aclrtSetOpWaitTimeout(uint32_t) { return ACL_SUCCESS; }
aclError aclrtSetOpExecuteTimeOut(uint32_t) { return ACL_SUCCESS; }
aclError aclrtSetDeviceSatMode(aclrtFloatOverflowMode) { return ACL_SUCCESS; }
aclError aclmdlInitDump() { return ACL_SUCCESS; }
aclError aclmdlSetDump(const char*) { return ACL_SUCCESS; }
aclError aclmdlFinalizeDump() { return ACL_SUCCESS; }

aclError aclGetCannAttributeList(const aclCannAttr** list, size_t* number) {
  static const aclCannAttr all[] = {ACL_CANN_ATTR_INF_NAN, ACL_CANN_ATTR_BF16, ACL_CANN_ATTR_JIT_COMPILE};
  *list = all;
  *number = 3;
  return ACL_SUCCESS;
}
aclError aclGetCannAttribute(aclCannAttr, int32_t* value) {
  *value = 1;
  return ACL_SUCCESS;
}

aclError aclsysGetVersionStr(char* package, char* version) {
  const auto& cann = settings().cann;
  std::strcpy(version, package != nullptr && std::strstr(package, "driver") ? cann.driver : cann.version);
  return ACL_SUCCESS;
}
aclError aclsysGetCANNVersion(aclCANNPackageName name, aclCANNPackageVersion* version) {
  const auto& cann = settings().cann;
  std::memset(version, 0, sizeof(*version));
  const char* text = name == ACL_PKG_NAME_DRIVER ? cann.driver : cann.version;
  std::strncpy(version->version, text, sizeof(version->version) - 1);
  std::sscanf(text, "%63[^.].%63[^.].%63[^.]", version->majorVersion, version->minorVersion, version->releaseVersion);
  return ACL_SUCCESS;
}

}  // extern "C"
