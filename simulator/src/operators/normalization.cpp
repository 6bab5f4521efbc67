// Normalisation. As on the chip, half types are accumulated in float32 and rounded once, at the end.
#include <algorithm>

#include "operators/operator.h"

using namespace cannsim;

namespace {

// y = x * rstd * gamma with rstd = 1 / sqrt(mean(x^2) + epsilon), over gamma's dimensions.
void rms_norm(const Tensor& x, const Tensor& gamma, double epsilon, Tensor& y, Tensor* rstd) {
  const Tensor wide = x.scalar_type() == at::kFloat ? x : x.to(at::kFloat);
  std::vector<int64_t> dims;
  for (int64_t dim = x.dim() - gamma.dim(); dim < x.dim(); ++dim) dims.push_back(dim);
  const Tensor scale = at::rsqrt(wide.square().mean(dims, true).add_(epsilon));
  if (rstd != nullptr && rstd->numel() > 0) rstd->copy_(scale);
  if (y.scalar_type() == at::kFloat) {
    at::mul_out(y, wide, scale);
    y.mul_(gamma);
  } else {
    y.copy_((wide * scale).mul_(gamma.to(at::kFloat)));
  }
}

// gamma has the sizes of x's last dimensions (CANN's documents of aclnnRmsNorm and aclnnAddRmsNorm).
void check_gamma(const View& x, const View& gamma) {
  const auto shape = [](const View& view) {
    std::string text;
    for (int64_t size : view.sizes) text += (text.empty() ? "" : " x ") + std::to_string(size);
    return text.empty() ? std::string("no dimension") : text;
  };
  refuse_unless(!gamma.sizes.empty() && gamma.sizes.size() <= x.sizes.size() && std::equal(gamma.sizes.rbegin(), gamma.sizes.rend(), x.sizes.rbegin()),
                "gamma is " + shape(gamma) + "; it must have the sizes of the last dimensions of x, " + shape(x));
}
template <size_t gamma, typename Arguments>
void check_gamma(const Arguments& arguments) {
  check_gamma(std::get<0>(arguments).kept, std::get<gamma>(arguments).kept);
}
template <typename Arguments>
void check_added(const Arguments& arguments) {
  const View &x1 = std::get<0>(arguments).kept, &x2 = std::get<1>(arguments).kept;
  refuse_unless(x1.sizes == x2.sizes, "x1 and x2 must have the same sizes");
  refuse_unless(x1.type == x2.type, std::string("the data types of x1 (") + at::toString(x1.type) + ") and x2 (" + at::toString(x2.type) + ") differ");
  check_gamma(x1, std::get<2>(arguments).kept);
}

}  // namespace

CHECKED_OPERATOR(aclnnRmsNorm, check_gamma<1>, const Tensor& self, const Tensor& gamma, double epsilon, Tensor& y, Tensor& rstd) {
  rms_norm(self, gamma, epsilon, y, &rstd);
}
// Gemma's form scales by one plus gamma.
CHECKED_OPERATOR(aclnnGemmaRmsNorm, check_gamma<1>, const Tensor& self, const Tensor& gamma, double epsilon, Tensor& y, Tensor& rstd) {
  rms_norm(self, gamma.to(at::kFloat) + 1, epsilon, y, &rstd);
}
CHECKED_OPERATOR(aclnnAddRmsNorm, check_added, const Tensor& x1, const Tensor& x2, const Tensor& gamma, double epsilon, Tensor& y, Tensor& rstd, Tensor& x) {
  if (x.scalar_type() == at::kFloat) {
    at::add_out(x, x1, x2);
    rms_norm(x, gamma, epsilon, y, &rstd);
  } else {
    const Tensor sum = x1.to(at::kFloat) + x2;
    x.copy_(sum);
    rms_norm(sum, gamma, epsilon, y, &rstd);
  }
}
OPERATOR(aclnnLayerNorm, const Tensor& self, IntArray shape, const OptionalTensor& weight, const OptionalTensor& bias, double epsilon,
         Tensor& out, const OptionalTensor& mean_out, const OptionalTensor& rstd_out) {
  if (self.numel() == 0) return;
  auto [y, mean, rstd] = at::native_layer_norm(self, shape, weight, bias, epsilon);
  out.copy_(y);
  if (mean_out) Tensor(*mean_out).copy_(mean);
  if (rstd_out) Tensor(*rstd_out).copy_(rstd);
}
OPERATOR(aclnnGroupNorm, const Tensor& self, const OptionalTensor& weight, const OptionalTensor& bias, int64_t batch, int64_t channels,
         int64_t inner, int64_t groups, double epsilon, Tensor& out, Tensor& mean_out, Tensor& rstd_out) {
  auto [y, mean, rstd] = at::native_group_norm(self, weight, bias, batch, channels, inner, groups, epsilon);
  out.copy_(y);
  mean_out.copy_(mean);
  rstd_out.copy_(rstd);
}
OPERATOR(aclnnBatchNorm, const Tensor& self, const OptionalTensor& weight, const OptionalTensor& bias, const OptionalTensor& running_mean,
         const OptionalTensor& running_variance, bool training, double momentum, double epsilon, Tensor& out,
         const OptionalTensor& mean_out, const OptionalTensor& rstd_out) {
  auto [y, mean, rstd] = at::native_batch_norm(self, weight, bias, running_mean, running_variance, training, momentum, epsilon);
  out.copy_(y);
  if (!training) return;
  if (mean_out) Tensor(*mean_out).copy_(mean);
  if (rstd_out) Tensor(*rstd_out).copy_(rstd);
}
// Adds and normalises in place: x1 becomes the normalised sum, x2 the sum.
OPERATOR(aclnnInplaceAddRmsNorm, Tensor& x1, Tensor& x2, const Tensor& gamma, double epsilon, Tensor& rstd) {
  const Tensor sum = x1.to(at::kFloat) + x2;
  x2.copy_(sum);
  rms_norm(sum, gamma, epsilon, x1, &rstd);
}

