// Writing tokens to paged caches and gathering them, with what is fused before the write: RMS
// normalisation and rotation of latent attention's keys, and its whole prologue.
#include "operators/caches.h"

#include <cmath>

namespace cannsim {
namespace {

constexpr int64_t kFractalBytes = 32;

// A view of the cache with one index for the block and one for the slot in it: [blocks, slots, parts, c0].
Tensor by_slot(const Tensor& cache, Pages pages) {
  if (pages == Pages::Norm) return cache.flatten(2).unsqueeze(-1);
  if (pages == Pages::Nz) return cache.flatten(1, -3).transpose(1, 2);
  const int64_t c0 = kFractalBytes / int64_t(cache.element_size());
  return cache.view({cache.size(0), -1, cache.size(1), c0}).transpose(1, 2);
}

}  // namespace

void write_slots(const Tensor& rows, const Tensor& slots, Pages pages, Tensor cache) {
  const Tensor place = slots.to(at::kLong).flatten();
  const Tensor kept = (place >= 0).nonzero().flatten();
  const Tensor target = by_slot(cache, pages), chosen = place.index({kept});
  const int64_t block = target.size(1);
  const Tensor values = rows.flatten(1).index({kept}).to(cache.scalar_type()).view({-1, target.size(2), target.size(3)});
  target.index_put_({chosen.div(block, "floor"), chosen.remainder(block)}, values);
}

Tensor read_slots(const Tensor& cache, const Tensor& slots, Pages pages) {
  const Tensor source = by_slot(cache, pages), place = slots.to(at::kLong);
  return source.index({place.div(source.size(1), "floor"), place.remainder(source.size(1))}).flatten(1);
}

}  // namespace cannsim

using namespace cannsim;

namespace {

const OptionalTensor kNone;

Pages pages_of(const std::string& mode) { return mode.ends_with("NZ") ? Pages::Nz : Pages::Norm; }

template <size_t mode, typename Arguments>
void check_cache_mode(const Arguments& arguments) {
  const std::string& text = std::get<mode>(arguments).kept;
  refuse_unless(text.empty() || text == "Norm" || text == "PA_NZ", "cache mode " + text + "; Norm and PA_NZ exist");
}
template <typename Arguments>
void check_kv_write(const Arguments& arguments) {
  check_cache_mode<8>(arguments);
  const auto& key = std::get<0>(arguments).kept;
  const auto& cache = std::get<1>(arguments).kept;
  const auto& slots = std::get<2>(arguments).kept;
  refuse_unless(!std::get<5>(arguments).kept.present && !std::get<6>(arguments).kept.present, "compression of the cache is not simulated");
  refuse_unless(key.type == cache.type && std::get<3>(arguments).kept.type == key.type,
                std::string("key is ") + at::toString(key.type) + " and key_cache " + at::toString(cache.type) + "; they must have the same data type");
  refuse_unless(key.sizes.size() == 3, "key has " + std::to_string(key.sizes.size()) + " dimensions; [tokens, heads, width] is simulated");
  const std::string& text = std::get<8>(arguments).kept;
  const int64_t c0 = 32 / int64_t(c10::elementSize(cache.type));
  refuse_unless(text != "PA_NZ" || (cache.sizes.size() == 4 && cache.sizes[3] == c0),
                "cache mode PA_NZ needs a cache of [blocks, heads * width / " + std::to_string(c0) + ", block, " + std::to_string(c0) + "]");
  refuse_unless(slots.type == at::kInt || slots.type == at::kLong, "slot_mapping must be int32 or int64");
}

}  // namespace

