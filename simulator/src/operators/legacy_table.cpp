// Operators of the older interface, by the type's name that torch-npu gives; inputs, outputs and
// attributes as CANN's operator list (GE IR) names them.
#include <ATen/WrapDimUtils.h>

#include <cmath>
#include <limits>
#include <numeric>

#include "operators/legacy.h"

using namespace cannsim;

// ---- elementwise ----------------------------------------------------------------------------------

#define LEGACY_UNARY(TYPE, FUNCTION) \
  LEGACY(TYPE) { call.set(0, at::FUNCTION(call.in(0))); }
#define LEGACY_BINARY(TYPE, FUNCTION) \
  LEGACY(TYPE) { call.set(0, at::FUNCTION(call.in(0), call.in(1))); }

LEGACY_UNARY(Abs, abs)
LEGACY_UNARY(Acos, acos)
LEGACY_UNARY(Acosh, acosh)
LEGACY_UNARY(Asin, asin)
LEGACY_UNARY(Asinh, asinh)
LEGACY_UNARY(Atan, atan)
LEGACY_UNARY(Atanh, atanh)
LEGACY_UNARY(Ceil, ceil)
LEGACY_UNARY(Cos, cos)
LEGACY_UNARY(Cosh, cosh)
LEGACY_UNARY(Erf, erf)
LEGACY_UNARY(Erfc, erfc)
LEGACY_UNARY(Erfinv, erfinv)
LEGACY_UNARY(Expm1, expm1)
LEGACY_UNARY(Floor, floor)
LEGACY_UNARY(HardSwish, hardswish)
LEGACY_UNARY(Inv, reciprocal)
LEGACY_UNARY(Invert, bitwise_not)
LEGACY_UNARY(IsFinite, isfinite)
LEGACY_UNARY(IsInf, isinf)
LEGACY_UNARY(IsNan, isnan)
LEGACY_UNARY(Log1p, log1p)
LEGACY_UNARY(LogicalNot, logical_not)
LEGACY_UNARY(LogSigmoid, log_sigmoid)
LEGACY_UNARY(Mish, mish)
LEGACY_UNARY(Neg, neg)
LEGACY_UNARY(Reciprocal, reciprocal)
LEGACY_UNARY(Relu, relu)
LEGACY_UNARY(Rint, round)
LEGACY_UNARY(Round, round)
LEGACY_UNARY(Rsqrt, rsqrt)
LEGACY_UNARY(Sigmoid, sigmoid)
LEGACY_UNARY(Sign, sign)
LEGACY_UNARY(Sin, sin)
LEGACY_UNARY(Sinh, sinh)
LEGACY_UNARY(Softplus, softplus)
LEGACY_UNARY(Sqrt, sqrt)
LEGACY_UNARY(Square, square)
LEGACY_UNARY(Tan, tan)
LEGACY_UNARY(Tanh, tanh)
LEGACY_UNARY(Trunc, trunc)
LEGACY_BINARY(Add, add)
LEGACY_BINARY(Atan2, atan2)
LEGACY_BINARY(BitwiseAnd, bitwise_and)
LEGACY_BINARY(BitwiseOr, bitwise_or)
LEGACY_BINARY(BitwiseXor, bitwise_xor)
LEGACY_BINARY(Div, div)
LEGACY_BINARY(Equal, eq)
LEGACY_BINARY(FloorDiv, floor_divide)
LEGACY_BINARY(FloorMod, remainder)
LEGACY_BINARY(Greater, gt)
LEGACY_BINARY(GreaterEqual, ge)
LEGACY_BINARY(Less, lt)
LEGACY_BINARY(LessEqual, le)
LEGACY_BINARY(LogicalAnd, logical_and)
LEGACY_BINARY(LogicalOr, logical_or)
LEGACY_BINARY(Maximum, maximum)
LEGACY_BINARY(Minimum, minimum)
LEGACY_BINARY(Mod, fmod)
LEGACY_BINARY(Mul, mul)
LEGACY_BINARY(NotEqual, ne)
LEGACY_BINARY(Pow, pow)
LEGACY_BINARY(RealDiv, div)
LEGACY_BINARY(Sub, sub)
LEGACY_BINARY(Xlogy, xlogy)

