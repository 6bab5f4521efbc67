// Restricting logits to the top k and to the nucleus p.
#include <limits>

#include "operators/operator.h"

using namespace cannsim;

// logits: [batch, vocabulary]; p and k: [batch], either may be absent. Every logit outside the k
// largest, or outside the smallest set whose probability exceeds p, becomes -infinity.
OPERATOR(aclnnApplyTopKTopP, const Tensor& logits, const OptionalTensor& p, const OptionalTensor& k, Tensor& out) {
  const double lowest = -std::numeric_limits<double>::infinity();
  auto [sorted, order] = at::sort(logits, -1, false);
  if (k) {
    const Tensor last = (logits.size(1) - k->to(at::kLong)).clamp(0, logits.size(1) - 1).unsqueeze(1);
    sorted = sorted.masked_fill(sorted < sorted.gather(1, last), lowest);
  }
  if (p) {
    Tensor outside = sorted.to(at::kFloat).softmax(-1).cumsum(-1) <= 1 - p->to(at::kFloat).unsqueeze(1);
    outside.select(1, -1).fill_(false);
    sorted = sorted.masked_fill(outside, lowest);
  }
  at::scatter_out(out, logits, -1, order, sorted);
}
