// Channels over memory that the processes of one host share, and the bells that wake their readers.
#include <fcntl.h>
#include <linux/futex.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <climits>
#include <cstring>

#include "collectives/transport.h"

namespace cannsim::collectives {

void ring(Bell& bell) {
  bell.rung.fetch_add(1);
  if (bell.sleepers.load() > 0) syscall(SYS_futex, &bell.rung, FUTEX_WAKE, INT_MAX, nullptr, nullptr, 0);
}

void sleep(Bell& bell, uint32_t seen, std::chrono::milliseconds limit) {
  const timespec wait{time_t(limit.count() / 1000), long(limit.count() % 1000) * 1000000};
  bell.sleepers.fetch_add(1);
  if (bell.rung.load() == seen) syscall(SYS_futex, &bell.rung, FUTEX_WAIT, seen, &wait, nullptr, 0);
  bell.sleepers.fetch_sub(1);
}

// One producer, one consumer; positions only grow.
struct Segment::Ring {
  alignas(kLine) std::atomic<uint64_t> head;
  alignas(kLine) std::atomic<uint64_t> tail;
};

namespace {

constexpr size_t kPage = 4096;

// Few ranks get rings as large as a core's cache likes; many ranks keep the sum of all in bounds.
// Only pages that are used cost memory.
size_t capacity(Plane plane, uint32_t ranks) {
  if (plane == kControl) return 2 * kPage;
  return ranks <= 4 ? 512 << 10 : ranks <= 16 ? 256 << 10 : 64 << 10;
}

size_t rings_at(uint32_t ranks) { return whole_lines(ranks * sizeof(Bell)); }

size_t data_at(Plane plane, uint32_t ranks) {
  size_t at = rings_at(ranks) + kPlanes * ranks * ranks * 2 * kLine;
  at = (at + kPage - 1) / kPage * kPage;
  for (uint32_t before = 0; before < plane; ++before) at += size_t(ranks) * ranks * capacity(Plane(before), ranks);
  return at;
}

struct flock byte_of(uint32_t member, short type) {
  struct flock lock {};
  lock.l_type = type;
  lock.l_whence = SEEK_SET;
  lock.l_start = member;
  lock.l_len = 1;
  return lock;
}

}  // namespace

class RingOutbox final : public Outbox {
 public:
  RingOutbox(std::shared_ptr<Segment> segment, Segment::Ring& ring, char* data, size_t capacity)
      : segment_(std::move(segment)), ring_(ring), data_(data), capacity_(capacity) {}
  char* room(size_t* bytes) override {
    const size_t at = committed % capacity_;
    *bytes = std::min(capacity_ - (committed - taken()), capacity_ - at);
    return data_ + at;
  }
  void commit(size_t bytes) override {
    committed += bytes;
    ring_.head.store(committed, std::memory_order_release);
  }
  uint64_t gone() override { return committed; }
  uint64_t taken() override { return ring_.tail.load(std::memory_order_acquire); }

 private:
  std::shared_ptr<Segment> segment_;
  Segment::Ring& ring_;
  char* data_;
  const size_t capacity_;
};

class RingInbox final : public Inbox {
 public:
  RingInbox(std::shared_ptr<Segment> segment, Segment::Ring& ring, char* data, size_t capacity)
      : segment_(std::move(segment)), ring_(ring), data_(data), capacity_(capacity) {}
  const char* data(size_t* bytes) override {
    const size_t at = taken_ % capacity_;
    *bytes = std::min<size_t>(ring_.head.load(std::memory_order_acquire) - taken_, capacity_ - at);
    return data_ + at;
  }
  void take(size_t bytes) override {
    taken_ += bytes;
    ring_.tail.store(taken_, std::memory_order_release);
  }

