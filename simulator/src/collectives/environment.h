// HCCL's environment variables, as its documentation defines them.
#pragma once

#include <chrono>
#include <cstdint>

namespace cannsim::collectives {

struct Environment {
  std::chrono::seconds connect_timeout;  // HCCL_CONNECT_TIMEOUT, 120 s; HCCL takes 120 to 7200, here 1 to 7200
  std::chrono::seconds exec_timeout;     // HCCL_EXEC_TIMEOUT, 1836 s (assumed for all chips); 0: never
  uint64_t buffer_bytes;                 // HCCL_BUFFSIZE, 200 MB
  uint16_t base_port;                    // HCCL_IF_BASE_PORT, 60000: where a rank table's root listens
};

// Read anew for each communicator. Throws HCCL_E_PARA for a value out of range.
Environment environment();

}  // namespace cannsim::collectives
