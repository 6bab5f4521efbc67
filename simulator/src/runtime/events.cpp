// Events: marks in a stream that other streams and the host wait for, inside captures and out.
#include "runtime/graph.h"
#include "runtime/shared.h"

#include <cstring>

namespace cannsim {
namespace {

Event& event_of(aclrtEvent handle) {
  if (handle == nullptr) throw Error(ACL_ERROR_RT_PARAM_INVALID, "event is null");
  return *static_cast<Event*>(handle);
}

bool external(const Event& event) { return (event.flag & ACL_EVENT_EXTERNAL) != 0; }

// Other processes do not wake this one: it looks again, soon at first, then every millisecond.
void wait_for_shared(Shared& shared, uint64_t record) {
  for (auto pause = std::chrono::microseconds(20); shared->completed < record; pause = std::min(2 * pause, std::chrono::microseconds(1000)))
    std::this_thread::sleep_for(pause);
}

void wait_for_record(EventState& state, uint64_t record) {
  if (state.shared) return wait_for_shared(*state.shared, record);
  std::unique_lock lock(state.mutex);
  wait_until(state.changed, lock, [&] { return state.completed >= record; });
}

void mark(EventState& state, uint64_t record) {
  if (state.shared) {
    auto& completed = (*state.shared)->completed;
    uint64_t seen = completed;
    while (seen < record && !completed.compare_exchange_weak(seen, record)) {
    }
  }
  std::lock_guard lock(state.mutex);
  state.completed = std::max(state.completed, record);
  state.time = std::chrono::steady_clock::now();
  state.flag = true;
  state.changed.notify_all();
}

// The capture in which the event was recorded last, while that is going on.
std::shared_ptr<Graph> capture_of(EventState& state) {
  std::lock_guard lock(state.mutex);
  auto graph = state.graph.lock();
  return graph && graph->capturing() ? graph : nullptr;
}

void refuse_captured(EventState& state, const char* what) {
  if (!capture_of(state)) return;
  throw Error(ACL_ERROR_RT_EVENT_CAPTURED, std::string(what) + ": the event was recorded in a capture that has not ended");
}

void record(Event& event, Stream& stream) {
  auto state = event.state;
  uint32_t lane;
  const auto graph = external(event) ? nullptr : capture_of(stream, &lane);
  if (graph) {
    std::lock_guard lock(state->mutex);
    graph->record(*state, lane);
    return;
  }
  uint64_t record;
  {
    std::lock_guard lock(state->mutex);
    record = state->shared ? ++(*state->shared)->recorded : ++state->recorded;
    state->graph.reset();
  }
  counters().events_recorded.fetch_add(1, std::memory_order_relaxed);
  stream.submit(make_task([state, record] { mark(*state, record); }));
}

uint64_t last_record(EventState& state) {
  if (state.shared) return (*state.shared)->recorded;
  std::lock_guard lock(state.mutex);
  return state.recorded;
}

bool complete(EventState& state) {
  if (state.shared) return (*state.shared)->completed >= (*state.shared)->recorded;
  std::lock_guard lock(state.mutex);
  return state.completed >= state.recorded;
}

// A stream that waits for an event of a capture joins the capture.
void wait_in_capture(Event& event, Stream& stream) {
  uint32_t lane;
  const auto of_event = capture_of(*event.state);
  auto of_stream = capture_of(stream, &lane);
  if (!of_event) {
    of_stream->invalidate();
    throw Error(ACL_ERROR_RT_CAPTURE_DEPENDENCY, "a captured stream waits for an event that was not recorded in the capture; record it there, or wait "
                                                 "before aclmdlRICaptureBegin");
  }
  if (of_stream && of_stream != of_event) {
    of_stream->invalidate();
    of_event->invalidate();
    throw Error(ACL_ERROR_STREAM_CAPTURE_CONFLICT, "the event was recorded in another capture than the stream's");
  }
  if (!of_stream) {
    if (&stream == &device(stream.device).default_stream()) {
      of_event->invalidate();
      throw Error(ACL_ERROR_RT_STREAM_CAPTURE_IMPLICIT, "the default stream cannot take part in a capture; use another stream");
    }
    of_event->join(stream);
    of_stream = capture_of(stream, &lane);
  }
  std::lock_guard lock(event.state->mutex);
  of_stream->wait(*event.state, lane);
}

// Until the event is recorded, however often it was before; see EventState.
void wait_for_flag(EventState& state) {
  std::unique_lock lock(state.mutex);
  wait_until(state.changed, lock, [&] { return state.flag; });
}

void wait(Event& event, Stream& stream) {
  auto state = event.state;
  counters().event_waits.fetch_add(1, std::memory_order_relaxed);
  if (external(event)) {
    stream.submit(make_task([state] { wait_for_flag(*state); }));
  } else if (capture_of(*state) || capture_of(stream)) {
    wait_in_capture(event, stream);
  } else {
    stream.submit(make_task([state, record = last_record(*state)] { wait_for_record(*state, record); }));
  }
}

void refuse_external(const Event& event, const char* what) {
  if (external(event)) throw Error(ACL_ERROR_RT_FEATURE_NOT_SUPPORT, std::string(what) + ": an event made with ACL_EVENT_EXTERNAL can only be recorded, waited for and reset");
}

}  // namespace
}  // namespace cannsim

