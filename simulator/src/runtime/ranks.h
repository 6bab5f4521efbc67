// How operators reach the other ranks of a communicator: libhccl says who finds it by its name, so
// that the operators' library need not link it, and a program without collectives need not load it.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "runtime/runtime.h"

namespace cannsim {

// One rank's part in a communicator. What an operator sends over it are a collective's messages: in
// order with those of other calls, compared between ranks, and a peer that has gone is noticed.
class CANNSIM_API RankGroup {
 public:
  // What the ranks must agree on, and a message to and from each rank (bytes), in their order.
  struct Call {
    const char* name;
    aclDataType type;
    uint64_t count;
    uint32_t first, second;  // the operator's: e.g. a mode, a number of ranks
  };
  struct Message {
    const void* source;
    uint64_t sent;
    void* target;
    uint64_t received;
  };
  virtual ~RankGroup();
  virtual uint32_t rank() const = 0;
  virtual uint32_t ranks() const = 0;
  virtual uint64_t buffer_bytes() const = 0;  // HCCL_BUFFSIZE
  // Before an operator is put on a stream: takes the communicator's memory, throws when it cannot be
  // used there. Destroying the communicator waits while the result lives.
  virtual std::shared_ptr<void> expect(const std::string& name, Stream& stream) = 0;
  // On the stream: suffers the faults that were asked for; an error of `body` is told to all ranks.
  virtual void perform(const std::string& name, const std::function<void()>& body) = 0;
  virtual void exchange(const Call& call, const std::vector<Message>& messages) = 0;
};

using FindRanks = std::shared_ptr<RankGroup> (*)(const std::string& communicator, int device);
CANNSIM_API void set_rank_finder(FindRanks find);
// Null when no communicator of that name has a rank on the device.
CANNSIM_API std::shared_ptr<RankGroup> find_ranks(const std::string& communicator, int device);

}  // namespace cannsim
