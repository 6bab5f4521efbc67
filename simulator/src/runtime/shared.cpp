// Device memory in files, and records of exports in the host's shared memory (shm_open).
#include "runtime/shared.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <set>

namespace cannsim {
namespace {

constexpr char kMagic[8] = {'C', 'A', 'N', 'N', 'I', 'P', 'C', '1'};

// The free room of a device's file, by offset.
struct File {
  std::mutex mutex;
  int descriptor = -1;
  std::map<size_t, size_t> room;
};
File& file_of(int device) {
  static auto* all = new File[kMaxDevices];
  return all[device];
}

// In a forked child the file is the parent's: a device that was used before a fork is not used after.
void open_file(File& file, int device) {
  file.descriptor = memfd_create(("cannsim-device" + std::to_string(device)).c_str(), MFD_CLOEXEC);
  const size_t size = size_t(settings().device_memory) * 4;  // pieces of several sizes leave gaps
  if (file.descriptor < 0 || ftruncate(file.descriptor, off_t(size)) != 0)
    throw Error(ACL_ERROR_RT_MEMORY_ALLOCATION, std::string("the host has no file for shared device memory: ") + std::strerror(errno));
  file.room[0] = size;
}

bool alive(int32_t pid) { return kill(pid, 0) == 0 || errno == EPERM; }

// Names of records that this process has published: removed at its end, whatever still holds them.
struct Names {
  std::mutex mutex;
  int owner = 0;
  std::set<std::string> all;
};
Names& names() {
  static auto* made = new Names;
  return *made;
}

// Records of processes that were killed.
void sweep() {
  std::error_code ignored;
  for (const auto& entry : std::filesystem::directory_iterator("/dev/shm", ignored)) {
    const std::string name = entry.path().filename();
    int pid = 0;
    if (std::sscanf(name.c_str(), "cannsim-%*[a-z]-%d-", &pid) == 1 && !alive(pid)) shm_unlink(("/" + name).c_str());
  }
}

void remove_all() {
  auto& own = names();
  std::lock_guard lock(own.mutex);
  if (own.owner != getpid()) return;
  for (const auto& name : own.all) shm_unlink(name.c_str());
}

void remember(const std::string& name) {
  auto& own = names();
  std::lock_guard lock(own.mutex);
  if (own.owner != getpid()) {  // the first one, or in a forked child
    if (own.owner == 0) std::atexit(remove_all);
    own.owner = getpid();
    own.all.clear();
    sweep();
  }
  own.all.insert(name);
}

void forget(const std::string& name) {
  auto& own = names();
  std::lock_guard lock(own.mutex);
  if (own.all.erase(name) > 0) shm_unlink(name.c_str());
}

}  // namespace

Piece take_piece(int device, size_t bytes) {
  File& file = file_of(device);
  std::lock_guard lock(file.mutex);
  if (file.descriptor < 0) open_file(file, device);
  for (auto it = file.room.begin(); it != file.room.end(); ++it) {
    if (it->second < bytes) continue;
    const Piece piece{device, file.descriptor, it->first, bytes};
    if (it->second > bytes) file.room[it->first + bytes] = it->second - bytes;
    file.room.erase(piece.offset);
    return piece;
  }
  throw Error(ACL_ERROR_RT_MEMORY_ALLOCATION, "shared device memory is too fragmented for " + std::to_string(bytes) + " bytes");
}

void give_piece(const Piece& piece) {
  if (piece.device < 0) {
    close(piece.file);
    return;
  }
  fallocate(piece.file, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, off_t(piece.offset), off_t(piece.bytes));
  File& file = file_of(piece.device);
  std::lock_guard lock(file.mutex);
  auto next = file.room.emplace(piece.offset, piece.bytes).first;
  if (auto after = std::next(next); after != file.room.end() && next->first + next->second == after->first) {
    next->second += after->second;
    file.room.erase(after);
  }
  if (next == file.room.begin()) return;
  if (auto before = std::prev(next); before->first + before->second == next->first) {
    before->second += next->second;
    file.room.erase(next);
  }
}

void* map_piece(const Piece& piece, size_t from, size_t bytes, void* address) {
  const int fixed = address != nullptr ? MAP_FIXED : 0;
  void* made = mmap(address, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE | fixed, piece.file, off_t(piece.offset + from));
  if (made == MAP_FAILED)
    throw Error(ACL_ERROR_RT_MEMORY_ALLOCATION, "cannot map " + std::to_string(bytes) + " bytes of shared device memory: " + std::strerror(errno));
  return made;
}

Shared::~Shared() {
  munmap(record_, sizeof(Record));
  if (own_) forget(name);
}

std::shared_ptr<Shared> Shared::publish(const char* kind) {
  static std::atomic<int> next{0};
  const std::string name = "/cannsim-" + std::string(kind) + "-" + std::to_string(getpid()) + "-" + std::to_string(next++);
  remember(name);
  shm_unlink(name.c_str());  // of a process with the same number that was killed
  const int file = shm_open(name.c_str(), O_RDWR | O_CREAT | O_EXCL, 0600);
  void* made = MAP_FAILED;
  if (file >= 0 && ftruncate(file, sizeof(Record)) == 0) made = mmap(nullptr, sizeof(Record), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  if (file >= 0) close(file);
  if (made == MAP_FAILED) throw Error(ACL_ERROR_RT_IPC_ERROR, "cannot share " + name + ": " + std::strerror(errno));
  auto* record = static_cast<Record*>(made);
  std::memcpy(record->magic, kMagic, sizeof(kMagic));
  record->pid = getpid();
  return std::shared_ptr<Shared>(new Shared(name, record, true));
}

std::shared_ptr<Shared> Shared::open(const std::string& name) {
  const int file = shm_open(name.c_str(), O_RDWR, 0);
  struct stat status {};
  void* made = MAP_FAILED;
  if (file >= 0 && fstat(file, &status) == 0 && size_t(status.st_size) >= sizeof(Record))
    made = mmap(nullptr, sizeof(Record), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  if (file >= 0) close(file);
  if (made == MAP_FAILED) throw Error(ACL_ERROR_RT_PARAM_INVALID, "nothing is exported under the key " + name + ", or it has been closed");
  auto* record = static_cast<Record*>(made);
  const bool ours = std::memcmp(record->magic, kMagic, sizeof(kMagic)) == 0 && alive(record->pid);
  std::shared_ptr<Shared> opened(new Shared(name, record, false));
  if (!ours) throw Error(ACL_ERROR_RT_PARAM_INVALID, "the process that exported " + name + " has ended");
  return opened;
}

void allow(Shared& record, const int32_t* pids, size_t number) {
  auto* end = record->importers + kMaxImporters;
  for (size_t i = 0; i < number; ++i) {
    auto* free = std::find(record->importers, end, 0);
    if (free == end) throw Error(ACL_ERROR_RT_OVER_LIMIT, "more than " + std::to_string(kMaxImporters) + " processes may import " + record.name);
    *free = pids[i];
  }
}

Piece import_piece(const Shared& record, const char* what) {
  const int32_t* begin = record->importers;
  const int32_t* end = begin + kMaxImporters;
  const bool known = record->anyone != 0 || record->pid == getpid() || std::find(begin, end, getpid()) != end;
  if (!known)
    throw Error(ACL_ERROR_RT_NO_PERMISSION, std::string(what) + ": process " + std::to_string(getpid()) + " may not import " + record.name +
                                                "; the exporter names it (SetImportPid, SetPidToShareableHandle) or disables the check");
  const std::string path = "/proc/" + std::to_string(record->pid) + "/fd/" + std::to_string(record->file);
  const int file = ::open(path.c_str(), O_RDWR | O_CLOEXEC);
  if (file < 0) throw Error(ACL_ERROR_RT_IPC_ERROR, std::string(what) + ": cannot open " + path + ": " + std::strerror(errno));
  return {-1, file, record->offset, record->bytes};
}

}  // namespace cannsim
