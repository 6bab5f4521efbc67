// Streams: each a queue with a thread of its own.
#include <pthread.h>
#include <sys/resource.h>
#include <unistd.h>

#include "runtime/faults.h"
#include "runtime/graph.h"

namespace cannsim {

Stream::~Stream() {
  {
    std::lock_guard lock(mutex_);
    stop_ = true;
    work_.notify_all();
  }
  if (thread_.joinable()) thread_.join();
}

// The launch is counted where the host makes it, so that the n-th is the same in each run.
std::shared_ptr<Task> Stream::with_fault(std::shared_ptr<Task> task) {
  const Fault* fault = strike(*this, *task);
  if (fault == nullptr) return task;
  auto struck = make_task([this, fault, task] { run_struck(*fault, *this, *task); });
  struck->activity = task->activity;
  struck->work = task->work;
  struck->submitted_ns = task->submitted_ns;
  struck->flow = task->flow;
  return struck;
}

void Stream::submit(std::shared_ptr<Task> task) {
  std::unique_lock lock(mutex_);
  if (recorder_) {
    const auto recorder = recorder_;
    lock.unlock();
    recorder->take(std::move(task));
    return;
  }
  if (task->activity != nullptr) count_launch(*this, *task);
  if (faulting.load(std::memory_order_relaxed) && task->activity != nullptr) task = with_fault(std::move(task));
  if (settings().inline_mode) {
    lock.unlock();
    run(*task);
    return;
  }
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
  // A stream that may wait gives way to the others: the host's scheduler has the same idea of it.
  const id_t thread = id_t(gettid());
  if (int(priority) > getpriority(PRIO_PROCESS, thread)) setpriority(PRIO_PROCESS, thread, int(priority));
  std::deque<std::shared_ptr<Task>> batch;
  std::unique_lock lock(mutex_);
  while (true) {
    sleeping_ = true;
    wait_until(work_, lock, [this] { return stop_ || !queue_.empty(); });
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
    refuse_lost(device);
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

bool Stream::wait(std::unique_lock<std::mutex>& lock, int timeout_ms) {
  const uint64_t target = submitted_;
  auto reached = [&] { return finished_ >= target; };
  bool done = true;
  ++waiters_;
  if (timeout_ms < 0) {
    wait_until(done_, lock, reached);
  } else {
    done = done_.wait_for(lock, std::chrono::milliseconds(timeout_ms), reached);
  }
  --waiters_;
  return done;
}

void Stream::synchronize(int timeout_ms) {
  std::unique_lock lock(mutex_);
  if (!wait(lock, timeout_ms)) {
    throw Error(ACL_ERROR_RT_STREAM_SYNC_TIMEOUT, "stream " + std::to_string(id) + " of device " + std::to_string(device) +
                                                      " has not finished within " + std::to_string(timeout_ms) + " ms");
  }
  refuse_lost(device);
  rethrow();
}

void Stream::drain() {
  std::unique_lock lock(mutex_);
  wait(lock, -1);
}

void Stream::forget_error() {
  std::lock_guard lock(mutex_);
  error_code_ = 0;
}

bool Stream::idle() {
  std::lock_guard lock(mutex_);
  return finished_ == submitted_;
}

void Stream::set_recorder(std::shared_ptr<Recorder> recorder) {
  std::lock_guard lock(mutex_);
  recorder_ = std::move(recorder);
}

std::shared_ptr<Recorder> Stream::recorder() {
  std::lock_guard lock(mutex_);
  return recorder_;
}

}  // namespace cannsim

using namespace cannsim;

namespace {

constexpr uint32_t kLeastPriority = 7;  // 0 is the first: aclrtDeviceGetStreamPriorityRange

}  // namespace

extern "C" {

aclError aclrtCreateStreamWithConfig(aclrtStream* stream, uint32_t priority, uint32_t flag) {
  return guarded([&] {
    if (priority > kLeastPriority)
      throw Error(ACL_ERROR_RT_PARAM_INVALID, "stream priority " + std::to_string(priority) + ": from 0 (first) to 7");
    *stream = device(current_device()).create_stream(priority);
  });
}
aclError aclrtCreateStream(aclrtStream* stream) { return aclrtCreateStreamWithConfig(stream, 0, 0); }
aclError aclrtDestroyStream(aclrtStream stream) {
  return guarded([&] {
    Stream& found = stream_of(stream);
    refuse_captured(found, "aclrtDestroyStream");
    device(found.device).destroy_stream(&found);
  });
}
aclError aclrtDestroyStreamForce(aclrtStream stream) { return aclrtDestroyStream(stream); }

aclError aclrtSynchronizeStreamWithTimeout(aclrtStream stream, int32_t timeout) {
  return guarded([&] {
    Stream& found = stream_of(stream);
    refuse_captured(found, "aclrtSynchronizeStream");
    HostWait wait(Wait::stream);
    found.synchronize(timeout);
  });
}
aclError aclrtSynchronizeStream(aclrtStream stream) { return aclrtSynchronizeStreamWithTimeout(stream, -1); }
aclError aclrtStreamQuery(aclrtStream stream, aclrtStreamStatus* status) {
  return guarded([&] {
    Stream& found = stream_of(stream);
    refuse_captured(found, "aclrtStreamQuery");
    *status = found.idle() ? ACL_STREAM_STATUS_COMPLETE : ACL_STREAM_STATUS_NOT_READY;
  });
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

aclError aclrtStreamGetPriority(aclrtStream stream, uint32_t* priority) {
  return guarded([&] { *priority = stream_of(stream).priority; });
}
aclError aclrtDeviceGetStreamPriorityRange(int32_t* least, int32_t* greatest) {
  *least = int32_t(kLeastPriority);
  *greatest = 0;
  return ACL_SUCCESS;
}

}  // extern "C"
