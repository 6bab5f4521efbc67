// Which rank sends what to whom in each collective.
#include "collectives/algorithms.h"

#include <cstring>
#include <map>

namespace cannsim::collectives {
namespace {

// Up to this size every rank gets all of every rank's data and reduces by itself: one step instead of two.
constexpr uint64_t kSmall = 32 << 10;

bool overlap(const void* a, uint64_t a_bytes, const void* b, uint64_t b_bytes) {
  const auto first = reinterpret_cast<uintptr_t>(a), second = reinterpret_cast<uintptr_t>(b);
  return first < second + b_bytes && second < first + a_bytes;
}

const char* at(const void* base, uint64_t bytes) { return static_cast<const char*>(base) + bytes; }
char* at(void* base, uint64_t bytes) { return static_cast<char*>(base) + bytes; }

// The messages of one step of a collective.
class Step {
 public:
  Step(Communicator& c, const char* name, HcclDataType type, uint64_t count, uint32_t op = 0, uint32_t root = 0, Plane plane = kCollective)
      : c_(c), plane_(plane), element_(size_of(type)) {
    std::strncpy(call_.name, name, sizeof(call_.name) - 1);
    call_.type = type;
    call_.op = op;
    call_.root = root;
    call_.count = count;
    transfers_.reserve(2 * c.ranks + 2);  // reduce() points into it
  }
  Transfer& add(Transfer transfer) {
    transfer.element = element_;
    transfers_.push_back(transfer);
    return transfers_.back();
  }
  void send(uint32_t peer, const void* source, uint64_t bytes) { add({.kind = Transfer::send, .peer = peer, .source = source, .bytes = bytes}); }
  void receive(uint32_t peer, void* target, uint64_t bytes) { add({.kind = Transfer::receive, .peer = peer, .target = target, .bytes = bytes}); }
  void copy(const void* source, void* target, uint64_t bytes) {
    if (bytes > 0 && source != target) add({.kind = Transfer::local, .peer = c_.rank, .source = source, .target = target, .bytes = bytes});
  }
  // Everyone's contribution to `target`, in the order of the ranks. With `own` already there, this
  // rank must be 0 or 1: then the first two are taken the other way round, which changes no bit.
  void reduce(const void* own, void* target, uint64_t bytes, Combine combine) {
    const Transfer* last = nullptr;
    bool first = own != target;
    for (uint32_t rank = 0; rank < c_.ranks; ++rank) {
      if (rank == c_.rank && own == target) continue;
      Transfer next{.kind = rank == c_.rank ? Transfer::local : Transfer::receive, .peer = rank, .source = own, .target = target, .bytes = bytes};
      next.combine = first ? nullptr : combine;
      next.after = last;
      last = &add(next);
      first = false;
    }
  }
  void run() { c_.exchange(plane_, call_, transfers_); }

