// The driver's interface (libascend_hal), of which torch-npu's profiler asks for the system counter:
// there is none here, so that it takes the host's monotonic clock, which the timelines use too.
#include <cstdint>

#define CANNSIM_API __attribute__((visibility("default")))

extern "C" {

constexpr int kNotSupported = 0xFFFE;  // DRV_ERROR_NOT_SUPPORT

CANNSIM_API int halGetDeviceInfo(uint32_t, int32_t, int32_t, int64_t*) { return kNotSupported; }
CANNSIM_API int halGetAPIVersion(int* version) {
  *version = 0;
  return 0;
}

}  // extern "C"
