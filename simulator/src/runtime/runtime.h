// The simulated devices, their streams, memory and counters; what the C interface in this folder
// and the operator and collective libraries are written on.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <thread>
#include <unordered_map>
#include <vector>

#include "acl/acl.h"
#include "acl/error_codes/rt_error_codes.h"
#include "runtime/counters.h"

namespace cannsim {

// An error with the code that CANN would return; the C interface turns it into one.
class CANNSIM_API Error : public std::runtime_error {
 public:
  Error(int code, const std::string& message) : std::runtime_error(message), code(code) {}
  int code;
};

// Keeps `message` for aclGetRecentErrMsg on this thread and returns `code`.
CANNSIM_API int report(int code, const std::string& message);

// Runs `body`; an Error becomes its code and message, success is ACL_SUCCESS.
template <typename Body>
int guarded(Body&& body) {
  try {
    body();
    return ACL_SUCCESS;
  } catch (const Error& error) {
    return report(error.code, error.what());
  } catch (const std::exception& error) {
    return report(ACL_ERROR_INTERNAL_ERROR, error.what());
  }
}

// ---- profiles ---------------------------------------------------------------------------------

struct ChipProfile {
  const char *soc, *series;
  int64_t hbm_bytes, cube_cores, vector_cores, l2_bytes;
  double hbm_bytes_per_second, cube_float16_flops, cube_float32_flops, cube_int8_ops, vector_flops, host_link_bytes_per_second,
      device_link_bytes_per_second, efficiency, launch_ns, copy_ns;
  std::vector<const char*> lacks_types;  // by torch's names, e.g. bfloat16
  std::vector<const char*> lacks;        // operators; a name that ends in * is the beginning of several
};

struct CannProfile {
  const char* version;
  const char* driver;
  std::vector<const char*> lacks;  // aclnn functions that this version does not export, likewise
};

// Read once from CANNSIM_CHIP, CANNSIM_CANN, CANNSIM_DEVICES, CANNSIM_DEVICE_MEMORY,
// CANNSIM_INLINE and ASCEND_RT_VISIBLE_DEVICES.
struct Settings {
  ChipProfile chip;
  CannProfile cann;
  std::vector<int> visible;   // physical number of each visible device
  int64_t device_memory;      // bytes
  bool inline_mode;           // run every task in the caller, for debugging
};
CANNSIM_API const Settings& settings();
CANNSIM_API bool cann_lacks(const char* function);  // the version does not export it
CANNSIM_API bool chip_lacks(const char* function);  // the chip has no kernel for it
CANNSIM_API bool chip_lacks_type(const char* type);  // by torch's name

// ---- streams and events -----------------------------------------------------------------------

// Work for a stream. It may be run again (a captured graph), so it owns all it needs.
struct Output {
  void* data = nullptr;
  size_t element = 0;  // bytes of its first element
};
class CANNSIM_API Task {
 public:
  virtual ~Task() = default;
  virtual void run() = 0;
  // Called before an operator is put on its stream; may refuse it.
  virtual void prepare(Stream&) {}
  // What an operator writes first; a fault corrupts it.
  virtual Output output() { return {}; }
  // Set before it is submitted, where a device spends time on it; else nothing is counted.
  const Activity* activity = nullptr;
  Work work;
  int64_t submitted_ns = 0;  // steady clock; set while it is observed
  uint64_t flow = 0;         // ties the submission to the run in a timeline
};

// Runs a task on its stream's thread, watched where somebody watches.
inline void run_task(Stream& stream, Task& task) {
  if (observing.load(std::memory_order_relaxed)) {
    run_observed(stream, task);
  } else {
    task.run();
  }
}

template <typename Body>
std::shared_ptr<Task> make_task(Body body) {
  struct Function final : Task {
    explicit Function(Body body) : body(std::move(body)) {}
    void run() override { body(); }
    Body body;
  };
  return std::make_shared<Function>(std::move(body));
}
template <typename Body>
std::shared_ptr<Task> make_task(const Activity& activity, const Work& work, Body body) {
  auto made = make_task(std::move(body));
  made->activity = &activity;
  made->work = work;
  return made;
}

// Takes a stream's tasks instead of its queue: a graph's capture, or the update of a captured group.
class Recorder {
 public:
  virtual ~Recorder() = default;
  virtual void take(std::shared_ptr<Task> task) = 0;
};

class Graph;
class Shared;

// An event counts its records: a wait or a query refers to the last record made before it. One made
// with ACL_EVENT_EXTERNAL is a flag instead: a wait lasts until it is recorded, whenever that is, and
// a reset clears it; one made with ACL_EVENT_IPC keeps its counts where other processes see them.
struct EventState {
  std::mutex mutex;
  std::condition_variable changed;
  uint64_t recorded = 0, completed = 0;
  std::chrono::steady_clock::time_point time;
  bool flag = false;
  std::weak_ptr<Graph> graph;       // recorded last in this capture,
  uint32_t lane = 0, position = 0;  // there
  std::shared_ptr<Shared> shared;
};
struct Event {
  std::shared_ptr<EventState> state = std::make_shared<EventState>();
  uint32_t flag = 0;
};

// Waits until `done` holds. It looks again every second: a signal that is lost between processes'
// libraries (glibc before 2.41 can lose one: sourceware bug 25847) costs a second, not the program.
template <typename Lock, typename Done>
void wait_until(std::condition_variable& changed, Lock& lock, Done done) {
  while (!changed.wait_for(lock, std::chrono::seconds(1), done)) {
  }
}

// A queue with a thread of its own, started with the first task.
class CANNSIM_API Stream {
 public:
  Stream(int device, int id, uint32_t priority = 0) : device(device), id(id), priority(priority) {}
  ~Stream();
  void submit(std::shared_ptr<Task> task);
  // Waits until all tasks submitted so far have run. Throws the first error of a task since the
  // last wait, and ACL_ERROR_RT_STREAM_SYNC_TIMEOUT after `timeout_ms` (negative: for ever).
  void synchronize(int timeout_ms = -1);
  // The same without telling errors: they stay for the next wait.
  void drain();
  void forget_error();
  bool idle();
  // Null takes tasks into the queue again.
  void set_recorder(std::shared_ptr<Recorder> recorder);
  std::shared_ptr<Recorder> recorder();
  const int device, id;
  const uint32_t priority;  // 0 (first) to 7, as aclrtCreateStreamWithConfig takes it
  StreamRows rows;
  int64_t paced_until_ns = 0;  // paced mode: the modelled end of the last task