CHECKED_OPERATOR(aclnnScatterPaKvCache, check_kv_write, const Tensor& key, Tensor& key_cache, const Tensor& slots, const Tensor& value,
                 Tensor& value_cache, const OptionalTensor& compress_lens, const OptionalTensor& compress_offsets, const OptionalTensor& lengths,
                 Text cache_mode, Text scatter_mode, OptionalIntArray strides, OptionalIntArray offsets) {
  write_slots(key, slots, pages_of(cache_mode), key_cache);
  write_slots(value, slots, pages_of(cache_mode), value_cache);
}
CHECKED_OPERATOR(aclnnScatterPaCache, check_cache_mode<6>, const Tensor& key, Tensor& key_cache, const Tensor& slots,
                 const OptionalTensor& compress_lens, const OptionalTensor& compress_offsets, const OptionalTensor& lengths, Text cache_mode) {
  write_slots(key, slots, pages_of(cache_mode), key_cache);
}
// Sequence i has lengths[i] tokens (or, as running totals, the difference), from token `offset[i]` on.
CHECKED_OPERATOR(aclnnGatherPaKvCache, check_cache_mode<7>, const Tensor& key_cache, const Tensor& value_cache, const Tensor& tables,
                 const Tensor& lengths, Tensor& key, Tensor& value, const OptionalTensor& offset, Text cache_mode, bool totals) {
  const Pages pages = pages_of(cache_mode);
  const int64_t block = pages == Pages::Nz ? key_cache.size(-2) : key_cache.size(1), sequences = tables.size(0);
  Tensor numbers = lengths.to(at::kLong);
  if (totals && numbers.size(0) == sequences + 1) numbers = numbers.diff();
  const auto counts = group_counts(numbers, totals && lengths.size(0) == sequences ? 0 : 1, sequences);
  int64_t first = 0;
  for (int64_t i = 0; i < sequences; ++i) {
    const int64_t count = counts[size_t(i)];
    if (count == 0) continue;
    const int64_t start = given(offset) ? (*offset)[i].item<int64_t>() : 0;
    const Tensor token = at::arange(start, start + count, at::kLong);
    const Tensor slots = tables[i].to(at::kLong).index({token.div(block, "floor")}) * block + token.remainder(block);
    key.narrow(0, first, count).copy_(read_slots(key_cache, slots, pages).view_as(key.narrow(0, first, count)));
    value.narrow(0, first, count).copy_(read_slots(value_cache, slots, pages).view_as(value.narrow(0, first, count)));
    first += count;
  }
}

// ---- rotation of neighbouring pairs, laid out as halves ------------------------------------------

namespace {

// y = (evens, odds) * cos + (-odds, evens) * sin (CANN's InterleaveRope document).
Tensor interleave_rope(const Tensor& x, const Tensor& cos, const Tensor& sin) {
  const Tensor even = x.slice(-1, 0, std::nullopt, 2), odd = x.slice(-1, 1, std::nullopt, 2);
  return at::cat({even, odd}, -1) * wide(cos) + at::cat({-odd, even}, -1) * wide(sin);
}
Tensor rms(const Tensor& x, const Tensor& gamma, double epsilon) {
  return x * at::rsqrt(x.square().mean(-1, true).add_(epsilon)) * wide(gamma);
}

}  // namespace

OPERATOR(aclnnInterleaveRope, const Tensor& x, const Tensor& cos, const Tensor& sin, Tensor& out) { out.copy_(interleave_rope(wide(x), cos, sin)); }

// query and key in place: x * cos + rotated(x) * sin over cos's width (the layouts differ in what broadcasts).
static void rotate_in_place(Tensor& x, const Tensor& cos, const Tensor& sin, Text mode) {
  const int64_t width = cos.size(-1), half = width / 2;
  Tensor part = x.narrow(-1, 0, width);
  const Tensor values = part.to(at::kFloat, false, true);
  Tensor turned;
  if (mode.empty() || mode == "half") {
    turned = at::cat({-values.narrow(-1, half, half), values.narrow(-1, 0, half)}, -1);
  } else if (mode == "interleave") {
    turned = at::stack({-values.slice(-1, 1, std::nullopt, 2), values.slice(-1, 0, std::nullopt, 2)}, -1).flatten(-2);
  } else {
    const auto q = values.chunk(4, -1);
    turned = at::cat({-q[1], q[0], -q[3], q[2]}, -1);
  }
  part.copy_(values * wide(cos) + turned * wide(sin));
}
template <typename Arguments>
static void check_apply_rotary(const Arguments& arguments) {
  const auto& query = std::get<0>(arguments).kept;
  const auto& cos = std::get<2>(arguments).kept;
  for (const auto* other : {&std::get<1>(arguments).kept, &cos, &std::get<3>(arguments).kept})
    refuse_unless(other->type == query.type, "query, key, cos and sin must have the same data type");
  if (chip_is("Ascend950")) return;
  refuse_unless(query.sizes.back() == 64 || query.sizes.back() == 128,
                "a head of " + std::to_string(query.sizes.back()) + " numbers; this chip takes 64 and 128");
}
template <typename Arguments>
static void check_apply_rotary_v2(const Arguments& arguments) {
  check_apply_rotary(arguments);
  const std::string& mode = std::get<5>(arguments).kept;
  refuse_unless(mode == "half" || mode == "interleave" || mode == "quarter", "rotary mode " + mode + "; half, interleave and quarter exist");
  refuse_unless(mode == "half" || chip_is("Ascend950"), "rotary mode " + mode + "; this chip has half");
}
CHECKED_OPERATOR(aclnnApplyRotaryPosEmb, check_apply_rotary, Tensor& query, Tensor& key, const Tensor& cos, const Tensor& sin, int64_t layout) {
  rotate_in_place(query, cos, sin, "half");
  rotate_in_place(key, cos, sin, "half");
}
CHECKED_OPERATOR(aclnnApplyRotaryPosEmbV2, check_apply_rotary_v2, Tensor& query, Tensor& key, const Tensor& cos, const Tensor& sin, int64_t layout,
                 Text mode) {
  rotate_in_place(query, cos, sin, mode);
  rotate_in_place(key, cos, sin, mode);
}

