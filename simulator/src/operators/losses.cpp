// Losses; `reduction` is 0 none, 1 mean, 2 sum, as in ATen.
#include "operators/operator.h"

using namespace cannsim;

OPERATOR(aclnnMseLoss, const Tensor& self, const Tensor& target, int64_t reduction, Tensor& out) { out.copy_(at::mse_loss(self, target, reduction)); }
OPERATOR(aclnnL1Loss, const Tensor& self, const Tensor& target, int64_t reduction, Tensor& out) {
  out.copy_(at::l1_loss(self, target, reduction));
}
OPERATOR(aclnnSmoothL1Loss, const Tensor& self, const Tensor& target, int64_t reduction, float beta, Tensor& out) {
  out.copy_(at::smooth_l1_loss(self, target, reduction, beta));
}
OPERATOR(aclnnSoftMarginLoss, const Tensor& self, const Tensor& target, int64_t reduction, Tensor& out) {
  out.copy_(at::soft_margin_loss(self, target, reduction));
}
OPERATOR(aclnnKlDiv, const Tensor& self, const Tensor& target, int64_t reduction, bool log_target, Tensor& out) {
  out.copy_(at::kl_div(self, target, reduction, log_target));
}
OPERATOR(aclnnBinaryCrossEntropy, const Tensor& self, const Tensor& target, const OptionalTensor& weight, int64_t reduction, Tensor& out) {
  out.copy_(at::binary_cross_entropy(self, target, weight, reduction));
}
OPERATOR(aclnnBinaryCrossEntropyWithLogits, const Tensor& self, const Tensor& target, const OptionalTensor& weight,
         const OptionalTensor& positive_weight, int64_t reduction, Tensor& out) {
  out.copy_(at::binary_cross_entropy_with_logits(self, target, weight, positive_weight, reduction));
}
OPERATOR(aclnnNLLLoss, const Tensor& self, const Tensor& target, const Tensor& weight, int64_t reduction, int64_t ignored, Tensor& out,
         Tensor& total_weight) {
  auto [loss, total] = at::nll_loss_forward(self, target.to(at::kLong), weight, reduction, ignored);
  out.copy_(loss);
  total_weight.copy_(total);
}
OPERATOR(aclnnNLLLoss2d, const Tensor& self, const Tensor& target, const Tensor& weight, int64_t reduction, int64_t ignored, Tensor& out,
         Tensor& total_weight) {
  auto [loss, total] = at::nll_loss2d_forward(self, target.to(at::kLong), weight, reduction, ignored);
  out.copy_(loss);
  total_weight.copy_(total);
}
OPERATOR(aclnnMultilabelMarginLoss, const Tensor& self, const Tensor& target, int64_t reduction, Tensor& out, Tensor& is_target) {
  auto [loss, hits] = at::multilabel_margin_loss_forward(self, target.to(at::kLong), reduction);
  out.copy_(loss.view_as(out));
  is_target.copy_(hits);
}
OPERATOR(aclnnCtcLoss, const Tensor& log_probabilities, const Tensor& targets, IntArray input_lengths, IntArray target_lengths, int64_t blank,
         bool zero_infinity, Tensor& out, Tensor& log_alpha) {
  auto [loss, alpha] = at::_ctc_loss(log_probabilities, targets, input_lengths, target_lengths, blank, zero_infinity);
  out.copy_(loss);
  // The device's table may be wider than the longest target needs.
  if (alpha.dim() == log_alpha.dim() && alpha.size(-1) <= log_alpha.size(-1)) log_alpha.narrow(-1, 0, alpha.size(-1)).copy_(alpha);
}
