// Rotary position embeddings.
#include <algorithm>

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

// Frequencies of each row of positions that the operator knows (CANN's document of
// aclnnRopeWithSinCosCacheV2, mropeSection).
const std::vector<std::vector<int64_t>> known_sections = {{11, 11, 10}, {16, 24, 24}, {24, 20, 20}, {8, 12, 12}, {16, 16, 16, 16}};

// [rows, tokens, half] -> [tokens, half]: sections one after the other, or, interleaved, every third
// frequency a row's as far as its section goes, and the rest the first row's.
Tensor of_sections(const Tensor& table, const std::vector<int64_t>& sections, bool interleaved) {
  if (interleaved) {
    Tensor made = table[0].clone();
    for (int64_t i = 1; i < 3; ++i) made.slice(-1, i, 3 * sections[i], 3).copy_(table[i].slice(-1, i, 3 * sections[i], 3));
    return made;
  }
  std::vector<Tensor> parts;
  for (size_t i = 0, start = 0; i < sections.size(); start += sections[i], ++i)
    parts.push_back(table[int64_t(i)].narrow(-1, int64_t(start), sections[i]));
  return at::cat(parts, -1);
}

// A head and the part of it that is turned are whole blocks of 64 bytes (CANN's document of
// aclnnRopeWithSinCosCacheV2, constraints: multiples of 32 in 16-bit types, of 16 in float32).
template <typename Arguments>
void check_widths(const Arguments& arguments) {
  const auto& query = std::get<1>(arguments).kept;
  const int64_t block = c10::elementSize(query.type) == 4 ? 16 : 32;
  const int64_t head = std::get<5>(arguments).kept, turned = std::get<3>(arguments).kept.sizes.back();
  refuse_unless(head % block == 0 && turned % block == 0 && turned <= head,
                "headSize " + std::to_string(head) + " and rotaryDim " + std::to_string(turned) + "; both are multiples of " +
                    std::to_string(block) + " in this type, and no more is turned than a head has");
}

template <typename Arguments>
void check_mrope(const Arguments& arguments) {
  check_widths(arguments);
  if (std::get<0>(arguments).kept.sizes.size() < 2) return;
  const std::vector<int64_t> sections(std::get<4>(arguments).kept.begin(), std::get<4>(arguments).kept.end());
  const int64_t cache_mode = std::get<7>(arguments).kept;
  std::string given;
  for (int64_t section : sections) given += (given.empty() ? "" : ", ") + std::to_string(section);
  refuse_unless(std::find(known_sections.begin(), known_sections.end(), sections) != known_sections.end(),
                "mropeSection [" + given + "]; [11, 11, 10], [16, 24, 24], [24, 20, 20], [8, 12, 12] and [16, 16, 16, 16] are taken");
  refuse_unless(cache_mode == 0 || (cache_mode == 1 && sections.size() == 3),
                "cacheMode " + std::to_string(cache_mode) + "; 0 (one after the other) and, for three sections, 1 (interleaved) exist");
}

}  // namespace

// cos_sin_cache: [positions, rotary width], cosines then sines. With sections (multimodal), the
// rows of `positions` each rotate their part of the width.
CHECKED_OPERATOR(aclnnRopeWithSinCosCacheV2, check_mrope, const Tensor& positions, const Tensor& query, const Tensor& key, const Tensor& cache, IntArray sections,
         int64_t head_size, bool neox, int64_t cache_mode, Tensor& query_out, Tensor& key_out) {
  const Tensor rows = cache.index({positions}).to(at::kFloat);  // [(3,) tokens, width]
  auto halves = rows.chunk(2, -1);
  Tensor cos = halves[0], sin = halves[1];
  if (positions.dim() == 2) {
    const std::vector<int64_t> each(sections.begin(), sections.end());
    cos = of_sections(cos, each, cache_mode == 1);
    sin = of_sections(sin, each, cache_mode == 1);
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