// Batch normalisation over several devices: statistics of each, their union, and its use.
OPERATOR(aclnnBatchNormStats, const Tensor& self, double epsilon, Tensor& mean, Tensor& rstd) {
  std::vector<int64_t> dims;
  for (int64_t dim = 0; dim < self.dim(); ++dim)
    if (dim != 1) dims.push_back(dim);
  auto [variance, average] = at::var_mean(self.to(at::kFloat), at::OptionalIntArrayRef(dims), std::optional<Scalar>(0));
  mean.copy_(average);
  rstd.copy_(at::rsqrt(variance + epsilon));
}
static Tensor per_channel(const Tensor& values, const Tensor& like) {
  std::vector<int64_t> shape(like.dim(), 1);
  shape[1] = -1;
  return values.to(at::kFloat).reshape(shape);
}
OPERATOR(aclnnBatchNormElemt, const Tensor& self, const OptionalTensor& weight, const OptionalTensor& bias, const Tensor& mean,
         const Tensor& rstd, double epsilon, Tensor& out) {
  Tensor y = (self.to(at::kFloat) - per_channel(mean, self)) * per_channel(rstd, self);
  if (weight) y = y * per_channel(*weight, self);
  if (bias) y = y + per_channel(*bias, self);
  out.copy_(y);
}
// mean and rstd: [devices, channels]; counts: elements of a channel on each device.
OPERATOR(aclnnBatchNormGatherStatsWithCounts, const Tensor& self, const Tensor& mean, const Tensor& rstd, const OptionalTensor& running_mean,
         const OptionalTensor& running_variance, double momentum, double epsilon, const Tensor& counts, Tensor& mean_out, Tensor& rstd_out) {
  const Tensor number = counts.to(at::kFloat).reshape({-1, 1}), total = number.sum(0);
  const Tensor average = (mean * number).sum(0) / total;
  const Tensor variances = rstd.to(at::kFloat).square().reciprocal() - epsilon;
  const Tensor variance = ((variances + (mean - average).square()) * number).sum(0) / total;
  mean_out.copy_(average);
  rstd_out.copy_(at::rsqrt(variance + epsilon));
  if (running_mean) Tensor(*running_mean).mul_(1 - momentum).add_(average, momentum);
  if (running_variance) Tensor(*running_variance).mul_(1 - momentum).add_(variance * total / (total - 1), momentum);
}
OPERATOR(aclnnBatchNormReduce, const Tensor& self, Tensor& sum, Tensor& square_sum) {
  std::vector<int64_t> dims;
  for (int64_t dim = 0; dim < self.dim(); ++dim)
    if (dim != 1) dims.push_back(dim);
  sum.copy_(self.sum(dims));
  square_sum.copy_(self.square().sum(dims));
}
OPERATOR(aclnnFastLayerNorm, const Tensor& self, IntArray shape, const OptionalTensor& weight, const OptionalTensor& bias, double epsilon,
         Tensor& out, const OptionalTensor& mean_out, const OptionalTensor& rstd_out) {
  if (self.numel() == 0) return;
  auto [y, mean, rstd] = at::native_layer_norm(self, shape, weight, bias, epsilon);
  out.copy_(y);
  if (mean_out) Tensor(*mean_out).copy_(mean);
  if (rstd_out) Tensor(*rstd_out).copy_(rstd);
}
// Group normalisation, then SiLU.
OPERATOR(aclnnGroupNormSilu, const Tensor& self, const OptionalTensor& weight, const OptionalTensor& bias, int64_t groups, double epsilon,
         Tensor& out, Tensor& mean_out, Tensor& rstd_out) {
  const int64_t batch = self.size(0), channels = self.size(1), inner = self.numel() / (batch * channels);
  const auto wide = [](const OptionalTensor& value) { return value ? OptionalTensor(value->to(at::kFloat)) : std::nullopt; };
  auto [y, mean, rstd] =
      at::native_group_norm(self.to(at::kFloat).contiguous(), wide(weight), wide(bias), batch, channels, inner, groups, epsilon);
  out.copy_(at::silu(y));
  mean_out.copy_(mean);
  rstd_out.copy_(rstd);
}