using namespace cannsim;

extern "C" {

aclError aclrtCreateEventExWithFlag(aclrtEvent* event, uint32_t flag) {
  return guarded([&] {
    auto made = std::make_unique<Event>();
    made->flag = flag;
    if ((flag & ACL_EVENT_IPC) != 0) made->state->shared = Shared::publish("event");
    *event = made.release();
  });
}
aclError aclrtCreateEventWithFlag(aclrtEvent* event, uint32_t flag) { return aclrtCreateEventExWithFlag(event, flag); }
aclError aclrtCreateEvent(aclrtEvent* event) { return aclrtCreateEventExWithFlag(event, ACL_EVENT_TIME_LINE | ACL_EVENT_SYNC); }
aclError aclrtDestroyEvent(aclrtEvent event) {
  return guarded([&] { delete &event_of(event); });
}
aclError aclrtRecordEvent(aclrtEvent event, aclrtStream stream) {
  return guarded([&] { record(event_of(event), stream_of(stream)); });
}
aclError aclrtResetEvent(aclrtEvent event, aclrtStream stream) {
  return guarded([&] {
    Event& found = event_of(event);
    if (!external(found)) return;  // a wait refers to the last record: nothing is left over
    stream_of(stream).submit(make_task([state = found.state] {
      std::lock_guard lock(state->mutex);
      state->flag = false;
    }));
  });
}
aclError aclrtStreamWaitEvent(aclrtStream stream, aclrtEvent event) {
  return guarded([&] { wait(event_of(event), stream_of(stream)); });
}
aclError aclrtSynchronizeEventWithTimeout(aclrtEvent event, int32_t timeout) {
  return guarded([&] {
    Event& found = event_of(event);
    refuse_external(found, "aclrtSynchronizeEvent");
    refuse_captured(*found.state, "aclrtSynchronizeEvent");
    HostWait wait(Wait::event);
    const uint64_t record = last_record(*found.state);
    if (timeout < 0) return wait_for_record(*found.state, record);
    std::unique_lock lock(found.state->mutex);
    if (!found.state->changed.wait_for(lock, std::chrono::milliseconds(timeout), [&] { return found.state->completed >= record; }))
      throw Error(ACL_ERROR_RT_EVENT_SYNC_TIMEOUT, "the event's stream has not reached it within " + std::to_string(timeout) + " ms");
  });
}
aclError aclrtSynchronizeEvent(aclrtEvent event) { return aclrtSynchronizeEventWithTimeout(event, -1); }
aclError aclrtQueryEventStatus(aclrtEvent event, aclrtEventRecordedStatus* status) {
  return guarded([&] {
    Event& found = event_of(event);
    refuse_external(found, "aclrtQueryEventStatus");
    refuse_captured(*found.state, "aclrtQueryEventStatus");
    *status = complete(*found.state) ? ACL_EVENT_RECORDED_STATUS_COMPLETE : ACL_EVENT_RECORDED_STATUS_NOT_READY;
  });
}
aclError aclrtQueryEventWaitStatus(aclrtEvent event, aclrtEventWaitStatus* status) {
  return guarded([&] {
    Event& found = event_of(event);
    refuse_captured(*found.state, "aclrtQueryEventWaitStatus");
    *status = complete(*found.state) ? ACL_EVENT_WAIT_STATUS_COMPLETE : ACL_EVENT_WAIT_STATUS_NOT_READY;
  });
}
aclError aclrtEventElapsedTime(float* ms, aclrtEvent start, aclrtEvent end) {
  return guarded([&] {
    auto first = event_of(start).state, last = event_of(end).state;
    for (auto& state : {first, last}) {
      refuse_captured(*state, "aclrtEventElapsedTime");
      if (last_record(*state) == 0 || !complete(*state))
        throw Error(ACL_ERROR_RT_EVENT_TIMESTAMP_INVALID, "event has not been recorded, or its stream has not reached it");
    }
    *ms = std::chrono::duration<float, std::milli>(last->time - first->time).count();
  });
}
aclError aclrtEventGetTimestamp(aclrtEvent event, uint64_t* timestamp) {
  return guarded([&] {
    auto state = event_of(event).state;
    refuse_captured(*state, "aclrtEventGetTimestamp");
    std::lock_guard lock(state->mutex);
    *timestamp = uint64_t(std::chrono::duration_cast<std::chrono::microseconds>(state->time.time_since_epoch()).count());
  });
}

aclError aclrtIpcGetEventHandle(aclrtEvent event, aclrtIpcEventHandle* handle) {
  return guarded([&] {
    const auto shared = event_of(event).state->shared;
    if (!shared) throw Error(ACL_ERROR_RT_PARAM_INVALID, "only an event made with ACL_EVENT_IPC can be opened by another process");
    std::memset(handle, 0, sizeof(*handle));
    std::strncpy(handle->reserved, shared->name.c_str(), sizeof(handle->reserved) - 1);
  });
}
aclError aclrtIpcOpenEventHandle(aclrtIpcEventHandle handle, aclrtEvent* event) {
  return guarded([&] {
    auto made = std::make_unique<Event>();
    made->flag = ACL_EVENT_IPC;
    made->state->shared = Shared::open(std::string(handle.reserved, strnlen(handle.reserved, sizeof(handle.reserved))));
    *event = made.release();
  });
}

}  // extern "C"
