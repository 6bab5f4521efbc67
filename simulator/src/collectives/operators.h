// A communicator as operators see it (runtime/ranks.h).
#pragma once

#include "collectives/communicator.h"
#include "runtime/ranks.h"

namespace cannsim::collectives {

std::shared_ptr<RankGroup> for_operators(std::shared_ptr<Communicator> communicator);

}  // namespace cannsim::collectives
