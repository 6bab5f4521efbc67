// Rank tables: the JSON files that say which device of which server each rank is.
#pragma once

#include "collectives/rendezvous.h"

namespace cannsim::collectives {

struct RankTable {
  struct Rank {
    uint32_t rank;
    int device;
    std::string server, host_ip;
  };
  std::vector<Rank> ranks;  // by rank
  std::string secret;       // the same for all that read the same file
};

// Reads versions 1.0 to 1.2. Throws HCCL_E_OPEN_FILE_FAILURE or HCCL_E_PARA (EI0004), with the reason.
RankTable read_rank_table(const std::string& path);

// The communicator that the table describes, on the calling thread's device.
std::shared_ptr<Communicator> meet_by_table(const std::string& path, uint32_t rank, int device, const Options& options);

}  // namespace cannsim::collectives
