// Where a token lies in a paged cache.
#pragma once

#include "operators/quantisation.h"

namespace cannsim {

// A cache of a type with numbers of one byte or more, as blocks of slots: Norm [blocks, slots, heads,
// width], or NZ, whose bytes are [blocks, heads * width / c0, slots, c0] with c0 numbers to 32 bytes.
enum class Pages { Norm, Nz };

// rows [tokens, heads, width] go to `slots` [tokens]; a negative slot is padding. Quantised caches
// get round(row * scale + offset).
void write_slots(const Tensor& rows, const Tensor& slots, Pages pages, Tensor cache);

// [tokens, heads * width] of the slots.
Tensor read_slots(const Tensor& cache, const Tensor& slots, Pages pages);

}  // namespace cannsim
