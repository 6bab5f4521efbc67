// The engine of a communicator: messages move as far as they can, in any order; then it sleeps.
#include "collectives/communicator.h"

#include <dlfcn.h>
#include <unistd.h>

#include <cstring>

#include "collectives/faults.h"

namespace cannsim::collectives {
namespace {

constexpr size_t kPiece = 64 << 10;  // moved in one go, so that sender and receiver work at the same time
constexpr auto kSpin = std::chrono::microseconds(20);
constexpr auto kLook = std::chrono::milliseconds(50);   // how often a sleeper looks after its peers
constexpr auto kGrace = std::chrono::seconds(5);        // for what is on streams when a communicator is destroyed

void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// A call that a capture keeps has no end that destroying could wait for.
bool capturing(Stream& stream) {
  using GetInfo = int (*)(void*, int*, void**);
  static const auto get_info = reinterpret_cast<GetInfo>(dlsym(RTLD_DEFAULT, "aclmdlRICaptureGetInfo"));
  int status = 0;
  void* model = nullptr;
  return get_info != nullptr && get_info(&stream, &status, &model) == ACL_SUCCESS && status != 0;
}

}  // namespace

Communicator::Communicator(uint32_t rank, uint32_t ranks, int device, Options options)
    : rank(rank), ranks(ranks), device(device), options(std::move(options)), peers(ranks), process_(getpid()) {}

Communicator::~Communicator() {
  if (occupied_ > 0) cannsim::device(device).give(occupied_);
}

// ---- one message ------------------------------------------------------------------------------

bool Communicator::step(Plane plane, Transfer& transfer) {
  if (transfer.kind == Transfer::local) return step_local(transfer);
  Peer& peer = peers[transfer.peer];
  auto& turn = transfer.kind == Transfer::send ? peer.out_turn[plane] : peer.in_turn[plane];
  if (transfer.stage == Transfer::waiting && turn.serving.load(std::memory_order_acquire) != transfer.ticket) return false;
  const bool moved = transfer.kind == Transfer::send ? step_send(plane, transfer) : step_receive(plane, transfer);
  if (moved && peer.bell != nullptr) ring(*peer.bell);
  return moved;
}

bool Communicator::step_send(Plane plane, Transfer& transfer) {
  Outbox& out = *peers[transfer.peer].out[plane];
  bool moved = false;
  size_t room;
  if (transfer.stage == Transfer::waiting) {
    char* to = out.room(&room);
    if (room < kLine) return false;
    std::memset(to, 0, kLine);
    std::memcpy(to, &transfer.header, sizeof(transfer.header));
    out.commit(kLine);
    transfer.stage = Transfer::body;
    moved = true;
  }
  if (transfer.stage == Transfer::body && transfer.progress < transfer.bytes) {
    char* to = out.room(&room);
    const size_t bytes = std::min<size_t>({room, transfer.bytes - transfer.progress, kPiece});
    std::memcpy(to, static_cast<const char*>(transfer.source) + transfer.progress, bytes);
    if (bytes > 0) out.commit(whole_lines(bytes));
    transfer.progress += bytes;
    moved |= bytes > 0;
  }
  if (transfer.stage == Transfer::body && transfer.progress == transfer.bytes) {
    transfer.stage = Transfer::leaving;
    transfer.end = out.committed;
  }
  // A point-to-point send ends when its receiver has the data (assumed: HCCL's sender waits for the
  // receiver's notification); a collective's messages may still be on their way.
  if (transfer.stage == Transfer::leaving && (plane == kPointToPoint ? out.taken() : out.gone()) >= transfer.end) {
    finish(plane, transfer);
    moved = true;
  }
  return moved;
}

bool Communicator::step_receive(Plane plane, Transfer& transfer) {
  Inbox& in = *peers[transfer.peer].in[plane];
  bool moved = false;
  size_t there;
  if (transfer.stage == Transfer::waiting) {
    const char* from = in.data(&there);
    if (there < kLine) return false;
    CallHeader found;
    std::memcpy(&found, from, sizeof(found));
    if (!(found == transfer.header)) {
      auto text = [](const CallHeader& call) {
        return std::string(call.name) + " of " + std::to_string(call.count) + " " + name_of(HcclDataType(call.type)) + " (operation " +
               std::to_string(call.op) + ", root " + std::to_string(call.root) + ", message of " + std::to_string(call.bytes) + " bytes)";
      };
      throw Failure(HCCL_E_PARA, "EI0005: the ranks' calls differ: rank " + std::to_string(rank) + " called " + text(transfer.header) + ", rank " +
                                     std::to_string(transfer.peer) + " called " + text(found),
                    ACL_ERROR_RT_PARAM_INVALID);
    }
    in.take(kLine);
    transfer.stage = Transfer::body;
    moved = true;
  }
  const uint64_t limit = transfer.after == nullptr ? transfer.bytes : transfer.after->progress;
  if (transfer.progress < limit) {
    const char* from = in.data(&there);
    const uint64_t wanted = std::min<uint64_t>(limit - transfer.progress, kPiece);
    // All of the rest with its padding, or whole lines.
    const bool last = transfer.progress + wanted == transfer.bytes && there >= whole_lines(wanted);
    const size_t bytes = last ? wanted : std::min<size_t>(there, wanted) / kLine * kLine;
    if (bytes > 0) {
      char* to = static_cast<char*>(transfer.target) + transfer.progress;
      if (transfer.combine != nullptr) {
        transfer.combine(to, from, bytes / transfer.element);
      } else {
        std::memcpy(to, from, bytes);
      }
      in.take(whole_lines(bytes));
      transfer.progress += bytes;
      moved = true;
    }
  }
  if (transfer.progress == transfer.bytes) {
    if (plane == kPointToPoint) in.acknowledge();
    finish(plane, transfer);
    moved = true;
  }
  return moved;
}

bool Communicator::step_local(Transfer& transfer) {
  const uint64_t limit = transfer.after == nullptr ? transfer.bytes : transfer.after->progress;
  const size_t bytes = std::min<uint64_t>(limit - transfer.progress, kPiece);
  char* to = static_cast<char*>(transfer.target) + transfer.progress;
  const char* from = static_cast<const char*>(transfer.source) + transfer.progress;
  if (bytes > 0 && transfer.combine != nullptr) transfer.combine(to, from, bytes / transfer.element);
  if (bytes > 0 && transfer.combine == nullptr) std::memmove(to, from, bytes);
  transfer.progress += bytes;
  if (transfer.progress == transfer.bytes) transfer.stage = Transfer::done;
  return bytes > 0 || transfer.stage == Transfer::done;
}

void Communicator::finish(Plane plane, Transfer& transfer) {
  transfer.stage = Transfer::done;
  Peer& peer = peers[transfer.peer];
  auto& turn = transfer.kind == Transfer::send ? peer.out_turn[plane] : peer.in_turn[plane];
  turn.serving.store(transfer.ticket + 1, std::memory_order_release);
  ring(*bell);  // another stream of this rank may wait for its turn
}

// ---- all messages of a call -------------------------------------------------------------------

void Communicator::exchange(Plane plane, const CallHeader& call, std::vector<Transfer>& transfers) {
  check_usable();
  {
    std::lock_guard lock(mutex_);
    for (Transfer& transfer : transfers) {
      if (transfer.kind == Transfer::local) continue;
      Peer& peer = peers[transfer.peer];
      transfer.ticket = (transfer.kind == Transfer::send ? peer.out_turn[plane] : peer.in_turn[plane]).next++;
      if (transfer.header.name[0] == '\0') transfer.header = call;
      transfer.header.bytes = transfer.bytes;
    }
  }
  auto last = Clock::now();
  bool warned = false;
  while (true) {
    const uint32_t seen = bell->rung.load(std::memory_order_acquire);
    bool moved = false, pending = false;
    for (Transfer& transfer : transfers) {
      if (transfer.stage == Transfer::done) continue;
      moved |= step(plane, transfer);
      pending |= transfer.stage != Transfer::done;
    }
    if (!pending) return;
    if (moved) {
      last = Clock::now();
      warned = false;
      continue;
    }
    check_usable();
    while (bell->rung.load(std::memory_order_relaxed) == seen && Clock::now() - last < kSpin) relax();
    if (bell->rung.load(std::memory_order_relaxed) != seen && Clock::now() - last < kSpin) continue;
    // What a peer did before it went may have arrived since this pass began: one more.
    const std::string reason = lost(plane, transfers);
    if (!reason.empty() && warned) give_up("EI0002: " + describe(call, transfers) + ": " + reason, HCCL_E_REMOTE);
    if (!reason.empty()) {
      warned = true;
      continue;
    }
    const auto limit = options.exec_timeout;
    if (limit.count() > 0 && Clock::now() - last > limit)
      give_up("EI0002: " + describe(call, transfers) + ": nothing arrived within " + std::to_string(limit.count()) + " s (HCCL_EXEC_TIMEOUT)",
              HCCL_E_TIMEOUT);
    sleep(*bell, seen, kLook);
  }
}

std::string Communicator::describe(const CallHeader& call, const std::vector<Transfer>& transfers) {
  std::string awaited;
  std::vector<bool> said(ranks);
  for (const Transfer& transfer : transfers) {
    if (transfer.kind == Transfer::local || transfer.stage == Transfer::done || said[transfer.peer]) continue;
    said[transfer.peer] = true;
    awaited += (awaited.empty() ? "" : ", ") + std::to_string(transfer.peer);
  }
  return std::string(call.name) + " on rank " + std::to_string(rank) + " of " + std::to_string(ranks) + " of communicator '" + options.name +
         "' waits for rank " + awaited;
}

// Why a peer whose message is awaited, or who should take one, will not: empty when none is known.
std::string Communicator::lost(Plane plane, const std::vector<Transfer>& transfers) {
  for (const Transfer& transfer : transfers) {
    if (transfer.kind == Transfer::local || transfer.stage == Transfer::done) continue;
    // What waits for another message may have all that it needs, from a peer that went in peace.
    if (transfer.stage == Transfer::body && transfer.after != nullptr && transfer.progress >= transfer.after->progress) continue;
    const Peer& peer = peers[transfer.peer];
    const auto& turn = transfer.kind == Transfer::send ? peer.out_turn[plane] : peer.in_turn[plane];
    if (turn.serving.load(std::memory_order_acquire) != transfer.ticket) continue;
    const std::string who = "rank " + std::to_string(transfer.peer) + " (" + peer.place + ")";
    if (peer.bell == nullptr) {
      if (*peer.closed) return who + ": heartbeat lost: its process has exited, or the network is disconnected";
      continue;
    }
    const State state = peer.bell->state.load(std::memory_order_acquire);
    if (state == State::left) return who + " has destroyed the communicator";
    if (state == State::failed) return who + " failed: " + std::string(peer.bell->reason);
    if (!segment->present(peer.member)) return who + ": heartbeat lost: its process has exited";
  }
  return "";
}

void Communicator::give_up(const std::string& message, HcclResult result) {
  // 507048 is what a user of torch-npu sees with EI0002 ("HCCL timeout" in its troubleshooting guide).
  throw Failure(result, message, ACL_ERROR_RT_FFTS_PLUS_TIMEOUT);
}

void Communicator::check_usable() {
  if (process_ != getpid())
    throw Failure(HCCL_E_UNAVAIL, "communicator '" + options.name + "' belongs to the parent process " + std::to_string(process_) + ", not to this child",
                  ACL_ERROR_RT_PARAM_INVALID);
  if (closing_) throw Failure(HCCL_E_UNAVAIL, "communicator '" + options.name + "' was destroyed before all that was on its streams had run", ACL_ERROR_RT_STREAM_ABORT);
  if (!failed_) return;
  std::lock_guard lock(mutex_);
  throw Failure(result_, "communicator '" + options.name + "' has failed before: " + message_, acl_);
}

// ---- on a stream ------------------------------------------------------------------------------

std::shared_ptr<void> Communicator::expect(const std::string& name, Stream& stream) {
  check_usable();
  if (stream.device != device)
    throw Failure(HCCL_E_PARA, name + ": the stream is on device " + std::to_string(stream.device) + ", the communicator on device " + std::to_string(device),
                  ACL_ERROR_RT_STREAM_CONTEXT);
  if (ranks > 1) occupy();
  if (capturing(stream)) return nullptr;

  struct Pending {
    explicit Pending(std::shared_ptr<Communicator> of) : of(std::move(of)) { ++this->of->running_; }
    ~Pending() {
      std::lock_guard lock(of->mutex_);
      --of->running_;
      of->finished_.notify_all();
    }
    std::shared_ptr<Communicator> of;
  };
  return std::make_shared<Pending>(shared_from_this());
}

void Communicator::perform(const std::string& name, const std::function<void()>& body) {
  try {
    suffer(name);
    body();
  } catch (const Failure& failure) {
    fail(failure.result, failure.what(), failure.code);
    throw;
  } catch (const Error& error) {  // of an operator: its peers would wait for it
    fail(HCCL_E_PARA, error.what(), error.code);
    throw;
  } catch (const std::exception& error) {
    fail(HCCL_E_INTERNAL, error.what(), ACL_ERROR_INTERNAL_ERROR);
    throw;
  }
}

void Communicator::launch(const std::string& name, Stream& stream, uint64_t bytes, std::function<void(Communicator&)> body) {
  auto self = shared_from_this();
  stream.submit(make_task(activity(name, Kind::collective), {0, bytes, 0}, [self, name, pending = expect(name, stream), body = std::move(body)]() mutable {
    const auto until_end = std::move(pending);
    self->perform(name, [&] { body(*self); });
  }));
}

// A fault that was asked for. What hangs ends as a wait for a peer that never comes does.
void Communicator::suffer(const std::string& name) {
  const Fault fault = requested_fault(name, rank);
  if (fault == Fault::none) return;
  const std::string who = name + " on rank " + std::to_string(rank) + " of communicator '" + options.name + "'";
  // EI0013 and 507057: an error of the link to a peer.
  if (fault == Fault::fail) throw Failure(HCCL_E_REMOTE, "EI0013: " + who + " fails, as asked for (fault)", ACL_ERROR_RT_SUSPECT_REMOTE_ERROR);
  const auto begin = Clock::now();
  while (options.exec_timeout.count() == 0 || Clock::now() - begin < options.exec_timeout) {
    check_usable();
    sleep(*bell, bell->rung.load(), kLook);
  }
  give_up("EI0002: " + who + " hangs, as asked for (fault), for " + std::to_string(options.exec_timeout.count()) + " s (HCCL_EXEC_TIMEOUT)", HCCL_E_TIMEOUT);
}

void Communicator::fail(HcclResult result, const std::string& message, int acl) {
  {
    std::lock_guard lock(mutex_);
    if (failed_) return;
    result_ = result;
    acl_ = acl;
    message_ = message;
    failed_ = true;
  }
  std::strncpy(bell->reason, message.c_str(), sizeof(bell->reason) - 1);
  bell->state.store(State::failed, std::memory_order_release);
  ring(*bell);
  for (Peer& peer : peers) {
    if (peer.bell != nullptr) ring(*peer.bell);
    for (auto& box : peer.out) {
      if (box) box->hang_up();
    }
    for (auto& box : peer.in) {
      if (box) box->hang_up();
    }
  }
}

HcclResult Communicator::error() {
  std::lock_guard lock(mutex_);
  return result_;
}

void Communicator::occupy() {
  std::lock_guard lock(mutex_);
  if (occupied_ > 0) return;
  try {
    cannsim::device(device).take(2 * options.buffer_bytes);
  } catch (const Error& error) {
    throw Failure(HCCL_E_OOM, "the buffers of communicator '" + options.name + "' (2 x HCCL_BUFFSIZE): " + error.what(), error.code);
  }
  occupied_ = 2 * options.buffer_bytes;
}

void Communicator::close() {
  if (process_ != getpid()) return;
  {
    std::unique_lock lock(mutex_);
    finished_.wait_for(lock, kGrace, [this] { return running_ == 0 || failed_; });
    closing_ = true;
  }
  ring(*bell);
  {
    std::unique_lock lock(mutex_);
    finished_.wait_for(lock, kGrace, [this] { return running_ == 0; });
    if (occupied_ > 0) cannsim::device(device).give(occupied_);
    occupied_ = 0;
  }
  State taking_part = State::taking_part;
  bell->state.compare_exchange_strong(taking_part, State::left);
  for (Peer& peer : peers) {
    if (peer.bell != nullptr) ring(*peer.bell);
  }
  if (segment) segment->leave(member);
}

}  // namespace cannsim::collectives
