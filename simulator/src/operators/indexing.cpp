// Indexing, gathering, scattering, masking, joining and repeating.
#include <ATen/WrapDimUtils.h>

#include "operators/operator.h"

using namespace cannsim;

// Indices as ATen takes them: an undefined entry (a full slice) arrives as an empty tensor.
static c10::List<OptionalTensor> index_list(const TensorList& indices) {
  c10::List<OptionalTensor> list;
  for (const auto& index : indices) {
    if (!index.defined() || index.numel() == 0) {
      list.push_back(std::nullopt);
    } else {
      list.push_back(index.scalar_type() == at::kInt ? index.to(at::kLong) : index);
    }
  }
  return list;
}
static Tensor long_index(const Tensor& index) { return index.scalar_type() == at::kLong ? index : index.to(at::kLong); }

// A list in which every index is empty selects nothing: an empty index cannot be told from a full slice.
static bool selects_nothing(const TensorList& indices) {
  for (const auto& index : indices) {
    if (index.defined() && index.numel() > 0) return false;
  }
  return true;
}

OPERATOR(aclnnIndex, const Tensor& self, const TensorList& indices, Tensor& out) {
  if (out.numel() > 0) out.copy_(at::index(self, index_list(indices)));
}
OPERATOR(aclnnIndexPutImpl, Tensor& self, const TensorList& indices, const Tensor& values, bool accumulate, bool unsafe) {
  if (!selects_nothing(indices)) at::_index_put_impl_(self, index_list(indices), values, accumulate, unsafe);
}
OPERATOR(aclnnIndexSelect, const Tensor& self, int64_t dim, const Tensor& index, Tensor& out) { at::index_select_out(out, self, dim, index); }
OPERATOR(aclnnIndexAdd, const Tensor& self, int64_t dim, const Tensor& index, const Tensor& source, const Scalar& alpha, Tensor& out) {
  out.copy_(at::index_add(self, dim, index, source, alpha));
}
OPERATOR(aclnnIndexCopy, const Tensor& self, int64_t dim, const Tensor& index, const Tensor& source, Tensor& out) {
  out.copy_(at::index_copy(self, dim, long_index(index), source));
}
OPERATOR(aclnnInplaceIndexCopy, Tensor& self, int64_t dim, const Tensor& index, const Tensor& source) {
  self.index_copy_(dim, long_index(index), source);
}
OPERATOR(aclnnIndexFillTensor, const Tensor& self, int64_t dim, IntArray index, const Scalar& value, Tensor& out) {
  out.copy_(at::index_fill(self, dim, at::tensor(index, at::kLong), value));
}
OPERATOR(aclnnInplaceIndexFillTensor, Tensor& self, int64_t dim, IntArray index, const Scalar& value) {
  self.index_fill_(dim, at::tensor(index, at::kLong), value);
}
OPERATOR(aclnnInplacePut, Tensor& self, const Tensor& index, const Tensor& source, bool accumulate) {
  self.put_(long_index(index), source, accumulate);
}
OPERATOR(aclnnGather, const Tensor& self, int64_t dim, const Tensor& index, Tensor& out) { out.copy_(at::gather(self, dim, long_index(index))); }
OPERATOR(aclnnEmbedding, const Tensor& weight, const Tensor& indices, Tensor& out) {
  auto rows = out.view({-1, weight.size(-1)});
  at::index_select_out(rows, weight, 0, indices.reshape({-1}));
}
OPERATOR(aclnnEmbeddingRenorm, Tensor& weight, const Tensor& indices, double max_norm, double norm_type) {
  at::embedding_renorm_(weight, indices, max_norm, norm_type);
}
OPERATOR(aclnnTake, const Tensor& self, const Tensor& index, Tensor& out) { out.copy_(at::take(self, long_index(index))); }

// Reductions of a scatter, as CANN numbers them.
static Tensor scatter(const Tensor& self, int64_t dim, const Tensor& index, const Tensor& source, int64_t reduction) {
  if (reduction == 0) return at::scatter(self, dim, long_index(index), source);
  return at::scatter(self, dim, long_index(index), source, reduction == 1 ? "add" : "multiply");
}
OPERATOR(aclnnScatter, const Tensor& self, int64_t dim, const Tensor& index, const Tensor& source, int64_t reduction, Tensor& out) {
  out.copy_(scatter(self, dim, index, source, reduction));
}
OPERATOR(aclnnInplaceScatter, Tensor& self, int64_t dim, const Tensor& index, const Tensor& source, int64_t reduction) {
  self.copy_(scatter(self, dim, index, source, reduction));
}
OPERATOR(aclnnScatterValue, const Tensor& self, int64_t dim, const Tensor& index, const Scalar& value, int64_t reduction, Tensor& out) {
  out.copy_(scatter(self, dim, index, at::full(index.sizes(), value, self.options()), reduction));
}
OPERATOR(aclnnInplaceScatterValue, Tensor& self, int64_t dim, const Tensor& index, const Scalar& value, int64_t reduction) {
  self.copy_(scatter(self, dim, index, at::full(index.sizes(), value, self.options()), reduction));
}
OPERATOR(aclnnScatterAdd, const Tensor& self, int64_t dim, const Tensor& index, const Tensor& source, Tensor& out) {
  out.copy_(at::scatter_add(self, dim, long_index(index), source));
}