// ---- latent attention's cache --------------------------------------------------------------------

namespace {

// rows [batch, heads, length, width] to the cache, as `mode` says; a quantised cache gets
// round(row * scale + offset) (assumed: the documents name the scales and print no formula).
struct CacheWrite {
  const Tensor& rows;
  const Tensor& index;
  const std::string& mode;
  const OptionalTensor &scale, &offset;
};
void write_cache(const CacheWrite& w, Codes& cache) {
  Tensor rows = w.rows;
  if (given(w.scale)) rows = rows * wide(*w.scale);
  if (given(w.offset)) rows = rows + wide(*w.offset);
  if (cache.type == ACL_INT8) rows = at::round(rows).clamp(-128, 127);
  Tensor target = cache.tensor();
  const int64_t batch = rows.size(0), length = rows.size(2);
  if (w.mode.empty() || w.mode == "Norm") {  // [batch, heads, length of the cache, width], index [batch, length]
    const Tensor at = w.index.to(at::kLong).view({batch, length});
    for (int64_t i = 0; i < batch; ++i) {
      const Tensor kept = (at[i] >= 0).nonzero().flatten();
      target[i].index_copy_(1, at[i].index({kept}), rows[i].index_select(1, kept).to(target.scalar_type()));
    }
    return;
  }
  const Tensor tokens = rows.transpose(1, 2).flatten(0, 1);  // [batch * length, heads, width]
  Tensor slots = w.index.to(at::kLong).flatten();
  if (w.mode.starts_with("PA_BLK")) {  // one number for each block of a sequence: its first slot
    const int64_t block = target.size(1);
    const Tensor token = at::arange(length, at::kLong);
    const Tensor starts = slots.view({batch, -1}).index_select(1, token.div(block, "floor"));
    slots = at::where(starts < 0, starts, starts.div(block, "floor") * block + token.remainder(block)).flatten();
  }
  write_slots(tokens, slots, w.mode.ends_with("NZ") ? Pages::NzInside : Pages::Norm, target);
}

const char* const kCacheModes = "Norm, PA, PA_BNSD, PA_NZ, PA_BLK_BNSD and PA_BLK_NZ exist";
bool known_cache_mode(const std::string& mode) {
  for (const char* known : {"", "Norm", "PA", "PA_BNSD", "PA_NZ", "PA_BLK_BNSD", "PA_BLK_NZ"}) {
    if (mode == known) return true;
  }
  return false;
}
template <size_t mode, typename Arguments>
void check_rope_cache(const Arguments& arguments) {
  const auto& kv = std::get<0>(arguments).kept;
  const auto& gamma = std::get<1>(arguments).kept;
  const auto& cos = std::get<2>(arguments).kept;
  const std::string& text = std::get<mode>(arguments).kept;
  refuse_unless(kv.type == at::kHalf || kv.type == at::kBFloat16,
                std::string("the data type of kv is ") + at::toString(kv.type) + "; float16 and bfloat16 are taken");
  refuse_unless(kv.sizes.size() == 4, "kv has " + std::to_string(kv.sizes.size()) + " dimensions; it must have 4");
  refuse_unless(kv.sizes[1] == 1, "kv has " + std::to_string(kv.sizes[1]) + " heads; one is taken");
  refuse_unless(gamma.sizes.back() + cos.sizes.back() == kv.sizes[3],
                "the widths of gamma (" + std::to_string(gamma.sizes.back()) + ") and cos (" + std::to_string(cos.sizes.back()) +
                    ") must add to kv's, " + std::to_string(kv.sizes[3]));
  refuse_unless(std::get<4>(arguments).kept.type == at::kLong, "index must be int64");
  refuse_unless(known_cache_mode(text), "cache mode " + text + "; " + kCacheModes);
}

struct RopeCache {
  const Tensor &kv, &gamma, &cos, &sin, &index;
  Codes &rope_cache, &latent_cache;
  const OptionalTensor &rope_scale, &latent_scale, &rope_offset, &latent_offset;
  double epsilon;
  const std::string& mode;
  bool with_rows;
  const OptionalTensor &rope, &latent;
};
void normalise_rotate_and_write(const RopeCache& r) {
  const Tensor kv = wide(r.kv);
  const int64_t width = r.gamma.size(-1);
  const Tensor latent = rms(kv.narrow(-1, 0, width), r.gamma, r.epsilon);
  const Tensor rope = interleave_rope(kv.narrow(-1, width, kv.size(-1) - width), r.cos, r.sin);
  write_cache({rope, r.index, r.mode, r.rope_scale, r.rope_offset}, r.rope_cache);
  write_cache({latent, r.index, r.mode, r.latent_scale, r.latent_offset}, r.latent_cache);
  if (!r.with_rows) return;
  if (given(r.rope)) Tensor(*r.rope).copy_(rope);
  if (given(r.latent)) Tensor(*r.latent).copy_(latent);
}

}  // namespace

