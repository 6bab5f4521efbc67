// The same elementwise operator over lists of tensors, as optimizers use them.
#include "operators/operator.h"

using namespace cannsim;

#define EACH(NAME, FUNCTION)                                                                        \
  OPERATOR(aclnnForeach##NAME, const TensorList& self, TensorList& out) {                           \
    for (size_t i = 0; i < self.size(); ++i) out[i].copy_(at::FUNCTION(self[i]));                   \
  }
EACH(Abs, abs)
EACH(Acos, acos)
EACH(Asin, asin)
EACH(Atan, atan)
EACH(Cos, cos)
EACH(Cosh, cosh)
EACH(Erf, erf)
EACH(Erfc, erfc)
EACH(Exp, exp)
EACH(Expm1, expm1)
EACH(Log, log)
EACH(Log10, log10)
EACH(Log1p, log1p)
EACH(Log2, log2)
EACH(Neg, neg)
EACH(Reciprocal, reciprocal)
EACH(Sigmoid, sigmoid)
EACH(Sign, sign)
EACH(Sin, sin)
EACH(Sinh, sinh)
EACH(Sqrt, sqrt)
EACH(Tan, tan)
EACH(Tanh, tanh)

OPERATOR(aclnnForeachCopy, const TensorList& self, TensorList& out) {
  for (size_t i = 0; i < self.size(); ++i) out[i].copy_(self[i]);
}
OPERATOR(aclnnForeachZeroInplace, TensorList& self) {
  for (auto& tensor : self) tensor.zero_();
}

// By a list of tensors, one scalar (V2), one scalar in device memory (the older form), and a list
// of scalars.
static Scalar held(const Tensor& scalar) { return scalar.reshape({}).item(); }
#define EACH_BY_LIST(NAME, FUNCTION)                                                                \
  OPERATOR(aclnnForeach##NAME##List, const TensorList& self, const TensorList& other, TensorList& out) { \
    for (size_t i = 0; i < self.size(); ++i) out[i].copy_(at::FUNCTION(self[i], other[i]));         \
  }
#define EACH_BY_SCALAR(NAME, FUNCTION)                                                              \
  OPERATOR(aclnnForeach##NAME##ScalarV2, const TensorList& self, const Scalar& other, TensorList& out) { \
    for (size_t i = 0; i < self.size(); ++i) out[i].copy_(FUNCTION(self[i], other));                \
  }                                                                                                 \
  OPERATOR(aclnnForeach##NAME##Scalar, const TensorList& self, const Tensor& other, TensorList& out) { \
    for (size_t i = 0; i < self.size(); ++i) out[i].copy_(FUNCTION(self[i], held(other)));          \
  }                                                                                                 \
  OPERATOR(aclnnForeach##NAME##ScalarList, const TensorList& self, const ScalarList& other, TensorList& out) { \
    for (size_t i = 0; i < self.size(); ++i) out[i].copy_(FUNCTION(self[i], other[i]));             \
  }
static Tensor least_of(const Tensor& self, const Scalar& other) { return at::clamp_max(self, other); }
static Tensor most_of(const Tensor& self, const Scalar& other) { return at::clamp_min(self, other); }
EACH_BY_LIST(Mul, mul)
EACH_BY_LIST(Div, div)
EACH_BY_LIST(Maximum, maximum)
EACH_BY_LIST(Minimum, minimum)
EACH_BY_LIST(Pow, pow)
EACH_BY_SCALAR(Add, at::add)
EACH_BY_SCALAR(Sub, at::sub)
EACH_BY_SCALAR(Mul, at::mul)
EACH_BY_SCALAR(Div, at::div)
EACH_BY_SCALAR(Pow, at::pow)
EACH_BY_SCALAR(Maximum, most_of)
EACH_BY_SCALAR(Minimum, least_of)

#define EACH_WITH_ALPHA(NAME, FUNCTION)                                                             \
  OPERATOR(aclnnForeach##NAME##ListV2, const TensorList& self, const TensorList& other, const Scalar& alpha, TensorList& out) { \
    for (size_t i = 0; i < self.size(); ++i) out[i].copy_(at::FUNCTION(self[i], other[i], alpha));  \
  }                                                                                                 \
  OPERATOR(aclnnForeach##NAME##List, const TensorList& self, const TensorList& other, const Tensor& alpha, TensorList& out) { \
    for (size_t i = 0; i < self.size(); ++i) out[i].copy_(at::FUNCTION(self[i], other[i], held(alpha))); \
  }
EACH_WITH_ALPHA(Add, add)
EACH_WITH_ALPHA(Sub, sub)

