// How the ranks of a communicator find each other and get their channels.
#pragma once

#include "collectives/communicator.h"

namespace cannsim::collectives {

// Who calls whom: what HcclRootInfo carries from the root to the other ranks.
struct Meeting {
  char magic[8];
  char token[32];     // known to the ranks only; a stranger's connection is dropped
  char host[96];      // of the root
  char local[96];     // its address for ranks of the same host
  Address address;    // its address for the others
  char name[128];     // of the communicator
  uint32_t patient;   // ranks may come before the root (they know of it from a rank table)
};
static_assert(sizeof(Meeting) <= HCCL_ROOT_INFO_BYTES);

// The host as ranks see it: those with the same one share memory, others speak TCP. CANNSIM_HOST
// replaces it, so that one machine can play several.
std::string own_host();

// Opens the place where ranks meet; the process that opened it must hold one of the ranks.
Meeting open_meeting();
// The same for ranks that know each other from a rank table, and so need no word from the root.
// Ranks of the root's host meet it at a name made of `secret`; `address` is for ranks of other hosts.
Meeting known_meeting(const std::string& secret, const std::string& name, const Address& address, bool several_hosts, bool same_host, bool root);

// Joins as `rank` of `ranks`: returns when all have their channels. Throws Failure for all of them
// when one is missing (HCCL_CONNECT_TIMEOUT), leaves, or disagrees.
std::shared_ptr<Communicator> meet(const Meeting& meeting, uint32_t rank, uint32_t ranks, int device, const Options& options);

// A communicator of one rank needs nobody.
std::shared_ptr<Communicator> alone(const Meeting& meeting, int device, const Options& options);

}  // namespace cannsim::collectives
