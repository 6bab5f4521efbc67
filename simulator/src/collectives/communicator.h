// A communicator: one rank's channels to the others, and the engine that moves messages over them.
#pragma once

#include "collectives/reduction.h"
#include "collectives/transport.h"

namespace cannsim::collectives {

// What the ranks of one call must agree on; HCCL's check of "inconsistent parameters" (EI0005).
struct CallHeader {
  char name[24];
  uint32_t type, op, root, reserved;
  uint64_t count, bytes;  // of the call; of this message
  bool operator==(const CallHeader&) const = default;
};
static_assert(sizeof(CallHeader) <= kLine);

// One message out, one in, or one pass over own memory; `combine` (else a copy) applies what comes
// to `target`, never beyond what `after` has done: so sums are made in the order of the ranks.
struct Transfer {
  enum Kind { send, receive, local } kind;
  uint32_t peer;
  const void* source = nullptr;
  void* target = nullptr;
  uint64_t bytes = 0;
  Combine combine = nullptr;
  size_t element = 1;
  const Transfer* after = nullptr;

  // The engine's.
  CallHeader header{};
  enum Stage { waiting, body, leaving, done } stage = waiting;
  uint64_t progress = 0, ticket = 0, end = 0;
};

struct Options {
  std::string name;
  uint64_t buffer_bytes;             // HCCL_BUFFSIZE, twice of which a communicator occupies on its device
  std::chrono::seconds exec_timeout;  // 0: never
};

class Communicator : public std::enable_shared_from_this<Communicator> {
 public:
  struct Peer {
    std::unique_ptr<Outbox> out[kPlanes];
    std::unique_ptr<Inbox> in[kPlanes];
    Bell* bell = nullptr;  // of a rank on this host
    uint32_t member = 0;   // its number on this host
    std::shared_ptr<std::atomic<bool>> closed = std::make_shared<std::atomic<bool>>(false);  // of a rank elsewhere
    std::string place;     // for messages
    struct Turn {
      uint64_t next = 0;
      std::atomic<uint64_t> serving{0};
    } out_turn[kPlanes], in_turn[kPlanes];
  };

  Communicator(uint32_t rank, uint32_t ranks, int device, Options options);
  ~Communicator();

  // Moves all messages, the collectives' or the point-to-point ones, and returns when they are done.
  // Throws Failure, after which the communicator has failed for good on all ranks.
  void exchange(Plane plane, const CallHeader& call, std::vector<Transfer>& transfers);

  // Before a task is put on a stream: refuses when the communicator has failed, or is of another
  // device. What it returns is kept until the task's first run has ended: close() waits for it.
  std::shared_ptr<void> expect(const std::string& name, Stream& stream);
  // What a task does, with the faults that were asked for; its failure is the communicator's.
  void perform(const std::string& name, const std::function<void()>& body);
  // Both, for a collective.
  void launch(const std::string& name, Stream& stream, uint64_t bytes, std::function<void(Communicator&)> body);

  void fail(HcclResult result, const std::string& message, int acl);
  HcclResult error();
  void close();  // waits for what is on streams, then leaves the others
  void occupy();  // takes the device memory that HCCL's buffers have

  const uint32_t rank, ranks;
  const int device;
  const Options options;

  // Set while it is made.
  std::vector<Peer> peers;
  std::shared_ptr<Segment> segment;
  uint32_t member = 0;
  Bell own_bell{};
  Bell* bell = &own_bell;
  std::unique_ptr<SocketWatch> watch;

 private:
  bool step(Plane plane, Transfer& transfer);
  bool step_send(Plane plane, Transfer& transfer);
  bool step_receive(Plane plane, Transfer& transfer);
  bool step_local(Transfer& transfer);
  void finish(Plane plane, Transfer& transfer);
  void suffer(const std::string& name);
  void check_usable();
  std::string lost(Plane plane, const std::vector<Transfer>& transfers);
  [[noreturn]] void give_up(const std::string& message, HcclResult result);
  std::string describe(const CallHeader& call, const std::vector<Transfer>& transfers);

  std::mutex mutex_;  // tickets, error, memory
  std::condition_variable finished_;
  std::atomic<int> running_{0};
  std::atomic<bool> closing_{false}, failed_{false};
  HcclResult result_ = HCCL_SUCCESS;
  int acl_ = ACL_SUCCESS;
  std::string message_;
  uint64_t occupied_ = 0;
  const int process_;
};

}  // namespace cannsim::collectives
