// Faults on request: what CANNSIM_FAULTS (or cannsim.faults) asks for, and where it strikes.
//
//   CANNSIM_FAULTS = fault (';' fault)*      fault = kind [':' key '=' value (',' key '=' value)*]
//
// kinds: out-of-memory, device-lost, operator-error, slow, bit-flip, kill, hang.
// keys: launch=N or allocation=N  the N-th that matches (1, the first, by default)
//       operator=NAME             only launches of this activity (aclnnAdd, HcclAllReduce)
//       device=D, rank=R          only on this device; only in the process whose RANK is R
//       times=N                   how often it strikes (1; 0: always)
//       code=N                    the ACL code of operator-error
//       delay-us=N                of slow;  bit=N: of bit-flip, in the first element of the output
#pragma once

#include "runtime/runtime.h"

namespace cannsim {

struct Fault;

extern CANNSIM_API std::atomic<bool> faulting;  // somebody has asked for faults

// Reads CANNSIM_FAULTS; one that cannot be honoured ends the process (exit code 2).
void load_faults();

// The fault that this launch meets, or null. Counts the launch.
CANNSIM_API const Fault* strike(const Stream& stream, const Task& task);
CANNSIM_API void run_struck(const Fault& fault, const Stream& stream, Task& task);

// Throws ACL_ERROR_RT_MEMORY_ALLOCATION where out-of-memory strikes.
void strike_allocation(int device, size_t bytes);

// Throws ACL_ERROR_RT_LOST_HEARTBEAT once the device has been lost; a reset of the device finds it again.
void refuse_lost(int device);
void find_again(int device);

}  // namespace cannsim
