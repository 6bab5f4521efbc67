// How the bytes of one rank reach another: a first-in first-out channel for each ordered pair and
// plane, over memory that processes of a host share, or over TCP between hosts.
//
// Messages start at multiples of kLine bytes and are padded to them, so that no element is cut in two.
#pragma once

#include "collectives/sockets.h"

namespace cannsim::collectives {

inline constexpr size_t kLine = 64;
inline size_t whole_lines(size_t bytes) { return (bytes + kLine - 1) / kLine * kLine; }

// Collectives, point-to-point operations and the making of subgroups never wait in each other's queue.
enum Plane : uint32_t { kCollective, kPointToPoint, kControl, kPlanes };

enum class State : uint32_t { taking_part, left, failed };

// What a rank sleeps on while nothing moves, and what it tells the others of itself.
struct Bell {
  alignas(kLine) std::atomic<uint32_t> rung;
  std::atomic<uint32_t> sleepers;
  std::atomic<State> state;
  char reason[180];  // why it failed; written before `state`
};
void ring(Bell& bell);
void sleep(Bell& bell, uint32_t seen, std::chrono::milliseconds limit);  // returns once `rung` is not `seen`, or at the limit

class Outbox {
 public:
  virtual ~Outbox() = default;
  virtual char* room(size_t* bytes) = 0;  // contiguous free space, a multiple of kLine
  virtual void commit(size_t bytes) = 0;
  virtual uint64_t gone() = 0;   // bytes that no longer need this process
  virtual uint64_t taken() = 0;  // bytes that the receiver has taken (TCP: acknowledged)
  virtual void hang_up() {}
  uint64_t committed = 0;
};

class Inbox {
 public:
  virtual ~Inbox() = default;
  virtual const char* data(size_t* bytes) = 0;  // contiguous bytes that have arrived
  virtual void take(size_t bytes) = 0;
  virtual void acknowledge() {}  // a point-to-point message is complete: its sender may go on
  virtual void hang_up() {}
};

// Memory shared by the ranks of one host. It has no name: it is passed on as a descriptor, and goes
// with the last process that has it, however that ends.
class Segment : public std::enable_shared_from_this<Segment> {
 public:
  Segment(Descriptor file, uint32_t ranks);
  ~Segment();
  static Descriptor make_file(uint32_t ranks);
  // One mapping a process, so that ranks in one process share addresses too.
  static std::shared_ptr<Segment> attach(Descriptor file, uint32_t ranks);

  Bell& bell(uint32_t member);
  std::unique_ptr<Outbox> outbox(Plane plane, uint32_t from, uint32_t to);
  std::unique_ptr<Inbox> inbox(Plane plane, uint32_t from, uint32_t to);
  // A member's process holds a lock on the member's byte of the file; the kernel drops it when the
  // process ends, a child does not inherit it, and it is seen across process namespaces.
  void join(uint32_t member);
  void leave(uint32_t member);
  bool present(uint32_t member);  // true for members of this process

 private:
  struct Ring;
  friend class RingOutbox;
  friend class RingInbox;
  Ring& ring_of(Plane plane, uint32_t from, uint32_t to);
  char* data_of(Plane plane, uint32_t from, uint32_t to);
  std::vector<Descriptor> files_;
  const uint32_t ranks_;
  const size_t bytes_;
  const int process_;
  char* base_;
  std::mutex mutex_;
  std::vector<bool> mine_;
};

std::unique_ptr<Outbox> tcp_outbox(Descriptor socket, std::shared_ptr<std::atomic<bool>> closed);
std::unique_ptr<Inbox> tcp_inbox(Descriptor socket, std::shared_ptr<std::atomic<bool>> closed);

// Rings a bell whenever a socket becomes readable or writable.
class SocketWatch {
 public:
  explicit SocketWatch(Bell& bell);
  ~SocketWatch();
  void add(int socket);
  void start();

 private:
  void loop();
  Bell& bell_;
  Descriptor poll_, stop_;
  const int process_;
  std::thread thread_;
};

}  // namespace cannsim::collectives
