// HCCL's C interface: checks arguments as HCCL does, and puts the collectives on their streams.
#include "hccl/hccl.h"

#include <algorithm>
#include <cstring>

#include "collectives/algorithms.h"
#include "collectives/environment.h"
#include "collectives/operators.h"
#include "collectives/rank_table.h"

using namespace cannsim;
using namespace cannsim::collectives;

namespace {

// ---- handles ------------------------------------------------------------------------------------

// A handle is the communicator's address; tasks on streams keep the communicator itself.
struct Handles {
  std::mutex mutex;
  std::map<HcclComm, std::shared_ptr<Communicator>> all;
};
Handles& handles() {
  static auto* made = new Handles;  // streams may still run while the process leaves
  return *made;
}

HcclComm keep(std::shared_ptr<Communicator> made) {
  std::lock_guard lock(handles().mutex);
  HcclComm handle = made.get();
  handles().all[handle] = std::move(made);
  return handle;
}

std::shared_ptr<Communicator> find(HcclComm handle, bool remove = false) {
  std::lock_guard lock(handles().mutex);
  auto found = handles().all.find(handle);
  if (found == handles().all.end())
    throw Failure(handle == nullptr ? HCCL_E_PTR : HCCL_E_PARA, handle == nullptr ? "the communicator is null" : "the communicator does not exist, or was destroyed",
                  ACL_ERROR_RT_PARAM_INVALID);
  auto communicator = found->second;
  if (remove) handles().all.erase(found);
  return communicator;
}

// Operators name a communicator as HcclGetCommName does.
std::shared_ptr<RankGroup> find_by_name(const std::string& name, int device) {
  std::lock_guard lock(handles().mutex);
  for (const auto& [handle, communicator] : handles().all) {
    if (communicator->device == device && communicator->options.name.substr(0, COMM_NAME_MAX_LENGTH - 1) == name) return for_operators(communicator);
  }
  return nullptr;
}
[[maybe_unused]] const bool known_to_operators = (set_rank_finder(find_by_name), true);

// Runs `body`; a failure becomes HCCL's code, with its message kept for aclGetRecentErrMsg.
template <typename Body>
HcclResult checked(const char* call, Body&& body) {
  try {
    body();
    return HCCL_SUCCESS;
  } catch (const Failure& failure) {
    report(failure.code, std::string(call) + ": " + failure.what());
    return failure.result;
  } catch (const Error& error) {
    report(error.code, std::string(call) + ": " + error.what());
    return HCCL_E_RUNTIME;
  } catch (const std::exception& error) {
    report(ACL_ERROR_INTERNAL_ERROR, std::string(call) + ": " + error.what());
    return HCCL_E_INTERNAL;
  }
}

[[noreturn]] void refuse(HcclResult result, const std::string& message) { throw Failure(result, message, ACL_ERROR_RT_PARAM_INVALID); }

void need(const void* pointer, const char* what) {
  if (pointer == nullptr) refuse(HCCL_E_PTR, std::string("EI0003: ") + what + " is null");
}

// ---- making ---------------------------------------------------------------------------------------

template <size_t n>
std::string text_of(const char (&field)[n]) {
  return std::string(field, strnlen(field, n));
}

Options options_of(const HcclCommConfig* config) {
  const Environment all = environment();
  Options made{"", all.buffer_bytes, all.exec_timeout};
  if (config == nullptr) return made;
  struct Start {
    size_t size;
    uint32_t magic, version;
  } start;
  std::memcpy(&start, config, sizeof(start));
  if (start.magic != HCCL_COMM_CONFIG_MAGIC_WORD) refuse(HCCL_E_PARA, "the configuration was not set up by HcclCommConfigInit");
  // A caller built for an older CANN has a shorter structure.
  auto has = [&](const void* end) { return size_t(static_cast<const char*>(end) - reinterpret_cast<const char*>(config)) <= start.size; };
  if (has(&config->hcclDeterministic) && config->hcclBufferSize != HCCL_COMM_BUFFSIZE_CONFIG_NOT_SET) {
    if (config->hcclBufferSize == 0) refuse(HCCL_E_PARA, "hcclBufferSize is 0; it is at least 1 (MB)");
    made.buffer_bytes = uint64_t(config->hcclBufferSize) << 20;
  }
  if (has(&config->hcclUdi)) made.name = text_of(config->hcclCommName);
  if (has(&config->hcclAlgo) && config->hcclExecTimeOut != HCCL_COMM_EXECTIMEOUT_CONFIG_NOT_SET)
    made.exec_timeout = std::chrono::seconds(std::max(0, config->hcclExecTimeOut));
  return made;
}

void join(uint32_t ranks, const HcclRootInfo* root, uint32_t rank, const HcclCommConfig* config, HcclComm* made) {
  need(root, "the root information");
  need(made, "the address for the communicator");
  if (ranks == 0 || rank >= ranks) refuse(HCCL_E_PARA, "EI0003: rank " + std::to_string(rank) + " of " + std::to_string(ranks) + " ranks");
  Meeting meeting;
  std::memcpy(&meeting, root->internal, sizeof(meeting));
  *made = keep(meet(meeting, rank, ranks, current_device(), options_of(config)));
}

// Members of a subgroup meet as those of a group do; the first of them says where, over the group.
HcclComm join_subgroup(Communicator& parent, const std::vector<uint32_t>& ranks, uint64_t id, uint32_t rank, const HcclCommConfig* config) {
  Options options = options_of(config);
  if (options.name.empty()) options.name = parent.options.name + "_sub_" + std::to_string(id);
  Meeting meeting{};
  if (rank == 0) meeting = open_meeting();
  if (ranks.size() > 1) hand_out(parent, ranks, &meeting, sizeof(meeting));
  return keep(meet(meeting, rank, uint32_t(ranks.size()), parent.device, options));
}

// ---- collectives ------------------------------------------------------------------------------------

using Body = std::function<void(Communicator&)>;

struct Launch {
  std::string name;
  std::shared_ptr<Communicator> communicator;
  Stream* stream;
  uint64_t bytes;
  Body body;
  std::vector<Item> items;  // of a point-to-point call, which others of its group join
};

// Calls between HcclGroupStart and HcclGroupEnd, on this thread.
struct Group {
  int depth = 0;
  std::vector<Launch> calls;
};
thread_local Group group;

void put_on_stream(Launch call) {
  if (group.depth > 0) {
    group.calls.push_back(std::move(call));
    return;
  }
  call.communicator->launch(call.name, *call.stream, call.bytes, std::move(call.body));
}

void launch(const char* name, HcclComm comm, aclrtStream stream, uint64_t bytes, Body body) {
  put_on_stream({name, find(comm), &stream_of(stream), bytes, std::move(body), {}});
}

void launch_items(const char* name, HcclComm comm, aclrtStream stream, std::vector<Item> items) {
  uint64_t bytes = 0;
  auto communicator = find(comm);
  for (const Item& item : items) {
    check_type(name, item.type);
    if (item.peer >= communicator->ranks)
      refuse(HCCL_E_PARA, "EI0003: rank " + std::to_string(item.peer) + " does not exist; the communicator has " + std::to_string(communicator->ranks));
    if (item.count > 0) need(item.buffer, "a buffer");
    bytes += item.count * size_of(item.type);
  }
  Body body = [items](Communicator& c) { send_and_receive(c, items); };
  put_on_stream({name, std::move(communicator), &stream_of(stream), bytes, std::move(body), std::move(items)});
}

// Point-to-point calls of a group run as one: each goes on whichever of the others has to wait.
void end_group() {
  std::vector<Launch> calls = std::move(group.calls);
  group.calls.clear();
  for (size_t i = 0; i < calls.size(); ++i) {
    Launch& first = calls[i];
    std::vector<Item> items = first.items;
    while (!items.empty() && i + 1 < calls.size() && !calls[i + 1].items.empty() && calls[i + 1].communicator == first.communicator &&
           calls[i + 1].stream == first.stream) {
      ++i;
      count_launch(*calls[i].stream, *make_task(activity(calls[i].name, Kind::collective), {0, calls[i].bytes, 0}, [] {}));
      items.insert(items.end(), calls[i].items.begin(), calls[i].items.end());
    }
    if (items.size() > first.items.size()) first.body = [items](Communicator& c) { send_and_receive(c, items); };
    first.communicator->launch(first.name, *first.stream, first.bytes, std::move(first.body));
  }
}

struct Call {
  const char* name;
  HcclComm comm;
  aclrtStream stream;

