// Matrix products. `cube_math_type` chooses the precision of float32 products on the cube unit;
// here they are always computed in full.
#include "operators/operator.h"

using namespace cannsim;

OPERATOR(aclnnMatmul, const Tensor& self, const Tensor& other, Tensor& out, int8_t cube_math_type) { at::matmul_out(out, self, other); }
OPERATOR(aclnnMatmulWeightNz, const Tensor& self, const Tensor& other, Tensor& out, int8_t cube_math_type) { at::matmul_out(out, self, other); }
OPERATOR(aclnnMm, const Tensor& self, const Tensor& other, Tensor& out, int8_t cube_math_type) { at::mm_out(out, self, other); }
OPERATOR(aclnnBatchMatMul, const Tensor& self, const Tensor& other, Tensor& out, int8_t cube_math_type) { at::bmm_out(out, self, other); }
OPERATOR(aclnnMv, const Tensor& self, const Tensor& vector, Tensor& out, int8_t cube_math_type) { at::mv_out(out, self, vector); }
OPERATOR(aclnnDot, const Tensor& self, const Tensor& other, Tensor& out) { at::dot_out(out, self, other); }
OPERATOR(aclnnAddmm, const Tensor& self, const Tensor& first, const Tensor& second, const Scalar& beta, const Scalar& alpha, Tensor& out,
         int8_t cube_math_type) {
  at::addmm_out(out, self, first, second, beta, alpha);
}
OPERATOR(aclnnInplaceAddmm, Tensor& self, const Tensor& first, const Tensor& second, const Scalar& beta, const Scalar& alpha,
         int8_t cube_math_type) {
  self.addmm_(first, second, beta, alpha);
}
OPERATOR(aclnnAddmv, const Tensor& self, const Tensor& matrix, const Tensor& vector, const Scalar& alpha, const Scalar& beta, Tensor& out,
         int8_t cube_math_type) {
  at::addmv_out(out, self, matrix, vector, beta, alpha);
}
OPERATOR(aclnnBaddbmm, const Tensor& self, const Tensor& first, const Tensor& second, const Scalar& beta, const Scalar& alpha, Tensor& out,
         int8_t cube_math_type) {
  at::baddbmm_out(out, self, first, second, beta, alpha);
}
OPERATOR(aclnnInplaceBaddbmm, Tensor& self, const Tensor& first, const Tensor& second, const Scalar& beta, const Scalar& alpha,
         int8_t cube_math_type) {
  self.baddbmm_(first, second, beta, alpha);
}
OPERATOR(aclnnAddbmm, const Tensor& self, const Tensor& first, const Tensor& second, const Scalar& beta, const Scalar& alpha, Tensor& out,
         int8_t cube_math_type) {
  at::addbmm_out(out, self, first, second, beta, alpha);
}
OPERATOR(aclnnInplaceAddbmm, Tensor& self, const Tensor& first, const Tensor& second, const Scalar& beta, const Scalar& alpha,
         int8_t cube_math_type) {
  self.addbmm_(first, second, beta, alpha);
}
OPERATOR(aclnnAddr, const Tensor& self, const Tensor& first, const Tensor& second, const Scalar& beta, const Scalar& alpha, Tensor& out) {
  at::addr_out(out, self, first, second, beta, alpha);
}
OPERATOR(aclnnInplaceAddr, Tensor& self, const Tensor& first, const Tensor& second, const Scalar& beta, const Scalar& alpha) {
  self.addr_(first, second, beta, alpha);
}
