// Streams: each a queue with a thread of its own, and the events that order them.
#include <pthread.h>

#include "runtime/runtime.h"

namespace cannsim {

Stream::~Stream() {
  {
    std::lock_guard lock(mutex_);
    stop_ = true;
    work_.notify_all();
  }
  if (thread_.joinable()) thread_.join();
}

void Stream::submit(std::shared_ptr<Task> task) {
  if (task->activity != nullptr) count_launch(*this, *task);
  if (settings().inline_mode) {
    run(*task);
    return;
  }
  std::lock_guard lock(mutex_);
  queue_.push_back(std::move(task));
  ++submitted_;
  if (!thread_.joinable()) {
    thread_ = std::thread([this] { loop(); });
    pthread_setname_np(thread_.native_handle(), ("npu" + std::to_string(device) + "-stream" + std::to_string(id)).substr(0, 15).c_str());
  }
  if (sleeping_) work_.notify_one();
}

void Stream::loop() {
  set_current_device(device);
  std::deque<std::shared_ptr<Task>> batch;
  std::unique_lock lock(mutex_);
  while (true) {
    sleeping_ = true;
    work_.wait(lock, [this] { return stop_ || !queue_.empty(); });
    sleeping_ = false;
    if (queue_.empty()) return;
    batch.swap(queue_);
    while (!batch.empty()) {
      lock.unlock();
      run(*batch.front());
      batch.pop_front();
      lock.lock();
      // After each task: one further on in the batch may wait for what the woken thread does next.
      ++finished_;
      if (waiters_ > 0) done_.notify_all();
    }
  }
}

void Stream::run(Task& task) {
  int code = 0;
  std::string message;
  try {
    run_task(*this, task);
  } catch (const Error& error) {
    code = error.code;
    message = error.what();
  } catch (const std::exception& error) {
    code = ACL_ERROR_RT_AICORE_EXCEPTION;
    message = error.what();
  }
  if (code == 0) return;
  std::lock_guard lock(mutex_);
  if (error_code_ == 0) {
    error_code_ = code;
    error_message_ = message;
  }
}

void Stream::rethrow() {
  if (error_code_ == 0) return;
  Error error(error_code_, error_message_);
  error_code_ = 0;
  throw error;
}

void Stream::synchronize(int timeout_ms) {
  std::unique_lock lock(mutex_);
  const uint64_t target = submitted_;
  auto reached = [&] { return finished_ >= target; };
  bool done = true;
  ++waiters_;
  if (timeout_ms < 0) {
    done_.wait(lock, reached);
  } else {
    done = done_.wait_for(lock, std::chrono::milliseconds(timeout_ms), reached);
  }
  --waiters_;
  if (!done) {
    throw Error(ACL_ERROR_RT_STREAM_SYNC_TIMEOUT, "stream " + std::to_string(id) + " of device " + std::to_string(device) +
                                                      " has not finished within " + std::to_string(timeout_ms) + " ms");
  }
  rethrow();
}

bool Stream::idle() {
  std::lock_guard lock(mutex_);
  return finished_ == submitted_;
}

namespace {

Event& event_of(aclrtEvent handle) {
  if (handle == nullptr) throw Error(ACL_ERROR_RT_PARAM_INVALID, "event is null");
  return *static_cast<Event*>(handle);
}

void wait_for_record(EventState& state, uint64_t record) {
  std::unique_lock lock(state.mutex);
  state.changed.wait(lock, [&] { return state.completed >= record; });
}

void record(Event& event, Stream& stream) {
  auto state = event.state;
  uint64_t record;
  {
    std::lock_guard lock(state->mutex);
    record = ++state->recorded;
  }
  counters().events_recorded.fetch_add(1, std::memory_order_relaxed);
  stream.submit(make_task([state, record] {
    std::lock_guard lock(state->mutex);
    state->completed = std::max(state->completed, record);
    state->time = std::chrono::steady_clock::now();
    state->changed.notify_all();
  }));
}

uint64_t last_record(EventState& state) {
  std::lock_guard lock(state.mutex);
  return state.recorded;
}

bool complete(EventState& state) {
  std::lock_guard lock(state.mutex);
  return state.completed >= state.recorded;
}

}  // namespace
}  // namespace cannsim

using namespace cannsim;

