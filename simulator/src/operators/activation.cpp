// Activations, plain and gated.
#include "operators/operator.h"

using namespace cannsim;

OPERATOR(aclnnSilu, const Tensor& self, Tensor& out) { at::silu_out(out, self); }
// The form with tanh, as CANN's document of aclnnGelu writes it; aclnnGeluV2 has a choice.
OPERATOR(aclnnGelu, const Tensor& self, Tensor& out) { at::gelu_out(out, self, "tanh"); }
OPERATOR(aclnnGeluV2, const Tensor& self, int64_t approximate, Tensor& out) { at::gelu_out(out, self, approximate == 1 ? "tanh" : "none"); }
OPERATOR(aclnnSoftplus, const Tensor& self, const Scalar& beta, const Scalar& threshold, Tensor& out) {
  at::softplus_out(out, self, beta, threshold);
}
OPERATOR(aclnnLeakyRelu, const Tensor& self, const Scalar& slope, Tensor& out) { at::leaky_relu_out(out, self, slope); }
OPERATOR(aclnnElu, const Tensor& self, const Scalar& alpha, const Scalar& scale, const Scalar& input_scale, Tensor& out) {
  at::elu_out(out, self, alpha, scale, input_scale);
}
OPERATOR(aclnnHardtanh, const Tensor& self, const Scalar& least, const Scalar& most, Tensor& out) { at::hardtanh_out(out, self, least, most); }

OPERATOR(aclnnInplaceLeakyRelu, Tensor& self, const Scalar& slope) { at::leaky_relu_(self, slope); }
OPERATOR(aclnnInplaceElu, Tensor& self, const Scalar& alpha, const Scalar& scale, const Scalar& input_scale) {
  at::elu_(self, alpha, scale, input_scale);
}
OPERATOR(aclnnInplaceHardtanh, Tensor& self, const Scalar& least, const Scalar& most) { at::hardtanh_(self, least, most); }
OPERATOR(aclnnCelu, const Tensor& self, const Scalar& alpha, Tensor& out) { out.copy_(at::celu(self, alpha)); }
OPERATOR(aclnnInplaceCelu, Tensor& self, const Scalar& alpha) { at::celu_(self, alpha); }
OPERATOR(aclnnHardsigmoid, const Tensor& self, Tensor& out) { at::hardsigmoid_out(out, self); }
OPERATOR(aclnnInplaceHardsigmoid, Tensor& self) { at::hardsigmoid_(self); }
OPERATOR(aclnnHardswish, const Tensor& self, Tensor& out) { at::hardswish_out(out, self); }
OPERATOR(aclnnInplaceHardswish, Tensor& self) { at::hardswish_(self); }
OPERATOR(aclnnHardshrink, const Tensor& self, const Scalar& lambda, Tensor& out) { at::hardshrink_out(out, self, lambda); }
OPERATOR(aclnnSoftshrink, const Tensor& self, const Scalar& lambda, Tensor& out) { at::softshrink_out(out, self, lambda); }
OPERATOR(aclnnMish, const Tensor& self, Tensor& out) { at::mish_out(out, self); }
OPERATOR(aclnnInplaceMish, Tensor& self) { at::mish_(self); }
OPERATOR(aclnnThreshold, const Tensor& self, const Scalar& threshold, const Scalar& value, Tensor& out) {
  at::threshold_out(out, self, threshold, value);
}
OPERATOR(aclnnInplaceThreshold, Tensor& self, const Scalar& threshold, const Scalar& value) { at::threshold_(self, threshold, value); }
OPERATOR(aclnnPrelu, const Tensor& self, const Tensor& weight, Tensor& out) { out.copy_(at::prelu(self, weight.reshape({-1}))); }
OPERATOR(aclnnGlu, const Tensor& self, int64_t dim, Tensor& out) { at::glu_out(out, self, dim); }
OPERATOR(aclnnLogSigmoid, const Tensor& self, Tensor& out) { at::log_sigmoid_out(out, self); }
OPERATOR(aclnnLogSigmoidForward, const Tensor& self, Tensor& out, const OptionalTensor& buffer) { out.copy_(at::log_sigmoid(self)); }

OPERATOR(aclnnSoftmax, const Tensor& self, int64_t dim, Tensor& out) {
  out.copy_(at::softmax(self.scalar_type() == out.scalar_type() ? self : self.to(out.scalar_type()), dim));
}
OPERATOR(aclnnLogSoftmax, const Tensor& self, int64_t dim, Tensor& out) {
  out.copy_(at::log_softmax(self.scalar_type() == out.scalar_type() ? self : self.to(out.scalar_type()), dim));
}

// SwiGLU: silu of the first half times the second. Half types are computed in float32.
template <typename Arguments>
static void check_halves(const Arguments& arguments) {
  const View& x = std::get<0>(arguments).kept;
  const int64_t dims = int64_t(x.sizes.size()), dim = std::get<1>(arguments).kept;
  refuse_unless(dim >= -dims && dim < dims, "dimension " + std::to_string(dim) + " of a tensor of " + std::to_string(dims));
  const int64_t size = x.sizes[size_t(dim < 0 ? dim + dims : dim)];
  refuse_unless(size % 2 == 0, "dimension " + std::to_string(dim) + " of x has " + std::to_string(size) + " entries, which have no halves");
}
CHECKED_OPERATOR(aclnnSwiGlu, check_halves, const Tensor& self, int64_t dim, Tensor& out) {
  auto halves = self.chunk(2, dim);
  if (self.scalar_type() == at::kFloat) {
    at::silu_out(out, halves[0]);
    out.mul_(halves[1]);
  } else {
    out.copy_(at::silu(halves[0].to(at::kFloat)).mul_(halves[1]));
  }
}

// GELU of the first half (the left, when `activate_left`) times the other; also returns the GELU.
OPERATOR(aclnnGeGluV3, const Tensor& self, int64_t dim, int64_t approximate, bool activate_left, Tensor& out, Tensor& gelu) {
  auto halves = self.to(at::kFloat).chunk(2, dim);
  const auto activated = at::gelu(halves[activate_left ? 0 : 1], approximate == 1 ? "tanh" : "none");
  gelu.copy_(activated);
  out.copy_(activated * halves[activate_left ? 1 : 0]);
}
OPERATOR(aclnnGeluMul, const Tensor& self, Text approximate, Tensor& out) {
  auto halves = self.to(at::kFloat).chunk(2, -1);
  out.copy_(at::gelu(halves[0], approximate == "tanh" ? "tanh" : "none").mul_(halves[1]));
}

// `noise` gets the slope of every element: random between the bounds in training, else nothing.
static Tensor leaky(const Tensor& self, Tensor& noise, const Scalar& lower, const Scalar& upper, bool training, int64_t seed, int64_t offset) {
  return at::rrelu_with_noise(self, noise, lower, upper, training, random_generator(seed, offset));
}
OPERATOR(aclnnRReluWithNoise, const Tensor& self, Tensor& noise, const Scalar& lower, const Scalar& upper, bool training, int64_t seed,
         int64_t offset, Tensor& out) {
  out.copy_(leaky(self, noise, lower, upper, training, seed, offset));
}
OPERATOR(aclnnInplaceRReluWithNoise, Tensor& self, Tensor& noise, const Scalar& lower, const Scalar& upper, bool training, int64_t seed,
         int64_t offset) {
  self.copy_(leaky(self, noise, lower, upper, training, seed, offset));
}