 private:
  Communicator& c_;
  const Plane plane_;
  const size_t element_;
  CallHeader call_{};
  std::vector<Transfer> transfers_;
};

// Memory for what may not be written in place; kept by the stream's thread.
char* scratch(uint64_t bytes) {
  thread_local std::unique_ptr<char[]> kept;
  thread_local uint64_t room = 0;
  if (bytes > room) {
    kept.reset(new char[bytes]);
    room = bytes;
  }
  return kept.get();
}

const void* kept_apart(const void* source, uint64_t source_bytes, const void* target, uint64_t target_bytes) {
  if (!overlap(source, source_bytes, target, target_bytes)) return source;
  return std::memcpy(scratch(source_bytes), source, source_bytes);
}

uint64_t sum(const Counts& counts) {
  uint64_t all = 0;
  for (uint64_t count : counts) all += count;
  return all;
}

uint64_t extent(const Counts& counts, const Counts& places) {
  uint64_t end = 0;
  for (size_t i = 0; i < counts.size(); ++i) {
    if (counts[i] > 0) end = std::max(end, places[i] + counts[i]);
  }
  return end;
}

// The parts into which a large vector is cut, one for each rank: whole lines but for the last.
uint64_t part_begin(uint32_t rank, uint32_t ranks, uint64_t count) {
  const uint64_t each = whole_lines((count + ranks - 1) / ranks);
  return std::min(count, rank * each);
}

}  // namespace

void all_reduce(Communicator& c, const void* source, void* target, uint64_t count, HcclDataType type, HcclReduceOp op) {
  const uint64_t size = size_of(type), bytes = count * size;
  const Combine combine = combine_of(type, op);
  if (bytes <= kSmall || c.ranks == 1) {
    Step step(c, "HcclAllReduce", type, count, op);
    const void* mine = c.ranks == 1 ? source : kept_apart(source, bytes, target, bytes);
    for (uint32_t peer = 0; peer < c.ranks; ++peer) {
      if (peer != c.rank) step.send(peer, mine, bytes);
    }
    if (c.ranks == 1) {
      step.copy(mine, target, bytes);
    } else {
      step.reduce(mine, target, bytes, combine);
    }
    return step.run();
  }
  auto begin = [&](uint32_t rank) { return part_begin(rank, c.ranks, count) * size; };
  const uint64_t mine = begin(c.rank), my_bytes = begin(c.rank + 1) - mine;
  Step gather(c, "HcclAllReduce", type, count, op);
  for (uint32_t peer = 0; peer < c.ranks; ++peer) {
    if (peer != c.rank) gather.send(peer, at(source, begin(peer)), begin(peer + 1) - begin(peer));
  }
  const bool apart = source == target && c.rank > 1;
  char* made = apart ? scratch(my_bytes) : at(target, mine);
  gather.reduce(at(source, mine), made, my_bytes, combine);
  gather.run();
  Step spread(c, "HcclAllReduce", type, count, op);
  for (uint32_t peer = 0; peer < c.ranks; ++peer) {
    if (peer == c.rank) continue;
    spread.send(peer, made, my_bytes);
    spread.receive(peer, at(target, begin(peer)), begin(peer + 1) - begin(peer));
  }
  spread.copy(made, at(target, mine), my_bytes);
  spread.run();
}

void reduce(Communicator& c, const void* source, void* target, uint64_t count, HcclDataType type, HcclReduceOp op, uint32_t root) {
  const uint64_t bytes = count * size_of(type);
  Step step(c, "HcclReduce", type, count, op, root);
  if (c.rank != root) {
    step.send(root, source, bytes);
    return step.run();
  }
  const bool apart = source == target && c.rank > 1;
  char* made = apart ? scratch(bytes) : static_cast<char*>(target);
  step.reduce(source, made, bytes, combine_of(type, op));
  step.run();
  if (apart) std::memcpy(target, made, bytes);
}

void broadcast(Communicator& c, void* buffer, uint64_t count, HcclDataType type, uint32_t root) {
  const uint64_t bytes = count * size_of(type);
  Step step(c, "HcclBroadcast", type, count, 0, root);
  if (c.rank != root) step.receive(root, buffer, bytes);
  for (uint32_t peer = 0; peer < c.ranks; ++peer) {
    if (c.rank == root && peer != root) step.send(peer, buffer, bytes);
  }
  step.run();
}

void scatter(Communicator& c, const void* source, void* target, uint64_t count, HcclDataType type, uint32_t root) {
  const uint64_t bytes = count * size_of(type);
  Step step(c, "HcclScatter", type, count, 0, root);
  if (c.rank != root) step.receive(root, target, bytes);
  if (c.rank == root) {
    // In place is where the root's own part already lies; elsewhere over the source is kept apart.
    const bool in_place = target == at(source, root * bytes);
    const void* from = in_place ? source : kept_apart(source, c.ranks * bytes, target, bytes);
    for (uint32_t peer = 0; peer < c.ranks; ++peer) {
      if (peer != root) step.send(peer, at(from, peer * bytes), bytes);
    }
    step.copy(at(from, root * bytes), target, bytes);
  }
  step.run();
}

void all_gather(Communicator& c, const char* name, const void* source, uint64_t count, void* target, const Counts& counts, const Counts& places,
                HcclDataType type) {
  const uint64_t size = size_of(type), bytes = count * size;
  char* own = at(target, places[c.rank] * size);
  const void* from = source == own ? source : kept_apart(source, bytes, target, extent(counts, places) * size);
  Step step(c, name, type, sum(counts));
  for (uint32_t peer = 0; peer < c.ranks; ++peer) {
    if (peer == c.rank) continue;
    step.send(peer, from, bytes);
    step.receive(peer, at(target, places[peer] * size), counts[peer] * size);
  }
  step.copy(from, own, bytes);
  step.run();
}

void reduce_scatter(Communicator& c, const char* name, const void* source, const Counts& counts, const Counts& places, void* target,
                    HcclDataType type, HcclReduceOp op) {
  const uint64_t size = size_of(type), bytes = counts[c.rank] * size;
  const char* own = at(source, places[c.rank] * size);
  Step step(c, name, type, sum(counts), op);
  for (uint32_t peer = 0; peer < c.ranks; ++peer) {
    if (peer != c.rank) step.send(peer, at(source, places[peer] * size), counts[peer] * size);
  }
  const bool in_place = own == target && c.rank <= 1;
  const bool apart = !in_place && overlap(source, extent(counts, places) * size, target, bytes);
  char* made = apart ? scratch(bytes) : static_cast<char*>(target);
  step.reduce(own, made, bytes, combine_of(type, op));
  step.run();
  if (apart) std::memcpy(target, made, bytes);
}

void all_to_all(Communicator& c, const char* name, const void* source, const Counts& sent, const Counts& sent_places, HcclDataType sent_type,
                void* target, const Counts& received, const Counts& received_places, HcclDataType received_type) {
  const uint64_t size = size_of(sent_type), received_size = size_of(received_type);
  const void* from = kept_apart(source, extent(sent, sent_places) * size, target, extent(received, received_places) * received_size);
  Step step(c, name, sent_type, 0);  // counts differ between ranks; each message's own length is compared
  for (uint32_t peer = 0; peer < c.ranks; ++peer) {
    if (peer == c.rank) continue;
    step.send(peer, at(from, sent_places[peer] * size), sent[peer] * size);
    step.receive(peer, at(target, received_places[peer] * received_size), received[peer] * received_size);
  }
  if (sent[c.rank] * size != received[c.rank] * received_size)
    throw Failure(HCCL_E_PARA, std::string("EI0003: ") + name + ": rank " + std::to_string(c.rank) + " sends itself " + std::to_string(sent[c.rank]) +
                                   " elements and receives " + std::to_string(received[c.rank]),
                  ACL_ERROR_RT_PARAM_INVALID);
  step.copy(at(from, sent_places[c.rank] * size), at(target, received_places[c.rank] * received_size), sent[c.rank] * size);
  step.run();
}

void send_and_receive(Communicator& c, const std::vector<Item>& items) {
  std::vector<Transfer> transfers;
  std::vector<const Item*> to_self, from_self;
  for (const Item& item : items) {
    if (item.peer == c.rank) {
      (item.send ? to_self : from_self).push_back(&item);
      continue;
    }
    Transfer next{.kind = item.send ? Transfer::send : Transfer::receive, .peer = item.peer, .source = item.buffer, .target = item.buffer,
                  .bytes = item.count * size_of(item.type)};
    std::strncpy(next.header.name, "HcclSend and HcclRecv", sizeof(next.header.name) - 1);
    next.header.type = item.type;
    next.header.count = item.count;
    transfers.push_back(next);
  }
  if (to_self.size() != from_self.size())
    throw Failure(HCCL_E_PARA, "EI0003: rank " + std::to_string(c.rank) + " sends itself " + std::to_string(to_self.size()) + " messages and receives " +
                                   std::to_string(from_self.size()),
                  ACL_ERROR_RT_PARAM_INVALID);
  for (size_t i = 0; i < to_self.size(); ++i)
    std::memmove(from_self[i]->buffer, to_self[i]->buffer, std::min(to_self[i]->count, from_self[i]->count) * size_of(to_self[i]->type));
  CallHeader call{};
  std::strncpy(call.name, items.size() > 1 ? "HcclBatchSendRecv" : items.front().send ? "HcclSend" : "HcclRecv", sizeof(call.name) - 1);
  c.exchange(kPointToPoint, call, transfers);
}

void barrier(Communicator& c) {
  Step step(c, "HcclBarrier", HCCL_DATA_TYPE_INT8, 0);
  for (uint32_t peer = 0; peer < c.ranks; ++peer) {
    if (peer == c.rank) continue;
    step.send(peer, nullptr, 0);
    step.receive(peer, nullptr, 0);
  }
  step.run();
}

void hand_out(Communicator& c, const std::vector<uint32_t>& ranks, void* data, uint64_t bytes) {
  Step step(c, "HcclCreateSubComm", HCCL_DATA_TYPE_INT8, bytes, 0, ranks.front(), kControl);
  if (c.rank != ranks.front()) step.receive(ranks.front(), data, bytes);
  for (uint32_t peer : ranks) {
    if (c.rank == ranks.front() && peer != c.rank) step.send(peer, data, bytes);
  }
  step.run();
}

}  // namespace cannsim::collectives