// Row i of `updates` goes where the last dimension of `indices` points: the first dimensions of self.
OPERATOR(aclnnScatterNdUpdate, Tensor& self, const Tensor& indices, const Tensor& updates) {
  c10::List<OptionalTensor> list;
  for (const auto& index : indices.unbind(-1)) list.push_back(long_index(index));
  self.index_put_(list, updates);
}

OPERATOR(aclnnInplaceMaskedFillScalar, Tensor& self, const Tensor& mask, const Scalar& value) { self.masked_fill_(mask, value); }
OPERATOR(aclnnInplaceMaskedFillTensor, Tensor& self, const Tensor& mask, const Tensor& value) { self.masked_fill_(mask, value); }
OPERATOR(aclnnInplaceMaskedScatter, Tensor& self, const Tensor& mask, const Tensor& source) { self.masked_scatter_(mask, source); }

// Outputs of unknown length: written to the front of `out`, whose view then says how long it is.
static void write_front(aclTensor* out, const Tensor& result) {
  out->sizes = result.sizes().vec();
  out->strides = result.contiguous().strides().vec();
  View(out).tensor().copy_(result);
}
OPERATOR(aclnnMaskedSelect, const Tensor& self, const Tensor& mask, aclTensor* out) { write_front(out, at::masked_select(self, mask)); }
OPERATOR(aclnnNonzero, const Tensor& self, aclTensor* out) { write_front(out, at::nonzero(self)); }
OPERATOR(aclnnNonzeroV2, const Tensor& self, aclTensor* out) { write_front(out, at::nonzero(self).t().contiguous()); }

OPERATOR(aclnnUnique, const Tensor& self, bool sorted, bool with_inverse, aclTensor* out, Tensor& inverse) {
  auto [values, places] = at::_unique(self, sorted, with_inverse);
  write_front(out, values);
  if (with_inverse) inverse.copy_(places);
}
// Counts that were not asked for have no room, though ATen may make them.
static void write_unique(const std::tuple<Tensor, Tensor, Tensor>& found, aclTensor* out, Tensor& inverse, aclTensor* counts, bool with_counts) {
  const auto& [values, places, numbers] = found;
  write_front(out, values);
  if (places.numel() > 0 && places.sizes() == inverse.sizes()) inverse.copy_(places);
  if (with_counts && numbers.numel() > 0) write_front(counts, numbers);
}
OPERATOR(aclnnUnique2, const Tensor& self, bool sorted, bool with_inverse, bool with_counts, aclTensor* out, Tensor& inverse,
         aclTensor* counts) {
  write_unique(at::_unique2(self, sorted, with_inverse, with_counts), out, inverse, counts, with_counts);
}
OPERATOR(aclnnUniqueDim, const Tensor& self, bool sorted, bool with_inverse, int64_t dim, aclTensor* out, Tensor& inverse,
         aclTensor* counts) {
  write_unique(at::unique_dim(self, dim, sorted, true, true), out, inverse, counts, true);
}
OPERATOR(aclnnUniqueConsecutive, const Tensor& self, bool with_inverse, bool with_counts, int64_t dim, aclTensor* out, Tensor& inverse,
         aclTensor* counts) {
  constexpr int64_t kFlattened = 1000;  // what torch-npu passes for no dimension
  const auto chosen = dim == kFlattened ? std::nullopt : std::optional<int64_t>(at::maybe_wrap_dim(dim, self.dim()));
  write_unique(at::unique_consecutive(self, with_inverse, with_counts, chosen), out, inverse, counts, with_counts);
}

