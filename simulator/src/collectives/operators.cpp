// What operators send over a communicator.
#include "collectives/operators.h"

#include <cstring>

namespace cannsim::collectives {
namespace {

uint32_t hccl_type(aclDataType type) {
  switch (type) {
    case ACL_FLOAT: return HCCL_DATA_TYPE_FP32;
    case ACL_FLOAT16: return HCCL_DATA_TYPE_FP16;
    case ACL_BF16: return HCCL_DATA_TYPE_BFP16;
    case ACL_INT32: return HCCL_DATA_TYPE_INT32;
    default: return HCCL_DATA_TYPE_INT8;
  }
}

class OperatorRanks final : public RankGroup {
 public:
  explicit OperatorRanks(std::shared_ptr<Communicator> communicator) : c_(std::move(communicator)) {}
  uint32_t rank() const override { return c_->rank; }
  uint32_t ranks() const override { return c_->ranks; }
  uint64_t buffer_bytes() const override { return c_->options.buffer_bytes; }
  std::shared_ptr<void> expect(const std::string& name, Stream& stream) override { return c_->expect(name, stream); }
  void perform(const std::string& name, const std::function<void()>& body) override { c_->perform(name, body); }

  void exchange(const Call& call, const std::vector<Message>& messages) override {
    CallHeader header{};
    std::strncpy(header.name, call.name, sizeof(header.name) - 1);
    header.type = hccl_type(call.type);
    header.op = call.first;
    header.root = call.second;
    header.count = call.count;
    std::vector<Transfer> transfers;
    transfers.reserve(2 * messages.size());
    for (uint32_t peer = 0; peer < c_->ranks; ++peer) {
      const Message& message = messages[peer];
      if (peer == c_->rank) {
        if (message.sent > 0) std::memmove(message.target, message.source, message.sent);
        continue;
      }
      transfers.push_back({.kind = Transfer::send, .peer = peer, .source = message.source, .bytes = message.sent});
      transfers.push_back({.kind = Transfer::receive, .peer = peer, .target = message.target, .bytes = message.received});
    }
    c_->exchange(kCollective, header, transfers);
  }

 private:
  std::shared_ptr<Communicator> c_;
};

}  // namespace

std::shared_ptr<RankGroup> for_operators(std::shared_ptr<Communicator> communicator) {
  return std::make_shared<OperatorRanks>(std::move(communicator));
}

}  // namespace cannsim::collectives
