// Decompositions and triangular systems, computed by LAPACK: in float32 or wider.
#include "operators/operator.h"

using namespace cannsim;

// self = u diag(sigma) v^T; u and v are written only when asked for.
OPERATOR(aclnnSvd, const Tensor& self, bool full_matrices, bool compute_uv, Tensor& sigma, Tensor& u, Tensor& v) {
  auto [left, values, right] = at::_linalg_svd(self, full_matrices, compute_uv);
  sigma.copy_(values);
  if (!compute_uv) return;
  u.copy_(left);
  v.copy_(right.mT());
}
// mode: 0 reduced, 1 complete, 2 only r.
OPERATOR(aclnnLinalgQr, const Tensor& self, int64_t mode, Tensor& q, Tensor& r) {
  constexpr const char* kModes[] = {"reduced", "complete", "r"};
  auto [left, right] = at::linalg_qr(self, kModes[mode]);
  if (mode != 2) q.copy_(left);
  r.copy_(right);
}
OPERATOR(aclnnLinalgCholesky, const Tensor& self, bool upper, Tensor& out) { out.copy_(at::linalg_cholesky(self, upper)); }
OPERATOR(aclnnInverse, const Tensor& self, Tensor& out) { out.copy_(at::inverse(self)); }
OPERATOR(aclnnSlogdet, const Tensor& self, Tensor& sign, Tensor& logarithm) {
  auto [found_sign, found] = at::slogdet(self);
  sign.copy_(found_sign);
  logarithm.copy_(found);
}
// Solves a x = self; `a_out` becomes a copy of the coefficients.
OPERATOR(aclnnTriangularSolve, const Tensor& self, const Tensor& a, bool upper, bool transpose, bool unitriangular, Tensor& x, Tensor& a_out) {
  auto [solution, coefficients] = at::triangular_solve(self, a, upper, transpose, unitriangular);
  x.copy_(solution);
  a_out.copy_(coefficients);
}
OPERATOR(aclnnPdist, const Tensor& self, float p, Tensor& out) { out.copy_(at::_pdist_forward(self.contiguous(), p).view_as(out)); }

// The short-time Fourier transform; `self` is padded already.
OPERATOR(aclStft, const Tensor& self, const OptionalTensor& window, Tensor& out, int64_t points, int64_t hop, int64_t width, bool normalized,
         bool onesided, bool return_complex) {
  const Tensor found = at::stft(self, points, hop, width, window, normalized, onesided, true);
  out.copy_(return_complex ? found : at::view_as_real(found));
}
