// Backward passes of ATen's own operators.
#include <cmath>

#include "operators/legacy.h"

using namespace cannsim;

// A gradient may be unwanted: its tensor is then null, or its flag false.
static void store(const OptionalTensor& out, const Tensor& value) {
  if (out && out->defined() && value.defined()) Tensor(*out).copy_(value.view_as(*out));
}
static std::optional<double> given(double scale) { return scale > 0 ? std::optional<double>(scale) : std::nullopt; }
static std::optional<int64_t> divisor_of(int64_t divisor) { return divisor == 0 ? std::nullopt : std::optional<int64_t>(divisor); }

// ---- activations ----------------------------------------------------------------------------------

#define FROM_INPUT(NAME, FUNCTION)                                                                  \
  OPERATOR(aclnn##NAME, const Tensor& gradient, const Tensor& self, Tensor& out) { out.copy_(at::FUNCTION(gradient, self)); }
FROM_INPUT(SigmoidBackward, sigmoid_backward)
FROM_INPUT(TanhBackward, tanh_backward)
FROM_INPUT(SiluBackward, silu_backward)
FROM_INPUT(HardsigmoidBackward, hardsigmoid_backward)
FROM_INPUT(HardswishBackward, hardswish_backward)
FROM_INPUT(HardswishBackwardV2, hardswish_backward)
FROM_INPUT(MishBackward, mish_backward)
FROM_INPUT(AdaptiveAvgPool2dBackward, _adaptive_avg_pool2d_backward)
FROM_INPUT(AdaptiveAvgPool3dBackward, _adaptive_avg_pool3d_backward)

// Of the form with tanh, as aclnnGelu.
OPERATOR(aclnnGeluBackward, const Tensor& gradient, const Tensor& self, Tensor& out) { out.copy_(at::gelu_backward(gradient, self, "tanh")); }
OPERATOR(aclnnGeluBackwardV2, const Tensor& gradient, const Tensor& self, Text approximate, Tensor& out) {
  out.copy_(at::gelu_backward(gradient, self, approximate == "tanh" ? "tanh" : "none"));
}
OPERATOR(aclnnFastGeluBackward, const Tensor& gradient, const Tensor& self, Tensor& out) {
  const Tensor x = self.to(at::kFloat), sigmoid = at::sigmoid(x * 1.702);
  out.copy_(gradient.to(at::kFloat) * (sigmoid + 1.702 * x * sigmoid * (1 - sigmoid)));
}
OPERATOR(aclnnEluBackward, const Tensor& gradient, const Scalar& alpha, const Scalar& scale, const Scalar& input_scale, bool is_result,
         const Tensor& self, Tensor& out) {
  out.copy_(at::elu_backward(gradient, alpha, scale, input_scale, is_result, self));
}
OPERATOR(aclnnGluBackward, const Tensor& gradient, const Tensor& self, int64_t dim, Tensor& out) {
  out.copy_(at::glu_backward(gradient, self, dim));
}
OPERATOR(aclnnHardshrinkBackward, const Tensor& gradient, const Tensor& self, const Scalar& lambda, Tensor& out) {
  out.copy_(at::hardshrink_backward(gradient, self, lambda));
}
OPERATOR(aclnnSoftshrinkBackward, const Tensor& gradient, const Tensor& self, const Scalar& lambda, Tensor& out) {
  out.copy_(at::softshrink_backward(gradient, self, lambda));
}
OPERATOR(aclnnHardtanhBackward, const Tensor& gradient, const Tensor& self, const Scalar& least, const Scalar& most, Tensor& out) {
  out.copy_(at::hardtanh_backward(gradient, self, least, most));
}
OPERATOR(aclnnLeakyReluBackward, const Tensor& gradient, const Tensor& self, const Scalar& slope, bool is_result, Tensor& out) {
  out.copy_(at::leaky_relu_backward(gradient, self, slope, is_result));
}
OPERATOR(aclnnLogSigmoidBackward, const Tensor& gradient, const Tensor& self, const OptionalTensor& buffer, Tensor& out) {
  out.copy_(gradient * at::sigmoid(-self));  // the buffer is the CPU kernel's own
}
OPERATOR(aclnnLogitGrad, const Tensor& self, const Tensor& gradient, double epsilon, Tensor& out) {
  out.copy_(at::logit_backward(gradient, self, epsilon < 0 ? std::nullopt : std::optional<double>(epsilon)));
}
OPERATOR(aclnnSoftplusBackward, const Tensor& gradient, const Tensor& self, const Scalar& beta, const Scalar& threshold, Tensor& out) {
  out.copy_(at::softplus_backward(gradient, self, beta, threshold));
}
OPERATOR(aclnnThresholdBackward, const Tensor& gradient, const Tensor& self, const Scalar& threshold, Tensor& out) {
  out.copy_(at::threshold_backward(gradient, self, threshold));
}
OPERATOR(aclnnPreluBackward, const Tensor& gradient, const Tensor& self, const Tensor& weight, Tensor& out, Tensor& weight_out) {
  std::vector<int64_t> shape(self.dim(), 1);
  if (self.dim() > 1) shape[1] = weight.numel();
  const Tensor slope = weight.reshape(shape), negative = self <= 0;
  out.copy_(at::where(negative, gradient * slope, gradient));
  const Tensor each = at::where(negative, gradient * self, at::zeros_like(self));
  weight_out.copy_((weight.numel() == 1 ? each.sum() : at::sum_to(each, shape)).reshape(weight_out.sizes()));
}
OPERATOR(aclnnSoftmaxBackward, const Tensor& gradient, const Tensor& output, int64_t dim, Tensor& out) {
  out.copy_(at::_softmax_backward_data(gradient, output, dim, output.scalar_type()));
}
OPERATOR(aclnnLogSoftmaxBackward, const Tensor& gradient, const Tensor& output, int64_t dim, Tensor& out) {
  out.copy_(at::_log_softmax_backward_data(gradient, output, dim, output.scalar_type()));
}

// ---- normalisation --------------------------------------------------------------------------------

static OptionalTensor wide(const OptionalTensor& value) { return value ? OptionalTensor(value->to(at::kFloat)) : std::nullopt; }

OPERATOR(aclnnBatchNormBackward, const Tensor& gradient, const Tensor& self, const OptionalTensor& weight, const OptionalTensor& running_mean,
         const OptionalTensor& running_variance, const OptionalTensor& mean, const OptionalTensor& rstd, bool training, double epsilon,
         Flags<3> wanted, const OptionalTensor& out, const OptionalTensor& weight_out, const OptionalTensor& bias_out) {
  auto [x, w, b] = at::native_batch_norm_backward(gradient.to(at::kFloat), self.to(at::kFloat), wide(weight), wide(running_mean),
                                                  wide(running_variance), wide(mean), wide(rstd), training, epsilon, wanted);
  store(out, x), store(weight_out, w), store(bias_out, b);
}
OPERATOR(aclnnLayerNormBackward, const Tensor& gradient, const Tensor& self, IntArray shape, const Tensor& mean, const Tensor& rstd,
         const OptionalTensor& weight, const OptionalTensor& bias, Flags<3> wanted, const OptionalTensor& out,
         const OptionalTensor& weight_out, const OptionalTensor& bias_out) {
  auto [x, w, b] = at::native_layer_norm_backward(gradient.to(at::kFloat).contiguous(), self.to(at::kFloat).contiguous(), shape,
                                                  mean.to(at::kFloat), rstd.to(at::kFloat), wide(weight), wide(bias), wanted);
  store(out, x), store(weight_out, w), store(bias_out, b);
}
OPERATOR(aclnnGroupNormBackward, const Tensor& gradient, const Tensor& self, const Tensor& mean, const Tensor& rstd,
         const OptionalTensor& weight, int64_t batch, int64_t channels, int64_t inner, int64_t groups, Flags<3> wanted,
         const OptionalTensor& out, const OptionalTensor& weight_out, const OptionalTensor& bias_out) {
  auto [x, w, b] =
      at::native_group_norm_backward(gradient.to(at::kFloat).contiguous(), self.to(at::kFloat).contiguous(), mean.to(at::kFloat),
                                     rstd.to(at::kFloat), wide(weight), batch, channels, inner, groups, wanted);
  store(out, x), store(weight_out, w), store(bias_out, b);
}
// With y = x * r * gamma and g = gradient * gamma: dx = r * (g - x * r^2 * mean(g * x)).
OPERATOR(aclnnRmsNormGrad, const Tensor& gradient, const Tensor& self, const Tensor& rstd, const Tensor& gamma, Tensor& out,
         Tensor& gamma_out) {
  const Tensor g = gradient.to(at::kFloat), x = self.to(at::kFloat), r = rstd.to(at::kFloat), scaled = g * gamma.to(at::kFloat);
  std::vector<int64_t> dims, rest;
  for (int64_t dim = 0; dim < x.dim(); ++dim) (dim < x.dim() - gamma.dim() ? rest : dims).push_back(dim);
  out.copy_(r * (scaled - x * r.square() * (scaled * x).mean(dims, true)));
  const Tensor each = g * x * r;
  gamma_out.copy_(rest.empty() ? each : each.sum(rest));
}

// ---- losses ---------------------------------------------------------------------------------------

#define OF_LOSS(NAME, FUNCTION)                                                                     \
  OPERATOR(aclnn##NAME, const Tensor& gradient, const Tensor& self, const Tensor& target, int64_t reduction, Tensor& out) { \
    out.copy_(at::FUNCTION(gradient, self, target, reduction));                                     \
  }
OF_LOSS(MseLossBackward, mse_loss_backward)
OF_LOSS(SoftMarginLossBackward, soft_margin_loss_backward)

// ATen has these two as derivatives only: sign(self - target), and of KL divergence.
static Tensor averaged(const Tensor& gradient, int64_t reduction, const Tensor& self) {
  return reduction == 1 ? gradient / double(self.numel()) : gradient;
}
OPERATOR(aclnnL1LossBackward, const Tensor& gradient, const Tensor& self, const Tensor& target, int64_t reduction, Tensor& out) {
  out.copy_(at::sign(self - target) * averaged(gradient, reduction, self));
}
OPERATOR(aclnnKlDivBackward, const Tensor& gradient, const Tensor& self, const Tensor& target, int64_t reduction, bool log_target, Tensor& out) {
  const Tensor weight = log_target ? at::exp(target) : at::where(target > 0, target, at::zeros_like(target));
  out.copy_(-weight * averaged(gradient, reduction, self));
}
OPERATOR(aclnnSmoothL1LossBackward, const Tensor& gradient, const Tensor& self, const Tensor& target, int64_t reduction, float beta,
         Tensor& out) {
  out.copy_(at::smooth_l1_loss_backward(gradient, self, target, reduction, beta));
}
OPERATOR(aclnnBinaryCrossEntropyBackward, const Tensor& gradient, const Tensor& self, const Tensor& target, const OptionalTensor& weight,
         int64_t reduction, Tensor& out) {
  out.copy_(at::binary_cross_entropy_backward(gradient, self, target, weight, reduction));
}
OPERATOR(aclnnBinaryCrossEntropyWithLogitsBackward, const Tensor& gradient, const Tensor& self, const Tensor& target,
         const OptionalTensor& weight, const OptionalTensor& positive_weight, int64_t reduction, Tensor& out) {
  const Tensor positive = positive_weight ? target * *positive_weight : target;
  Tensor each = at::sigmoid(self) * (1 - target + positive) - positive;
  if (weight) each = each * *weight;
  out.copy_(each * averaged(gradient, reduction, self));
}
OPERATOR(aclnnNLLLossBackward, const Tensor& gradient, const Tensor& self, const Tensor& target, const Tensor& weight, int64_t reduction,
         int64_t ignored, const Tensor& total_weight, Tensor& out) {
  out.copy_(at::nll_loss_backward(gradient, self, target.to(at::kLong), weight, reduction, ignored, total_weight.reshape({})));
}
OPERATOR(aclnnNLLLoss2dBackward, const Tensor& gradient, const Tensor& self, const Tensor& target, const Tensor& weight, int64_t reduction,
         int64_t ignored, const Tensor& total_weight, Tensor& out) {
  out.copy_(at::nll_loss2d_backward(gradient, self, target.to(at::kLong), weight, reduction, ignored, total_weight.reshape({})));
}
OPERATOR(aclnnCtcLossBackward, const Tensor& gradient, const Tensor& log_probabilities, const Tensor& targets, IntArray input_lengths,
         IntArray target_lengths, const Tensor& loss, const Tensor& log_alpha, int64_t blank, bool zero_infinity, Tensor& out) {
  // The device's table is wider than the longest target needs, ATen's is exact.
  int64_t longest = 0;
  for (int64_t length : target_lengths) longest = std::max(longest, length);
  const Tensor alpha = log_alpha.narrow(-1, 0, std::min(log_alpha.size(-1), 2 * longest + 1));
  out.copy_(at::_ctc_loss_backward(gradient, log_probabilities, targets, input_lengths, target_lengths, loss, alpha, blank, zero_infinity));
}

// ---- convolution, pooling, resizing, padding ----------------------------------------------------

OPERATOR(aclnnConvolutionBackward, const Tensor& gradient, const Tensor& self, const Tensor& weight, OptionalIntArray bias_sizes,
         IntArray stride, IntArray padding, IntArray dilation, bool transposed, IntArray output_padding, int64_t groups, Flags<3> wanted,
         int8_t cube_math_type, const OptionalTensor& out, const OptionalTensor& weight_out, const OptionalTensor& bias_out) {
  auto [x, w, b] = at::convolution_backward(gradient, self, weight, bias_sizes, stride, padding, dilation, transposed, output_padding,
                                            groups, wanted);
  store(out, x), store(weight_out, w), store(bias_out, b);
}
OPERATOR(aclnnConvTbcBackward, const Tensor& gradient, const Tensor& self, const Tensor& weight, const Tensor& bias, int64_t pad,
         int8_t cube_math_type, const OptionalTensor& out, const OptionalTensor& weight_out, const OptionalTensor& bias_out) {
  auto [x, w, b] = at::conv_tbc_backward(gradient, self, weight, bias, pad);
  store(out, x), store(weight_out, w), store(bias_out, b);
}
OPERATOR(aclnnAvgPool2dBackward, const Tensor& gradient, const Tensor& self, IntArray kernel, IntArray stride, IntArray padding, bool ceil,
         bool count_padding, int64_t divisor, int8_t cube_math_type, Tensor& out) {
  out.copy_(at::avg_pool2d_backward(gradient, self, kernel, stride, padding, ceil, count_padding, divisor_of(divisor)));
}
OPERATOR(aclnnAvgPool3dBackward, const Tensor& gradient, const Tensor& self, IntArray kernel, IntArray stride, IntArray padding, bool ceil,
         bool count_padding, int64_t divisor, Tensor& out) {
  out.copy_(at::avg_pool3d_backward(gradient, self, kernel, stride, padding, ceil, count_padding, divisor_of(divisor)));
}
OPERATOR(aclnnAdaptiveMaxPool2dBackward, const Tensor& gradient, const Tensor& self, const Tensor& indices, Tensor& out) {
  out.copy_(at::adaptive_max_pool2d_backward(gradient, self, indices.to(at::kLong)));
}
OPERATOR(aclnnAdaptiveMaxPool3dBackward, const Tensor& gradient, const Tensor& self, const Tensor& indices, Tensor& out) {
  out.copy_(at::adaptive_max_pool3d_backward(gradient, self, indices.to(at::kLong)));
}
OPERATOR(aclnnMaxPool2dWithIndicesBackward, const Tensor& gradient, const Tensor& self, const Tensor& indices, IntArray kernel,
         IntArray stride, IntArray padding, IntArray dilation, bool ceil, Tensor& out) {
  out.copy_(at::max_pool2d_with_indices_backward(gradient, self, kernel, stride, padding, dilation, ceil, indices.to(at::kLong)));
}
// The chip's mask is not made (see vision.cpp): where the largest lies is found again.
OPERATOR(aclnnMaxPool2dWithMaskBackward, const Tensor& gradient, const Tensor& self, const Tensor& mask, IntArray kernel, IntArray stride,
         IntArray padding, IntArray dilation, bool ceil, Tensor& out) {
  const Tensor indices = std::get<1>(at::max_pool2d_with_indices(self, kernel, stride, padding, dilation, ceil));
  out.copy_(at::max_pool2d_with_indices_backward(gradient, self, kernel, stride, padding, dilation, ceil, indices));
}
OPERATOR(aclnnMaxPool3dWithArgmaxBackward, const Tensor& gradient, const Tensor& self, const Tensor& indices, IntArray kernel,
         IntArray stride, IntArray padding, IntArray dilation, bool ceil, Tensor& out) {
  out.copy_(at::max_pool3d_with_indices_backward(gradient, self, kernel, stride, padding, dilation, ceil, indices.to(at::kLong)).view_as(out));
}
#define OF_PADDING(NAME, FUNCTION)                                                                  \
  OPERATOR(aclnn##NAME, const Tensor& gradient, const Tensor& self, IntArray padding, Tensor& out) { \
    out.copy_(at::FUNCTION(gradient, self, padding));                                               \
  }
OF_PADDING(ReflectionPad1dBackward, reflection_pad1d_backward)
OF_PADDING(ReflectionPad2dBackward, reflection_pad2d_backward)
OF_PADDING(ReflectionPad3dBackward, reflection_pad3d_backward)
OF_PADDING(ReplicationPad1dBackward, replication_pad1d_backward)
OF_PADDING(ReplicationPad2dBackward, replication_pad2d_backward)
OF_PADDING(ReplicationPad3dBackward, replication_pad3d_backward)

#define RESIZED_1D(NAME, FUNCTION)                                                                  \
  OPERATOR(aclnn##NAME, const Tensor& gradient, IntArray size, IntArray input, double scale, Tensor& out) { \
    out.copy_(at::FUNCTION(gradient, size, input, given(scale)));                                   \
  }
#define RESIZED_2D(NAME, FUNCTION)                                                                  \
  OPERATOR(aclnn##NAME, const Tensor& gradient, IntArray size, IntArray input, double height, double width, Tensor& out) { \
    out.copy_(at::FUNCTION(gradient, size, input, given(height), given(width)));                    \
  }
#define RESIZED_3D(NAME, FUNCTION)                                                                  \
  OPERATOR(aclnn##NAME, const Tensor& gradient, IntArray size, IntArray input, double depth, double height, double width, Tensor& out) { \
    out.copy_(at::FUNCTION(gradient, size, input, given(depth), given(height), given(width)));      \
  }
#define INTERPOLATED_2D(NAME, FUNCTION)                                                             \
  OPERATOR(aclnn##NAME, const Tensor& gradient, IntArray size, IntArray input, bool corners, double height, double width, Tensor& out) { \
    out.copy_(at::FUNCTION(gradient, size, input, corners, given(height), given(width)));           \
  }
RESIZED_1D(UpsampleNearest1dBackward, upsample_nearest1d_backward)
RESIZED_1D(UpsampleNearestExact1dBackward, _upsample_nearest_exact1d_backward)
RESIZED_2D(UpsampleNearest2dBackward, upsample_nearest2d_backward)
RESIZED_2D(UpsampleNearestExact2dBackward, _upsample_nearest_exact2d_backward)
RESIZED_3D(UpsampleNearest3dBackward, upsample_nearest3d_backward)
RESIZED_3D(UpsampleNearestExact3dBackward, _upsample_nearest_exact3d_backward)
INTERPOLATED_2D(UpsampleBilinear2dBackward, upsample_bilinear2d_backward)
INTERPOLATED_2D(UpsampleBilinear2dBackwardV2, upsample_bilinear2d_backward)
INTERPOLATED_2D(UpsampleBilinear2dAABackward, _upsample_bilinear2d_aa_backward)
INTERPOLATED_2D(UpsampleBicubic2dBackward, upsample_bicubic2d_backward)
INTERPOLATED_2D(UpsampleBicubic2dAAGrad, _upsample_bicubic2d_aa_backward)
OPERATOR(aclnnUpsampleLinear1dBackward, const Tensor& gradient, IntArray size, IntArray input, bool corners, double scale, Tensor& out) {
  out.copy_(at::upsample_linear1d_backward(gradient, size, input, corners, given(scale)));
}
OPERATOR(aclnnUpsampleTrilinear3dBackward, const Tensor& gradient, IntArray size, IntArray input, bool corners, double depth, double height,
         double width, Tensor& out) {
  out.copy_(at::upsample_trilinear3d_backward(gradient, size, input, corners, given(depth), given(height), given(width)));
}
OPERATOR(aclnnGridSampler2DBackward, const Tensor& gradient, const Tensor& self, const Tensor& grid, int64_t interpolation, int64_t padding,
         bool corners, Flags<2> wanted, const OptionalTensor& out, const OptionalTensor& grid_out) {
  auto [x, g] = at::grid_sampler_2d_backward(gradient, self, grid, interpolation, padding, corners, wanted);
  store(out, x), store(grid_out, g);
}
OPERATOR(aclnnGridSampler3DBackward, const Tensor& gradient, const Tensor& self, const Tensor& grid, int64_t interpolation, int64_t padding,
         bool corners, Flags<2> wanted, const OptionalTensor& out, const OptionalTensor& grid_out) {
  auto [x, g] = at::grid_sampler_3d_backward(gradient, self, grid, interpolation, padding, corners, wanted);
  store(out, x), store(grid_out, g);
}

// ---- indexing and distances -----------------------------------------------------------------------

OPERATOR(aclnnEmbeddingDenseBackward, const Tensor& gradient, const Tensor& indices, int64_t rows, int64_t padding, bool by_frequency,
         Tensor& out) {
  out.copy_(at::embedding_dense_backward(gradient, indices.to(at::kLong), rows, padding, by_frequency));
}
OPERATOR(aclnnRepeatInterleaveGrad, const Tensor& gradient, const Tensor& repeats, int64_t dim, Tensor& out) {
  const Tensor number = repeats.numel() == 1 ? repeats.reshape({1}).expand({out.size(dim)}) : repeats;
  const Tensor source = at::repeat_interleave(number.to(at::kLong));
  out.copy_(at::zeros(out.sizes(), gradient.options().dtype(at::kFloat)).index_add_(dim, source, gradient.to(at::kFloat)));
}
OPERATOR(aclnnUnfoldGrad, const Tensor& gradient, IntArray sizes, int64_t dim, int64_t size, int64_t step, Tensor& out) {
  out.copy_(at::unfold_backward(gradient, sizes, dim, size, step));
}
// `first` and `second` are broadcast against each other: [..., rows, columns, width]; the gradient of
// the first, whose rows are [..., rows, width]. The older interface has the other two as wide.
Tensor cannsim::cdist_gradient(const Tensor& gradient, const Tensor& first, const Tensor& second, const Tensor& distances, double p) {
  const Tensor apart = first - second, sign = at::sign(apart);
  const auto widened = [&](const Tensor& x) { return x.dim() == apart.dim() ? x : x.unsqueeze(-1); };
  const Tensor far = widened(distances);
  Tensor each;
  if (p == 1) {
    each = sign;
  } else if (std::isinf(p)) {
    each = sign * (at::abs(apart) == far);
  } else {
    each = at::where(far == 0, at::zeros_like(apart), sign * at::pow(at::abs(apart) / far, p - 1));
  }
  return (widened(gradient) * each).sum(-2);
}
OPERATOR(aclnnCdistBackward, const Tensor& gradient, const Tensor& first, const Tensor& second, const Tensor& distances, float p, Tensor& out) {
  out.copy_(cdist_gradient(gradient, first, second, distances, p).view_as(out));
}
