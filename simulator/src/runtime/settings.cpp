// Which chip, CANN version and devices this process has: profile data chosen by the environment.
#include <cstdlib>
#include <cstring>
#include <iostream>
#include <sstream>

#include "runtime/runtime.h"

namespace cannsim {
namespace {

#include "profile_table.inc"

std::string variable(const char* name, const char* fallback) {
  const char* value = std::getenv(name);
  return value != nullptr && *value != '\0' ? value : fallback;
}

// A setting that cannot be honoured ends the process: going on would simulate another machine.
[[noreturn]] void refuse(const std::string& message) {
  std::cerr << "cannsim: " << message << std::endl;
  std::exit(2);
}

template <typename Profile, size_t n>
const Profile& choose(const Profile (&table)[n], const char* Profile::*key, const char* name, const char* fallback) {
  const std::string wanted = variable(name, fallback);
  std::string known;
  for (const Profile& profile : table) {
    if (wanted == profile.*key) return profile;
    known += std::string(" ") + profile.*key;
  }
  refuse(std::string(name) + "=" + wanted + " is not a profile; known:" + known);
}

int64_t number(const char* name, int64_t fallback, int64_t least, int64_t most) {
  const std::string text = variable(name, "");
  if (text.empty()) return fallback;
  char* end = nullptr;
  const long long value = std::strtoll(text.c_str(), &end, 10);
  if (*end != '\0' || value < least || value > most)
    refuse(std::string(name) + "=" + text + " is not a whole number from " + std::to_string(least) + " to " + std::to_string(most));
  return value;
}

// ASCEND_RT_VISIBLE_DEVICES: the physical devices that are visible, in this order; as in CANN,
// an entry that does not exist ends the list.
std::vector<int> visible_devices(int total) {
  std::vector<int> visible;
  const char* list = std::getenv("ASCEND_RT_VISIBLE_DEVICES");
  if (list == nullptr) {
    for (int i = 0; i < total; ++i) visible.push_back(i);
    return visible;
  }
  std::stringstream stream(list);
  for (std::string item; std::getline(stream, item, ',');) {
    char* end = nullptr;
    const long id = std::strtol(item.c_str(), &end, 10);
    if (item.empty() || *end != '\0' || id < 0 || id >= total) break;
    visible.push_back(int(id));
  }
  return visible;
}

Settings read() {
  Settings made{};
  made.chip = choose(kChips, &ChipProfile::soc, "CANNSIM_CHIP", "Ascend910B1");
  made.cann = choose(kCannVersions, &CannProfile::version, "CANNSIM_CANN", "9.1.0");
  made.visible = visible_devices(int(number("CANNSIM_DEVICES", 2, 1, 64)));
  made.device_memory = number("CANNSIM_DEVICE_MEMORY", made.chip.hbm_bytes, 1 << 20, int64_t(1) << 44);
  made.inline_mode = variable("CANNSIM_INLINE", "0") == "1";
  return made;
}

}  // namespace

const Settings& settings() {
  static const Settings* made = new Settings(read());
  return *made;
}

namespace {

bool listed(const std::vector<const char*>& names, const char* name) {
  for (const char* entry : names) {
    const size_t length = std::strlen(entry);
    const bool beginning = length > 0 && entry[length - 1] == '*';
    if (beginning ? std::strncmp(entry, name, length - 1) == 0 : std::strcmp(entry, name) == 0) return true;
  }
  return false;
}

}  // namespace

bool cann_lacks(const char* function) { return listed(settings().cann.lacks, function); }
bool chip_lacks(const char* function) { return listed(settings().chip.lacks, function); }
bool chip_lacks_type(const char* type) { return listed(settings().chip.lacks_types, type); }

}  // namespace cannsim
