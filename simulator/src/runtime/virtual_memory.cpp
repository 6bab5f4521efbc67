// Virtual memory: address ranges are reserved, physical memory is allocated, and one mapped into the other.
#include <sys/mman.h>

#include <cstring>
#include <set>

#include "runtime/shared.h"

namespace cannsim {
namespace {

// Counted until the handle has been freed and no mapping is left.
struct PhysicalBlock {
  Piece piece;
  int device;        // where it counts
  bool imported;
  std::shared_ptr<Shared> exported;
  aclrtPhysicalMemProp properties;
  ~PhysicalBlock() {
    if (!imported) cannsim::device(device).give(piece.bytes);
    give_piece(piece);
  }
};

struct Reservation {
  size_t bytes;
  void* mapped;  // what the host reserved; the address is aligned inside it
  size_t mapped_bytes;
};

struct VirtualMemory {
  std::mutex mutex;
  std::map<uintptr_t, Reservation> reservations;
  std::map<void*, std::shared_ptr<PhysicalBlock>> blocks;  // by handle
  std::map<uintptr_t, std::pair<size_t, std::shared_ptr<PhysicalBlock>>> mappings;
  std::map<uint64_t, std::shared_ptr<Shared>> shareable;
};
VirtualMemory& virtual_memory() {
  static auto* all = new VirtualMemory;
  return *all;
}

uintptr_t number(const void* address) { return reinterpret_cast<uintptr_t>(address); }

void check_granularity(const char* what, uint64_t value) {
  if (value == 0 || value % kGranularity != 0)
    throw Error(ACL_ERROR_RT_PARAM_INVALID, std::string(what) + " " + std::to_string(value) + " is no multiple of the granularity, " +
                                                std::to_string(kGranularity) + " bytes (aclrtMemGetAllocationGranularity)");
}

void* reserve(size_t bytes, size_t alignment) {
  alignment = std::max(alignment, kGranularity);
  const size_t room = bytes + alignment;
  void* mapped = mmap(nullptr, room, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (mapped == MAP_FAILED) throw Error(ACL_ERROR_RT_MEMORY_ALLOCATION, "the host has no addresses for " + std::to_string(bytes) + " bytes");
  const uintptr_t address = (number(mapped) + alignment - 1) / alignment * alignment;
  auto& all = virtual_memory();
  std::lock_guard lock(all.mutex);
  all.reservations[address] = {bytes, mapped, room};
  return reinterpret_cast<void*>(address);
}

void release(void* address) {
  auto& all = virtual_memory();
  std::lock_guard lock(all.mutex);
  auto found = all.reservations.find(number(address));
  if (found == all.reservations.end()) throw Error(ACL_ERROR_RT_PARAM_INVALID, "the address was not reserved by aclrtReserveMemAddress, or has been released");
  auto mapped = all.mappings.lower_bound(found->first);
  if (mapped != all.mappings.end() && mapped->first < found->first + found->second.bytes)
    throw Error(ACL_ERROR_RT_PARAM_INVALID, "memory is still mapped in the range; call aclrtUnmapMem first");
  munmap(found->second.mapped, found->second.mapped_bytes);
  all.reservations.erase(found);
}

std::shared_ptr<PhysicalBlock> block_of(aclrtDrvMemHandle handle) {
  auto& all = virtual_memory();
  std::lock_guard lock(all.mutex);
  auto found = all.blocks.find(handle);
  if (found == all.blocks.end()) throw Error(ACL_ERROR_RT_INVALID_HANDLE, "the physical memory handle does not exist, or has been freed");
  return found->second;
}

aclrtDrvMemHandle keep(std::shared_ptr<PhysicalBlock> block) {
  auto& all = virtual_memory();
  std::lock_guard lock(all.mutex);
  aclrtDrvMemHandle handle = block.get();
  all.blocks[handle] = std::move(block);
  return handle;
}

aclrtDrvMemHandle allocate(size_t bytes, const aclrtPhysicalMemProp& properties) {
  check_granularity("physical memory of", bytes);
  const int owner = properties.location.type == ACL_MEM_LOCATION_TYPE_HOST ? current_device() : int(properties.location.id);
  device(owner).take(bytes);
  try {
    return keep(std::shared_ptr<PhysicalBlock>(new PhysicalBlock{take_piece(owner, bytes), owner, false, nullptr, properties}));
  } catch (const Error&) {
    device(owner).give(bytes);
    throw;
  }
}

void map(void* address, size_t bytes, size_t offset, aclrtDrvMemHandle handle) {
  check_granularity("a mapping of", bytes);
  const auto block = block_of(handle);
  if (offset + bytes > block->piece.bytes)
    throw Error(ACL_ERROR_RT_PARAM_INVALID, "a mapping of " + std::to_string(bytes) + " bytes from " + std::to_string(offset) +
                                                " on: the physical memory has " + std::to_string(block->piece.bytes));
  auto& all = virtual_memory();
  std::lock_guard lock(all.mutex);
  auto range = all.reservations.upper_bound(number(address));
  if (range == all.reservations.begin() || number(address) % kGranularity != 0 ||
      number(address) + bytes > std::prev(range)->first + std::prev(range)->second.bytes)
    throw Error(ACL_ERROR_RT_PARAM_INVALID, "a mapping outside of what aclrtReserveMemAddress gave, or at an address that is no multiple of the granularity");
  auto next = all.mappings.lower_bound(number(address));
  if ((next != all.mappings.end() && next->first < number(address) + bytes) ||
      (next != all.mappings.begin() && std::prev(next)->first + std::prev(next)->second.first > number(address)))
    throw Error(ACL_ERROR_RT_PARAM_INVALID, "memory is mapped there already");
  map_piece(block->piece, offset, bytes, address);
  all.mappings[number(address)] = {bytes, block};
  memory_map().insert(address, {bytes, block->device, false, true});
}

void unmap(void* address) {
  auto& all = virtual_memory();
  std::shared_ptr<PhysicalBlock> last;
  std::lock_guard lock(all.mutex);
  auto found = all.mappings.find(number(address));
  if (found == all.mappings.end()) throw Error(ACL_ERROR_RT_PARAM_INVALID, "nothing is mapped at the address");
  memory_map().remove(address);
  mmap(address, found->second.first, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
  last = std::move(found->second.second);
  all.mappings.erase(found);
}

// A handle is the exporter's process and a number there: the record's name.
std::string name_of(uint64_t shareable) { return "/cannsim-vmm-" + std::to_string(shareable >> 32) + "-" + std::to_string(shareable & 0xffffffff); }

std::shared_ptr<Shared> exported(uint64_t shareable) {
  auto& all = virtual_memory();
  std::lock_guard lock(all.mutex);
  auto found = all.shareable.find(shareable);
  if (found == all.shareable.end()) throw Error(ACL_ERROR_RT_INVALID_HANDLE, "this process has not exported the shareable handle");
  return found->second;
}

uint64_t export_block(aclrtDrvMemHandle handle, uint64_t flags) {
  const auto block = block_of(handle);
  if (block->imported) throw Error(ACL_ERROR_RT_INVALID_HANDLE, "imported physical memory cannot be exported again");
  auto record = Shared::publish("vmm");
  (*record)->device = settings().visible[size_t(block->device)];
  (*record)->file = block->piece.file;
  (*record)->offset = block->piece.offset;
  (*record)->bytes = block->piece.bytes;
  (*record)->anyone = (flags & ACL_RT_VMM_EXPORT_FLAG_DISABLE_PID_VALIDATION) != 0;
  const uint64_t serial = std::stoull(record->name.substr(record->name.rfind('-') + 1));
  const uint64_t shareable = uint64_t(uint32_t((*record)->pid)) << 32 | serial;
  block->exported = record;
  auto& all = virtual_memory();
  std::lock_guard lock(all.mutex);
  all.shareable[shareable] = record;
  return shareable;
}

aclrtDrvMemHandle import_block(uint64_t shareable, int owner) {
  const auto record = Shared::open(name_of(shareable));
  const Piece piece = import_piece(*record, "aclrtMemImportFromShareableHandle");
  aclrtPhysicalMemProp properties{};
  properties.memAttr = ACL_HBM_MEM_HUGE;
  properties.location = {uint32_t(owner), ACL_MEM_LOCATION_TYPE_DEVICE};
  return keep(std::shared_ptr<PhysicalBlock>(new PhysicalBlock{piece, device(owner).id, true, nullptr, properties}));
}

aclError no_fabric() { return report(ACL_ERROR_RT_FEATURE_NOT_SUPPORT, "fabric handles (memory shared between servers) are not simulated"); }

}  // namespace
}  // namespace cannsim

using namespace cannsim;

extern "C" {

aclError aclrtReserveMemAddress(void** address, size_t bytes, size_t alignment, void*, uint64_t) {
  return guarded([&] {
    if (bytes == 0) throw Error(ACL_ERROR_RT_PARAM_INVALID, "a reservation of 0 bytes");
    *address = reserve(bytes, alignment);
  });
}
aclError aclrtReleaseMemAddress(void* address) {
  return guarded([&] { release(address); });
}
aclError aclrtMallocPhysical(aclrtDrvMemHandle* handle, size_t bytes, const aclrtPhysicalMemProp* properties, uint64_t) {
  return guarded([&] {
    if (properties == nullptr) throw Error(ACL_ERROR_RT_PARAM_INVALID, "the properties of physical memory are null");
    *handle = allocate(bytes, *properties);
  });
}
aclError aclrtFreePhysical(aclrtDrvMemHandle handle) {
  return guarded([&] {
    const auto block = block_of(handle);
    auto& all = virtual_memory();
    std::lock_guard lock(all.mutex);
    for (auto it = all.shareable.begin(); it != all.shareable.end();) it = it->second == block->exported ? all.shareable.erase(it) : std::next(it);
    all.blocks.erase(handle);
  });
}
aclError aclrtMapMem(void* address, size_t bytes, size_t offset, aclrtDrvMemHandle handle, uint64_t) {
  return guarded([&] { map(address, bytes, offset, handle); });
}
aclError aclrtUnmapMem(void* address) {
  return guarded([&] { unmap(address); });
}
aclError aclrtMemSetAccess(void*, size_t, aclrtMemAccessDesc*, size_t) { return ACL_SUCCESS; }  // mapped is readable and writable
aclError aclrtMemGetAllocationGranularity(aclrtPhysicalMemProp*, aclrtMemGranularityOptions, size_t* granularity) {
  *granularity = kGranularity;
  return ACL_SUCCESS;
}
aclError aclrtMemGetAllocationPropertiesFromHandle(aclrtDrvMemHandle handle, aclrtPhysicalMemProp* properties) {
  return guarded([&] { *properties = block_of(handle)->properties; });
}

aclError aclrtMemExportToShareableHandle(aclrtDrvMemHandle handle, aclrtMemHandleType, uint64_t flags, uint64_t* shareable) {
  return guarded([&] { *shareable = export_block(handle, flags); });
}
aclError aclrtMemExportToShareableHandleV2(aclrtDrvMemHandle handle, uint64_t flags, aclrtMemSharedHandleType type, void* shareable) {
  if (type != ACL_MEM_SHARE_HANDLE_TYPE_DEFAULT) return no_fabric();
  return guarded([&] { *static_cast<uint64_t*>(shareable) = export_block(handle, flags); });
}
aclError aclrtMemSetPidToShareableHandleV2(void* shareable, aclrtMemSharedHandleType type, int32_t* pids, size_t number) {
  if (type != ACL_MEM_SHARE_HANDLE_TYPE_DEFAULT) return no_fabric();
  return guarded([&] { allow(*exported(*static_cast<uint64_t*>(shareable)), pids, number); });
}
aclError aclrtMemImportFromShareableHandleV2(void* shareable, aclrtMemSharedHandleType type, uint64_t, aclrtDrvMemHandle* handle) {
  if (type != ACL_MEM_SHARE_HANDLE_TYPE_DEFAULT) return no_fabric();
  return guarded([&] { *handle = import_block(*static_cast<uint64_t*>(shareable), current_device()); });
}
aclError aclrtMemSetPidToShareableHandle(uint64_t shareable, int32_t* pids, size_t number) {
  return guarded([&] { allow(*exported(shareable), pids, number); });
}
aclError aclrtMemImportFromShareableHandle(uint64_t shareable, int32_t owner, aclrtDrvMemHandle* handle) {
  return guarded([&] { *handle = import_block(shareable, owner); });
}

}  // extern "C"