  uint32_t ranks() const { return find(comm)->ranks; }
  void check_root(uint32_t root) const {
    if (root >= ranks()) refuse(HCCL_E_PARA, "EI0003: root " + std::to_string(root) + " does not exist; the communicator has " + std::to_string(ranks()) + " ranks");
  }
};

Counts counts_of(const void* values, uint32_t ranks, const char* what) {
  need(values, what);
  const auto* first = static_cast<const uint64_t*>(values);
  return Counts(first, first + ranks);
}

uint64_t sum(const Counts& counts) {
  uint64_t all = 0;
  for (uint64_t count : counts) all += count;
  return all;
}

Counts equal_counts(uint32_t ranks, uint64_t count) { return Counts(ranks, count); }
Counts equal_places(uint32_t ranks, uint64_t count) {
  Counts made;
  for (uint32_t rank = 0; rank < ranks; ++rank) made.push_back(rank * count);
  return made;
}

HcclConfigValue& deterministic() {
  static HcclConfigValue value{0};
  return value;
}

void check_ranks(HcclComm comm, const uint32_t* ranks, uint32_t count) {
  const uint32_t known = find(comm)->ranks;
  if (count > 0) need(ranks, "the list of ranks");
  for (uint32_t i = 0; i < count; ++i) {
    if (ranks[i] >= known) refuse(HCCL_E_PARA, "EI0003: rank " + std::to_string(ranks[i]) + " does not exist; the communicator has " + std::to_string(known));
  }
}

struct Window {
  HcclComm comm;
  void* address;
  uint64_t bytes;
};

void* register_window(HcclComm comm, void* address, uint64_t bytes) {
  find(comm);
  need(address, "the window's address");
  if (bytes == 0) refuse(HCCL_E_PARA, "EI0003: a window of 0 bytes");
  return new Window{comm, address, bytes};
}

}  // namespace

