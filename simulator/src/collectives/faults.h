// Faults on request in collectives.
#pragma once

#include <cstdint>
#include <string>

namespace cannsim::collectives {

enum class Fault { none, fail, hang };

// What is to happen to this run of a collective: CANNSIM_COLLECTIVE_FAULT=<fail|hang>:<name or *>:<n>
// and, for one rank only, :<rank>. The n-th run (from 1) of the collective in this process has the fault.
Fault requested_fault(const std::string& name, uint32_t rank);

}  // namespace cannsim::collectives
