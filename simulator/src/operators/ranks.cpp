// Tensors that operators send between the ranks of a communicator.
#include "operators/ranks.h"

#include <cstring>

namespace cannsim {
namespace {

uint64_t row_bytes(const Tensor& rows) {
  uint64_t bytes = rows.element_size();
  for (int64_t dim = 1; dim < rows.dim(); ++dim) bytes *= uint64_t(rows.size(dim));
  return bytes;
}

Tensor added(const Tensor& parts) {
  Tensor sum = parts[0];
  for (int64_t rank = 1; rank < parts.size(0); ++rank) sum = sum + parts[rank];
  return sum;
}

int64_t total(const Rows& rows) {
  int64_t sum = 0;
  for (int64_t count : rows) sum += count;
  return sum;
}

}  // namespace

Ranks::Ranks(const char* name) : name_(name == nullptr ? "" : name), group_(find_ranks(name_, current_device())) {
  if (name == nullptr) throw Error(kParameterNull, "the name of the communicator is null");
  // Assumed: the code. A name comes from HcclGetCommName (torch-npu: get_hccl_comm_name).
  if (group_ == nullptr)
    throw Error(kTilingFailed, "there is no communicator '" + name_ + "' of device " + std::to_string(current_device()) +
                                   " in this process; the name is one that HcclGetCommName gives");
}

void Ranks::send(const std::vector<RankGroup::Message>& messages, at::ScalarType type, const Terms& terms) {
  constexpr size_t kPrefix = 5;  // "aclnn"
  group_->exchange({operation_ + (std::strncmp(operation_, "aclnn", kPrefix) == 0 ? kPrefix : 0), acl_type(type), terms.count, terms.first, terms.second},
                   messages);
}

Tensor Ranks::exchange(const Tensor& rows, const Rows& sent, const Rows& received, const Terms& terms) {
  const Tensor source = rows.contiguous();
  std::vector<int64_t> sizes = source.sizes().vec();
  sizes[0] = total(received);
  Tensor target = at::empty(sizes, source.options());
  const uint64_t each = row_bytes(source);
  const char* from = static_cast<const char*>(source.data_ptr());
  char* to = static_cast<char*>(target.data_ptr());
  std::vector<RankGroup::Message> messages;
  for (size_t peer = 0; peer < size_t(ranks()); ++peer) {
    const uint64_t out = each * uint64_t(sent[peer]), in = each * uint64_t(received[peer]);
    messages.push_back({from, out, to, in});
    from += out;
    to += in;
  }
  send(messages, source.scalar_type(), terms);
  return target;
}

Tensor Ranks::gather(const Tensor& rows) {
  const Tensor source = rows.contiguous();
  std::vector<int64_t> sizes = source.sizes().vec();
  sizes[0] *= ranks();
  Tensor target = at::empty(sizes, source.options());
  const uint64_t bytes = source.nbytes();
  char* to = static_cast<char*>(target.data_ptr());
  std::vector<RankGroup::Message> messages;
  for (int64_t peer = 0; peer < ranks(); ++peer) messages.push_back({source.data_ptr(), bytes, to + uint64_t(peer) * bytes, bytes});
  send(messages, source.scalar_type(), {uint64_t(source.numel()), 0, 0});
  return target;
}

Tensor Ranks::sum_of_own_rows(const Tensor& x) {
  const Rows equal(size_t(ranks()), x.size(0) / ranks());
  const Tensor parts = exchange(x, equal, equal, {uint64_t(x.numel()), 0, 0});
  std::vector<int64_t> sizes = x.sizes().vec();
  sizes[0] /= ranks();
  sizes.insert(sizes.begin(), ranks());
  return added(parts.view(sizes));
}

Tensor Ranks::sum(const Tensor& x) {
  const int64_t count = x.numel(), each = (count + ranks() - 1) / ranks();
  const Tensor whole = at::constant_pad_nd(x.contiguous().flatten(), {0, each * ranks() - count});
  return gather(sum_of_own_rows(whole)).narrow(0, 0, count).view(x.sizes());
}

}  // namespace cannsim
