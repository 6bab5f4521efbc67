// Collectives of a communicator of one rank: each is a copy, ordered on its stream.
// A larger communicator is refused when it is made.
#include <cstring>

#include "hccl/hccl.h"
#include "runtime/runtime.h"

using namespace cannsim;

namespace {

struct Communicator {
  std::string name;
};

size_t size_of(HcclDataType type) {
  switch (type) {
    case HCCL_DATA_TYPE_INT16:
    case HCCL_DATA_TYPE_UINT16:
    case HCCL_DATA_TYPE_FP16:
    case HCCL_DATA_TYPE_BFP16: return 2;
    case HCCL_DATA_TYPE_INT32:
    case HCCL_DATA_TYPE_UINT32:
    case HCCL_DATA_TYPE_FP32: return 4;
    case HCCL_DATA_TYPE_INT64:
    case HCCL_DATA_TYPE_UINT64:
    case HCCL_DATA_TYPE_FP64: return 8;
    case HCCL_DATA_TYPE_INT128: return 16;
    default: return 1;
  }
}

HcclResult make(uint32_t ranks, HcclComm* communicator) {
  if (ranks != 1) {
    report(ACL_ERROR_RT_FEATURE_NOT_SUPPORT, "a communicator of " + std::to_string(ranks) + " ranks: cannsim has collectives of one rank only");
    return HCCL_E_NOT_SUPPORT;
  }
  static std::atomic<int> made{0};
  *communicator = new Communicator{"cannsim_comm_" + std::to_string(made++)};
  return HCCL_SUCCESS;
}

HcclResult copy(const char* name, const void* source, void* target, uint64_t count, HcclDataType type, aclrtStream stream) {
  const size_t bytes = count * size_of(type);
  const int code = guarded([&] {
    operator_tally(name).add(bytes);
    stream_of(stream).submit(make_task([=] {
      if (source != target) std::memmove(target, source, bytes);
    }));
  });
  return code == ACL_SUCCESS ? HCCL_SUCCESS : HCCL_E_RUNTIME;
}

}  // namespace

extern "C" {

HcclResult HcclGetRootInfo(HcclRootInfo* root) {
  std::memset(root, 0, sizeof(*root));
  return HCCL_SUCCESS;
}
HcclResult HcclCommInitRootInfo(uint32_t ranks, const HcclRootInfo*, uint32_t, HcclComm* communicator) { return make(ranks, communicator); }
HcclResult HcclCommInitRootInfoConfig(uint32_t ranks, const HcclRootInfo*, uint32_t, const HcclCommConfig*, HcclComm* communicator) {
  return make(ranks, communicator);
}
HcclResult HcclCreateSubCommConfig(HcclComm*, uint32_t ranks, uint32_t*, uint64_t, uint32_t, HcclCommConfig*, HcclComm* made) {
  return make(ranks, made);
}
HcclResult HcclCommDestroy(HcclComm communicator) {
  delete static_cast<Communicator*>(communicator);
  return HCCL_SUCCESS;
}
HcclResult HcclGetCommName(HcclComm communicator, char* name) {
  std::strcpy(name, static_cast<Communicator*>(communicator)->name.c_str());
  return HCCL_SUCCESS;
}
HcclResult HcclGetCommAsyncError(HcclComm, HcclResult* error) {
  *error = HCCL_SUCCESS;
  return HCCL_SUCCESS;
}
HcclResult HcclGetRankSize(HcclComm, uint32_t* ranks) {
  *ranks = 1;
  return HCCL_SUCCESS;
}
HcclResult HcclGetRankId(HcclComm, uint32_t* rank) {
  *rank = 0;
  return HCCL_SUCCESS;
}
HcclResult HcclAllReduce(void* source, void* target, uint64_t count, HcclDataType type, HcclReduceOp, HcclComm, aclrtStream stream) {
  return copy("HcclAllReduce", source, target, count, type, stream);
}
HcclResult HcclReduce(void* source, void* target, uint64_t count, HcclDataType type, HcclReduceOp, uint32_t, HcclComm, aclrtStream stream) {
  return copy("HcclReduce", source, target, count, type, stream);
}
HcclResult HcclBroadcast(void* buffer, uint64_t count, HcclDataType type, uint32_t, HcclComm, aclrtStream stream) {
  return copy("HcclBroadcast", buffer, buffer, count, type, stream);
}
HcclResult HcclAllGather(void* source, void* target, uint64_t count, HcclDataType type, HcclComm, aclrtStream stream) {
  return copy("HcclAllGather", source, target, count, type, stream);
}
HcclResult HcclReduceScatter(void* source, void* target, uint64_t count, HcclDataType type, HcclReduceOp, HcclComm, aclrtStream stream) {
  return copy("HcclReduceScatter", source, target, count, type, stream);
}
HcclResult HcclScatter(void* source, void* target, uint64_t count, HcclDataType type, uint32_t, HcclComm, aclrtStream stream) {
  return copy("HcclScatter", source, target, count, type, stream);
}
HcclResult HcclSetConfig(HcclConfig, HcclConfigValue) { return HCCL_SUCCESS; }
HcclResult HcclBarrier(HcclComm, aclrtStream) { return HCCL_SUCCESS; }

}  // extern "C"
