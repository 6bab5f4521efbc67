// Reductions, cumulative sums, sorting and selection of the largest.
#include "operators/operator.h"

using namespace cannsim;

OPERATOR(aclnnReduceSum, const Tensor& self, IntArray dims, bool keep, at::ScalarType type, Tensor& out) {
  at::sum_out(out, self, dims, keep, type);
}
OPERATOR(aclnnMean, const Tensor& self, IntArray dims, bool keep, at::ScalarType type, Tensor& out) {
  at::mean_out(out, self, dims, keep, type);
}
OPERATOR(aclnnReduceNansum, const Tensor& self, IntArray dims, bool keep, at::ScalarType type, Tensor& out) {
  at::nansum_out(out, self, dims, keep, type);
}
OPERATOR(aclnnProd, const Tensor& self, at::ScalarType type, Tensor& out) { out.copy_(at::prod(self, type)); }
OPERATOR(aclnnProdDim, const Tensor& self, int64_t dim, bool keep, at::ScalarType type, Tensor& out) {
  at::prod_out(out, self, dim, keep, type);
}
OPERATOR(aclnnAmax, const Tensor& self, IntArray dims, bool keep, Tensor& out) { at::amax_out(out, self, dims, keep); }
OPERATOR(aclnnAmin, const Tensor& self, IntArray dims, bool keep, Tensor& out) { at::amin_out(out, self, dims, keep); }
OPERATOR(aclnnMax, const Tensor& self, Tensor& out) { out.copy_(at::max(self)); }
OPERATOR(aclnnMin, const Tensor& self, Tensor& out) { out.copy_(at::min(self)); }
OPERATOR(aclnnMaxDim, const Tensor& self, int64_t dim, bool keep, Tensor& values, Tensor& indices) {
  auto [value, index] = at::max(self, dim, keep);
  values.copy_(value);
  indices.copy_(index);
}
OPERATOR(aclnnMinDim, const Tensor& self, int64_t dim, bool keep, Tensor& values, Tensor& indices) {
  auto [value, index] = at::min(self, dim, keep);
  values.copy_(value);
  indices.copy_(index);
}
OPERATOR(aclnnArgMax, const Tensor& self, int64_t dim, bool keep, Tensor& out) { out.copy_(at::argmax(self, dim, keep).view_as(out)); }
OPERATOR(aclnnArgMin, const Tensor& self, int64_t dim, bool keep, Tensor& out) { out.copy_(at::argmin(self, dim, keep).view_as(out)); }
OPERATOR(aclnnAll, const Tensor& self, IntArray dims, bool keep, Tensor& out) {
  out.copy_(dims.empty() ? at::all(self) : at::all(self, at::OptionalIntArrayRef(dims), keep));
}
OPERATOR(aclnnAny, const Tensor& self, IntArray dims, bool keep, Tensor& out) {
  out.copy_(dims.empty() ? at::any(self) : at::any(self, at::OptionalIntArrayRef(dims), keep));
}
OPERATOR(aclnnNorm, const Tensor& self, const Scalar& p, IntArray dims, bool keep, Tensor& out) {
  out.copy_(at::norm(self, std::optional<Scalar>(p), dims, keep));
}
OPERATOR(aclnnLinalgVectorNorm, const Tensor& self, const Scalar& order, IntArray dims, bool keep, at::ScalarType type, Tensor& out) {
  at::linalg_vector_norm_out(out, self, order, at::OptionalIntArrayRef(dims), keep, std::optional<at::ScalarType>(type));
}
OPERATOR(aclnnStd, const Tensor& self, IntArray dims, int64_t correction, bool keep, Tensor& out) {
  out.copy_(at::std(self, at::OptionalIntArrayRef(dims), std::optional<Scalar>(correction), keep));
}
OPERATOR(aclnnVarMean, const Tensor& self, IntArray dims, int64_t correction, bool keep, Tensor& variance, Tensor& mean) {
  auto [v, m] = at::var_mean(self, at::OptionalIntArrayRef(dims), std::optional<Scalar>(correction), keep);
  variance.copy_(v);
  mean.copy_(m);
}
OPERATOR(aclnnVar, const Tensor& self, IntArray dims, bool unbiased, bool keep, Tensor& out) {
  out.copy_(at::var(self, at::OptionalIntArrayRef(dims), unbiased, keep));
}
OPERATOR(aclnnVarCorrection, const Tensor& self, IntArray dims, int64_t correction, bool keep, Tensor& out) {
  out.copy_(at::var(self, at::OptionalIntArrayRef(dims), std::optional<Scalar>(correction), keep));
}
OPERATOR(aclnnStdMeanCorrection, const Tensor& self, IntArray dims, int64_t correction, bool keep, Tensor& deviation, Tensor& mean) {
  auto [s, m] = at::std_mean(self, at::OptionalIntArrayRef(dims), std::optional<Scalar>(correction), keep);
  deviation.copy_(s);
  mean.copy_(m);
}
OPERATOR(aclnnLogSumExp, const Tensor& self, IntArray dims, bool keep, Tensor& out) { out.copy_(at::logsumexp(self, dims, keep)); }
OPERATOR(aclnnAminmax, const Tensor& self, IntArray dims, bool keep, Tensor& least, Tensor& most) {
  at::amin_out(least, self, dims, keep);
  at::amax_out(most, self, dims, keep);
}
OPERATOR(aclnnTrace, const Tensor& self, Tensor& out) { out.copy_(at::trace(self)); }
OPERATOR(aclnnRenorm, const Tensor& self, const Scalar& p, int64_t dim, const Scalar& most, Tensor& out) { at::renorm_out(out, self, p, dim, most); }
OPERATOR(aclnnCdist, const Tensor& first, const Tensor& second, float p, int64_t mode, Tensor& out) { out.copy_(at::cdist(first, second, p)); }
OPERATOR(aclnnLinalgCross, const Tensor& self, const Tensor& other, int64_t dim, Tensor& out) { at::linalg_cross_out(out, self, other, dim); }
OPERATOR(aclnnHistc, const Tensor& self, int64_t bins, const Scalar& least, const Scalar& most, Tensor& out) {
  out.copy_(at::histc(self.is_floating_point() ? self : self.to(at::kFloat), bins, least, most));
}
OPERATOR(aclnnMedian, const Tensor& self, Tensor& out) { out.copy_(at::median(self)); }
OPERATOR(aclnnNanMedian, const Tensor& self, Tensor& out) { out.copy_(at::nanmedian(self)); }
// ATen reads past an expanded dimension here, hence contiguous().
OPERATOR(aclnnMedianDim, const Tensor& self, int64_t dim, bool keep, Tensor& values, Tensor& indices) {
  auto [value, index] = at::median(self.contiguous(), dim, keep);
  values.copy_(value);
  indices.copy_(index);
}
OPERATOR(aclnnNanMedianDim, const Tensor& self, int64_t dim, bool keep, Tensor& values, Tensor& indices) {
  auto [value, index] = at::nanmedian(self.contiguous(), dim, keep);
  values.copy_(value);
  indices.copy_(index);
}
OPERATOR(aclnnKthvalue, const Tensor& self, int64_t k, int64_t dim, bool keep, Tensor& values, Tensor& indices) {
  auto [value, index] = at::kthvalue(self.contiguous(), k, dim, keep);
  values.copy_(value);
  indices.copy_(index);
}
OPERATOR(aclnnEqual, const Tensor& self, const Tensor& other, Tensor& out) { out.fill_(at::equal(self, other)); }

