// An operator's part in a communicator: the argument that names one, and tensors sent over it.
#pragma once

#include "operators/operator.h"
#include "runtime/ranks.h"

namespace cannsim {

inline constexpr int kTilingFailed = 561002;  // ACLNN_ERR_INNER_TILING_ERROR: shapes and values that a kernel does not take

using Rows = std::vector<int64_t>;  // counts, by rank

class Ranks {
 public:
  explicit Ranks(const char* name);  // refuses what names no communicator of the current device
  int64_t rank() const { return group_->rank(); }
  int64_t ranks() const { return group_->ranks(); }
  uint64_t buffer_bytes() const { return group_->buffer_bytes(); }
  const std::string& name() const { return name_; }
  void expect(const char* operation, Stream& stream) { pending_ = group_->expect(operation, stream); }

  // The operator's body, on its stream.
  template <typename Body>
  void perform(const char* operation, Body body) {
    const auto until_end = std::move(pending_);
    operation_ = operation;
    group_->perform(operation, body);
  }

  // Within perform. `terms` are two numbers that the ranks must agree on, beside the operator's name,
  // the type, and `count`.
  struct Terms {
    uint64_t count = 0;
    uint32_t first = 0, second = 0;
  };
  // Rows for each rank, in their order; returns those from each, in their order.
  Tensor exchange(const Tensor& rows, const Rows& sent, const Rows& received, const Terms& terms);
  Tensor gather(const Tensor& rows);  // all ranks' rows, one after another
  // Sums in the order of the ranks, rounded to the type at each step, as the collectives do it.
  Tensor sum(const Tensor& x);
  Tensor sum_of_own_rows(const Tensor& x);  // of the part of the rows that is this rank's

 private:
  void send(const std::vector<RankGroup::Message>& messages, at::ScalarType type, const Terms& terms);
  std::string name_;
  std::shared_ptr<RankGroup> group_;
  std::shared_ptr<void> pending_;
  const char* operation_ = "";
};

template <>
struct Argument<Ranks&> {
  using C = const char*;
  Ranks kept;
  explicit Argument(C value) : kept(value) {}
  Ranks& get() { return kept; }
  void prepare(const char* operation, Stream& stream) { kept.expect(operation, stream); }
  uint64_t bytes() const { return 0; }
};

}  // namespace cannsim