#define ROPE_CACHE                                                                                                                           \
  const Tensor &kv, const Tensor &gamma, const Tensor &cos, const Tensor &sin, const Tensor &index, Codes &rope_cache, Codes &latent_cache, \
      const OptionalTensor &rope_scale, const OptionalTensor &latent_scale, const OptionalTensor &rope_offset,                              \
      const OptionalTensor &latent_offset
#define ROPE_CACHE_END double epsilon, Text mode, bool with_rows, const OptionalTensor &rope, const OptionalTensor &latent
#define NORMALISE_ROTATE_AND_WRITE                                                                                                            \
  normalise_rotate_and_write({kv, gamma, cos, sin, index, rope_cache, latent_cache, rope_scale, latent_scale, rope_offset, latent_offset, \
                              epsilon, mode, with_rows, rope, latent})
CHECKED_OPERATOR(aclnnKvRmsNormRopeCache, check_rope_cache<12>, ROPE_CACHE, ROPE_CACHE_END) { NORMALISE_ROTATE_AND_WRITE; }
template <typename Arguments>
static void check_rope_cache_v2(const Arguments& arguments) {
  check_rope_cache<13>(arguments);
  refuse_unless(!std::get<11>(arguments).kept.present, "values of their own (v) are not simulated");
}
CHECKED_OPERATOR(aclnnKvRmsNormRopeCacheV2, check_rope_cache_v2, ROPE_CACHE, const OptionalTensor& v, ROPE_CACHE_END) { NORMALISE_ROTATE_AND_WRITE; }

// ---- latent attention's prologue -----------------------------------------------------------------