// The names that HCCL exports; some are missing from the header that torch-npu carries.
extern "C" {

// ---- communicators --------------------------------------------------------------------------------

HcclResult HcclGetRootInfo(HcclRootInfo* root) {
  return checked("HcclGetRootInfo", [&] {
    need(root, "the root information");
    const Meeting meeting = open_meeting();
    std::memset(root->internal, 0, sizeof(root->internal));
    std::memcpy(root->internal, &meeting, sizeof(meeting));
  });
}
HcclResult HcclGetRootInfoScalable(HcclRootInfo* root) { return HcclGetRootInfo(root); }

HcclResult HcclCommInitRootInfoConfig(uint32_t ranks, const HcclRootInfo* root, uint32_t rank, const HcclCommConfig* config, HcclComm* made) {
  return checked("HcclCommInitRootInfoConfig", [&] { join(ranks, root, rank, config, made); });
}
HcclResult HcclCommInitRootInfo(uint32_t ranks, const HcclRootInfo* root, uint32_t rank, HcclComm* made) {
  return checked("HcclCommInitRootInfo", [&] { join(ranks, root, rank, nullptr, made); });
}
// Several roots share the work of a large meeting on the real one; here the first does it.
HcclResult HcclCommInitRootInfoScalable(uint32_t ranks, uint32_t roots, const HcclRootInfo* list, uint32_t rank, uint32_t extended,
                                        const HcclCommConfig* config, HcclComm* made) {
  return checked("HcclCommInitRootInfoScalable", [&] {
    if (roots == 0 || roots > ranks || extended != 0) refuse(HCCL_E_PARA, "EI0003: " + std::to_string(roots) + " roots and " + std::to_string(extended) + " extended ones");
    join(ranks, list, rank, config, made);
  });
}

HcclResult HcclCommInitClusterInfoConfig(const char* path, uint32_t rank, HcclCommConfig* config, HcclComm* made) {
  return checked("HcclCommInitClusterInfoConfig", [&] {
    need(path, "the rank table's path");
    need(made, "the address for the communicator");
    *made = keep(meet_by_table(path, rank, current_device(), options_of(config)));
  });
}
HcclResult HcclCommInitClusterInfo(const char* path, uint32_t rank, HcclComm* made) { return HcclCommInitClusterInfoConfig(path, rank, nullptr, made); }

HcclResult HcclCommInitAll(uint32_t count, int32_t* devices, HcclComm* made) {
  return checked("HcclCommInitAll", [&] {
    need(devices, "the list of devices");
    need(made, "the list of communicators");
    if (count == 0) refuse(HCCL_E_PARA, "EI0003: a communicator of no device");
    for (uint32_t rank = 0; rank < count; ++rank) device(devices[rank]);
    const Meeting meeting = open_meeting();
    const Options options = options_of(nullptr);
    std::vector<std::shared_ptr<Communicator>> all(count);
    std::vector<std::exception_ptr> failures(count);
    std::vector<std::thread> threads;
    for (uint32_t rank = 0; rank < count; ++rank) {
      threads.emplace_back([&, rank] {
        try {
          all[rank] = meet(meeting, rank, count, devices[rank], options);
        } catch (...) {
          failures[rank] = std::current_exception();
        }
      });
    }
    for (std::thread& thread : threads) thread.join();
    for (const auto& failure : failures) {
      if (failure) std::rethrow_exception(failure);
    }
    for (uint32_t rank = 0; rank < count; ++rank) made[rank] = keep(all[rank]);
  });
}

HcclResult HcclCreateSubCommConfig(HcclComm* parent, uint32_t count, uint32_t* ids, uint64_t id, uint32_t rank, HcclCommConfig* config, HcclComm* made) {
  return checked("HcclCreateSubCommConfig", [&] {
    need(parent, "the communicator");
    need(made, "the address for the communicator");
    auto whole = find(*parent);
    // A rank outside the subgroup says so with a null list and the largest number (its documentation).
    if (ids == nullptr && id == 0xFFFFFFFF) {
      *made = nullptr;
      return;
    }
    need(ids, "the list of ranks");
    const std::vector<uint32_t> ranks(ids, ids + count);
    std::vector<uint32_t> sorted = ranks;
    std::sort(sorted.begin(), sorted.end());
    if (count == 0 || sorted.back() >= whole->ranks || std::adjacent_find(sorted.begin(), sorted.end()) != sorted.end())
      refuse(HCCL_E_PARA, "EI0003: the list of a subgroup's ranks is empty, names a rank twice, or one that the communicator of " + std::to_string(whole->ranks) + " lacks");
    if (rank >= count || ranks[rank] != whole->rank)
      refuse(HCCL_E_PARA, "EI0003: rank " + std::to_string(whole->rank) + " is not number " + std::to_string(rank) + " of the subgroup's list");
    *made = join_subgroup(*whole, ranks, id, rank, config);
  });
}

HcclResult HcclCommDestroy(HcclComm comm) {
  return checked("HcclCommDestroy", [&] { find(comm, true)->close(); });
}

HcclResult HcclGetCommName(HcclComm comm, char* name) {
  return checked("HcclGetCommName", [&] {
    need(name, "the address for the name");
    const std::string known = find(comm)->options.name.substr(0, COMM_NAME_MAX_LENGTH - 1);
    std::memcpy(name, known.c_str(), known.size() + 1);
  });
}
HcclResult HcclGetCommAsyncError(HcclComm comm, HcclResult* error) {
  return checked("HcclGetCommAsyncError", [&] {
    need(error, "the address for the error");
    *error = find(comm)->error();
  });
}
HcclResult HcclGetRankSize(HcclComm comm, uint32_t* ranks) {
  return checked("HcclGetRankSize", [&] {
    need(ranks, "the address for the number");
    *ranks = find(comm)->ranks;
  });
}
HcclResult HcclGetRankId(HcclComm comm, uint32_t* rank) {
  return checked("HcclGetRankId", [&] {
    need(rank, "the address for the number");
    *rank = find(comm)->rank;
  });
}

// Nothing stands still that would have to be resumed: a communicator that failed stays failed.
HcclResult HcclCommSuspend(HcclComm comm) {
  return checked("HcclCommSuspend", [&] { find(comm); });
}
HcclResult HcclCommResume(HcclComm comm) {
  return checked("HcclCommResume", [&] {
    const HcclResult error = find(comm)->error();
    if (error != HCCL_SUCCESS) throw Failure(HCCL_E_NOT_SUPPORT, "a communicator that failed cannot be resumed here; destroy it and make another", ACL_ERROR_RT_FEATURE_NOT_SUPPORT);
  });
}
HcclResult HcclCommWorkingDevNicSet(HcclComm comm, uint32_t* ranks, bool*, uint32_t count) {
  return checked("HcclCommWorkingDevNicSet", [&] { check_ranks(comm, ranks, count); });
}

HcclResult HcclSetConfig(HcclConfig config, HcclConfigValue value) {
  return checked("HcclSetConfig", [&] {
    if (config != HCCL_DETERMINISTIC || value.value < 0 || value.value > 2) refuse(HCCL_E_PARA, "EI0003: only HCCL_DETERMINISTIC can be set, to 0, 1 or 2");
    deterministic() = value;
  });
}
HcclResult HcclGetConfig(HcclConfig config, HcclConfigValue* value) {
  return checked("HcclGetConfig", [&] {
    need(value, "the address for the value");
    if (config != HCCL_DETERMINISTIC) refuse(HCCL_E_PARA, "EI0003: only HCCL_DETERMINISTIC is known");
    *value = deterministic();
  });
}
// How many of the fields that HcclCommConfigCapability lists this version takes (assumed but for the newest).
uint32_t HcclGetCommConfigCapability() {
  const std::string version = settings().cann.version;
  if (version.rfind("8.2", 0) == 0) return HCCL_COMM_CONFIG_WORLD_RANKID;
  if (version.rfind("8.", 0) == 0) return HCCL_COMM_CONFIG_ACLGRAPH_ZEROCOPY_ENABLE;
  return HCCL_COMM_CONFIG_RESERVED;
}
const char* HcclGetErrorString(HcclResult code) {
  static const char* const kTexts[] = {"no error",          "parameter error",        "empty pointer",          "memory error",
                                       "internal error",    "feature not supported",  "resource not found",     "resource unavailable",
                                       "system call error", "timeout",                "cannot open a file",     "TCP connection failed",
                                       "RoCE connection failed", "TCP transfer failed", "RoCE transfer failed", "runtime call failed",
                                       "driver call failed", "profiling call failed", "CCE call failed",        "network call failed",
                                       "try again",         "remote error",           "communicator suspending", "retry failed",
                                       "out of memory"};
  return code >= 0 && size_t(code) < std::size(kTexts) ? kTexts[code] : "unknown error";
}

// ---- memory -----------------------------------------------------------------------------------------
// Registered memory lets an NPU spare copies; here every buffer is reached the same way.

HcclResult HcclMemAlloc(void** address, size_t bytes) {
  return checked("HcclMemAlloc", [&] {
    const int code = aclrtMalloc(address, bytes, ACL_MEM_MALLOC_HUGE_FIRST);
    if (code != ACL_SUCCESS) throw Failure(HCCL_E_OOM, aclGetRecentErrMsg(), code);
  });
}
HcclResult HcclMemFree(void* address) { return aclrtFree(address) == ACL_SUCCESS ? HCCL_SUCCESS : HCCL_E_RUNTIME; }
HcclResult HcclCommRegister(HcclComm comm, void* address, uint64_t bytes, void** handle, uint32_t) {
  return checked("HcclCommRegister", [&] {
    need(handle, "the address for the handle");
    *handle = register_window(comm, address, bytes);
  });
}
HcclResult HcclCommDeregister(HcclComm comm, void* handle) {
  return checked("HcclCommDeregister", [&] {
    find(comm);
    need(handle, "the window");
    delete static_cast<Window*>(handle);
  });
}
HcclResult HcclCommExchangeMem(HcclComm comm, void* handle, uint32_t* ranks, uint32_t count) {
  return checked("HcclCommExchangeMem", [&] {
    need(handle, "the window");
    check_ranks(comm, ranks, count);
  });
}
HcclResult HcclCommSymWinRegister(HcclComm comm, void* address, uint64_t bytes, void** handle, uint32_t flag) {
  return HcclCommRegister(comm, address, bytes, handle, flag);
}
HcclResult HcclCommSymWinDeregister(void* handle) {
  return checked("HcclCommSymWinDeregister", [&] {
    need(handle, "the window");
    delete static_cast<Window*>(handle);
  });
}
HcclResult HcclCommSetMemoryRange(HcclComm comm, void* address, size_t, size_t, uint64_t) {
  return checked("HcclCommSetMemoryRange", [&] { find(comm), need(address, "the range's address"); });
}
HcclResult HcclCommUnsetMemoryRange(HcclComm comm, void* address) {
  return checked("HcclCommUnsetMemoryRange", [&] { find(comm), need(address, "the range's address"); });
}
HcclResult HcclCommActivateCommMemory(HcclComm comm, void* address, size_t, size_t, aclrtDrvMemHandle, uint64_t) {
  return checked("HcclCommActivateCommMemory", [&] { find(comm), need(address, "the memory's address"); });
}
HcclResult HcclCommDeactivateCommMemory(HcclComm comm, void* address) {
  return checked("HcclCommDeactivateCommMemory", [&] { find(comm), need(address, "the memory's address"); });
}

// ---- collectives ------------------------------------------------------------------------------------
// Each counts the larger of its two buffers on this rank. A count of 0 does nothing, as in HCCL.

HcclResult HcclGroupStart() {
  ++group.depth;
  return HCCL_SUCCESS;
}
HcclResult HcclGroupEnd() {
  return checked("HcclGroupEnd", [&] {
    if (group.depth == 0) refuse(HCCL_E_PARA, "there was no HcclGroupStart");
    if (--group.depth == 0) end_group();
  });
}

HcclResult HcclAllReduce(void* source, void* target, uint64_t count, HcclDataType type, HcclReduceOp op, HcclComm comm, aclrtStream stream) {
  return checked("HcclAllReduce", [&] {
    check_reduction("HcclAllReduce", type, op);
    if (find(comm); count == 0) return;
    need(source, "sendBuf"), need(target, "recvBuf");
    launch("HcclAllReduce", comm, stream, count * size_of(type), [=](Communicator& c) { all_reduce(c, source, target, count, type, op); });
  });
}
HcclResult HcclReduce(void* source, void* target, uint64_t count, HcclDataType type, HcclReduceOp op, uint32_t root, HcclComm comm, aclrtStream stream) {
  return checked("HcclReduce", [&] {
    check_reduction("HcclReduce", type, op);
    Call{"HcclReduce", comm, stream}.check_root(root);
    if (count == 0) return;
    need(source, "sendBuf"), need(target, "recvBuf");
    launch("HcclReduce", comm, stream, count * size_of(type), [=](Communicator& c) { reduce(c, source, target, count, type, op, root); });
  });
}
HcclResult HcclBroadcast(void* buffer, uint64_t count, HcclDataType type, uint32_t root, HcclComm comm, aclrtStream stream) {
  return checked("HcclBroadcast", [&] {
    check_type("HcclBroadcast", type);
    Call{"HcclBroadcast", comm, stream}.check_root(root);
    if (count == 0) return;
    need(buffer, "buf");
    launch("HcclBroadcast", comm, stream, count * size_of(type), [=](Communicator& c) { broadcast(c, buffer, count, type, root); });
  });
}
HcclResult HcclScatter(void* source, void* target, uint64_t count, HcclDataType type, uint32_t root, HcclComm comm, aclrtStream stream) {
  return checked("HcclScatter", [&] {
    check_type("HcclScatter", type);
    Call{"HcclScatter", comm, stream}.check_root(root);
    if (count == 0) return;
    auto c = find(comm);
    if (c->rank == root) need(source, "sendBuf");
    need(target, "recvBuf");
    launch("HcclScatter", comm, stream, count * size_of(type) * (c->rank == root ? c->ranks : 1),
           [=](Communicator& c) { scatter(c, source, target, count, type, root); });
  });
}
HcclResult HcclAllGather(void* source, void* target, uint64_t count, HcclDataType type, HcclComm comm, aclrtStream stream) {
  return checked("HcclAllGather", [&] {
    check_type("HcclAllGather", type);
    const uint32_t ranks = find(comm)->ranks;
    if (count == 0) return;
    need(source, "sendBuf"), need(target, "recvBuf");
    launch("HcclAllGather", comm, stream, ranks * count * size_of(type), [=](Communicator& c) {
      all_gather(c, "HcclAllGather", source, count, target, equal_counts(ranks, count), equal_places(ranks, count), type);
    });
  });
}
HcclResult HcclAllGatherV(void* source, uint64_t count, void* target, const void* counts, const void* places, HcclDataType type, HcclComm comm,
                          aclrtStream stream) {
  return checked("HcclAllGatherV", [&] {
    check_type("HcclAllGatherV", type);
    auto c = find(comm);
    const Counts all = counts_of(counts, c->ranks, "recvCounts"), at = counts_of(places, c->ranks, "recvDispls");
    if (all[c->rank] != count)
      refuse(HCCL_E_PARA, "EI0003: sendCount is " + std::to_string(count) + ", recvCounts says " + std::to_string(all[c->rank]) + " for rank " + std::to_string(c->rank));
    if (count > 0) need(source, "sendBuf");
    need(target, "recvBuf");
    launch("HcclAllGatherV", comm, stream, sum(all) * size_of(type),
           [=](Communicator& c) { all_gather(c, "HcclAllGatherV", source, count, target, all, at, type); });
  });
}
HcclResult HcclReduceScatter(void* source, void* target, uint64_t count, HcclDataType type, HcclReduceOp op, HcclComm comm, aclrtStream stream) {
  return checked("HcclReduceScatter", [&] {
    check_reduction("HcclReduceScatter", type, op);
    const uint32_t ranks = find(comm)->ranks;
    if (count == 0) return;
    need(source, "sendBuf"), need(target, "recvBuf");
    launch("HcclReduceScatter", comm, stream, ranks * count * size_of(type), [=](Communicator& c) {
      reduce_scatter(c, "HcclReduceScatter", source, equal_counts(ranks, count), equal_places(ranks, count), target, type, op);
    });
  });
}
HcclResult HcclReduceScatterV(void* source, const void* counts, const void* places, void* target, uint64_t count, HcclDataType type, HcclReduceOp op,
                              HcclComm comm, aclrtStream stream) {
  return checked("HcclReduceScatterV", [&] {
    check_reduction("HcclReduceScatterV", type, op);
    auto c = find(comm);
    const Counts all = counts_of(counts, c->ranks, "sendCounts"), at = counts_of(places, c->ranks, "sendDispls");
    if (all[c->rank] != count)
      refuse(HCCL_E_PARA, "EI0003: recvCount is " + std::to_string(count) + ", sendCounts says " + std::to_string(all[c->rank]) + " for rank " + std::to_string(c->rank));
    need(source, "sendBuf");
    if (count > 0) need(target, "recvBuf");
    launch("HcclReduceScatterV", comm, stream, sum(all) * size_of(type),
           [=](Communicator& c) { reduce_scatter(c, "HcclReduceScatterV", source, all, at, target, type, op); });
  });
}

HcclResult HcclAlltoAll(const void* source, uint64_t sent, HcclDataType sent_type, const void* target, uint64_t received, HcclDataType received_type,
                        HcclComm comm, aclrtStream stream) {
  return checked("HcclAlltoAll", [&] {
    check_type("HcclAlltoAll", sent_type), check_type("HcclAlltoAll", received_type);
    const uint32_t ranks = find(comm)->ranks;
    if (sent * size_of(sent_type) != received * size_of(received_type))
      refuse(HCCL_E_PARA, "EI0003: sendCount " + std::to_string(sent) + " and recvCount " + std::to_string(received) + " are not the same number of bytes");
    if (sent == 0) return;
    need(source, "sendBuf"), need(target, "recvBuf");
    launch("HcclAlltoAll", comm, stream, ranks * sent * size_of(sent_type), [=](Communicator& c) {
      all_to_all(c, "HcclAlltoAll", source, equal_counts(ranks, sent), equal_places(ranks, sent), sent_type, const_cast<void*>(target),
                 equal_counts(ranks, received), equal_places(ranks, received), received_type);
    });
  });
}
HcclResult HcclAlltoAllV(const void* source, const void* sent, const void* sent_places, HcclDataType sent_type, const void* target, const void* received,
                         const void* received_places, HcclDataType received_type, HcclComm comm, aclrtStream stream) {
  return checked("HcclAlltoAllV", [&] {
    check_type("HcclAlltoAllV", sent_type), check_type("HcclAlltoAllV", received_type);
    const uint32_t ranks = find(comm)->ranks;
    const Counts out = counts_of(sent, ranks, "sendCounts"), out_at = counts_of(sent_places, ranks, "sdispls"),
                 in = counts_of(received, ranks, "recvCounts"), in_at = counts_of(received_places, ranks, "rdispls");
    if (sum(out) > 0) need(source, "sendBuf");
    if (sum(in) > 0) need(target, "recvBuf");
    launch("HcclAlltoAllV", comm, stream, std::max(sum(out) * size_of(sent_type), sum(in) * size_of(received_type)), [=](Communicator& c) {
      all_to_all(c, "HcclAlltoAllV", source, out, out_at, sent_type, const_cast<void*>(target), in, in_at, received_type);
    });
  });
}
HcclResult HcclAlltoAllVC(const void* source, const void* matrix, HcclDataType sent_type, const void* target, HcclDataType received_type, HcclComm comm,
                          aclrtStream stream) {
  return checked("HcclAlltoAllVC", [&] {
    check_type("HcclAlltoAllVC", sent_type), check_type("HcclAlltoAllVC", received_type);
    auto c = find(comm);
    const Counts all = counts_of(matrix, c->ranks * c->ranks, "sendCountMatrix");
    Counts out, out_at, in, in_at;
    uint64_t sent = 0, received = 0;
    for (uint32_t peer = 0; peer < c->ranks; ++peer) {
      out.push_back(all[c->rank * c->ranks + peer]);
      in.push_back(all[peer * c->ranks + c->rank]);
      out_at.push_back(sent);
      in_at.push_back(received);
      sent += out.back();
      received += in.back();
    }
    if (sent > 0) need(source, "sendBuf");
    if (received > 0) need(target, "recvBuf");
    launch("HcclAlltoAllVC", comm, stream, std::max(sent * size_of(sent_type), received * size_of(received_type)), [=](Communicator& c) {
      all_to_all(c, "HcclAlltoAllVC", source, out, out_at, sent_type, const_cast<void*>(target), in, in_at, received_type);
    });
  });
}

HcclResult HcclSend(void* buffer, uint64_t count, HcclDataType type, uint32_t peer, HcclComm comm, aclrtStream stream) {
  return checked("HcclSend", [&] {
    if (find(comm)->rank == peer && group.depth == 0) refuse(HCCL_E_PARA, "EI0003: rank " + std::to_string(peer) + " would send to itself");
    if (count > 0) launch_items("HcclSend", comm, stream, {{true, buffer, count, type, peer}});
  });
}
HcclResult HcclRecv(void* buffer, uint64_t count, HcclDataType type, uint32_t peer, HcclComm comm, aclrtStream stream) {
  return checked("HcclRecv", [&] {
    if (find(comm)->rank == peer && group.depth == 0) refuse(HCCL_E_PARA, "EI0003: rank " + std::to_string(peer) + " would receive from itself");
    if (count > 0) launch_items("HcclRecv", comm, stream, {{false, buffer, count, type, peer}});
  });
}
HcclResult HcclBatchSendRecv(HcclSendRecvItem* items, uint32_t count, HcclComm comm, aclrtStream stream) {
  return checked("HcclBatchSendRecv", [&] {
    need(items, "the list of items");
    std::vector<Item> all;
    for (uint32_t i = 0; i < count; ++i) {
      if (items[i].sendRecvType != HCCL_SEND && items[i].sendRecvType != HCCL_RECV)
        refuse(HCCL_E_PARA, "EI0003: item " + std::to_string(i) + " is neither a send nor a receive");
      if (items[i].count > 0) all.push_back({items[i].sendRecvType == HCCL_SEND, items[i].buf, items[i].count, items[i].dataType, items[i].remoteRank});
    }
    if (!all.empty()) launch_items("HcclBatchSendRecv", comm, stream, std::move(all));
  });
}
HcclResult HcclBarrier(HcclComm comm, aclrtStream stream) {
  return checked("HcclBarrier", [&] { launch("HcclBarrier", comm, stream, 0, [](Communicator& c) { barrier(c); }); });
}

}  // extern "C"
