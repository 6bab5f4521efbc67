// Filling, ranges and random numbers.
#include <ATen/CPUGeneratorImpl.h>

#include "operators/operator.h"

using namespace cannsim;

OPERATOR(aclnnInplaceFillScalar, Tensor& self, const Scalar& value) { self.fill_(value); }
OPERATOR(aclnnInplaceFillTensor, Tensor& self, const Tensor& value) { self.fill_(value.reshape({})); }
OPERATOR(aclnnInplaceOne, Tensor& self) { self.fill_(1); }
OPERATOR(aclnnInplaceZero, Tensor& self) {
  if (self.is_contiguous()) {
    fill_bytes(self.data_ptr(), 0, self.nbytes());
  } else {
    self.zero_();
  }
}
OPERATOR(aclnnArange, const Scalar& start, const Scalar& end, const Scalar& step, Tensor& out) { at::arange_out(out, start, end, step); }
OPERATOR(aclnnRange, const Scalar& start, const Scalar& end, const Scalar& step, Tensor& out) { at::range_out(out, start, end, step); }
OPERATOR(aclnnLinspace, const Scalar& start, const Scalar& end, int64_t steps, Tensor& out) { at::linspace_out(out, start, end, steps); }
OPERATOR(aclnnLogSpace, const Scalar& start, const Scalar& end, int64_t steps, double base, Tensor& out) {
  at::logspace_out(out, start, end, steps, base);
}
OPERATOR(aclnnInplaceFillDiagonal, Tensor& self, const Scalar& value, bool wrap) { self.fill_diagonal_(value, wrap); }
OPERATOR(aclnnEye, int64_t rows, int64_t columns, Tensor& out) { at::eye_out(out, rows, columns); }

// The numbers that follow from a seed and an offset: the same on every call, whatever ran before.
// They are not the chip's numbers: only the distribution is.
at::Generator cannsim::random_generator(int64_t seed, int64_t offset) {
  return at::make_generator<at::CPUGeneratorImpl>(uint64_t(seed) * 0x9E3779B97F4A7C15ULL + uint64_t(offset));
}
static at::Generator generator(int64_t seed, int64_t offset) { return random_generator(seed, offset); }
OPERATOR(aclnnInplaceNormal, Tensor& self, float mean, float deviation, int64_t seed, int64_t offset) {
  self.normal_(mean, deviation, generator(seed, offset));
}
OPERATOR(aclnnNormalFloatFloat, float mean, float deviation, int64_t seed, int64_t offset, Tensor& out) {
  out.normal_(mean, deviation, generator(seed, offset));
}
OPERATOR(aclnnInplaceUniform, Tensor& self, double from, double to, int64_t seed, int64_t offset) {
  self.uniform_(from, to, generator(seed, offset));
}
OPERATOR(aclnnInplaceRandom, Tensor& self, int64_t from, int64_t to, int64_t seed, int64_t offset) {
  self.random_(from, std::optional<int64_t>(to), generator(seed, offset));
}
OPERATOR(aclnnSimThreadExponential, Tensor& self, int64_t count, double rate, int64_t seed, int64_t offset) {
  self.exponential_(rate, generator(seed, offset));
}
OPERATOR(aclnnInplaceBernoulli, Tensor& self, const Scalar& probability, int64_t seed, int64_t offset) {
  self.bernoulli_(probability.toDouble(), generator(seed, offset));
}
OPERATOR(aclnnMultinomial, const Tensor& self, int64_t samples, bool replacement, int64_t seed, int64_t offset, Tensor& out) {
  out.copy_(at::multinomial(self, samples, replacement, generator(seed, offset)));
}
OPERATOR(aclnnRandperm, int64_t n, int64_t seed, int64_t offset, Tensor& out) { at::randperm_out(out, n, generator(seed, offset)); }
OPERATOR(aclnnInplaceBernoulliTensor, Tensor& self, const Tensor& probability, int64_t seed, int64_t offset) {
  self.bernoulli_(probability, generator(seed, offset));
}
OPERATOR(aclnnInplaceRandomWithoutFromTo, Tensor& self, int64_t seed, int64_t offset) { self.random_(generator(seed, offset)); }
OPERATOR(aclnnNormalTensorTensor, const Tensor& mean, const Tensor& deviation, int64_t seed, int64_t offset, Tensor& out) {
  out.copy_(at::normal(mean, deviation, generator(seed, offset)));
}
OPERATOR(aclnnNormalTensorFloat, const Tensor& mean, float deviation, int64_t seed, int64_t offset, Tensor& out) {
  out.copy_(at::normal(mean, deviation, generator(seed, offset)));
}
OPERATOR(aclnnNormalFloatTensor, float mean, const Tensor& deviation, int64_t seed, int64_t offset, Tensor& out) {
  out.copy_(at::normal(mean, deviation, generator(seed, offset)));
}

