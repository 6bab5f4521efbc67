// What processes share: device memory that lies in a file of its device, and records of what was exported.
#pragma once

#include <string>

#include "runtime/runtime.h"

namespace cannsim {

inline constexpr size_t kGranularity = 2 << 20;  // of physical memory: a huge page. assumed
inline constexpr size_t kMaxImporters = 64;

// A piece of a device's memory that other mappings, here or in other processes, can share. Each device
// has one sparse file (memfd) with as much room as it has memory, however many pieces there are.
struct Piece {
  int device;  // -1: of another process
  int file;
  size_t offset, bytes;
};
Piece take_piece(int device, size_t bytes);
void give_piece(const Piece& piece);
// Maps the piece over `address` (page-aligned, ours), or wherever there is room when it is null.
void* map_piece(const Piece& piece, size_t from, size_t bytes, void* address = nullptr);

// What another process reads to open an export.
struct Record {
  char magic[8];
  int32_t pid, device, file, anyone;  // device: its physical number
  uint64_t offset, bytes;
  int32_t importers[kMaxImporters];
  std::atomic<uint64_t> recorded, completed;  // of an event
};

// A record in shared memory, by its name; the process that published it removes it.
class Shared {
 public:
  ~Shared();
  static std::shared_ptr<Shared> publish(const char* kind);
  // Throws ACL_ERROR_RT_PARAM_INVALID for a name that nobody has published, or whose process has ended.
  static std::shared_ptr<Shared> open(const std::string& name);
  Record* operator->() const { return record_; }
  const std::string name;

 private:
  Shared(std::string name, Record* record, bool own) : name(std::move(name)), record_(record), own_(own) {}
  Record* record_;
  bool own_;
};

// Only processes that the exporter has named may import, unless it has switched that off.
void allow(Shared& record, const int32_t* pids, size_t number);
Piece import_piece(const Shared& record, const char* what);

// For aclrtFree: an allocation that was exported gives its piece back.
void stop_sharing(void* address);

// For aclrtResetDevice: frees what aclrtMalloc gave on the device.
void forget_memory(int device);

}  // namespace cannsim
