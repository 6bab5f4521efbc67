// One sequence's attention, in float32: what every fused form of it comes down to.
#pragma once

#include "operators/quantisation.h"

namespace cannsim {

struct AttentionRule {
  int64_t heads, key_heads;
  double scale;
  int64_t sparse_mode = 0;                 // 0: the mask's (and the band's), 1: the whole mask's, 2 left-up causal,
                                           // 3 right-down causal, 4 a band from the right lower corner
  int64_t before = INT32_MAX, after = INT32_MAX;
  const OptionalTensor& mask;              // nonzero: hidden
  const OptionalTensor& shift;             // added to the scaled scores: [batch or 1, heads, rows, length]
  const OptionalTensor& sink;              // [heads]: a logit that takes part in the softmax only
  // The products in int8: scores times score_scale; weights rounded to int8 after weight_scale.
  double score_scale = 1, weight_scale = 0, value_scale = 1;
};

// query [rows, heads, width], key and value [length, key heads, width], all float32; the first
// `prefix` keys are seen by every row. Results are written where they are given: out [rows, heads,
// width of value], lse, greatest and sum [rows, heads].
struct AttentionSequence {
  Tensor query, key, value, out;
  int64_t batch = 0, prefix = 0;
  Tensor lse = {}, greatest = {}, sum = {};
};

// A row that sees no key gets zeros, and an infinite log-sum-exp.
CANNSIM_API void attend(const AttentionRule& rule, const AttentionSequence& sequence);

// [batch, length, heads, width] of a layout with batches, [tokens, heads, width] of a packed one.
Tensor heads_of(const Tensor& x, Text layout, int64_t heads);

bool float32_attention();  // CANNSIM_EXTENSIONS=float32-attention

}  // namespace cannsim