// In a captured graph the seed and the offset are on the device, so that each replay draws anew; the
// offset is the tensor's plus the argument's (CANN's documentation of aclnnInplaceNormalTensor).
static at::Generator device_generator(const Tensor& seed, const Tensor& first, int64_t offset) {
  return generator(seed.item<int64_t>(), first.item<int64_t>() + offset);
}
OPERATOR(aclnnInplaceNormalTensor, Tensor& self, float mean, float deviation, const Tensor& seed, const Tensor& first, int64_t offset) {
  self.normal_(mean, deviation, device_generator(seed, first, offset));
}
OPERATOR(aclnnInplaceUniformTensor, Tensor& self, double from, double to, const Tensor& seed, const Tensor& first, int64_t offset) {
  self.uniform_(from, to, device_generator(seed, first, offset));
}
OPERATOR(aclnnInplaceRandomTensor, Tensor& self, int64_t from, int64_t to, const Tensor& seed, const Tensor& first, int64_t offset) {
  self.random_(from, std::optional<int64_t>(to), device_generator(seed, first, offset));
}
OPERATOR(aclnnInplaceRandomWithoutFromToTensor, Tensor& self, const Tensor& seed, const Tensor& first, int64_t offset) {
  self.random_(device_generator(seed, first, offset));
}

// Dropout in two steps: a mask of one bit an element (1: kept), then its use.
static void keep_mask(double probability, int64_t seed, int64_t offset, Tensor& mask) {
  const auto bits = at::empty({mask.numel(), 8}, at::kByte).bernoulli_(1 - probability, generator(seed, offset));
  mask.copy_(bits.mul_(at::bitwise_left_shift(Scalar(1), at::arange(8, at::kByte))).sum(1, false, at::kByte).view_as(mask));
}
OPERATOR(aclnnDropoutGenMask, IntArray shape, double probability, int64_t seed, int64_t offset, Tensor& mask) {
  keep_mask(probability, seed, offset, mask);
}
OPERATOR(aclnnDropoutGenMaskV2, IntArray shape, double probability, int64_t seed, int64_t offset, at::ScalarType type, Tensor& mask) {
  keep_mask(probability, seed, offset, mask);
}
OPERATOR(aclnnDropoutGenMaskV2Tensor, IntArray shape, double probability, const Tensor& seed, const Tensor& first, int64_t offset,
         at::ScalarType type, Tensor& mask) {
  keep_mask(probability, seed.item<int64_t>(), first.item<int64_t>() + offset, mask);
}
static void drop(const Tensor& self, const Tensor& mask, double probability, Tensor& out) {
  const auto bits = mask.reshape({-1, 1}).bitwise_right_shift(at::arange(8, at::kByte)).bitwise_and(1).reshape({-1});
  const auto kept = bits.narrow(0, 0, self.numel()).view(self.sizes());
  out.copy_(probability >= 1 ? at::zeros_like(self) : (self * kept).div_(1 - probability));
}
OPERATOR(aclnnDropoutDoMask, const Tensor& self, const Tensor& mask, double probability, Tensor& out) { drop(self, mask, probability, out); }
// Both steps in one; noise that elements share is not simulated: torch-npu passes none.
OPERATOR(aclnnDropoutV3, const Tensor& self, const OptionalTensor& noise, double probability, int64_t seed, int64_t offset, Tensor& out, Tensor& mask) {
  keep_mask(probability, seed, offset, mask);
  drop(self, mask, probability, out);
}
OPERATOR(aclnnDropoutV3Tensor, const Tensor& self, const OptionalTensor& noise, double probability, const Tensor& seed, const Tensor& first,
         int64_t offset, Tensor& out, Tensor& mask) {
  keep_mask(probability, seed.item<int64_t>(), first.item<int64_t>() + offset, mask);
  drop(self, mask, probability, out);
}