OPERATOR(aclnnCat, const TensorList& tensors, int64_t dim, Tensor& out) { at::cat_out(out, tensors, dim); }
OPERATOR(aclnnStack, const TensorList& tensors, int64_t dim, Tensor& out) { at::stack_out(out, tensors, dim); }
OPERATOR(aclnnSplitWithSize, const Tensor& self, IntArray sizes, int64_t dim, TensorList& out) {
  auto parts = at::split_with_sizes(self, sizes, dim);
  for (size_t i = 0; i < parts.size(); ++i) out[i].copy_(parts[i]);
}
OPERATOR(aclnnRepeat, const Tensor& self, IntArray repeats, Tensor& out) { out.copy_(self.repeat(repeats)); }
OPERATOR(aclnnRepeatInterleave, const Tensor& self, const Tensor& repeats, int64_t total, Tensor& out) {
  out.copy_(at::repeat_interleave(self, repeats));
}
OPERATOR(aclnnRepeatInterleaveInt, const Tensor& self, int64_t repeats, int64_t total, Tensor& out) {
  out.copy_(at::repeat_interleave(self, repeats));
}
OPERATOR(aclnnRepeatInterleaveTensor, const Tensor& repeats, int64_t total, Tensor& out) { out.copy_(at::repeat_interleave(repeats)); }
OPERATOR(aclnnRepeatInterleaveWithDim, const Tensor& self, const Tensor& repeats, int64_t dim, int64_t total, Tensor& out) {
  out.copy_(at::repeat_interleave(self, repeats, dim));
}
OPERATOR(aclnnRepeatInterleaveIntWithDim, const Tensor& self, int64_t repeats, int64_t dim, int64_t total, Tensor& out) {
  out.copy_(at::repeat_interleave(self, repeats, dim));
}
OPERATOR(aclnnFlip, const Tensor& self, IntArray dims, Tensor& out) { out.copy_(at::flip(self, dims)); }
OPERATOR(aclnnRoll, const Tensor& self, IntArray shifts, IntArray dims, Tensor& out) { out.copy_(at::roll(self, shifts, dims)); }
OPERATOR(aclnnTril, const Tensor& self, int64_t diagonal, Tensor& out) { at::tril_out(out, self, diagonal); }
OPERATOR(aclnnTriu, const Tensor& self, int64_t diagonal, Tensor& out) { at::triu_out(out, self, diagonal); }
OPERATOR(aclnnInplaceTril, Tensor& self, int64_t diagonal) { self.tril_(diagonal); }
OPERATOR(aclnnInplaceTriu, Tensor& self, int64_t diagonal) { self.triu_(diagonal); }
OPERATOR(aclnnConstantPadNd, const Tensor& self, IntArray pad, const Scalar& value, Tensor& out) {
  out.copy_(at::constant_pad_nd(self, pad, value));
}
#define PAD(NAME, FUNCTION) \
  OPERATOR(aclnn##NAME, const Tensor& self, IntArray pad, Tensor& out) { out.copy_(at::FUNCTION(self, pad)); }
PAD(ReflectionPad1d, reflection_pad1d)
PAD(ReflectionPad2d, reflection_pad2d)
PAD(ReflectionPad3d, reflection_pad3d)
PAD(ReplicationPad1d, replication_pad1d)
PAD(ReplicationPad2d, replication_pad2d)
PAD(ReplicationPad3d, replication_pad3d)
OPERATOR(aclnnStridedSlice, const Tensor& self, IntArray begin, IntArray end, IntArray step, int64_t, int64_t, int64_t, int64_t, int64_t,
         Tensor& out) {
  Tensor view = self;
  for (size_t i = 0; i < begin.size(); ++i) view = view.slice(int64_t(i), begin[i], end[i], step[i]);
  out.copy_(view);
}
OPERATOR(aclnnOneHot, const Tensor& self, int64_t depth, const Tensor& on, const Tensor& off, int64_t axis, Tensor& out) {
  out.copy_(at::where(at::one_hot(long_index(self), depth).to(at::kBool), on, off));
}

OPERATOR(aclnnIndexFill, const Tensor& self, int64_t dim, const Tensor& index, const Scalar& value, Tensor& out) {
  out.copy_(at::index_fill(self, dim, long_index(index), value));
}
OPERATOR(aclnnInplaceIndexFill, Tensor& self, int64_t dim, const Tensor& index, const Scalar& value) {
  self.index_fill_(dim, long_index(index), value);
}

// Reductions of scatter_reduce, as CANN numbers them.
static Tensor scatter_reduced(const Tensor& self, int64_t dim, const Tensor& index, const Tensor& source, int64_t reduction, bool include) {
  constexpr const char* kNames[] = {"", "sum", "prod", "amax", "amin", "mean"};
  if (reduction == 0) return at::scatter(self, dim, long_index(index), source);
  return at::scatter_reduce(self, dim, long_index(index), source, kNames[reduction], include);
}
OPERATOR(aclnnScatterReduce, const Tensor& self, int64_t dim, const Tensor& index, const Tensor& source, int64_t reduction, bool include,
         Tensor& out) {
  out.copy_(scatter_reduced(self, dim, index, source, reduction, include));
}
OPERATOR(aclnnInplaceScatterReduce, Tensor& self, int64_t dim, const Tensor& index, const Tensor& source, int64_t reduction, bool include) {
  self.copy_(scatter_reduced(self, dim, index, source, reduction, include));
}
OPERATOR(aclnnEmbeddingBag, const Tensor& weight, const Tensor& indices, const Tensor& offsets, bool scale_by_frequency, int64_t mode,
         bool sparse, const OptionalTensor& sample_weights, bool include_last, int64_t padding, Tensor& out, Tensor& bag_of,
         Tensor& bag_sizes, Tensor& largest) {
  auto [sums, bags, sizes, places] =
      at::_embedding_bag(weight, indices, offsets.to(indices.scalar_type()), scale_by_frequency, mode, sparse, sample_weights, include_last, padding);
  out.copy_(sums);
  if (bags.sizes() == bag_of.sizes()) bag_of.copy_(bags);
  if (sizes.sizes() == bag_sizes.sizes()) bag_sizes.copy_(sizes);
  if (places.sizes() == largest.sizes()) largest.copy_(places);
}
OPERATOR(aclnnChunkCat, const TensorList& tensors, int64_t dim, int64_t chunks, Tensor& out) { out.copy_(at::_chunk_cat(tensors, dim, chunks)); }
