// Two ranks in one process, for sanitizers: every collective, in both orders of waiting, a rank that
// is destroyed while another waits for it, and grouped calls. Ends with 0 when all is as it should be.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <thread>
#include <vector>

#include "hccl/hccl.h"

namespace {

#define REQUIRE(condition)                                                       \
  do {                                                                           \
    if (!(condition)) {                                                          \
      std::fprintf(stderr, "line %d: %s: %s\n", __LINE__, #condition, aclGetRecentErrMsg()); \
      std::exit(1);                                                              \
    }                                                                            \
  } while (false)

constexpr uint64_t kCount = 300000;  // more than the memory between two ranks holds at once

struct Rank {
  HcclComm comm;
  int device;
  aclrtStream stream;
  float *x, *y;

  void open() {
    REQUIRE(aclrtSetDevice(device) == ACL_SUCCESS);
    REQUIRE(aclrtCreateStream(&stream) == ACL_SUCCESS);
    void* memory;
    REQUIRE(aclrtMalloc(&memory, kCount * sizeof(float), ACL_MEM_MALLOC_HUGE_FIRST) == ACL_SUCCESS);
    x = static_cast<float*>(memory);
    REQUIRE(aclrtMalloc(&memory, 2 * kCount * sizeof(float), ACL_MEM_MALLOC_HUGE_FIRST) == ACL_SUCCESS);
    y = static_cast<float*>(memory);
    for (uint64_t i = 0; i < kCount; ++i) x[i] = float(device + 1) * float(i % 100);
  }

  void wait() { REQUIRE(aclrtSynchronizeStream(stream) == ACL_SUCCESS); }

  void reduce() {
    REQUIRE(HcclAllReduce(x, y, kCount, HCCL_DATA_TYPE_FP32, HCCL_REDUCE_SUM, comm, stream) == HCCL_SUCCESS);
    REQUIRE(HcclAllReduce(y, y, 100, HCCL_DATA_TYPE_FP32, HCCL_REDUCE_MAX, comm, stream) == HCCL_SUCCESS);
    wait();
    for (uint64_t i = 0; i < kCount; ++i) REQUIRE(y[i] == 3 * float(i % 100));
  }

  void move() {
    REQUIRE(HcclAllGather(x, y, kCount, HCCL_DATA_TYPE_FP32, comm, stream) == HCCL_SUCCESS);
    REQUIRE(HcclBarrier(comm, stream) == HCCL_SUCCESS);
    wait();
    for (uint64_t i = 0; i < 2 * kCount; ++i) REQUIRE(y[i] == float(i / kCount + 1) * float(i % kCount % 100));
  }

  // Both send first: without the group both would wait for ever.
  void exchange() {
    const uint32_t other = uint32_t(1 - device);
    REQUIRE(HcclGroupStart() == HCCL_SUCCESS);
    REQUIRE(HcclSend(x, kCount, HCCL_DATA_TYPE_FP32, other, comm, stream) == HCCL_SUCCESS);
    REQUIRE(HcclRecv(y, kCount, HCCL_DATA_TYPE_FP32, other, comm, stream) == HCCL_SUCCESS);
    REQUIRE(HcclGroupEnd() == HCCL_SUCCESS);
    wait();
    for (uint64_t i = 0; i < kCount; ++i) REQUIRE(y[i] == float(other + 1) * float(i % 100));
  }

  // Two streams of a rank send and receive at the same time on one communicator.
  void on_two_streams() {
    aclrtStream second;
    REQUIRE(aclrtCreateStream(&second) == ACL_SUCCESS);
    const uint32_t other = uint32_t(1 - device);
    REQUIRE(HcclSend(x, kCount, HCCL_DATA_TYPE_FP32, other, comm, stream) == HCCL_SUCCESS);
    REQUIRE(HcclRecv(y, kCount, HCCL_DATA_TYPE_FP32, other, comm, second) == HCCL_SUCCESS);
    wait();
    REQUIRE(aclrtSynchronizeStream(second) == ACL_SUCCESS);
    for (uint64_t i = 0; i < kCount; ++i) REQUIRE(y[i] == float(other + 1) * float(i % 100));
    REQUIRE(aclrtDestroyStream(second) == ACL_SUCCESS);
  }

  void work() {
    open();
    for (int round = 0; round < 3; ++round) {
      reduce();
      move();
      exchange();
      on_two_streams();
    }
  }

  // Rank 1 goes while rank 0 waits for it.
  void leave() {
    if (device == 1) {
      REQUIRE(HcclCommDestroy(comm) == HCCL_SUCCESS);
      return;
    }
    REQUIRE(HcclAllReduce(x, y, kCount, HCCL_DATA_TYPE_FP32, HCCL_REDUCE_SUM, comm, stream) == HCCL_SUCCESS);
    REQUIRE(aclrtSynchronizeStream(stream) != ACL_SUCCESS);
    REQUIRE(std::strstr(aclGetRecentErrMsg(), "has destroyed the communicator") != nullptr);
    HcclResult error = HCCL_SUCCESS;
    REQUIRE(HcclGetCommAsyncError(comm, &error) == HCCL_SUCCESS && error == HCCL_E_REMOTE);
    REQUIRE(HcclCommDestroy(comm) == HCCL_SUCCESS);
  }

  void close() {
    REQUIRE(aclrtSetDevice(device) == ACL_SUCCESS);
    REQUIRE(aclrtFree(x) == ACL_SUCCESS && aclrtFree(y) == ACL_SUCCESS);
    REQUIRE(aclrtDestroyStream(stream) == ACL_SUCCESS);
  }
};

}  // namespace

int main() {
  REQUIRE(aclInit(nullptr) == ACL_SUCCESS);
  int32_t devices[] = {0, 1};
  HcclComm comms[2];
  REQUIRE(HcclCommInitAll(2, devices, comms) == HCCL_SUCCESS);
  std::vector<Rank> ranks;
  for (int i = 0; i < 2; ++i) ranks.push_back({comms[i], i, nullptr, nullptr, nullptr});
  std::thread second([&] { ranks[1].work(), ranks[1].leave(); });
  ranks[0].work();
  ranks[0].leave();
  second.join();
  for (Rank& rank : ranks) rank.close();
  std::puts("fine");
  return 0;
}