LEGACY(Adds) { call.set(0, at::add(call.in(0), call.number("value", 0))); }
LEGACY(Muls) { call.set(0, at::mul(call.in(0), call.number("value", 1))); }
LEGACY(Axpy) { call.set(0, at::add(call.in(0), call.in(1), call.number("alpha", 1))); }
LEGACY(AxpyV2) { call.set(0, at::add(call.in(0), call.in(1), call.scalar(2))); }
LEGACY(Addcmul) { call.set(0, at::addcmul(call.in(0), call.in(1), call.in(2), call.scalar(3))); }
LEGACY(Addcdiv) { call.set(0, at::addcdiv(call.in(0), call.in(1), call.in(2), call.scalar(3))); }
LEGACY(Lerp) { call.set(0, at::lerp(call.in(0), call.in(1), call.in(2))); }
LEGACY(ClipByValue) { call.set(0, at::clamp(call.in(0), call.in(1), call.in(2))); }
LEGACY(Cast) { call.set(0, call.in(0)); }
LEGACY(Identity) { call.set(0, call.in(0)); }
LEGACY(Select) { call.set(0, at::where(call.in(0).to(at::kBool), call.in(1), call.in(2))); }
LEGACY(SelectV2) { call.set(0, at::where(call.in(0).to(at::kBool), call.in(1), call.in(2))); }
// A logarithm of scale * x + shift; a base of -1 is e.
LEGACY(Log) {
  const Tensor x = call.in(0) * call.number("scale", 1) + call.number("shift", 0);
  const double base = call.number("base", -1);
  call.set(0, base <= 0 ? at::log(x) : at::log(x) / std::log(base));
}
LEGACY(Exp) {
  const Tensor x = call.in(0) * call.number("scale", 1) + call.number("shift", 0);
  const double base = call.number("base", -1);
  call.set(0, base <= 0 ? at::exp(x) : at::pow(Scalar(base), x));
}
// With tanh, as aclnnGelu.
LEGACY(Gelu) { call.set(0, at::gelu(call.in(0), "tanh")); }
LEGACY(LeakyRelu) { call.set(0, at::leaky_relu(call.in(0), call.number("negative_slope", 0))); }
LEGACY(Elu) { call.set(0, at::elu(call.in(0), call.number("alpha", 1), call.number("scale", 1), call.number("input_scale", 1))); }
LEGACY(SoftmaxV2) {
  const auto axes = call.list("axes");
  call.set(0, at::softmax(call.in(0), axes.empty() ? -1 : axes[0], call.out(0).scalar_type()));
}
LEGACY(LogSoftmaxV2) {
  const auto axes = call.list("axes");
  call.set(0, at::log_softmax(call.in(0), axes.empty() ? -1 : axes[0], call.out(0).scalar_type()));
}
LEGACY(LayerNorm) {
  const Tensor x = call.in(0);
  const int64_t first = at::maybe_wrap_dim(call.integer("begin_norm_axis", 0), x.dim());
  auto [y, mean, rstd] = at::native_layer_norm(x, x.sizes().slice(first), call.in(1), call.in(2), call.number("epsilon", 1e-7));
  call.set(0, y);
  call.set(1, mean);
  call.set(2, rstd.square().reciprocal() - call.number("epsilon", 1e-7));
}
LEGACY(LayerNormV3) {
  const Tensor x = call.in(0);
  const int64_t first = at::maybe_wrap_dim(call.integer("begin_norm_axis", 0), x.dim());
  auto [y, mean, rstd] = at::native_layer_norm(x, x.sizes().slice(first), call.in(1), call.in(2), call.number("epsilon", 1e-5));
  call.set(0, y);
  call.set(1, mean);
  call.set(2, rstd);
}