// self + value * first * second (or first / second).
#define EACH_OF_THREE(NAME, FUNCTION)                                                               \
  OPERATOR(aclnnForeach##NAME##ScalarV2, const TensorList& self, const TensorList& first, const TensorList& second, const Scalar& value, \
           TensorList& out) {                                                                       \
    for (size_t i = 0; i < self.size(); ++i) out[i].copy_(at::FUNCTION(self[i], first[i], second[i], value)); \
  }                                                                                                 \
  OPERATOR(aclnnForeach##NAME##Scalar, const TensorList& self, const TensorList& first, const TensorList& second, const Tensor& value, \
           TensorList& out) {                                                                       \
    for (size_t i = 0; i < self.size(); ++i) out[i].copy_(at::FUNCTION(self[i], first[i], second[i], held(value))); \
  }                                                                                                 \
  OPERATOR(aclnnForeach##NAME##ScalarList, const TensorList& self, const TensorList& first, const TensorList& second, \
           const ScalarList& value, TensorList& out) {                                              \
    for (size_t i = 0; i < self.size(); ++i) out[i].copy_(at::FUNCTION(self[i], first[i], second[i], value[i])); \
  }                                                                                                 \
  OPERATOR(aclnnForeach##NAME##List, const TensorList& self, const TensorList& first, const TensorList& second, const Tensor& values, \
           TensorList& out) {                                                                       \
    for (size_t i = 0; i < self.size(); ++i) out[i].copy_(at::FUNCTION(self[i], first[i], second[i], held(values[int64_t(i)]))); \
  }
EACH_OF_THREE(Addcmul, addcmul)
EACH_OF_THREE(Addcdiv, addcdiv)

OPERATOR(aclnnForeachLerpScalar, const TensorList& self, const TensorList& end, const Scalar& weight, TensorList& out) {
  for (size_t i = 0; i < self.size(); ++i) out[i].copy_(at::lerp(self[i], end[i], weight));
}
OPERATOR(aclnnForeachLerpList, const TensorList& self, const TensorList& end, const TensorList& weight, TensorList& out) {
  for (size_t i = 0; i < self.size(); ++i) out[i].copy_(at::lerp(self[i], end[i], weight[i]));
}
OPERATOR(aclnnForeachPowScalarAndTensor, const Scalar& self, const TensorList& exponent, TensorList& out) {
  for (size_t i = 0; i < exponent.size(); ++i) out[i].copy_(at::pow(self, exponent[i]));
}
OPERATOR(aclnnForeachNorm, const TensorList& self, const Scalar& order, TensorList& out) {
  for (size_t i = 0; i < self.size(); ++i) out[i].copy_(at::linalg_vector_norm(self[i], order).view_as(out[i]));
}

// Ways to round, as CANN numbers them.
static Tensor rounded(const Tensor& self, int64_t mode) {
  switch (mode) {
    case 1: return at::round(self);
    case 2: return at::floor(self);
    case 3: return at::ceil(self);
    case 4: return at::trunc(self + 0.5 * at::sign(self));  // halves away from zero
    case 5: return at::trunc(self);
    case 7: return at::frac(self);
    default: throw Error(kParameterInvalid, "round mode " + std::to_string(mode) + " is none of 1 to 5 and 7");
  }
}
OPERATOR(aclnnForeachRoundOffNumberV2, const TensorList& self, const Scalar& mode, TensorList& out) {
  for (size_t i = 0; i < self.size(); ++i) out[i].copy_(rounded(self[i], mode.toLong()));
}
OPERATOR(aclnnForeachRoundOffNumber, const TensorList& self, const Tensor& mode, TensorList& out) {
  for (size_t i = 0; i < self.size(); ++i) out[i].copy_(rounded(self[i], held(mode).toLong()));
}

// Gradients of a scaled loss: unscaled in place, and whether any is infinite or not a number.
OPERATOR(aclnnForeachNonFiniteCheckAndUnscale, TensorList& gradients, Tensor& found, const Tensor& inverse_scale) {
  for (auto& gradient : gradients) {
    if (!at::isfinite(gradient).all().item<bool>()) found.fill_(1);
    gradient.mul_(inverse_scale.to(gradient.scalar_type()));
  }
}
// The scale of a loss grows after `interval` good steps and shrinks after a bad one.
OPERATOR(aclnnAmpUpdateScale, Tensor& scale, Tensor& tracker, const Tensor& found, float growth, float backoff, int64_t interval,
         Tensor& new_scale, Tensor& new_tracker) {
  at::_amp_update_scale_(scale, tracker, found, growth, backoff, interval);
  if (new_scale.data_ptr() != scale.data_ptr()) new_scale.copy_(scale);
  if (new_tracker.data_ptr() != tracker.data_ptr()) new_tracker.copy_(tracker);
}
