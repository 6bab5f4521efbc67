// Where a token lies in a paged cache.
#pragma once

#include "operators/quantisation.h"

namespace cannsim {

// A cache as blocks of slots: Norm [blocks, slots, heads, width]; Nz [blocks, heads * width / c0, slots,
// c0] with c0 numbers to 32 bytes; NzInside has Norm's shape and Nz's order of numbers in each block.
enum class Pages { Norm, Nz, NzInside };

// rows [tokens, heads, width] go to `slots` [tokens]; a negative slot is padding.
CANNSIM_API void write_slots(const Tensor& rows, const Tensor& slots, Pages pages, Tensor cache);

// [tokens, heads * width] of the slots.
Tensor read_slots(const Tensor& cache, const Tensor& slots, Pages pages);

}  // namespace cannsim
