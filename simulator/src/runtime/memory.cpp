// Memory: device and page-locked host allocations, virtual ranges, copies and fills.
#include <sys/mman.h>
#include <unistd.h>

#include <cstring>

#include "runtime/graph.h"
#include "runtime/shared.h"
#include "runtime/timeline.h"

namespace cannsim {
namespace {

const size_t kPage = size_t(sysconf(_SC_PAGESIZE));
constexpr size_t kAlignment = 512;  // of a device address, as aclrtMalloc gives

size_t whole_pages(size_t bytes) { return (bytes + kPage - 1) / kPage * kPage; }

void* map_pages(size_t bytes) {
  void* address = mmap(nullptr, whole_pages(bytes), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (address == MAP_FAILED)
    throw Error(ACL_ERROR_RT_MEMORY_ALLOCATION, "the host has no address space for " + std::to_string(bytes) + " bytes");
  return address;
}

void* allocate(size_t bytes, int owner) {
  if (bytes == 0) throw Error(ACL_ERROR_RT_PARAM_INVALID, "an allocation of 0 bytes");
  if (owner >= 0) device(owner).take(whole_pages(bytes));
  void* address;
  try {
    address = map_pages(bytes);
  } catch (const Error&) {
    if (owner >= 0) device(owner).give(whole_pages(bytes));
    throw;
  }
  counters().allocations.fetch_add(1, std::memory_order_relaxed);
  memory_map().insert(address, {whole_pages(bytes), owner, true});
  return address;
}

void release(void* address) {
  stop_sharing(address);
  const Range range = memory_map().remove(address);
  if (range.owned) munmap(address, range.bytes);
  if (range.device >= 0) device(range.device).give(range.bytes);
}

enum class Direction { host_to_device, device_to_host, device_to_device };

// ACL_MEMCPY_DEFAULT is resolved by the addresses, as on a device with unified addressing.
Direction direction(const void* target, const void* source, aclrtMemcpyKind kind) {
  switch (kind) {
    case ACL_MEMCPY_HOST_TO_DEVICE:
    case ACL_MEMCPY_HOST_TO_BUF_TO_DEVICE: return Direction::host_to_device;
    case ACL_MEMCPY_DEVICE_TO_HOST: return Direction::device_to_host;
    case ACL_MEMCPY_DEFAULT: {
      Range range;
      const bool from_device = memory_map().find(source, &range) && range.device >= 0;
      const bool to_device = memory_map().find(target, &range) && range.device >= 0;
      if (from_device && to_device) return Direction::device_to_device;
      return to_device ? Direction::host_to_device : Direction::device_to_host;
    }
    default: return Direction::device_to_device;
  }
}

void count(Direction where, size_t bytes) {
  Counters& all = counters();
  Tally& tally = where == Direction::host_to_device   ? all.host_to_device
                 : where == Direction::device_to_host ? all.device_to_host
                                                      : all.device_to_device;
  tally.add(bytes);
}

void check_copy(const void* target, size_t room, const void* source, size_t bytes) {
  if (target == nullptr || source == nullptr) throw Error(ACL_ERROR_RT_PARAM_INVALID, "a copy from or to a null address");
  if (bytes > room)
    throw Error(ACL_ERROR_RT_PARAM_INVALID, "a copy of " + std::to_string(bytes) + " bytes into " + std::to_string(room));
}

bool page_locked(const void* address) {
  Range range;
  return memory_map().find(address, &range);
}

const Activity& copy_activity(Direction where) {
  static const Activity* const all[] = {&activity("copy host to device", Kind::copy), &activity("copy device to host", Kind::copy),
                                        &activity("copy device to device", Kind::move)};
  return *all[int(where)];
}

void copy_async(void* target, const void* source, size_t bytes, Direction where, Stream& stream) {
  const Activity& copy = copy_activity(where);
  const Work work{0, where == Direction::host_to_device ? 0 : bytes, where == Direction::device_to_host ? 0 : bytes};
  // Page-locked memory is read or written when the stream gets there. Pageable host memory is
  // read before the call returns, and written before it returns: the driver stages it.
  const bool pageable = (where == Direction::host_to_device && !page_locked(source)) || (where == Direction::device_to_host && !page_locked(target));
  if (pageable) {
    refuse_captured(stream, "a copy from or to pageable memory waits for its stream");
    refuse_in_capture("a copy from or to pageable memory is synchronous", ACL_ERROR_RT_CAPTURE_MODE_BLOCK_ASYNC);
  }
  count(where, bytes);
  if (where == Direction::host_to_device && !page_locked(source)) {
    auto staged = std::make_shared<std::vector<char>>(static_cast<const char*>(source), static_cast<const char*>(source) + bytes);
    stream.submit(make_task(copy, work, [=] { std::memcpy(target, staged->data(), bytes); }));
    return;
  }
  stream.submit(make_task(copy, work, [=] { std::memmove(target, source, bytes); }));
  if (where == Direction::device_to_host && !page_locked(target)) stream.synchronize();
}

}  // namespace

MemoryMap& memory_map() {
  static auto* map = new MemoryMap;
  return *map;
}
int device_of(const void* address) {
  Range range;
  return memory_map().find(address, &range) ? range.device : -1;
}

void MemoryMap::insert(void* address, Range range) {
  std::lock_guard lock(mutex_);
  ranges_[reinterpret_cast<uintptr_t>(address)] = range;
}

Range MemoryMap::remove(void* address) {
  std::lock_guard lock(mutex_);
  auto found = ranges_.find(reinterpret_cast<uintptr_t>(address));
  if (found == ranges_.end()) throw Error(ACL_ERROR_RT_PARAM_INVALID, "the address was not allocated, or has been freed");
  const Range range = found->second;
  ranges_.erase(found);
  return range;
}

void MemoryMap::update(void* address, const Range& range) {
  std::lock_guard lock(mutex_);
  ranges_[reinterpret_cast<uintptr_t>(address)] = range;
}

std::vector<void*> MemoryMap::of_device(int device) {
  std::lock_guard lock(mutex_);
  std::vector<void*> found;
  for (const auto& [address, range] : ranges_) {
    if (range.device == device && range.owned) found.push_back(reinterpret_cast<void*>(address));
  }
  return found;
}

bool MemoryMap::find(const void* address, Range* range, uintptr_t* start) {
  std::lock_guard lock(mutex_);
  auto next = ranges_.upper_bound(reinterpret_cast<uintptr_t>(address));
  if (next == ranges_.begin()) return false;
  --next;
  if (reinterpret_cast<uintptr_t>(address) >= next->first + next->second.bytes) return false;
  *range = next->second;
  if (start != nullptr) *start = next->first;
  return true;
}

namespace {

// Gives whole pages of a single mapping back to the host: they are zeros when next touched.
bool drop_pages(char* first, size_t bytes) {
  Range range;
  uintptr_t start = 0;
  if (!memory_map().find(first, &range, &start)) return false;
  if (reinterpret_cast<uintptr_t>(first) + bytes > start + range.bytes) return false;
  return madvise(first, bytes, range.shared ? MADV_REMOVE : MADV_DONTNEED) == 0;
}

}  // namespace

void fill_bytes(void* address, int value, size_t bytes) {
  auto* first = static_cast<char*>(address);
  if (value == 0 && bytes >= 64 * kPage) {
    auto* page = reinterpret_cast<char*>(whole_pages(reinterpret_cast<uintptr_t>(first)));
    const size_t inside = size_t(first + bytes - page) / kPage * kPage;
    if (drop_pages(page, inside)) {
      std::memset(first, 0, size_t(page - first));
      std::memset(page + inside, 0, size_t(first + bytes - page) - inside);
      return;
    }
  }
  std::memset(first, value, bytes);
}

// The program's memory of the device is gone, its addresses are not: what still reads there at the
// end of a process reads zeros.
void forget_memory(int owner) {
  for (void* address : memory_map().of_device(owner)) {
    stop_sharing(address);
    const Range range = memory_map().remove(address);
    mmap(address, range.bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
    device(owner).give(range.bytes);
  }
}

}  // namespace cannsim

using namespace cannsim;

extern "C" {

aclError aclrtMalloc(void** address, size_t bytes, aclrtMemMallocPolicy) {
  return guarded([&] { *address = allocate((bytes + kAlignment - 1) / kAlignment * kAlignment, current_device()); });
}
aclError aclrtMallocAlign32(void** address, size_t bytes, aclrtMemMallocPolicy policy) { return aclrtMalloc(address, bytes, policy); }
aclError aclrtFree(void* address) {
  return guarded([&] {
    // CANN frees device memory only when the device has finished with it.
    // An error of its work is told at the next wait, not here.
    device(current_device()).drain();
    release(address);
  });
}
aclError aclrtMallocHost(void** address, size_t bytes) {
  return guarded([&] { *address = allocate(bytes, -1); });
}
aclError aclrtMallocHostWithCfg(void** address, uint64_t bytes, aclrtMallocConfig*) { return aclrtMallocHost(address, bytes); }
aclError aclrtFreeHost(void* address) {
  return guarded([&] { release(address); });
}
aclError aclrtHostRegister(void* address, uint64_t bytes, aclrtHostRegisterType, void** device_address) {
  return guarded([&] {
    memory_map().insert(address, {size_t(bytes), -1, false});
    if (device_address != nullptr) *device_address = address;
  });
}
aclError aclrtHostRegisterV2(void* address, uint64_t bytes, uint32_t) {
  return aclrtHostRegister(address, bytes, ACL_HOST_REGISTER_MAPPED, nullptr);
}
aclError aclrtHostUnregister(void* address) {
  return guarded([&] { memory_map().remove(address); });
}
aclError aclrtPointerGetAttributes(const void* address, aclrtPtrAttributes* attributes) {
  *attributes = {};
  Range range;
  if (!memory_map().find(address, &range)) {
    attributes->location.type = ACL_MEM_LOCATION_TYPE_UNREGISTERED;
  } else if (range.device < 0) {
    attributes->location.type = ACL_MEM_LOCATION_TYPE_HOST;
  } else {
    attributes->location = {uint32_t(range.device), ACL_MEM_LOCATION_TYPE_DEVICE};
  }
  return ACL_SUCCESS;
}

aclError aclrtMemcpy(void* target, size_t room, const void* source, size_t bytes, aclrtMemcpyKind kind) {
  return guarded([&] {
    if (bytes == 0) return;
    check_copy(target, room, source, bytes);
    refuse_in_capture("aclrtMemcpy");
    count(direction(target, source, kind), bytes);
    const HostCall call("aclrtMemcpy", bytes);
    std::memmove(target, source, bytes);
  });
}
aclError aclrtMemcpyAsync(void* target, size_t room, const void* source, size_t bytes, aclrtMemcpyKind kind, aclrtStream stream) {
  return guarded([&] {
    if (bytes == 0) return;
    check_copy(target, room, source, bytes);
    copy_async(target, source, bytes, direction(target, source, kind), stream_of(stream));
  });
}
aclError aclrtMemcpyAsyncWithCondition(void* target, size_t room, const void* source, size_t bytes, aclrtMemcpyKind kind,
                                       aclrtStream stream) {
  return aclrtMemcpyAsync(target, room, source, bytes, kind, stream);
}
aclError aclrtMemset(void* address, size_t room, int32_t value, size_t bytes) {
  return guarded([&] {
    refuse_in_capture("aclrtMemset");
    counters().memset.add(bytes);
    fill_bytes(address, value, bytes);
  });
}
aclError aclrtMemsetAsync(void* address, size_t room, int32_t value, size_t bytes, aclrtStream stream) {
  return guarded([&] {
    counters().memset.add(bytes);
    static const Activity& fill = activity("memset", Kind::move);
    stream_of(stream).submit(make_task(fill, {0, 0, bytes}, [=] { fill_bytes(address, value, bytes); }));
  });
}

}  // extern "C"
