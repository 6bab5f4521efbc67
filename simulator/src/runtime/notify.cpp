// Notifies, and values in device memory that a stream writes or waits for.
#include "runtime/graph.h"

namespace cannsim {
namespace {

// A flag between streams: a wait lasts until it is set, and clears it.
struct Notify {
  std::mutex mutex;
  std::condition_variable changed;
  bool set = false;
  uint32_t id;
};

std::shared_ptr<Notify>& notify_of(aclrtNotify handle) {
  if (handle == nullptr) throw Error(ACL_ERROR_RT_PARAM_INVALID, "notify is null");
  return *static_cast<std::shared_ptr<Notify>*>(handle);
}

// Woken by every write of a value; other writers of the memory (copies, operators) are seen by looking
// again every millisecond.
struct Values {
  std::mutex mutex;
  std::condition_variable written;
};
Values& values() {
  static auto* all = new Values;
  return *all;
}

bool reached(const void* address, uint64_t value, uint32_t flag) {
  const uint64_t now = __atomic_load_n(static_cast<const uint64_t*>(address), __ATOMIC_ACQUIRE);
  switch (flag) {
    case ACL_STREAM_WAIT_VALUE_GEQ: return int64_t(now - value) >= 0;
    case ACL_STREAM_WAIT_VALUE_EQ: return now == value;
    case ACL_STREAM_WAIT_VALUE_AND: return (now & value) != 0;
    default: return ~(now | value) != 0;
  }
}

void check_value(const void* address) {
  if (address == nullptr || reinterpret_cast<uintptr_t>(address) % sizeof(uint64_t) != 0)
    throw Error(ACL_ERROR_RT_ADDR_UNALIGNED, "a value lies at an address that is null or no multiple of 8 bytes");
}

}  // namespace
}  // namespace cannsim

using namespace cannsim;

extern "C" {

aclError aclrtCreateNotify(aclrtNotify* notify, uint64_t) {
  return guarded([&] {
    static std::atomic<uint32_t> next{0};
    auto made = std::make_shared<Notify>();
    made->id = next++;
    *notify = new std::shared_ptr<Notify>(std::move(made));
  });
}
aclError aclrtDestroyNotify(aclrtNotify notify) {
  return guarded([&] { delete &notify_of(notify); });
}
aclError aclrtGetNotifyId(aclrtNotify notify, uint32_t* id) {
  return guarded([&] { *id = notify_of(notify)->id; });
}
aclError aclrtRecordNotify(aclrtNotify notify, aclrtStream stream) {
  return guarded([&] {
    stream_of(stream).submit(make_task([own = notify_of(notify)] {
      std::lock_guard lock(own->mutex);
      own->set = true;
      own->changed.notify_all();
    }));
  });
}
// `timeout` in milliseconds; 0: for ever.
aclError aclrtWaitAndResetNotify(aclrtNotify notify, aclrtStream stream, uint32_t timeout) {
  return guarded([&] {
    stream_of(stream).submit(make_task([own = notify_of(notify), timeout] {
      std::unique_lock lock(own->mutex);
      auto set = [&] { return own->set; };
      if (timeout == 0) {
        wait_until(own->changed, lock, set);
      } else if (!own->changed.wait_for(lock, std::chrono::milliseconds(timeout), set)) {
        throw Error(ACL_ERROR_RT_TASK_TIMEOUT, "notify " + std::to_string(own->id) + " was not recorded within " + std::to_string(timeout) + " ms");
      }
      own->set = false;
    }));
  });
}
aclError aclrtNotifyBatchReset(aclrtNotify* notifies, size_t number) {
  return guarded([&] {
    for (size_t i = 0; i < number; ++i) {
      auto& own = notify_of(notifies[i]);
      std::lock_guard lock(own->mutex);
      own->set = false;
    }
  });
}

aclError aclrtValueWrite(void* address, uint64_t value, uint32_t, aclrtStream stream) {
  return guarded([&] {
    check_value(address);
    stream_of(stream).submit(make_task([=] {
      std::lock_guard lock(values().mutex);
      __atomic_store_n(static_cast<uint64_t*>(address), value, __ATOMIC_RELEASE);
      values().written.notify_all();
    }));
  });
}
aclError aclrtValueWait(void* address, uint64_t value, uint32_t flag, aclrtStream stream) {
  return guarded([&] {
    check_value(address);
    if (flag > ACL_STREAM_WAIT_VALUE_NOR)
      throw Error(ACL_ERROR_RT_PARAM_INVALID, "wait flag " + std::to_string(flag) + " does not exist: 0 GEQ, 1 EQ, 2 AND, 3 NOR");
    stream_of(stream).submit(make_task([=] {
      std::unique_lock lock(values().mutex);
      while (!reached(address, value, flag)) values().written.wait_for(lock, std::chrono::milliseconds(1));
    }));
  });
}

}  // extern "C"