OPERATOR(aclnnCumsum, const Tensor& self, int64_t dim, at::ScalarType type, Tensor& out) { at::cumsum_out(out, self, dim, type); }
OPERATOR(aclnnCumprod, const Tensor& self, const Scalar& dim, at::ScalarType type, Tensor& out) {
  at::cumprod_out(out, self, dim.toLong(), type);
}
OPERATOR(aclnnCummax, const Tensor& self, int64_t dim, Tensor& values, Tensor& indices) {
  auto [value, index] = at::cummax(self, dim);
  values.copy_(value);
  indices.copy_(index);
}
OPERATOR(aclnnCummin, const Tensor& self, int64_t dim, Tensor& values, Tensor& indices) {
  auto [value, index] = at::cummin(self, dim);
  values.copy_(value);
  indices.copy_(index);
}
OPERATOR(aclnnSort, const Tensor& self, bool stable, int64_t dim, bool descending, Tensor& values, Tensor& indices) {
  auto [value, index] = at::sort(self, std::optional<bool>(stable), dim, descending);
  values.copy_(value);
  indices.copy_(index);
}
OPERATOR(aclnnTopk, const Tensor& self, int64_t k, int64_t dim, bool largest, bool sorted, Tensor& values, Tensor& indices) {
  auto [value, index] = at::topk(self, k, dim, largest, sorted);
  values.copy_(value);
  indices.copy_(index);
}
OPERATOR(aclnnSearchSorted, const Tensor& sequence, const Tensor& self, bool int32, bool right, const OptionalTensor& sorter, Tensor& out) {
  out.copy_(at::searchsorted(sequence, self, int32, right, std::nullopt, sorter));
}
OPERATOR(aclnnSearchSorteds, const Tensor& sequence, const Scalar& self, bool int32, bool right, const OptionalTensor& sorter, Tensor& out) {
  out.copy_(at::searchsorted(sequence, self, int32, right, std::nullopt, sorter));
}
OPERATOR(aclnnBucketize, const Tensor& self, const Tensor& boundaries, bool int32, bool right, Tensor& out) {
  out.copy_(at::bucketize(self, boundaries, int32, right));
}
OPERATOR(aclnnBincount, const Tensor& self, const OptionalTensor& weights, int64_t least, Tensor& out) {
  const auto counts = at::bincount(self, weights, least);
  out.copy_(counts.narrow(0, 0, out.size(0)));
}
OPERATOR(aclnnAminmaxAll, const Tensor& self, Tensor& least, Tensor& most) {
  least.copy_(at::min(self).view_as(least));
  most.copy_(at::max(self).view_as(most));
}
OPERATOR(aclnnAminmaxDim, const Tensor& self, int64_t dim, bool keep, Tensor& least, Tensor& most) {
  at::amin_out(least, self, dim, keep);
  at::amax_out(most, self, dim, keep);
}
OPERATOR(aclnnInplaceRenorm, Tensor& self, const Scalar& p, int64_t dim, const Scalar& most) { self.renorm_(p, dim, most); }
