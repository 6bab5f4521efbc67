// Elementwise operators: arithmetic, comparison, logic, rounding and the unary functions.
#include "operators/operator.h"

using namespace cannsim;

// aclnn<NAME>(self, out) and, in place, aclnnInplace<NAME>(self).
#define UNARY(NAME, FUNCTION)                                                                       \
  OPERATOR(aclnn##NAME, const Tensor& self, Tensor& out) { at::FUNCTION##_out(out, self); }         \
  OPERATOR(aclnnInplace##NAME, Tensor& self) { at::FUNCTION##_out(self, self); }

UNARY(Abs, abs)
UNARY(Acos, acos)
UNARY(Acosh, acosh)
UNARY(Asin, asin)
UNARY(Asinh, asinh)
UNARY(Atan, atan)
UNARY(Atanh, atanh)
UNARY(BitwiseNot, bitwise_not)
UNARY(Ceil, ceil)
UNARY(Cos, cos)
UNARY(Cosh, cosh)
UNARY(Erf, erf)
UNARY(Erfc, erfc)
UNARY(Erfinv, erfinv)
UNARY(Exp, exp)
UNARY(Exp2, exp2)
UNARY(Expm1, expm1)
UNARY(Floor, floor)
UNARY(Frac, frac)
UNARY(Log, log)
UNARY(Log10, log10)
UNARY(Log1p, log1p)
UNARY(Log2, log2)
UNARY(LogicalNot, logical_not)
UNARY(Neg, neg)
UNARY(Reciprocal, reciprocal)
UNARY(Relu, relu)
UNARY(Round, round)
UNARY(Rsqrt, rsqrt)
UNARY(Sigmoid, sigmoid)
UNARY(Sign, sign)
UNARY(Sin, sin)
UNARY(Sinc, sinc)
UNARY(Sinh, sinh)
UNARY(Sqrt, sqrt)
UNARY(Tan, tan)
UNARY(Tanh, tanh)
UNARY(Trunc, trunc)

OPERATOR(aclnnAngleV2, const Tensor& self, Tensor& out) { out.copy_(at::angle(self)); }
OPERATOR(aclnnSignbit, const Tensor& self, Tensor& out) { at::signbit_out(out, self); }
OPERATOR(aclnnLogit, const Tensor& self, double epsilon, Tensor& out) {
  at::logit_out(out, self, epsilon < 0 ? std::nullopt : std::optional<double>(epsilon));
}
OPERATOR(aclnnIsFinite, const Tensor& self, Tensor& out) { out.copy_(at::isfinite(self)); }
OPERATOR(aclnnIsInf, const Tensor& self, Tensor& out) { out.copy_(at::isinf(self)); }
OPERATOR(aclnnIsPosInf, const Tensor& self, Tensor& out) { at::isposinf_out(out, self); }
OPERATOR(aclnnIsNegInf, const Tensor& self, Tensor& out) { at::isneginf_out(out, self); }
OPERATOR(aclnnRoundDecimals, const Tensor& self, int64_t decimals, Tensor& out) { at::round_out(out, self, decimals); }

// aclnn<NAME>(self, other, out) and aclnnInplace<NAME>(self, other); the second operand may be a
// scalar under another name.
#define BINARY(NAME, FUNCTION)                                                                                             \
  OPERATOR(aclnn##NAME, const Tensor& self, const Tensor& other, Tensor& out) { at::FUNCTION##_out(out, self, other); }    \
  OPERATOR(aclnnInplace##NAME, Tensor& self, const Tensor& other) { at::FUNCTION##_out(self, self, other); }
#define BINARY_SCALAR(NAME, FUNCTION)                                                                                      \
  OPERATOR(aclnn##NAME, const Tensor& self, const Scalar& other, Tensor& out) {                                            \
    at::FUNCTION##_out(out, self, at::native::wrapped_scalar_tensor(other));                                               \
  }                                                                                                                        \
  OPERATOR(aclnnInplace##NAME, Tensor& self, const Scalar& other) {                                                        \
    at::FUNCTION##_out(self, self, at::native::wrapped_scalar_tensor(other));                                              \
  }

BINARY(Mul, mul)
BINARY_SCALAR(Muls, mul)
BINARY(Div, div)
BINARY_SCALAR(Divs, div)
BINARY(FloorDivide, floor_divide)
BINARY_SCALAR(FloorDivides, floor_divide)
BINARY(FmodTensor, fmod)
BINARY_SCALAR(FmodScalar, fmod)
BINARY(RemainderTensorTensor, remainder)
BINARY_SCALAR(RemainderTensorScalar, remainder)
BINARY(PowTensorTensor, pow)
BINARY_SCALAR(PowTensorScalar, pow)
BINARY(Maximum, maximum)
BINARY(Minimum, minimum)
BINARY(Atan2, atan2)
BINARY(LogAddExp, logaddexp)
BINARY(LogAddExp2, logaddexp2)
BINARY(XLogYTensor, xlogy)
BINARY_SCALAR(XLogYScalarOther, xlogy)
BINARY(Gcd, gcd)
BINARY(BitwiseAndTensor, bitwise_and)
BINARY_SCALAR(BitwiseAndScalar, bitwise_and)
BINARY(BitwiseOrTensor, bitwise_or)
BINARY_SCALAR(BitwiseOrScalar, bitwise_or)
BINARY(BitwiseXorTensor, bitwise_xor)
BINARY_SCALAR(BitwiseXorScalar, bitwise_xor)
BINARY(LeftShift, bitwise_left_shift)
BINARY_SCALAR(LeftShifts, bitwise_left_shift)
BINARY(RightShift, bitwise_right_shift)
BINARY(LogicalAnd, logical_and)
BINARY(LogicalOr, logical_or)
BINARY(LogicalXor, logical_xor)
BINARY(EqTensor, eq)
BINARY_SCALAR(EqScalar, eq)
BINARY(NeTensor, ne)
BINARY_SCALAR(NeScalar, ne)
BINARY(LtTensor, lt)
BINARY_SCALAR(LtScalar, lt)
BINARY(LeTensor, le)
BINARY_SCALAR(LeScalar, le)
BINARY(GtTensor, gt)
BINARY_SCALAR(GtScalar, gt)
BINARY(GeTensor, ge)
BINARY_SCALAR(GeScalar, ge)

OPERATOR(aclnnXLogYScalarSelf, const Scalar& self, const Tensor& other, Tensor& out) { at::xlogy_out(out, self, other); }
OPERATOR(aclnnIsClose, const Tensor& self, const Tensor& other, double relative, double absolute, bool equal_nan, Tensor& out) {
  out.copy_(at::isclose(self, other, relative, absolute, equal_nan));
}
OPERATOR(aclnnIsInTensorScalar, const Tensor& self, const Scalar& other, bool unique, bool invert, Tensor& out) {
  out.copy_(at::isin(self, other, unique, invert));
}
OPERATOR(aclnnIsInScalarTensor, const Scalar& self, const Tensor& other, bool unique, bool invert, Tensor& out) {
  out.copy_(at::isin(self, other, unique, invert));
}
OPERATOR(aclnnComplex, const Tensor& real, const Tensor& imaginary, Tensor& out) { at::complex_out(out, real, imaginary); }
OPERATOR(aclnnPolar, const Tensor& radius, const Tensor& angle, Tensor& out) { at::polar_out(out, radius, angle); }
OPERATOR(aclnnPowScalarTensor, const Scalar& self, const Tensor& exponent, Tensor& out) { at::pow_out(out, self, exponent); }
OPERATOR(aclnnRemainderScalarTensor, const Scalar& self, const Tensor& other, Tensor& out) { out.copy_(at::remainder(self, other)); }

// Rounding modes of a division, as CANN numbers them.
static void divide(const Tensor& self, const Tensor& other, int64_t mode, Tensor& out) {
  if (mode == 0) {
    at::div_out(out, self, other);
  } else {
    at::div_out(out, self, other, std::optional<std::string_view>(mode == 1 ? "trunc" : "floor"));
  }
}
OPERATOR(aclnnDivMod, const Tensor& self, const Tensor& other, int64_t mode, Tensor& out) { divide(self, other, mode, out); }
OPERATOR(aclnnDivMods, const Tensor& self, const Scalar& other, int64_t mode, Tensor& out) {
  divide(self, at::native::wrapped_scalar_tensor(other), mode, out);
}
OPERATOR(aclnnInplaceDivMod, Tensor& self, const Tensor& other, int64_t mode) { divide(self, other, mode, self); }
OPERATOR(aclnnInplaceDivMods, Tensor& self, const Scalar& other, int64_t mode) {
  divide(self, at::native::wrapped_scalar_tensor(other), mode, self);
}

OPERATOR(aclnnAdd, const Tensor& self, const Tensor& other, const Scalar& alpha, Tensor& out) { at::add_out(out, self, other, alpha); }
OPERATOR(aclnnAdds, const Tensor& self, const Scalar& other, const Scalar& alpha, Tensor& out) {
  at::add_out(out, self, at::native::wrapped_scalar_tensor(other), alpha);
}
OPERATOR(aclnnInplaceAdd, Tensor& self, const Tensor& other, const Scalar& alpha) { self.add_(other, alpha); }
OPERATOR(aclnnInplaceAdds, Tensor& self, const Scalar& other, const Scalar& alpha) { self.add_(other, alpha); }
OPERATOR(aclnnAddV3, const Scalar& self, const Tensor& other, const Scalar& alpha, Tensor& out) {
  at::add_out(out, at::native::wrapped_scalar_tensor(self), other, alpha);
}
OPERATOR(aclnnSub, const Tensor& self, const Tensor& other, const Scalar& alpha, Tensor& out) { at::sub_out(out, self, other, alpha); }
OPERATOR(aclnnSubs, const Tensor& self, const Scalar& other, const Scalar& alpha, Tensor& out) {
  at::sub_out(out, self, at::native::wrapped_scalar_tensor(other), alpha);
}
OPERATOR(aclnnInplaceSub, Tensor& self, const Tensor& other, const Scalar& alpha) { self.sub_(other, alpha); }
OPERATOR(aclnnInplaceSubs, Tensor& self, const Scalar& other, const Scalar& alpha) { self.sub_(other, alpha); }
OPERATOR(aclnnRsub, const Tensor& self, const Tensor& other, const Scalar& alpha, Tensor& out) { at::sub_out(out, other, self, alpha); }
OPERATOR(aclnnRsubs, const Tensor& self, const Scalar& other, const Scalar& alpha, Tensor& out) {
  at::sub_out(out, at::native::wrapped_scalar_tensor(other), self, alpha);
}
OPERATOR(aclnnAddcmul, const Tensor& self, const Tensor& first, const Tensor& second, const Scalar& value, Tensor& out) {
  at::addcmul_out(out, self, first, second, value);
}
OPERATOR(aclnnAddcdiv, const Tensor& self, const Tensor& first, const Tensor& second, const Scalar& value, Tensor& out) {
  at::addcdiv_out(out, self, first, second, value);
}
OPERATOR(aclnnInplaceAddcmul, Tensor& self, const Tensor& first, const Tensor& second, const Scalar& value) {
  self.addcmul_(first, second, value);
}
OPERATOR(aclnnInplaceAddcdiv, Tensor& self, const Tensor& first, const Tensor& second, const Scalar& value) {
  self.addcdiv_(first, second, value);
}
OPERATOR(aclnnLerp, const Tensor& self, const Tensor& end, const Tensor& weight, Tensor& out) { at::lerp_out(out, self, end, weight); }
OPERATOR(aclnnLerps, const Tensor& self, const Tensor& end, const Scalar& weight, Tensor& out) { at::lerp_out(out, self, end, weight); }
OPERATOR(aclnnInplaceLerp, Tensor& self, const Tensor& end, const Tensor& weight) { self.lerp_(end, weight); }
OPERATOR(aclnnInplaceLerps, Tensor& self, const Tensor& end, const Scalar& weight) { self.lerp_(end, weight); }

OPERATOR(aclnnClamp, const Tensor& self, const OptionalScalar& least, const OptionalScalar& most, Tensor& out) {
  at::clamp_out(out, self, least, most);
}
OPERATOR(aclnnClampMin, const Tensor& self, const Scalar& least, Tensor& out) { at::clamp_min_out(out, self, least); }
OPERATOR(aclnnClampMax, const Tensor& self, const Scalar& most, Tensor& out) { at::clamp_max_out(out, self, most); }
OPERATOR(aclnnInplaceClampMax, Tensor& self, const Scalar& most) { self.clamp_max_(most); }
OPERATOR(aclnnClampTensor, const Tensor& self, const OptionalTensor& least, const OptionalTensor& most, Tensor& out) {
  at::clamp_out(out, self, least, most);
}
OPERATOR(aclnnClampMinTensor, const Tensor& self, const Tensor& least, Tensor& out) { at::clamp_min_out(out, self, least); }
OPERATOR(aclnnClampMaxTensor, const Tensor& self, const Tensor& most, Tensor& out) { at::clamp_max_out(out, self, most); }
OPERATOR(aclnnInplaceClampMinTensor, Tensor& self, const Tensor& least) { self.clamp_min_(least); }
OPERATOR(aclnnInplaceClampMaxTensor, Tensor& self, const Tensor& most) { self.clamp_max_(most); }
OPERATOR(aclnnNanToNum, const Tensor& self, float nan, float positive, float negative, Tensor& out) {
  at::nan_to_num_out(out, self, nan, positive, negative);
}
OPERATOR(aclnnInplaceNanToNum, Tensor& self, float nan, float positive, float negative) {
  self.nan_to_num_(nan, positive, negative);
}
OPERATOR(aclnnSWhere, const Tensor& condition, const Tensor& self, const Tensor& other, Tensor& out) {
  at::where_out(out, condition, self, other);
}

OPERATOR(aclnnCast, const Tensor& self, at::ScalarType, Tensor& out) { out.copy_(self); }
OPERATOR(aclnnInplaceCopy, Tensor& self, const Tensor& source) { self.copy_(source); }
OPERATOR(aclnnAddRelu, const Tensor& self, const Tensor& other, const Scalar& alpha, Tensor& out) {
  at::relu_out(out, at::add(self, other, alpha));
}
OPERATOR(aclnnInplaceAddRelu, Tensor& self, const Tensor& other, const Scalar& alpha) { self.add_(other, alpha).relu_(); }
OPERATOR(aclnnInplaceRoundDecimals, Tensor& self, int64_t decimals) { self.round_(decimals); }
OPERATOR(aclnnLessScalar, const Tensor& self, const Scalar& other, Tensor& out) {
  at::lt_out(out, self, at::native::wrapped_scalar_tensor(other));
}
OPERATOR(aclnnMaskedScale, const Tensor& self, const Tensor& mask, float scale, Tensor& out) {
  out.copy_(self.to(at::kFloat) * mask.to(at::kFloat) * scale);
}