 private:
  std::shared_ptr<Segment> segment_;
  Segment::Ring& ring_;
  char* data_;
  const size_t capacity_;
  uint64_t taken_ = 0;
};

namespace {

using FileKey = std::pair<dev_t, ino_t>;

FileKey key_of(const Descriptor& file) {
  struct stat found {};
  fstat(file.get(), &found);
  return {found.st_dev, found.st_ino};
}

struct Attached {
  std::mutex mutex;
  std::map<FileKey, std::weak_ptr<Segment>> all;
};

Attached& attached() {
  static auto* made = new Attached;
  return *made;
}

}  // namespace

// The mapping is not inherited: a forked child is no rank, and must not keep the memory alive.
Segment::Segment(Descriptor file, uint32_t ranks) : ranks_(ranks), bytes_(data_at(kPlanes, ranks)), process_(getpid()), mine_(ranks) {
  void* made = mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_SHARED, file.get(), 0);
  if (made == MAP_FAILED) throw Failure(HCCL_E_MEMORY, std::string("cannot map the shared memory of a communicator: ") + std::strerror(errno));
  madvise(made, bytes_, MADV_DONTFORK);
  base_ = static_cast<char*>(made);
  files_.push_back(std::move(file));
}

Segment::~Segment() {
  if (process_ == getpid()) munmap(base_, bytes_);
}

Descriptor Segment::make_file(uint32_t ranks) {
  Descriptor file(memfd_create("cannsim-communicator", MFD_CLOEXEC));
  if (ftruncate(file.get(), off_t(data_at(kPlanes, ranks))) != 0)
    throw Failure(HCCL_E_MEMORY, std::string("cannot make the shared memory of a communicator: ") + std::strerror(errno));
  return file;
}

std::shared_ptr<Segment> Segment::attach(Descriptor file, uint32_t ranks) {
  std::lock_guard lock(attached().mutex);
  std::erase_if(attached().all, [](const auto& entry) { return entry.second.expired(); });
  auto& known = attached().all[key_of(file)];
  auto segment = known.lock();
  if (segment) {
    // Closing any descriptor of a file drops the process's locks on it: this one is kept, too.
    segment->files_.push_back(std::move(file));
    return segment;
  }
  segment = std::make_shared<Segment>(std::move(file), ranks);
  known = segment;
  return segment;
}

Bell& Segment::bell(uint32_t member) { return reinterpret_cast<Bell*>(base_)[member]; }

Segment::Ring& Segment::ring_of(Plane plane, uint32_t from, uint32_t to) {
  static_assert(sizeof(Ring) == 2 * kLine);
  return reinterpret_cast<Ring*>(base_ + rings_at(ranks_))[(plane * ranks_ + from) * ranks_ + to];
}

char* Segment::data_of(Plane plane, uint32_t from, uint32_t to) {
  return base_ + data_at(plane, ranks_) + (size_t(from) * ranks_ + to) * capacity(plane, ranks_);
}

void Segment::join(uint32_t member) {
  struct flock lock = byte_of(member, F_WRLCK);
  if (fcntl(files_.front().get(), F_SETLK, &lock) != 0)
    throw Failure(HCCL_E_SYSCALL, std::string("cannot lock the shared memory of a communicator: ") + std::strerror(errno));
  std::lock_guard guard(mutex_);
  mine_[member] = true;
}

void Segment::leave(uint32_t member) {
  struct flock lock = byte_of(member, F_UNLCK);
  fcntl(files_.front().get(), F_SETLK, &lock);
}

bool Segment::present(uint32_t member) {
  {
    std::lock_guard guard(mutex_);
    if (mine_[member]) return true;
  }
  struct flock lock = byte_of(member, F_WRLCK);
  return fcntl(files_.front().get(), F_GETLK, &lock) != 0 || lock.l_type != F_UNLCK;
}

std::unique_ptr<Outbox> Segment::outbox(Plane plane, uint32_t from, uint32_t to) {
  return std::make_unique<RingOutbox>(shared_from_this(), ring_of(plane, from, to), data_of(plane, from, to), capacity(plane, ranks_));
}

std::unique_ptr<Inbox> Segment::inbox(Plane plane, uint32_t from, uint32_t to) {
  return std::make_unique<RingInbox>(shared_from_this(), ring_of(plane, from, to), data_of(plane, from, to), capacity(plane, ranks_));
}

}  // namespace cannsim::collectives
