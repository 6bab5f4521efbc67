// Reads which run of which collective is to fail or to hang.
#include "collectives/faults.h"

#include <atomic>
#include <cstdlib>
#include <vector>

#include "collectives/sockets.h"

namespace cannsim::collectives {
namespace {

struct Request {
  Fault fault = Fault::none;
  std::string name;
  long run = 0, rank = -1;
};

std::vector<std::string> parts_of(const std::string& text) {
  std::vector<std::string> parts(1);
  for (char c : text) {
    if (c == ':') {
      parts.emplace_back();
    } else {
      parts.back() += c;
    }
  }
  return parts;
}

Request read() {
  const char* text = std::getenv("CANNSIM_COLLECTIVE_FAULT");
  if (text == nullptr || *text == '\0') return {};
  const auto parts = parts_of(text);
  Request made;
  if (parts.size() == 3 || parts.size() == 4) {
    made.fault = parts[0] == "fail" ? Fault::fail : parts[0] == "hang" ? Fault::hang : Fault::none;
    made.name = parts[1];
    made.run = std::atol(parts[2].c_str());
    if (parts.size() == 4) made.rank = std::atol(parts[3].c_str());
  }
  if (made.fault == Fault::none || made.run < 1)
    throw Failure(HCCL_E_PARA, std::string("CANNSIM_COLLECTIVE_FAULT=") + text + " is not <fail|hang>:<collective or *>:<number from 1>[:<rank>]", ACL_ERROR_RT_PARAM_INVALID);
  return made;
}

}  // namespace

Fault requested_fault(const std::string& name, uint32_t rank) {
  static const Request wanted = read();
  static std::atomic<long> runs{0};
  if (wanted.fault == Fault::none || (wanted.name != "*" && wanted.name != name) || (wanted.rank >= 0 && wanted.rank != long(rank))) return Fault::none;
  return ++runs == wanted.run ? wanted.fault : Fault::none;
}

}  // namespace cannsim::collectives