namespace {

struct Prologue {
  const Codes &x, &down_query, &up_query;
  const Tensor& up_key;
  const Codes& down_key;
  const Tensor &query_gamma, &key_gamma, &sin, &cos;
  Codes &latent_cache, &rope_cache;
  const OptionalTensor& index;
  const Codes &x_scale, &down_query_scale, &up_query_scale, &down_key_scale;
  const OptionalTensor &latent_scale, &rope_scale, &smooth, &clip;
  double query_epsilon, key_epsilon;
  const std::string& mode;
  int64_t cache_quant, repository, tile;
  double query_factor, key_factor;
  Codes& query;
  Tensor& query_rope;
  const OptionalTensor& query_scale;
  const Codes* query_norm;
  const OptionalTensor* query_norm_scale;
};

Tensor product(const Codes& x, const Codes& weight, const Codes& x_scale, const Codes& weight_scale) {
  const Codes none;
  // MX weights' exponents lie by column, [n, k / 32].
  if (weight_scale && weight_scale.scale_exponent()) {
    const Tensor left = x.values() * x_scale.values().repeat_interleave(32, -1);
    return at::matmul(left, weight.values() * weight_scale.values().repeat_interleave(32, -1).t());
  }
  return scaled_product({x, weight, x_scale, weight_scale});
}

// Every row by its own range: [tokens, width] -> codes of `type` and scales [tokens, 1].
struct Rows {
  Tensor codes, scale;
};
Rows by_rows(const Tensor& x, double greatest, bool integers) {
  Tensor scale = x.abs().amax(-1, true).div_(greatest);
  const Tensor scaled = x / at::where(scale == 0, at::ones_like(scale), scale);
  return {integers ? at::round(scaled).clamp(-greatest - 1, greatest) : scaled.clamp(-greatest, greatest), scale};
}

// The compressed query's product with its up projection; a quantised weight takes quantised rows.
Tensor up_product(const Prologue& p, const Tensor& compressed) {
  if (!p.up_query_scale || !(p.up_query.type == ACL_INT8)) return at::matmul(compressed, p.up_query.values());
  const Tensor smoothed = given(p.smooth) ? compressed * wide(*p.smooth).flatten() : compressed;
  const Rows rows = by_rows(smoothed, 127, true);
  if (p.query_norm != nullptr && *p.query_norm) {
    Codes out = *p.query_norm;
    out.assign(rows.codes.view(out.sizes()));
    if (given(*p.query_norm_scale)) Tensor(**p.query_norm_scale).copy_(rows.scale.view((*p.query_norm_scale)->sizes()));
  }
  return at::matmul(rows.codes.to(at::kDouble), p.up_query.values().to(at::kDouble)).to(at::kFloat) * p.up_query_scale.values().view({1, -1}) *
         rows.scale;
}

void write_latent(const Prologue& p, const Tensor& latent, const Tensor& rope) {
  const std::string mode = p.mode.empty() ? "PA_BSND" : p.mode;
  const auto four = [&](const Tensor& rows) { return rows.view({1, 1, rows.size(0), rows.size(1)}); };
  if (mode == "TND" || mode == "BSND") {
    p.latent_cache.assign(latent.view(p.latent_cache.sizes()));
    if (p.rope_cache) p.rope_cache.assign(rope.view(p.rope_cache.sizes()));
    return;
  }
  write_cache({four(latent), *p.index, mode, p.latent_scale, kNone}, p.latent_cache);
  write_cache({four(rope), *p.index, mode, p.rope_scale, kNone}, p.rope_cache);
}

void prepare(const Prologue& p) {
  const int64_t tokens = p.cos.numel() / p.cos.size(-1), heads = p.up_key.size(0), width = p.up_key.size(1), rope_width = p.cos.size(-1);
  const Tensor cos = wide(p.cos).view({tokens, rope_width}), sin = wide(p.sin).view({tokens, rope_width});
  Codes x = p.x;
  if (x.dim() == 3) x = x.flattened();
  const Tensor compressed = rms(product(x, p.down_query, p.x_scale, p.down_query_scale), p.query_gamma, p.query_epsilon) * p.query_factor;
  if (p.query_norm != nullptr && *p.query_norm && !(p.up_query_scale)) {
    Codes out = *p.query_norm;
    out.assign(compressed.view(out.sizes()));
  }
  const Tensor heads_of_query = up_product(p, compressed).view({tokens, heads, width + rope_width});
  const Tensor nope = at::einsum("thd,hdc->thc", {heads_of_query.narrow(-1, 0, width), wide(p.up_key)});
  p.query_rope.copy_(
      interleave_rope(heads_of_query.narrow(-1, width, rope_width), cos.unsqueeze(1), sin.unsqueeze(1)).view(p.query_rope.sizes()));
  if (p.query.type == ACL_INT8) {
    const Rows rows = by_rows(nope, 127, true);
    p.query.assign(rows.codes.view(p.query.sizes()));
    if (given(p.query_scale)) Tensor(*p.query_scale).copy_(rows.scale.view(p.query_scale->sizes()));
  } else {
    p.query.assign(nope.view(p.query.sizes()));
  }
  const Tensor key = product(x, p.down_key, p.x_scale, p.down_key_scale);
  const int64_t latent_width = p.key_gamma.size(0);
  const Tensor latent = rms(key.narrow(-1, 0, latent_width), p.key_gamma, p.key_epsilon) * p.key_factor;
  write_latent(p, latent, interleave_rope(key.narrow(-1, latent_width, rope_width), cos, sin));
}

template <size_t mode, typename Arguments>
void check_prologue(const Arguments& arguments) {
  const Codes& x = std::get<0>(arguments).kept;
  const auto& up_key = std::get<3>(arguments).kept;
  const std::string& text = std::get<mode>(arguments).kept;
  refuse_unless(x.type == ACL_BF16 || x.type == ACL_INT8 || chip_is("Ascend950"),
                "the data type of token_x is " + std::to_string(x.type) + "; bfloat16 and int8 are taken on this chip");
  refuse_unless(x.dim() == 2 || x.dim() == 3, "token_x must be [tokens, width] or [batch, length, width]");
  refuse_unless(up_key.sizes.size() == 3, "weight_uk must be [heads, width, latent width]");
  bool known = false;
  for (const char* one : {"", "PA_BSND", "PA_NZ", "PA_BLK_BSND", "PA_BLK_NZ", "BSND", "TND"}) known |= text == one;
  refuse_unless(known, "cache mode " + text + "; PA_BSND, PA_NZ, PA_BLK_BSND, PA_BLK_NZ, BSND and TND exist");
}

}  // namespace

