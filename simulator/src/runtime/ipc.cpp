// Device memory that other processes use: exported by a key, imported by it (aclrtIpcMem*).
#include <sys/mman.h>
#include <unistd.h>

#include <cstring>

#include "runtime/shared.h"

namespace cannsim {
namespace {

struct Imported {
  Piece piece;
  void* address;
  size_t bytes;
  int uses;
};

struct Keys {
  std::mutex mutex;
  std::map<std::string, std::shared_ptr<Shared>> exported;
  std::map<void*, Piece> pieces;  // by the address of an allocation that was exported
  std::map<std::string, Imported> imported;
};
Keys& keys() {
  static auto* all = new Keys;
  return *all;
}

// Copies only pages that the host holds: the others are zeros there and here.
void copy_resident(char* target, const char* source, size_t bytes) {
  const size_t page = size_t(sysconf(_SC_PAGESIZE));
  std::vector<unsigned char> resident(bytes / page);
  mincore(const_cast<char*>(source), bytes, resident.data());
  for (size_t i = 0; i < resident.size(); ++i) {
    if (resident[i] & 1) std::memcpy(target + i * page, source + i * page, page);
  }
}

// Moves an allocation into its device's file, at the same addresses.
Piece share(void* base, Range range) {
  auto& all = keys();
  std::lock_guard lock(all.mutex);
  auto found = all.pieces.find(base);
  if (found != all.pieces.end()) return found->second;
  device(range.device).drain();
  const Piece piece = take_piece(range.device, range.bytes);
  void* copy = map_piece(piece, 0, range.bytes);
  copy_resident(static_cast<char*>(copy), static_cast<const char*>(base), range.bytes);
  munmap(copy, range.bytes);
  map_piece(piece, 0, range.bytes, base);
  range.shared = true;
  memory_map().update(base, range);
  all.pieces[base] = piece;
  return piece;
}

std::string export_memory(void* address, size_t bytes, uint64_t flags) {
  Range range;
  uintptr_t start = 0;
  if (!memory_map().find(address, &range, &start) || range.device < 0 || !range.owned)
    throw Error(ACL_ERROR_RT_PARAM_INVALID, "only memory of aclrtMalloc can be exported by a key; physical memory has shareable handles");
  const size_t offset = reinterpret_cast<uintptr_t>(address) - start;
  if (offset + bytes > range.bytes) throw Error(ACL_ERROR_RT_PARAM_INVALID, "an export beyond the end of the allocation");
  const Piece piece = share(reinterpret_cast<void*>(start), range);
  auto record = Shared::publish("memory");
  (*record)->device = settings().visible[size_t(range.device)];
  (*record)->file = piece.file;
  (*record)->offset = piece.offset + offset;
  (*record)->bytes = bytes;
  (*record)->anyone = (flags & ACL_RT_IPC_MEM_EXPORT_FLAG_DISABLE_PID_VALIDATION) != 0;
  auto& all = keys();
  std::lock_guard lock(all.mutex);
  all.exported[record->name] = record;
  return record->name;
}

void* import_memory(const std::string& key) {
  auto& all = keys();
  std::lock_guard lock(all.mutex);
  if (auto found = all.imported.find(key); found != all.imported.end()) {
    ++found->second.uses;
    return found->second.address;
  }
  const auto record = Shared::open(key);
  Piece piece = import_piece(*record, "aclrtIpcMemImportByKey");
  const size_t page = size_t(sysconf(_SC_PAGESIZE)), inside = piece.offset % page;
  piece.offset -= inside;
  const size_t bytes = (inside + piece.bytes + page - 1) / page * page;
  auto* base = static_cast<char*>(map_piece(piece, 0, bytes));
  memory_map().insert(base, {bytes, current_device(), false, true});
  all.imported[key] = {piece, base + inside, bytes, 1};
  return base + inside;
}

void close_key(const std::string& key) {
  auto& all = keys();
  std::lock_guard lock(all.mutex);
  if (auto found = all.imported.find(key); found != all.imported.end()) {
    if (--found->second.uses > 0) return;
    const size_t page = size_t(sysconf(_SC_PAGESIZE));
    auto* base = reinterpret_cast<void*>(reinterpret_cast<uintptr_t>(found->second.address) / page * page);
    memory_map().remove(base);
    munmap(base, found->second.bytes);
    close(found->second.piece.file);
    all.imported.erase(found);
    return;
  }
  if (all.exported.erase(key) == 0) throw Error(ACL_ERROR_RT_PARAM_INVALID, "the key " + key + " was neither exported nor imported by this process");
}

}  // namespace

void stop_sharing(void* address) {
  auto& all = keys();
  std::lock_guard lock(all.mutex);
  auto found = all.pieces.find(address);
  if (found == all.pieces.end()) return;
  give_piece(found->second);
  all.pieces.erase(found);
}

}  // namespace cannsim

using namespace cannsim;

extern "C" {

aclError aclrtIpcMemGetExportKey(void* address, size_t bytes, char* key, size_t room, uint64_t flags) {
  return guarded([&] {
    const std::string made = export_memory(address, bytes, flags);
    if (room <= made.size()) throw Error(ACL_ERROR_RT_PARAM_INVALID, "the buffer of a key needs " + std::to_string(made.size() + 1) + " bytes");
    std::strcpy(key, made.c_str());
  });
}
aclError aclrtIpcMemSetImportPid(const char* key, int32_t* pids, size_t number) {
  return guarded([&] {
    auto& all = keys();
    std::lock_guard lock(all.mutex);
    auto found = all.exported.find(key);
    if (found == all.exported.end()) throw Error(ACL_ERROR_RT_PARAM_INVALID, std::string("this process has not exported the key ") + key);
    allow(*found->second, pids, number);
  });
}
aclError aclrtIpcMemImportByKey(void** address, const char* key, uint64_t) {
  return guarded([&] { *address = import_memory(key); });
}
aclError aclrtIpcMemClose(const char* key) {
  return guarded([&] { close_key(key); });
}

}  // extern "C"
