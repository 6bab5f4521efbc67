// Rotary position embeddings.
#include "operators/operator.h"

using namespace cannsim;

namespace {

// Rotates the last dimension of x by cos and sin of half its width ([..., width / 2], broadcast):
// the halves are the pair (neox style), or neighbouring elements are (GPT-J style).
void rotate(const Tensor& x, const Tensor& cos, const Tensor& sin, bool neox, Tensor out) {
  const Tensor wide = x.to(at::kFloat);
  Tensor first, second, to_first, to_second;
  const int64_t half = x.size(-1) / 2;
  if (neox) {
    first = wide.narrow(-1, 0, half), second = wide.narrow(-1, half, half);
    to_first = out.narrow(-1, 0, half), to_second = out.narrow(-1, half, half);
  } else {
    first = wide.slice(-1, 0, std::nullopt, 2), second = wide.slice(-1, 1, std::nullopt, 2);
    to_first = out.slice(-1, 0, std::nullopt, 2), to_second = out.slice(-1, 1, std::nullopt, 2);
  }
  const Tensor left = first * cos - second * sin, right = second * cos + first * sin;
  to_first.copy_(left);
  to_second.copy_(right);
}

// One of query and key: [tokens, heads * head_size]; the first rotary width of a head is rotated.
void rotate_heads(const Tensor& x, const Tensor& cos, const Tensor& sin, int64_t head_size, bool neox, Tensor& out) {
  const int64_t width = 2 * cos.size(-1);
  const Tensor heads = x.reshape({x.size(0), -1, head_size});
  Tensor made = out.view({x.size(0), -1, head_size});
  if (width < head_size) made.copy_(heads);
  rotate(heads.narrow(-1, 0, width), cos, sin, neox, made.narrow(-1, 0, width));
}

}  // namespace

// cos_sin_cache: [positions, rotary width], cosines then sines. With sections (multimodal), the
// three rows of `positions` each rotate their part of the width.
OPERATOR(aclnnRopeWithSinCosCacheV2, const Tensor& positions, const Tensor& query, const Tensor& key, const Tensor& cache, IntArray sections,
         int64_t head_size, bool neox, int64_t cache_mode, Tensor& query_out, Tensor& key_out) {
  const Tensor rows = cache.index({positions}).to(at::kFloat);  // [(3,) tokens, width]
  auto halves = rows.chunk(2, -1);
  Tensor cos = halves[0], sin = halves[1];
  if (positions.dim() == 2) {
    std::vector<Tensor> cosines, sines;
    for (size_t i = 0, start = 0; i < sections.size(); start += sections[i], ++i) {
      cosines.push_back(cos[int64_t(i)].narrow(-1, int64_t(start), sections[i]));
      sines.push_back(sin[int64_t(i)].narrow(-1, int64_t(start), sections[i]));
    }
    cos = at::cat(cosines, -1);
    sin = at::cat(sines, -1);
  }
  cos = cos.unsqueeze(1), sin = sin.unsqueeze(1);
  rotate_heads(query, cos, sin, head_size, neox, query_out);
  rotate_heads(key, cos, sin, head_size, neox, key_out);
}

// x: four dimensions; cos and sin: the full width, equal halves. mode 0 is half (neox), 1 interleave.
OPERATOR(aclnnRotaryPositionEmbedding, const Tensor& self, const Tensor& cos, const Tensor& sin, int64_t mode, Tensor& out) {
  const int64_t half = self.size(-1) / 2;
  const auto part = [&](const Tensor& table) {
    return (mode == 0 ? table.narrow(-1, 0, half) : table.slice(-1, 0, std::nullopt, 2)).to(at::kFloat);
  };
  rotate(self, part(cos), part(sin), mode == 0, out);
}