// ---- creation -------------------------------------------------------------------------------------

LEGACY(ZerosLike) { call.out(0).zero_(); }
LEGACY(OnesLike) { call.out(0).fill_(1); }
LEGACY(Fills) { call.out(0).fill_(call.number("value", 0)); }
LEGACY(Fill) { call.out(0).fill_(call.scalar(1)); }
LEGACY(BroadcastTo) { call.set(0, call.in(0).expand(call.out(0).sizes())); }
LEGACY(Range) { call.set(0, at::arange(call.scalar(0), call.scalar(1), call.scalar(2), call.out(0).options()).slice(0, 0, call.out(0).numel())); }
LEGACY(LinSpace) { call.set(0, at::linspace(call.scalar(0), call.scalar(1), call.scalar(2).toLong(), call.out(0).options())); }
LEGACY(Eye) { call.set(0, at::eye(call.integer("num_rows", 1), call.integer("num_columns", 0) ?: call.integer("num_rows", 1), call.out(0).options())); }
// shape, key (the seed), counter (the offset is its second half), algorithm.
static at::Generator stateless(LegacyCall& call) {
  const auto counter = call.integers(2);
  return random_generator(call.integers(1).at(0), counter.back());
}
LEGACY(StatelessRandomNormalV2) { call.out(0).normal_(0, 1, stateless(call)); }
LEGACY(StatelessRandomUniformV2) { call.out(0).uniform_(0, 1, stateless(call)); }

// ---- products -------------------------------------------------------------------------------------

static Tensor turned(const Tensor& x, bool turn) { return turn ? x.transpose(-1, -2) : x; }
static void product(LegacyCall& call, const char* first, const char* second) {
  Tensor made = at::matmul(turned(call.in(0), call.flag(first, false)), turned(call.in(1), call.flag(second, false)));
  if (call.has(2)) made = made + call.in(2);
  call.set(0, made);
}
LEGACY(MatMul) { product(call, "transpose_x1", "transpose_x2"); }
LEGACY(MatMulV2) { product(call, "transpose_x1", "transpose_x2"); }
LEGACY(BatchMatMul) { product(call, "adj_x1", "adj_x2"); }
LEGACY(BatchMatMulV2) { product(call, "adj_x1", "adj_x2"); }
LEGACY(Dot) { call.set(0, at::dot(call.in(0), call.in(1))); }

// x by cosines, and x with its halves exchanged, the new first one negative, by sines: rotary position
// embedding on the 310P.
LEGACY(RotaryMul) {
  const Tensor x = call.in(0).to(at::kFloat);
  const auto halves = x.chunk(2, -1);
  const Tensor turned = at::cat({-halves[1], halves[0]}, -1);
  call.set(0, x * call.in(1).to(at::kFloat) + turned * call.in(2).to(at::kFloat));
}

// ---- convolutions ---------------------------------------------------------------------------------

// In NCHW, as torch-npu has them: an entry for each dimension, and pads one for each side.
static std::vector<int64_t> of_height_and_width(const LegacyCall& call, const char* name) {
  const auto given = call.list(name);
  if (given.size() != 4 || call.text("data_format", "NHWC") != "NCHW") {
    throw Error(ACL_ERROR_INVALID_PARAM, call.type + ": only NCHW with four entries of " + name + " is simulated");
  }
  return {given[2], given[3]};
}
static std::vector<int64_t> padding_of(const LegacyCall& call) {
  const auto pads = call.list("pads");
  if (pads.size() != 4 || pads[0] != pads[1] || pads[2] != pads[3]) {
    throw Error(ACL_ERROR_INVALID_PARAM, call.type + ": only pads that are equal on opposite sides are simulated");
  }
  return {pads[0], pads[2]};
}
static void convolve(LegacyCall& call, size_t first, bool transposed) {
  const Tensor bias = call.has(first + 2) ? call.in(first + 2) : Tensor();
  const auto more = transposed ? of_height_and_width(call, "output_padding") : std::vector<int64_t>{0, 0};
  call.set(0, at::convolution(call.in(first), call.in(first + 1), bias, of_height_and_width(call, "strides"), padding_of(call),
                              of_height_and_width(call, "dilations"), transposed, more, call.integer("groups", 1)));
}
LEGACY(Conv2D) { convolve(call, 0, false); }
LEGACY(Conv2DTranspose) { convolve(call, 1, true); }  // the first input is the result's size

