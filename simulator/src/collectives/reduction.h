// The element-wise reductions of HCCL, and which of them it takes on which chip.
#pragma once

#include "collectives/sockets.h"

namespace cannsim::collectives {

size_t size_of(HcclDataType type);
const char* name_of(HcclDataType type);
const char* name_of(HcclReduceOp op);

// target[i] = target[i] op source[i] for `count` elements. Each step rounds to the type, as HCCL's
// reductions in the type do (assumed); integers wrap (assumed); a NaN stays (assumed).
using Combine = void (*)(void* target, const void* source, size_t count);
Combine combine_of(HcclDataType type, HcclReduceOp op);

// Throw HCCL_E_NOT_SUPPORT for what HCCL refuses on the chip, HCCL_E_PARA for values it does not know.
void check_type(const char* call, HcclDataType type);
void check_reduction(const char* call, HcclDataType type, HcclReduceOp op);

}  // namespace cannsim::collectives