extern "C" {

aclError aclrtCreateStreamWithConfig(aclrtStream* stream, uint32_t priority, uint32_t flag) {
  return guarded([&] { *stream = device(current_device()).create_stream(); });
}
aclError aclrtCreateStream(aclrtStream* stream) { return aclrtCreateStreamWithConfig(stream, 0, 0); }
aclError aclrtDestroyStream(aclrtStream stream) {
  return guarded([&] {
    Stream& found = stream_of(stream);
    device(found.device).destroy_stream(&found);
  });
}
aclError aclrtDestroyStreamForce(aclrtStream stream) { return aclrtDestroyStream(stream); }

aclError aclrtSynchronizeStreamWithTimeout(aclrtStream stream, int32_t timeout) {
  return guarded([&] {
    HostWait wait(Wait::stream);
    stream_of(stream).synchronize(timeout);
  });
}
aclError aclrtSynchronizeStream(aclrtStream stream) { return aclrtSynchronizeStreamWithTimeout(stream, -1); }
aclError aclrtStreamQuery(aclrtStream stream, aclrtStreamStatus* status) {
  return guarded([&] { *status = stream_of(stream).idle() ? ACL_STREAM_STATUS_COMPLETE : ACL_STREAM_STATUS_NOT_READY; });
}
aclError aclrtStreamGetId(aclrtStream stream, int32_t* id) {
  return guarded([&] { *id = stream_of(stream).id; });
}
// Accepted and without effect: a simulated stream goes on after a failed task, as by default.
aclError aclrtSetStreamFailureMode(aclrtStream, uint64_t) { return ACL_SUCCESS; }
aclError aclrtSetStreamAttribute(aclrtStream, aclrtStreamAttr, aclrtStreamAttrValue*) { return ACL_SUCCESS; }
aclError aclrtSetStreamOverflowSwitch(aclrtStream, uint32_t) { return ACL_SUCCESS; }
aclError aclrtGetStreamOverflowSwitch(aclrtStream, uint32_t* flag) {
  *flag = 0;
  return ACL_SUCCESS;
}

aclError aclrtCreateEventExWithFlag(aclrtEvent* event, uint32_t flag) {
  *event = new Event{std::make_shared<EventState>(), flag};
  return ACL_SUCCESS;
}
aclError aclrtCreateEventWithFlag(aclrtEvent* event, uint32_t flag) { return aclrtCreateEventExWithFlag(event, flag); }
aclError aclrtDestroyEvent(aclrtEvent event) {
  return guarded([&] { delete &event_of(event); });
}
aclError aclrtRecordEvent(aclrtEvent event, aclrtStream stream) {
  return guarded([&] { record(event_of(event), stream_of(stream)); });
}
aclError aclrtResetEvent(aclrtEvent event, aclrtStream stream) { return ACL_SUCCESS; }
aclError aclrtStreamWaitEvent(aclrtStream stream, aclrtEvent event) {
  return guarded([&] {
    auto state = event_of(event).state;
    counters().event_waits.fetch_add(1, std::memory_order_relaxed);
    stream_of(stream).submit(make_task([state, record = last_record(*state)] { wait_for_record(*state, record); }));
  });
}
aclError aclrtSynchronizeEvent(aclrtEvent event) {
  return guarded([&] {
    auto state = event_of(event).state;
    HostWait wait(Wait::event);
    wait_for_record(*state, last_record(*state));
  });
}
aclError aclrtQueryEventStatus(aclrtEvent event, aclrtEventRecordedStatus* status) {
  return guarded([&] {
    *status = complete(*event_of(event).state) ? ACL_EVENT_RECORDED_STATUS_COMPLETE : ACL_EVENT_RECORDED_STATUS_NOT_READY;
  });
}
aclError aclrtQueryEventWaitStatus(aclrtEvent event, aclrtEventWaitStatus* status) {
  return guarded([&] {
    *status = complete(*event_of(event).state) ? ACL_EVENT_WAIT_STATUS_COMPLETE : ACL_EVENT_WAIT_STATUS_NOT_READY;
  });
}
aclError aclrtEventElapsedTime(float* ms, aclrtEvent start, aclrtEvent end) {
  return guarded([&] {
    auto first = event_of(start).state, last = event_of(end).state;
    for (auto& state : {first, last}) {
      if (last_record(*state) == 0 || !complete(*state))
        throw Error(ACL_ERROR_RT_EVENT_TIMESTAMP_INVALID, "event has not been recorded, or its stream has not reached it");
    }
    *ms = std::chrono::duration<float, std::milli>(last->time - first->time).count();
  });
}
aclError aclrtEventGetTimestamp(aclrtEvent event, uint64_t* timestamp) {
  return guarded([&] {
    auto time = event_of(event).state->time.time_since_epoch();
    *timestamp = std::chrono::duration_cast<std::chrono::microseconds>(time).count();
  });
}

aclError aclrtLaunchHostFunc(aclrtStream stream, aclrtHostFunc function, void* argument) {
  return guarded([&] { stream_of(stream).submit(make_task([=] { function(argument); })); });
}

}  // extern "C"
