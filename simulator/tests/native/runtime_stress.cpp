// Exercises the runtime without Python: checks of streams, events, memory, graphs and callbacks, then
// as much of each as asked, with figures. Built with -DCANNSIM_SANITIZER=thread or address as well.
//
//   runtime_stress [launches [captures [allocations]]]      (defaults: 20000 200 500)
//
// Ends with 1 at the first thing that is not as it must be, and with a report otherwise. Run it under
// `timeout`: a lost wake-up or a deadlock shows as a run that does not end.
#include <dirent.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "acl/acl.h"

namespace {

constexpr int kStreams = 4;

[[noreturn]] void fail(const char* what, int line) {
  std::fprintf(stderr, "runtime_stress: line %d: %s (%s)\n", line, what, aclGetRecentErrMsg());
  std::_Exit(1);
}
#define MUST(condition)                             \
  do {                                              \
    if (!(condition)) fail(#condition, __LINE__);   \
  } while (false)
#define OK(call) MUST((call) == ACL_SUCCESS)

double seconds(const std::function<void()>& body) {
  const auto start = std::chrono::steady_clock::now();
  body();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

// Pages that the process holds, in KiB; and its threads.
long resident() {
  FILE* file = std::fopen("/proc/self/statm", "r");
  long size = 0, pages = 0;
  MUST(std::fscanf(file, "%ld %ld", &size, &pages) == 2);
  std::fclose(file);
  return pages * (sysconf(_SC_PAGESIZE) / 1024);
}
int threads() {
  int count = 0;
  DIR* folder = opendir("/proc/self/task");
  while (readdir(folder) != nullptr) ++count;
  closedir(folder);
  return count - 2;
}

template <typename T>
struct Memory {
  explicit Memory(size_t count, bool host = false) : host(host) {
    void* address = nullptr;
    OK(host ? aclrtMallocHost(&address, count * sizeof(T)) : aclrtMalloc(&address, count * sizeof(T), ACL_MEM_MALLOC_HUGE_FIRST));
    data = static_cast<T*>(address);
  }
  ~Memory() { OK(host ? aclrtFreeHost(data) : aclrtFree(data)); }
  T* data;
  bool host;
};

struct Streams {
  Streams() {
    for (uint32_t i = 0; i < kStreams; ++i) OK(aclrtCreateStreamWithConfig(&all[i], i * 2, 0));
  }
  ~Streams() {
    for (auto stream : all) OK(aclrtDestroyStream(stream));
  }
  aclrtStream operator[](int i) const { return all[i % kStreams]; }
  aclrtStream all[kStreams];
};

void add_one(void* counter) { ++*static_cast<uint64_t*>(counter); }
void await_flag(void* flag) {
  while (!static_cast<std::atomic<bool>*>(flag)->load()) std::this_thread::yield();
}

// ---- checks -----------------------------------------------------------------------------------

void check_order(const Streams& streams) {
  std::atomic<bool> open{false};
  Memory<uint64_t> value(1);
  *value.data = 1;
  aclrtEvent event;
  OK(aclrtCreateEventExWithFlag(&event, ACL_EVENT_SYNC | ACL_EVENT_TIME_LINE));
  OK(aclrtLaunchHostFunc(streams[0], await_flag, &open));
  OK(aclrtLaunchHostFunc(streams[0], add_one, value.data));
  OK(aclrtRecordEvent(event, streams[0]));
  OK(aclrtStreamWaitEvent(streams[1], event));
  OK(aclrtLaunchHostFunc(streams[1], add_one, value.data));
  aclrtEventRecordedStatus status;
  OK(aclrtQueryEventStatus(event, &status));
  MUST(status == ACL_EVENT_RECORDED_STATUS_NOT_READY);
  MUST(aclrtSynchronizeStreamWithTimeout(streams[1], 5) == ACL_ERROR_RT_STREAM_SYNC_TIMEOUT);
  open = true;
  OK(aclrtSynchronizeEvent(event));
  OK(aclrtSynchronizeStream(streams[1]));
  MUST(*value.data == 3);
  OK(aclrtDestroyEvent(event));
}

void check_values_and_notifies(const Streams& streams) {
  Memory<uint64_t> cell(2);
  std::memset(cell.data, 0, 2 * sizeof(uint64_t));
  aclrtNotify notify;
  OK(aclrtCreateNotify(&notify, 0));
  OK(aclrtValueWait(cell.data, 7, ACL_STREAM_WAIT_VALUE_EQ, streams[0]));
  OK(aclrtRecordNotify(notify, streams[0]));
  OK(aclrtWaitAndResetNotify(notify, streams[1], 0));
  OK(aclrtLaunchHostFunc(streams[1], add_one, cell.data + 1));
  OK(aclrtValueWrite(cell.data, 7, 0, streams[2]));
  OK(aclrtSynchronizeDevice());
  MUST(cell.data[1] == 1);
  OK(aclrtDestroyNotify(notify));
}

void check_callbacks(const Streams& streams) {
  std::atomic<bool> stop{false};
  uint64_t count = 0;
  std::atomic<uint64_t> thread{0};
  std::thread worker([&] {
    OK(aclrtSetDevice(0));
    thread = uint64_t(pthread_self());
    while (!stop) aclrtProcessReport(20);
  });
  while (thread == 0) std::this_thread::yield();
  OK(aclrtSubscribeReport(thread, streams[3]));
  for (int i = 0; i < 100; ++i) OK(aclrtLaunchCallback(add_one, &count, ACL_CALLBACK_BLOCK, streams[3]));
  OK(aclrtSynchronizeStream(streams[3]));
  MUST(count == 100);
  OK(aclrtUnSubscribeReport(thread, streams[3]));
  stop = true;
  worker.join();
}

// Two branches that meet, captured and replayed from two streams; a group whose task is replaced.
void check_graph(const Streams& streams) {
  Memory<uint64_t> cells(4);
  std::memset(cells.data, 0, 4 * sizeof(uint64_t));
  aclrtEvent fork, join;
  OK(aclrtCreateEventExWithFlag(&fork, ACL_EVENT_SYNC));
  OK(aclrtCreateEventExWithFlag(&join, ACL_EVENT_SYNC));
  OK(aclmdlRICaptureBegin(streams[0], ACL_MODEL_RI_CAPTURE_MODE_THREAD_LOCAL));
  OK(aclrtLaunchHostFunc(streams[0], add_one, cells.data));
  OK(aclrtRecordEvent(fork, streams[0]));
  OK(aclrtStreamWaitEvent(streams[1], fork));
  OK(aclrtMemcpyAsync(cells.data + 1, 8, cells.data, 8, ACL_MEMCPY_DEVICE_TO_DEVICE, streams[1]));
  OK(aclrtRecordEvent(join, streams[1]));
  MUST(aclrtSynchronizeStream(streams[0]) == ACL_ERROR_RT_STREAM_CAPTURED);
  OK(aclrtStreamWaitEvent(streams[0], join));
  aclrtTaskGrp group;
  OK(aclmdlRICaptureTaskGrpBegin(streams[0]));
  OK(aclrtLaunchHostFunc(streams[0], add_one, cells.data + 2));
  OK(aclmdlRICaptureTaskGrpEnd(streams[0], &group));
  aclmdlRI graph;
  OK(aclmdlRICaptureEnd(streams[0], &graph));
  for (int i = 0; i < 100; ++i) OK(aclmdlRIExecuteAsync(graph, streams[2 + i % 2]));
  OK(aclrtSynchronizeDevice());
  MUST(cells.data[0] == 100 && cells.data[1] == 100 && cells.data[2] == 100);
  OK(aclmdlRICaptureTaskUpdateBegin(streams[1], group));
  OK(aclrtLaunchHostFunc(streams[1], add_one, cells.data + 3));
  OK(aclmdlRICaptureTaskUpdateEnd(streams[1]));
  OK(aclrtSynchronizeStream(streams[1]));
  OK(aclmdlRIExecuteAsync(graph, streams[2]));
  OK(aclrtSynchronizeDevice());
  MUST(cells.data[2] == 100 && cells.data[3] == 1);
  OK(aclmdlRIDestroy(graph));
  OK(aclrtDestroyEvent(fork));
  OK(aclrtDestroyEvent(join));
}

void check_virtual_memory() {
  constexpr size_t size = 4 << 20;
  void* range = nullptr;
  aclrtDrvMemHandle block;
  aclrtPhysicalMemProp properties{};
  properties.location = {0, ACL_MEM_LOCATION_TYPE_DEVICE};
  OK(aclrtReserveMemAddress(&range, 2 * size, 0, nullptr, 0));
  OK(aclrtMallocPhysical(&block, size, &properties, 0));
  auto* first = static_cast<char*>(range);
  OK(aclrtMapMem(first, size, 0, block, 0));
  OK(aclrtMapMem(first + size, size, 0, block, 0));
  OK(aclrtMemset(first, size, 3, size));
  MUST(first[size + 77] == 3);
  OK(aclrtUnmapMem(first));
  OK(aclrtUnmapMem(first + size));
  OK(aclrtFreePhysical(block));
  OK(aclrtReleaseMemAddress(range));
}

// ---- load -------------------------------------------------------------------------------------

// Copies on four streams from four threads, with an event between neighbours every 64 launches and a
// wait of the host every 4096.
void launch(const Streams& streams, long count) {
  Memory<uint64_t> cells(2 * kStreams);
  std::vector<std::thread> hosts;
  for (int i = 0; i < kStreams; ++i) {
    hosts.emplace_back([&, i] {
      OK(aclrtSetDevice(0));
      aclrtEvent event;
      OK(aclrtCreateEventExWithFlag(&event, ACL_EVENT_SYNC));
      uint64_t* own = cells.data + 2 * i;
      own[0] = own[1] = 0;
      for (long k = 0; k < count / kStreams; ++k) {
        if (k % 2 == 0) {
          OK(aclrtLaunchHostFunc(streams[i], add_one, own));
        } else {
          OK(aclrtMemcpyAsync(own + 1, 8, own, 8, ACL_MEMCPY_DEVICE_TO_DEVICE, streams[i]));
        }
        if (k % 64 == 0) {
          OK(aclrtRecordEvent(event, streams[i]));
          OK(aclrtStreamWaitEvent(streams[i + 1], event));
        }
        if (k % 4096 == 0) OK(aclrtSynchronizeStream(streams[i]));
      }
      OK(aclrtSynchronizeStream(streams[i]));
      MUST(own[0] == own[1] && own[0] == uint64_t(count / kStreams + 1) / 2);
      OK(aclrtDestroyEvent(event));
    });
  }
  for (auto& host : hosts) host.join();
}

// Each graph has three tasks on two streams; it is replayed once and destroyed.
void capture(const Streams& streams, long count) {
  Memory<uint64_t> cells(2);
  cells.data[0] = cells.data[1] = 0;
  aclrtEvent fork, join;
  OK(aclrtCreateEventExWithFlag(&fork, ACL_EVENT_SYNC));
  OK(aclrtCreateEventExWithFlag(&join, ACL_EVENT_SYNC));
  for (long k = 0; k < count; ++k) {
    const bool branch = k % 8 == 0;
    OK(aclmdlRICaptureBegin(streams[0], ACL_MODEL_RI_CAPTURE_MODE_RELAXED));
    OK(aclrtLaunchHostFunc(streams[0], add_one, cells.data));
    if (branch) {
      OK(aclrtRecordEvent(fork, streams[0]));
      OK(aclrtStreamWaitEvent(streams[1], fork));
      OK(aclrtLaunchHostFunc(streams[1], add_one, cells.data + 1));
      OK(aclrtRecordEvent(join, streams[1]));
      OK(aclrtStreamWaitEvent(streams[0], join));
    } else {
      OK(aclrtLaunchHostFunc(streams[0], add_one, cells.data + 1));
    }
    OK(aclrtLaunchHostFunc(streams[0], add_one, cells.data));
    aclmdlRI graph;
    OK(aclmdlRICaptureEnd(streams[0], &graph));
    OK(aclmdlRIExecuteAsync(graph, streams[2]));
    OK(aclrtSynchronizeStream(streams[2]));
    OK(aclmdlRIDestroy(graph));
  }
  MUST(cells.data[0] == uint64_t(2 * count) && cells.data[1] == uint64_t(count));
  OK(aclrtDestroyEvent(fork));
  OK(aclrtDestroyEvent(join));
}

// Allocations of random sizes on four streams from four threads: filled, checked, freed in any order.
void allocate(const Streams& streams, long count) {
  std::vector<std::thread> hosts;
  for (int i = 0; i < kStreams; ++i) {
    hosts.emplace_back([&, i] {
      OK(aclrtSetDevice(0));
      std::mt19937 random(unsigned(17 + i));
      struct Piece {
        unsigned char* data;
        size_t size;
        int value;
      };
      std::vector<Piece> held;
      auto drop = [&](size_t index) {
        const Piece piece = held[index];
        OK(aclrtSynchronizeStream(streams[i]));
        MUST(piece.data[0] == piece.value && piece.data[piece.size - 1] == piece.value);
        OK(aclrtFree(piece.data));
        held.erase(held.begin() + long(index));
      };
      for (long k = 0; k < count / kStreams; ++k) {
        const size_t size = size_t(1) << (random() % 20) | (random() % 512);
        void* data = nullptr;
        OK(aclrtMalloc(&data, size, ACL_MEM_MALLOC_HUGE_FIRST));
        const int value = int(random() % 256);
        OK(aclrtMemsetAsync(data, size, value, size, streams[i]));
        held.push_back({static_cast<unsigned char*>(data), size, value});
        if (held.size() > 16) drop(random() % held.size());
      }
      while (!held.empty()) drop(held.size() - 1);
    });
  }
  for (auto& host : hosts) host.join();
}

}  // namespace

int main(int count, char** arguments) {
  const long launches = count > 1 ? std::atol(arguments[1]) : 20000;
  const long captures = count > 2 ? std::atol(arguments[2]) : 200;
  const long allocations = count > 3 ? std::atol(arguments[3]) : 500;
  OK(aclInit(nullptr));
  OK(aclrtSetDevice(0));
  size_t free_before, free_after, total;
  OK(aclrtGetMemInfo(ACL_HBM_MEM, &free_before, &total));
  {
    Streams streams;
    check_order(streams);
    check_values_and_notifies(streams);
    check_callbacks(streams);
    check_graph(streams);
    check_virtual_memory();
    launch(streams, 2000);
    capture(streams, 100);
    allocate(streams, 100);
    const long pages = resident();
    const int workers = threads();
    const double a = seconds([&] { launch(streams, launches); });
    const double b = seconds([&] { capture(streams, captures); });
    const double c = seconds([&] { allocate(streams, allocations); });
    std::printf("{\"launches\": %ld, \"launch_s\": %.3f, \"captures\": %ld, \"capture_s\": %.3f, \"allocations\": %ld, "
                "\"allocation_s\": %.3f, \"grown_kib\": %ld, \"threads_grown\": %d",
                launches, a, captures, b, allocations, c, resident() - pages, threads() - workers);
  }
  OK(aclrtGetMemInfo(ACL_HBM_MEM, &free_after, &total));
  std::printf(", \"device_bytes_leaked\": %lld}\n", static_cast<long long>(free_before) - static_cast<long long>(free_after));
  MUST(free_before == free_after);
  OK(aclrtResetDevice(0));
  OK(aclFinalize());
  return 0;
}
