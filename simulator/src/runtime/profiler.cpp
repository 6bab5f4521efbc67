// aclprof: what torch_npu.profiler asks of CANN's profiler (libmsprofiler).
//
// A collection is a folder PROF_<number>_<time>_<letters> with a timeline and the clocks at its
// start; `msprof --export=on` (cannsim/msprof.py) turns it into the files of CANN's own exporter.
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdio>
#include <ctime>

#include "acl/acl_prof.h"
#include "runtime/runtime.h"
#include "runtime/timeline.h"

struct aclprofConfig {
  std::vector<uint32_t> devices;
};
struct aclprofStepInfo {};

namespace cannsim {
namespace {

std::mutex mutex;
std::string results;   // where collections go (aclprofInit); empty: not initialised
std::string timeline;  // the collection that runs; empty: none

int64_t clock_ns(clockid_t clock) {
  timespec now;
  clock_gettime(clock, &now);
  return int64_t(now.tv_sec) * 1'000'000'000 + now.tv_nsec;
}

void make_folder(const std::string& path) {
  if (mkdir(path.c_str(), 0750) != 0 && errno != EEXIST) throw Error(ACL_ERROR_PROFILING_FAILURE, "cannot make the folder " + path);
}

void write(const std::string& path, const std::string& text) {
  FILE* file = std::fopen(path.c_str(), "w");
  const bool whole = file != nullptr && std::fputs(text.c_str(), file) >= 0;
  if (file == nullptr || std::fclose(file) != 0 || !whole) throw Error(ACL_ERROR_PROFILING_FAILURE, "cannot write " + path);
}

// PROF_000001_20260101120000123_ABCDEFGH, as CANN names it.
std::string collection_name() {
  static std::atomic<int> number{0};
  const int64_t now = clock_ns(CLOCK_REALTIME);
  const time_t seconds = now / 1'000'000'000;
  tm parts;
  localtime_r(&seconds, &parts);
  char date[32], name[96];
  std::strftime(date, sizeof(date), "%Y%m%d%H%M%S", &parts);
  std::snprintf(name, sizeof(name), "PROF_%06d_%s%03d_P%07d", ++number, date, int(now / 1'000'000 % 1000), int(getpid()));
  return name;
}

// The clocks at one moment: what the exporter needs to give wall-clock times.
std::string start_info(const std::vector<uint32_t>& devices) {
  std::string list;
  for (uint32_t device : devices) list += (list.empty() ? "" : ", ") + std::to_string(device);
  return "{\"collectionTimeBegin\": \"" + std::to_string(clock_ns(CLOCK_REALTIME) / 1000) + "\", \"clockMonotonicRaw\": \"" +
         std::to_string(clock_ns(CLOCK_MONOTONIC_RAW)) + "\", \"cannsimSteady\": \"" + std::to_string(steady_ns()) + "\", \"devices\": \"" + list +
         "\", \"chip\": \"" + settings().chip.soc + "\", \"hostPid\": \"" + std::to_string(getpid()) + "\"}\n";
}

}  // namespace
}  // namespace cannsim

using namespace cannsim;

extern "C" {

CANNSIM_API aclError aclprofInit(const char* path, size_t length) {
  return guarded([&] {
    std::lock_guard lock(mutex);
    if (!results.empty()) throw Error(ACL_ERROR_REPEAT_INITIALIZE, "the profiler is initialised already");
    results.assign(path, length);
    make_folder(results);
  });
}
CANNSIM_API aclError aclprofFinalize() {
  return guarded([&] {
    std::lock_guard lock(mutex);
    if (results.empty()) throw Error(ACL_ERROR_UNINITIALIZE, "the profiler is not initialised (aclprofInit)");
    results.clear();
  });
}
CANNSIM_API aclprofConfig* aclprofCreateConfig(uint32_t* devices, uint32_t number, aclprofAicoreMetrics, const aclprofAicoreEvents*, uint64_t) {
  return new aclprofConfig{{devices, devices + number}};
}
CANNSIM_API aclError aclprofDestroyConfig(const aclprofConfig* config) {
  delete config;
  return ACL_SUCCESS;
}
CANNSIM_API aclError aclprofSetConfig(aclprofConfigType, const char*, size_t) { return ACL_SUCCESS; }
CANNSIM_API aclError aclprofWarmup(const aclprofConfig*) { return ACL_SUCCESS; }

CANNSIM_API aclError aclprofStart(const aclprofConfig* config) {
  return guarded([&] {
    std::lock_guard lock(mutex);
    if (config == nullptr) throw Error(ACL_ERROR_INVALID_PARAM, "the configuration is null");
    if (results.empty()) throw Error(ACL_ERROR_UNINITIALIZE, "the profiler is not initialised (aclprofInit)");
    if (!timeline.empty()) throw Error(ACL_ERROR_PROF_ALREADY_RUN, "the profiler runs already");
    const std::string made = results + "/" + collection_name();
    for (const char* folder : {"", "/host", "/host/data"}) make_folder(made + folder);
    for (uint32_t device : config->devices) {
      make_folder(made + "/device_" + std::to_string(device));
      make_folder(made + "/device_" + std::to_string(device) + "/data");
    }
    start_timeline(made + "/host/data/timeline.json");
    timeline = made + "/host/data/timeline.json";
    write(made + "/host/start_info", start_info(config->devices));
  });
}
CANNSIM_API aclError aclprofStop(const aclprofConfig*) {
  return guarded([&] {
    std::lock_guard lock(mutex);
    if (timeline.empty()) throw Error(ACL_ERROR_PROF_NOT_RUN, "the profiler does not run");
    stop_timeline(timeline);
    timeline.clear();
  });
}

// Marks of the program become moments in the timeline.
CANNSIM_API aclError aclprofMarkEx(const char* message, size_t length, aclrtStream) {
  if (recording.load(std::memory_order_relaxed)) {
    const int64_t now = steady_ns();
    std::string safe(message, length);
    for (char& c : safe) {
      if (c < ' ' || c == '"' || c == '\\') c = ' ';
    }
    record_call(safe.c_str(), now, now + 1);
  }
  return ACL_SUCCESS;
}
CANNSIM_API aclprofStepInfo* aclprofCreateStepInfo() { return new aclprofStepInfo; }
CANNSIM_API void aclprofDestroyStepInfo(aclprofStepInfo* step) { delete step; }
CANNSIM_API aclError aclprofGetStepTimestamp(aclprofStepInfo*, aclprofStepTag, aclrtStream) { return ACL_SUCCESS; }

}  // extern "C"