 private:
  void loop();
  std::shared_ptr<Task> with_fault(std::shared_ptr<Task> task);
  void run(Task& task);
  void rethrow();
  bool wait(std::unique_lock<std::mutex>& lock, int timeout_ms);
  std::mutex mutex_;
  std::condition_variable work_, done_;
  std::deque<std::shared_ptr<Task>> queue_;
  std::shared_ptr<Recorder> recorder_;
  uint64_t submitted_ = 0, finished_ = 0;
  int waiters_ = 0;
  bool sleeping_ = false, stop_ = false;
  int error_code_ = 0;
  std::string error_message_;
  std::thread thread_;
};

// ---- devices and memory -----------------------------------------------------------------------

class CANNSIM_API Device {
 public:
  explicit Device(int id) : id(id) {}
  Stream& default_stream();
  Stream* create_stream(uint32_t priority = 0);
  void destroy_stream(Stream* stream);
  bool has_stream(const Stream* stream);
  void synchronize(int timeout_ms = -1);
  void drain();
  void forget_errors();
  // Streams without a handle, for the branches of a captured graph: lent until given back.
  std::vector<std::shared_ptr<Stream>> borrow_streams(size_t count);
  void give_back(std::vector<std::shared_ptr<Stream>> streams);
  void take(size_t bytes);  // throws ACL_ERROR_RT_MEMORY_ALLOCATION beyond the chip's memory
  void give(size_t bytes);
  int64_t used() const { return counters().memory[id].current.load(); }
  const int id;

 private:
  std::vector<std::shared_ptr<Stream>> streams();
  std::mutex mutex_;
  std::vector<std::shared_ptr<Stream>> streams_, spare_;
  int next_stream_ = 0;
};

// Allocations by address, so that a pointer's device, or its being page-locked, can be asked.
struct Range {
  size_t bytes;
  int device;  // -1: page-locked host memory
  bool owned;  // mapped by us (false: registered or mapped over a reservation)
  bool shared = false;  // lies in a file: other mappings see the same bytes
};
class MemoryMap {
 public:
  void insert(void* address, Range range);
  Range remove(void* address);  // throws ACL_ERROR_RT_PARAM_INVALID for an unknown address
  bool find(const void* address, Range* range, uintptr_t* start = nullptr);
  void update(void* address, const Range& range);
  std::vector<void*> of_device(int device);

 private:
  std::mutex mutex_;
  std::map<uintptr_t, Range> ranges_;
};
MemoryMap& memory_map();
CANNSIM_API int device_of(const void* address);  // -1: not the memory of a device

CANNSIM_API Device& device(int id);        // throws ACL_ERROR_RT_INVALID_DEVICEID
CANNSIM_API int current_device();          // throws ACL_ERROR_RT_CONTEXT_NULL when none is set
CANNSIM_API void set_current_device(int id);
CANNSIM_API Stream& stream_of(aclrtStream handle);  // nullptr: the current device's default

// Sets device memory to `value`; whole pages of zeros are given back to the operating system, so
// that a cache of many gigabytes costs only the pages that are used.
CANNSIM_API void fill_bytes(void* address, int value, size_t bytes);

}  // namespace cannsim
