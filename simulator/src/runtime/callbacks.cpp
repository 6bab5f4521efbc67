// Host callbacks: a stream hands work to a thread that polls for it (aclrtProcessReport).
#include "runtime/runtime.h"

namespace cannsim {
namespace {

struct Report {
  aclrtCallback function;
  void* argument;
  std::shared_ptr<EventState> done;  // set for a blocking callback
};

struct Inbox {
  std::mutex mutex;
  std::condition_variable arrived;
  std::deque<Report> reports;
};

struct Subscriptions {
  std::mutex mutex;
  std::unordered_map<uint64_t, std::shared_ptr<Inbox>> by_thread;
  std::unordered_map<Stream*, std::shared_ptr<Inbox>> by_stream;
};

Subscriptions& subscriptions() {
  static auto* all = new Subscriptions;
  return *all;
}

std::shared_ptr<Inbox> inbox_of_stream(Stream& stream) {
  auto& all = subscriptions();
  std::lock_guard lock(all.mutex);
  auto found = all.by_stream.find(&stream);
  if (found == all.by_stream.end())
    throw Error(ACL_ERROR_RT_STREAM_NO_CB_REG, "no thread has subscribed to the callbacks of this stream (aclrtSubscribeReport)");
  return found->second;
}

void deliver(Inbox& inbox, Report report) {
  {
    std::lock_guard lock(inbox.mutex);
    inbox.reports.push_back(report);
  }
  inbox.arrived.notify_one();
  if (!report.done) return;
  std::unique_lock lock(report.done->mutex);
  wait_until(report.done->changed, lock, [&] { return report.done->completed > 0; });
}

void process(Inbox& inbox, int timeout_ms) {
  Report report;
  {
    std::unique_lock lock(inbox.mutex);
    auto some = [&] { return !inbox.reports.empty(); };
    if (timeout_ms < 0) {
      wait_until(inbox.arrived, lock, some);
    } else if (!inbox.arrived.wait_for(lock, std::chrono::milliseconds(timeout_ms), some)) {
      throw Error(ACL_ERROR_RT_REPORT_TIMEOUT, "no callback arrived within " + std::to_string(timeout_ms) + " ms");
    }
    report = inbox.reports.front();
    inbox.reports.pop_front();
  }
  report.function(report.argument);
  if (!report.done) return;
  std::lock_guard lock(report.done->mutex);
  report.done->completed = 1;
  report.done->changed.notify_all();
}

}  // namespace
}  // namespace cannsim

using namespace cannsim;

extern "C" {

aclError aclrtSubscribeReport(uint64_t thread, aclrtStream stream) {
  return guarded([&] {
    auto& all = subscriptions();
    Stream& found = stream_of(stream);
    std::lock_guard lock(all.mutex);
    auto& inbox = all.by_thread[thread];
    if (!inbox) inbox = std::make_shared<Inbox>();
    all.by_stream[&found] = inbox;
  });
}

aclError aclrtUnSubscribeReport(uint64_t thread, aclrtStream stream) {
  return guarded([&] {
    auto& all = subscriptions();
    Stream& found = stream_of(stream);
    std::lock_guard lock(all.mutex);
    all.by_stream.erase(&found);
  });
}

aclError aclrtLaunchCallback(aclrtCallback function, void* argument, aclrtCallbackBlockType block, aclrtStream stream) {
  return guarded([&] {
    Stream& found = stream_of(stream);
    auto inbox = inbox_of_stream(found);
    found.submit(make_task([=] {
      deliver(*inbox, {function, argument, block == ACL_CALLBACK_BLOCK ? std::make_shared<EventState>() : nullptr});
    }));
  });
}

aclError aclrtLaunchHostFunc(aclrtStream stream, aclrtHostFunc function, void* argument) {
  return guarded([&] { stream_of(stream).submit(make_task([=] { function(argument); })); });
}

aclError aclrtProcessReport(int32_t timeout) {
  return guarded([&] {
    std::shared_ptr<Inbox> inbox;
    {
      auto& all = subscriptions();
      std::lock_guard lock(all.mutex);
      auto found = all.by_thread.find(uint64_t(pthread_self()));
      if (found == all.by_thread.end()) throw Error(ACL_ERROR_RT_THREAD_SUBSCRIBE, "this thread has not subscribed to any stream");
      inbox = found->second;
    }
    process(*inbox, timeout);
  });
}

}  // extern "C"