// ---- reductions -----------------------------------------------------------------------------------

static std::vector<int64_t> all_if_none(std::vector<int64_t> axes, int64_t dims) {
  if (!axes.empty()) return axes;
  axes.resize(size_t(dims));
  std::iota(axes.begin(), axes.end(), 0);
  return axes;
}
// Axes are the second input or an attribute.
static std::vector<int64_t> axes_of(LegacyCall& call) {
  return all_if_none(call.has(1) ? call.integers(1) : call.list("axes"), call.in(0).dim());
}
LEGACY(ReduceSum) { call.set(0, at::sum(call.in(0), axes_of(call), call.flag("keep_dims", false), call.out(0).scalar_type())); }
LEGACY(ReduceMean) { call.set(0, at::mean(call.in(0), axes_of(call), call.flag("keep_dims", false), call.out(0).scalar_type())); }
LEGACY(ReduceMax) { call.set(0, at::amax(call.in(0), axes_of(call), call.flag("keep_dims", false))); }
LEGACY(ReduceMin) { call.set(0, at::amin(call.in(0), axes_of(call), call.flag("keep_dims", false))); }
LEGACY(ReduceAll) { call.set(0, at::all(call.in(0), at::OptionalIntArrayRef(axes_of(call)), call.flag("keep_dims", false))); }
LEGACY(ReduceAny) { call.set(0, at::any(call.in(0), at::OptionalIntArrayRef(axes_of(call)), call.flag("keep_dims", false))); }
LEGACY(ReduceProd) {
  Tensor made = call.in(0);
  auto axes = axes_of(call);
  for (int64_t axis : axes) made = at::prod(made, axis, true);
  call.set(0, made);
}
LEGACY(ArgMaxV2) { call.set(0, at::argmax(call.in(0), call.scalar(1).toLong())); }
LEGACY(ArgMin) { call.set(0, at::argmin(call.in(0), call.scalar(1).toLong())); }
LEGACY(ArgMaxWithValue) {
  auto [values, indices] = at::max(call.in(0), call.integer("dimension", 0), call.flag("keep_dims", false));
  call.set(0, indices);
  call.set(1, values);
}
LEGACY(ArgMinWithValue) {
  auto [values, indices] = at::min(call.in(0), call.integer("dimension", 0), call.flag("keep_dims", false));
  call.set(0, indices);
  call.set(1, values);
}
LEGACY(Cumsum) { call.set(0, at::cumsum(call.in(0), call.scalar(1).toLong())); }
LEGACY(Cumprod) { call.set(0, at::cumprod(call.in(0), call.scalar(1).toLong())); }

