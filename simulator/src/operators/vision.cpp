// Convolution, pooling and resizing. `cube_math_type`: see linear.cpp.
#include "operators/operator.h"

using namespace cannsim;

static std::optional<double> given(double scale) { return scale > 0 ? std::optional<double>(scale) : std::nullopt; }
static std::optional<int64_t> divisor_of(int64_t divisor) { return divisor == 0 ? std::nullopt : std::optional<int64_t>(divisor); }

OPERATOR(aclnnConvDepthwise2d, const Tensor& self, const Tensor& weight, IntArray kernel, const OptionalTensor& bias, IntArray stride,
         IntArray padding, IntArray dilation, Tensor& out, int8_t cube_math_type) {
  out.copy_(at::conv2d(self, weight, bias, stride, padding, dilation, self.size(-3)));
}
OPERATOR(aclnnConvTbc, const Tensor& self, const Tensor& weight, const Tensor& bias, int64_t pad, Tensor& out, int8_t cube_math_type) {
  out.copy_(at::conv_tbc(self, weight, bias, pad));
}
OPERATOR(aclnnConvolution, const Tensor& self, const Tensor& weight, const OptionalTensor& bias, IntArray stride, IntArray padding,
         IntArray dilation, bool transposed, IntArray output_padding, int64_t groups, Tensor& out, int8_t cube_math_type) {
  out.copy_(at::convolution(self, weight, bias, stride, padding, dilation, transposed, output_padding, groups));
}
OPERATOR(aclnnAvgPool2d, const Tensor& self, IntArray kernel, IntArray stride, IntArray padding, bool ceil, bool count_padding,
         int64_t divisor, int8_t cube_math_type, Tensor& out) {
  at::avg_pool2d_out(out, self, kernel, stride, padding, ceil, count_padding, divisor_of(divisor));
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
// The chip's indices are int32, and so are torch-npu's tensors for them.
OPERATOR(aclnnMaxPool3dWithArgmax, const Tensor& self, IntArray kernel, IntArray stride, IntArray padding, IntArray dilation, bool ceil,
         Tensor& out, Tensor& indices) {
  auto [values, places] = at::max_pool3d_with_indices(self, kernel, stride, padding, dilation, ceil);
  out.copy_(values.view_as(out));
  indices.copy_(places.view_as(indices));
}
OPERATOR(aclnnMaxUnpool2d, const Tensor& self, const Tensor& indices, IntArray size, Tensor& out) {
  out.copy_(at::max_unpool2d(self, indices.to(at::kLong), size));
}
OPERATOR(aclnnMaxUnpool3d, const Tensor& self, const Tensor& indices, IntArray size, IntArray stride, IntArray padding, Tensor& out) {
  out.copy_(at::max_unpool3d(self, indices.to(at::kLong), size, stride, padding));
}
OPERATOR(aclnnAvgPool3d, const Tensor& self, IntArray kernel, IntArray stride, IntArray padding, bool ceil, bool count_padding,
         int64_t divisor, Tensor& out) {
  out.copy_(at::avg_pool3d(self, kernel, stride, padding, ceil, count_padding, divisor_of(divisor)));
}
OPERATOR(aclnnAdaptiveAvgPool3d, const Tensor& self, IntArray size, Tensor& out) { out.copy_(at::adaptive_avg_pool3d(self, size)); }
OPERATOR(aclnnAdaptiveMaxPool2d, const Tensor& self, IntArray size, Tensor& out, Tensor& indices) {
  auto [values, places] = at::adaptive_max_pool2d(self, size);
  out.copy_(values);
  indices.copy_(places);
}
OPERATOR(aclnnAdaptiveMaxPool3d, const Tensor& self, IntArray size, Tensor& out, Tensor& indices) {
  auto [values, places] = at::adaptive_max_pool3d(self, size);
  out.copy_(values);
  indices.copy_(places);
}
OPERATOR(aclnnAdaptiveAvgPool2d, const Tensor& self, IntArray size, Tensor& out) { out.copy_(at::adaptive_avg_pool2d(self, size)); }
OPERATOR(aclnnUpsampleNearest2d, const Tensor& self, IntArray size, Tensor& out) { at::upsample_nearest2d_out(out, self, size); }
OPERATOR(aclnnUpsampleNearest2dV2, const Tensor& self, IntArray size, float height, float width, Tensor& out) {
  at::upsample_nearest2d_out(out, self, size, given(height), given(width));
}
OPERATOR(aclnnUpsampleBilinear2d, const Tensor& self, IntArray size, bool corners, double height, double width, Tensor& out) {
  at::upsample_bilinear2d_out(out, self, size, corners, given(height), given(width));
}
OPERATOR(aclnnUpsampleBicubic2d, const Tensor& self, IntArray size, bool corners, double height, double width, Tensor& out) {
  at::upsample_bicubic2d_out(out, self, size, corners, given(height), given(width));
}
OPERATOR(aclnnUpsampleNearest1d, const Tensor& self, IntArray size, Tensor& out) { at::upsample_nearest1d_out(out, self, size); }
OPERATOR(aclnnUpsampleNearest1dV2, const Tensor& self, IntArray size, float scale, Tensor& out) {
  at::upsample_nearest1d_out(out, self, size, given(scale));
}
OPERATOR(aclnnUpsampleNearest3d, const Tensor& self, IntArray size, double depth, double height, double width, Tensor& out) {
  at::upsample_nearest3d_out(out, self, size, given(depth), given(height), given(width));
}
OPERATOR(aclnnUpsampleNearestExact1d, const Tensor& self, IntArray size, double scale, Tensor& out) {
  at::_upsample_nearest_exact1d_out(out, self, size, given(scale));
}
OPERATOR(aclnnUpsampleNearestExact2d, const Tensor& self, IntArray size, double height, double width, Tensor& out) {
  at::_upsample_nearest_exact2d_out(out, self, size, given(height), given(width));
}
OPERATOR(aclnnUpsampleNearestExact3d, const Tensor& self, IntArray size, double depth, double height, double width, Tensor& out) {
  at::_upsample_nearest_exact3d_out(out, self, size, given(depth), given(height), given(width));
}
OPERATOR(aclnnUpsampleLinear1d, const Tensor& self, IntArray size, bool corners, double scale, Tensor& out) {
  at::upsample_linear1d_out(out, self, size, corners, given(scale));
}
OPERATOR(aclnnUpsampleTrilinear3d, const Tensor& self, IntArray size, bool corners, double depth, double height, double width, Tensor& out) {
  at::upsample_trilinear3d_out(out, self, size, corners, given(depth), given(height), given(width));
}
OPERATOR(aclnnUpsampleBilinear2dAA, const Tensor& self, IntArray size, bool corners, double height, double width, Tensor& out) {
  out.copy_(at::_upsample_bilinear2d_aa(self, size, corners, given(height), given(width)));
}
OPERATOR(aclnnUpsampleBicubic2dAA, const Tensor& self, IntArray size, bool corners, double height, double width, Tensor& out) {
  out.copy_(at::_upsample_bicubic2d_aa(self, size, corners, given(height), given(width)));
}
OPERATOR(aclnnGridSampler2D, const Tensor& self, const Tensor& grid, int64_t interpolation, int64_t padding, bool corners, Tensor& out) {
  out.copy_(at::grid_sampler_2d(self, grid, interpolation, padding, corners));
}
OPERATOR(aclnnGridSampler3D, const Tensor& self, const Tensor& grid, int64_t interpolation, int64_t padding, bool corners, Tensor& out) {
  out.copy_(at::grid_sampler_3d(self, grid, interpolation, padding, corners));
}
OPERATOR(aclnnAffineGrid, const Tensor& theta, IntArray size, bool corners, Tensor& out) {
  out.copy_(at::affine_grid_generator(theta, size, corners).view_as(out));
}
OPERATOR(aclnnIm2col, const Tensor& self, IntArray kernel, IntArray dilation, IntArray padding, IntArray stride, Tensor& out) {
  out.copy_(at::im2col(self, kernel, dilation, padding, stride));
}
OPERATOR(aclnnIm2colBackward, const Tensor& self, IntArray size, IntArray kernel, IntArray dilation, IntArray padding, IntArray stride,
         Tensor& out) {
  out.copy_(at::col2im(self, size, kernel, dilation, padding, stride));
}
OPERATOR(aclnnChannelShuffle, const Tensor& self, int64_t groups, Tensor& out) { out.copy_(at::native_channel_shuffle(self, groups)); }
