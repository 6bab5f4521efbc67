// What ran when, on which stream, and which call put it there: Chrome's trace-event format.
#pragma once

#include <string>

#include "runtime/counters.h"

namespace cannsim {

// True while there is a timeline to write to.
extern CANNSIM_API std::atomic<bool> recording;

// Begins or ends a timeline in `path`; there may be several at once. Throws Error.
CANNSIM_API void start_timeline(const std::string& path);
CANNSIM_API void stop_timeline(const std::string& path);

// A task has run; times are of the steady clock in nanoseconds.
void record_run(const Stream& stream, const Task& task, int64_t begin_ns, int64_t end_ns);
// The host has put `task` on a stream; gives the task its flow.
void record_launch(Task& task, int64_t at_ns);
// The host was in a call.
void record_call(const char* name, int64_t begin_ns, int64_t end_ns);

// The host is in a call as long as this lives. A copy of `bytes` that it waits for takes its
// modelled time in paced mode.
class HostCall {
 public:
  explicit HostCall(const char* name, uint64_t bytes = 0)
      : name_(name), bytes_(bytes), begin_ns_(observing.load(std::memory_order_relaxed) ? steady_ns() : 0) {}
  ~HostCall();

 private:
  const char* name_;
  uint64_t bytes_;
  int64_t begin_ns_;
};

}  // namespace cannsim