// The p-norm in two steps: the sum of powers over the axes, then its root. p is a number, or the
// integers that stand for infinity and its negative.
static double order_of(LegacyCall& call) {
  const double p = call.number("p", 2);
  if (p >= double(std::numeric_limits<int32_t>::max())) return std::numeric_limits<double>::infinity();
  return p <= double(std::numeric_limits<int32_t>::min()) ? -std::numeric_limits<double>::infinity() : p;
}
static std::vector<int64_t> norm_axes(LegacyCall& call) { return all_if_none(call.list("axes"), call.in(0).dim()); }
LEGACY(LpNormReduceV2) {
  const double p = order_of(call);
  const Tensor x = at::abs(call.in(0).to(at::kFloat));
  const bool keep = call.flag("keepdim", false);
  if (std::isinf(p)) {
    call.set(0, p > 0 ? at::amax(x, norm_axes(call), keep) : at::amin(x, norm_axes(call), keep));
  } else {
    call.set(0, (p == 0 ? at::ne(x, 0).to(at::kFloat) : at::pow(x, p)).sum(norm_axes(call), keep));
  }
}
LEGACY(LpNormUpdateV2) {
  const double p = order_of(call);
  call.set(0, std::isinf(p) || p == 0 ? call.in(0) : at::pow(call.in(0), 1 / p));
}
LEGACY(LpNormV2) {
  call.set(0, at::linalg_vector_norm(call.in(0), order_of(call), at::OptionalIntArrayRef(norm_axes(call)), call.flag("keepdim", false)));
}

LEGACY(CdistGrad) { call.set(0, cdist_gradient(call.in(0), call.in(1), call.in(2), call.in(3), call.number("p", 2))); }

// ---- order ----------------------------------------------------------------------------------------

LEGACY(TopKV2) {
  auto [values, indices] = at::topk(call.in(0), call.scalar(1).toLong(), call.integer("dim", -1), call.flag("largest", true), call.flag("sorted", true));
  call.set(0, values);
  call.set(1, indices);
}
LEGACY(Sort) {
  auto [values, indices] = at::sort(call.in(0), std::optional<bool>(call.flag("stable", false)), call.integer("axis", -1), call.flag("descending", false));
  call.set(0, values);
  call.set(1, indices);
}

// ---- shape and position ---------------------------------------------------------------------------

LEGACY(Transpose) { call.set(0, call.in(0).permute(call.integers(1))); }
LEGACY(TransposeD) { call.set(0, call.in(0).permute(call.list("perm"))); }
LEGACY(Tile) { call.set(0, call.in(0).repeat(call.integers(1))); }
static TensorList listed(LegacyCall& call, size_t first, size_t count) {
  TensorList made;
  for (size_t i = first; i < first + count; ++i) made.push_back(call.in(i));
  return made;
}
LEGACY(ConcatD) { call.set(0, at::cat(listed(call, 0, call.inputs()), call.integer("concat_dim", 0))); }
LEGACY(Pack) { call.set(0, at::stack(listed(call, 0, call.inputs()), call.integer("axis", 0))); }
LEGACY(Slice) {
  Tensor x = call.in(0);
  const auto offsets = call.integers(1), sizes = call.integers(2);
  for (size_t dim = 0; dim < offsets.size(); ++dim) x = x.narrow(int64_t(dim), offsets[dim], sizes[dim] < 0 ? x.size(int64_t(dim)) - offsets[dim] : sizes[dim]);
  call.set(0, x);
}
LEGACY(StridedSlice) {
  Tensor x = call.in(0);
  const auto begin = call.integers(1), end = call.integers(2), step = call.integers(3);
  for (size_t dim = 0; dim < begin.size(); ++dim) x = x.slice(int64_t(dim), begin[dim], end[dim], step[dim]);
  call.set(0, x);
}
// A view into the storage behind a tensor, which may be longer than the tensor's description says.
static Tensor view_of(const Tensor& base, const std::vector<int64_t>& sizes, const std::vector<int64_t>& strides, int64_t offset) {
  return at::from_blob(static_cast<char*>(base.data_ptr()) + offset * int64_t(base.element_size()), sizes, strides, base.options());
}
LEGACY(AsStrided) {
  const int64_t offset = call.has(3) ? call.scalar(3).toLong() : 0;
  call.set(0, view_of(call.in(0), call.integers(1), call.integers(2), offset));
}
// Writes `source` (input 4, seen as its sizes, strides and offset say) into the destination (input 0,
// likewise), which is the output too.
LEGACY(ViewCopy) {
  Tensor to = view_of(call.out(0), call.integers(1), call.integers(2), call.scalar(3).toLong());
  to.copy_(view_of(call.in(4), call.integers(5), call.integers(6), call.scalar(7).toLong()));
}

