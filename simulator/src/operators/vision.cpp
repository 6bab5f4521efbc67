// Convolution, pooling and resizing. `cube_math_type`: see linear.cpp.
#include "operators/operator.h"

using namespace cannsim;

OPERATOR(aclnnConvolution, const Tensor& self, const Tensor& weight, const OptionalTensor& bias, IntArray stride, IntArray padding,
         IntArray dilation, bool transposed, IntArray output_padding, int64_t groups, Tensor& out, int8_t cube_math_type) {
  out.copy_(at::convolution(self, weight, bias, stride, padding, dilation, transposed, output_padding, groups));
}
OPERATOR(aclnnAvgPool2d, const Tensor& self, IntArray kernel, IntArray stride, IntArray padding, bool ceil, bool count_padding,
         int64_t divisor, int8_t cube_math_type, Tensor& out) {
  const auto chosen = divisor == 0 ? std::nullopt : std::optional<int64_t>(divisor);
  at::avg_pool2d_out(out, self, kernel, stride, padding, ceil, count_padding, chosen);
}
static void max_pool(const Tensor& self, IntArray kernel, IntArray stride, IntArray padding, IntArray dilation, bool ceil, Tensor& out,
                     Tensor* indices) {
  auto [values, places] = at::max_pool2d_with_indices(self, kernel, stride, padding, dilation, ceil);
  out.copy_(values);
  if (indices != nullptr) indices->copy_(places);
}
OPERATOR(aclnnMaxPool2dWithIndices, const Tensor& self, IntArray kernel, IntArray stride, IntArray padding, IntArray dilation, bool ceil,
         Tensor& out, Tensor& indices) {
  max_pool(self, kernel, stride, padding, dilation, ceil, out, &indices);
}
// The mask is for the backward pass only, in a layout of its own; it is not made.
OPERATOR(aclnnMaxPool2dWithMask, const Tensor& self, IntArray kernel, IntArray stride, IntArray padding, IntArray dilation, bool ceil,
         Tensor& out, Tensor& mask) {
  max_pool(self, kernel, stride, padding, dilation, ceil, out, nullptr);
}
OPERATOR(aclnnAdaptiveAvgPool2d, const Tensor& self, IntArray size, Tensor& out) { out.copy_(at::adaptive_avg_pool2d(self, size)); }
OPERATOR(aclnnUpsampleNearest2d, const Tensor& self, IntArray size, Tensor& out) { at::upsample_nearest2d_out(out, self, size); }
OPERATOR(aclnnUpsampleNearest2dV2, const Tensor& self, IntArray size, float, float, Tensor& out) { at::upsample_nearest2d_out(out, self, size); }
static std::optional<double> given(double scale) { return scale > 0 ? std::optional<double>(scale) : std::nullopt; }
OPERATOR(aclnnUpsampleBilinear2d, const Tensor& self, IntArray size, bool corners, double height, double width, Tensor& out) {
  at::upsample_bilinear2d_out(out, self, size, corners, given(height), given(width));
}
OPERATOR(aclnnUpsampleBicubic2d, const Tensor& self, IntArray size, bool corners, double height, double width, Tensor& out) {
  at::upsample_bicubic2d_out(out, self, size, corners, given(height), given(width));
}
