// Reads HCCL's environment variables.
#include "collectives/environment.h"

#include <cstdlib>

#include "collectives/sockets.h"

namespace cannsim::collectives {
namespace {

int64_t number(const char* name, int64_t fallback, int64_t least, int64_t most) {
  const char* text = std::getenv(name);
  if (text == nullptr || *text == '\0') return fallback;
  char* end = nullptr;
  const long long value = std::strtoll(text, &end, 10);
  if (*end != '\0' || value < least || value > most)
    throw Failure(HCCL_E_PARA, std::string("EI0001: ") + name + "=" + text + " is not a whole number from " + std::to_string(least) + " to " + std::to_string(most),
                  ACL_ERROR_RT_PARAM_INVALID);
  return value;
}

}  // namespace

Environment environment() {
  return {std::chrono::seconds(number("HCCL_CONNECT_TIMEOUT", 120, 1, 7200)), std::chrono::seconds(number("HCCL_EXEC_TIMEOUT", 1836, 0, INT32_MAX)),
          uint64_t(number("HCCL_BUFFSIZE", 200, 1, 1 << 20)) << 20, uint16_t(number("HCCL_IF_BASE_PORT", 60000, 1024, 65520))};
}

}  // namespace cannsim::collectives