// ---- indexing -------------------------------------------------------------------------------------

static Tensor long_values(const Tensor& index) { return index.to(at::kLong); }
LEGACY(GatherV2) {
  const Tensor x = call.in(0), index = long_values(call.in(1));
  const int64_t axis = at::maybe_wrap_dim(call.scalar(2).toLong(), x.dim());
  std::vector<int64_t> sizes(x.sizes().slice(0, axis).vec());
  sizes.insert(sizes.end(), index.sizes().begin(), index.sizes().end());
  const auto rest = x.sizes().slice(axis + 1);
  sizes.insert(sizes.end(), rest.begin(), rest.end());
  call.set(0, x.index_select(axis, index.reshape({-1})).reshape(sizes));
}
LEGACY(GatherElements) { call.set(0, at::gather(call.in(0), call.integer("dim", 0), long_values(call.in(1)))); }
LEGACY(ScatterElements) {
  const std::string how = call.text("reduction", "none");
  const int64_t axis = call.integer("axis", 0);
  const Tensor index = long_values(call.in(1));
  call.set(0, how == "none" ? at::scatter(call.in(0), axis, index, call.in(2))
                            : at::scatter(call.in(0), axis, index, call.in(2), how == "mul" ? "multiply" : "add"));
}
LEGACY(MaskedFill) { call.set(0, at::masked_fill(call.in(0), call.in(1).to(at::kBool), call.in(2).reshape({}))); }
LEGACY(MaskedScatter) { call.set(0, at::masked_scatter(call.in(0), call.in(1).to(at::kBool), call.in(2))); }
LEGACY(OneHot) {
  const int64_t depth = call.scalar(1).toLong();
  const Tensor hot = long_values(call.in(0)).unsqueeze(-1).eq(at::arange(depth));
  call.set(0, at::where(hot, call.in(2), call.in(3)));
}
LEGACY(Tril) { call.set(0, at::tril(call.in(0), call.integer("diagonal", 0))); }
LEGACY(Triu) { call.set(0, at::triu(call.in(0), call.integer("diagonal", 0))); }

// ---- outputs of unknown shape: written to the front of a buffer for the longest case --------------

LEGACY(NonZero) {
  const Tensor found = at::nonzero(call.in(0));
  call.set_resized(0, call.flag("transpose", false) ? found.t().contiguous() : found);
}
LEGACY(MaskedSelect) { call.set_resized(0, at::masked_select(call.in(0), call.in(1).to(at::kBool))); }
LEGACY(UniqueWithCountsAndSorting) {
  auto [values, inverse, counts] = at::_unique2(call.in(0), call.flag("sorted", true), true, true);
  call.set_resized(0, values);
  if (call.flag("return_inverse", false)) call.set_resized(1, inverse);
  if (call.flag("return_counts", false)) call.set_resized(2, counts);
}
LEGACY(Unique) {
  auto [values, inverse] = at::_unique(call.in(0), true, true);
  call.set_resized(0, values);
  if (call.outputs() > 1) call.set_resized(1, inverse);
}
LEGACY(UniqueConsecutive) {
  constexpr int64_t kFlattened = 1000;  // no dimension
  const int64_t axis = call.integer("axis", kFlattened);
  const bool counted = call.flag("return_counts", false), inverted = call.flag("return_idx", false);
  auto [values, inverse, counts] =
      at::unique_consecutive(call.in(0), inverted, counted, axis == kFlattened ? std::nullopt : std::optional<int64_t>(axis));
  call.set_resized(0, values);
  if (inverted) call.set_resized(1, inverse);
  if (counted) call.set_resized(2, counts);
}