#define PROLOGUE_WEIGHTS                                                                                                               \
  const Codes &x, const Codes &down_query, const Codes &up_query, const Tensor &up_key, const Codes &down_key, const Tensor &query_gamma, \
      const Tensor &key_gamma, const Tensor &sin, const Tensor &cos
#define PROLOGUE_SCALES                                                                                                              \
  const Codes &x_scale, const Codes &down_query_scale, const Codes &up_query_scale, const Codes &down_key_scale,                     \
      const OptionalTensor &latent_scale, const OptionalTensor &rope_scale, const OptionalTensor &smooth
CHECKED_OPERATOR(aclnnMlaPrologV2WeightNz, check_prologue<21>, PROLOGUE_WEIGHTS, const OptionalTensor& index, Codes& latent_cache, Codes& rope_cache,
                 PROLOGUE_SCALES, double query_epsilon, double key_epsilon, Text mode, Codes& query, Tensor& query_rope,
                 const OptionalTensor& query_scale) {
  prepare({x, down_query, up_query, up_key, down_key, query_gamma, key_gamma, sin, cos, latent_cache, rope_cache, index, x_scale, down_query_scale,
           up_query_scale, down_key_scale, latent_scale, rope_scale, smooth, kNone, query_epsilon, key_epsilon, mode, 0, 0, 128, 1, 1, query,
           query_rope, query_scale, nullptr, nullptr});
}
template <typename Arguments>
static void check_prologue_v3(const Arguments& arguments) {
  check_prologue<23>(arguments);
  const int64_t cache_quant = std::get<25>(arguments).kept, repository = std::get<27>(arguments).kept;
  refuse_unless(cache_quant <= 2 && repository == 0, "kv_cache_quant_mode " + std::to_string(cache_quant) + " with ckvkr_repo_mode " +
                                                         std::to_string(repository) + " is not simulated; modes 0 to 2 with 0 are");
}
CHECKED_OPERATOR(aclnnMlaPrologV3WeightNz, check_prologue_v3, PROLOGUE_WEIGHTS, Codes& latent_cache, Codes& rope_cache, const OptionalTensor& index,
                 PROLOGUE_SCALES, const OptionalTensor& lengths, const OptionalTensor& clip, double query_epsilon, double key_epsilon, Text mode,
                 int64_t weight_quant, int64_t cache_quant, int64_t query_quant, int64_t repository, int64_t scale_repository, int64_t tile,
                 double query_factor, double key_factor, Codes& query, Tensor& query_rope, const OptionalTensor& query_scale,
                 const Codes& query_norm, const OptionalTensor& query_norm_scale) {
  prepare({x, down_query, up_query, up_key, down_key, query_gamma, key_gamma, sin, cos, latent_cache, rope_cache, index, x_scale, down_query_scale,
           up_query_scale, down_key_scale, latent_scale, rope_scale, smooth, clip, query_epsilon, key_epsilon, mode, cache_quant, repository, tile,
           query_factor, key_factor, query, query_rope, query_scale, &query_norm, &query_norm_scale});
}
