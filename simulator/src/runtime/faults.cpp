// Faults on request; the grammar is in faults.h. Codes are those of CANN's table of return codes.
#include "runtime/faults.h"

#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <cstdlib>
#include <cstring>
#include <iostream>
#include <sstream>

namespace cannsim {

std::atomic<bool> faulting{false};

struct Fault {
  enum Kind { out_of_memory, device_lost, operator_error, slow, bit_flip, killed, hang } kind;
  std::string text, operation;
  int64_t at = 1, device = -1, rank = -1, times = 1, code = ACL_ERROR_RT_AICORE_EXCEPTION, delay_us = 1000, bit = -1;
  uint64_t epoch = 0;  // of the set it belongs to
  std::atomic<int64_t> seen{0}, struck{0};
};

namespace {

constexpr const char* kKinds[] = {"out-of-memory", "device-lost", "operator-error", "slow", "bit-flip", "kill", "hang"};

struct Faults {
  std::mutex mutex;
  std::vector<std::shared_ptr<Fault>> all, retired;  // a task may still hold a retired one
  std::atomic<uint64_t> epoch{0};                    // ends hangs
  std::atomic<bool> lost[kMaxDevices] = {};
};
Faults& faults() {
  static auto* made = new Faults;
  return *made;
}

size_t distance(const std::string& a, const std::string& b) {
  std::vector<size_t> row(b.size() + 1);
  for (size_t j = 0; j <= b.size(); ++j) row[j] = j;
  for (size_t i = 1; i <= a.size(); ++i) {
    size_t diagonal = row[0]++;
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t next = std::min({row[j] + 1, row[j - 1] + 1, diagonal + (a[i - 1] != b[j - 1])});
      diagonal = row[j];
      row[j] = next;
    }
  }
  return row[b.size()];
}

[[noreturn]] void refuse_name(const std::string& what, const std::string& name, const std::vector<std::string>& known) {
  const auto near = std::min_element(known.begin(), known.end(), [&](auto& a, auto& b) { return distance(name, a) < distance(name, b); });
  std::string list;
  for (const auto& one : known) list += " " + one;
  throw Error(ACL_ERROR_RT_PARAM_INVALID, what + " '" + name + "' does not exist; did you mean " + *near + "? Known:" + list);
}

int64_t whole(const std::string& key, const std::string& value, int64_t least) {
  char* end = nullptr;
  const long long number = std::strtoll(value.c_str(), &end, 10);
  if (value.empty() || *end != '\0' || number < least)
    throw Error(ACL_ERROR_RT_PARAM_INVALID, key + "=" + value + " is not a whole number from " + std::to_string(least) + " on");
  return number;
}

// Which keys a kind takes beside device, rank and times.
std::vector<std::string> keys_of(Fault::Kind kind) {
  std::vector<std::string> keys{"device", "rank", "times"};
  if (kind == Fault::out_of_memory) {
    keys.push_back("allocation");
  } else {
    keys.insert(keys.end(), {"launch", "operator"});
  }
  if (kind == Fault::operator_error) keys.push_back("code");
  if (kind == Fault::slow) keys.push_back("delay-us");
  if (kind == Fault::bit_flip) keys.push_back("bit");
  return keys;
}

void set_key(Fault& fault, const std::string& key, const std::string& value) {
  const auto keys = keys_of(fault.kind);
  if (std::find(keys.begin(), keys.end(), key) == keys.end()) refuse_name(std::string("key of ") + kKinds[fault.kind], key, keys);
  if (key == "operator") {
    fault.operation = value;
  } else if (key == "launch" || key == "allocation") {
    fault.at = whole(key, value, 1);
  } else if (key == "device") {
    fault.device = whole(key, value, 0);
    if (fault.device >= int64_t(settings().visible.size()))
      throw Error(ACL_ERROR_RT_INVALID_DEVICEID, "device=" + value + ": " + std::to_string(settings().visible.size()) + " devices are visible");
  } else if (key == "rank") {
    fault.rank = whole(key, value, 0);
  } else if (key == "times") {
    fault.times = whole(key, value, 0);
  } else if (key == "code") {
    fault.code = whole(key, value, 1);
  } else if (key == "delay-us") {
    fault.delay_us = whole(key, value, 1);
  } else {
    fault.bit = whole(key, value, 0);
  }
}

std::shared_ptr<Fault> parse_one(const std::string& text) {
  const size_t colon = text.find(':');
  const std::string kind = text.substr(0, colon);
  const auto* found = std::find(std::begin(kKinds), std::end(kKinds), kind);
  if (found == std::end(kKinds)) refuse_name("fault", kind, {std::begin(kKinds), std::end(kKinds)});
  auto fault = std::make_shared<Fault>();
  fault->kind = Fault::Kind(found - kKinds);
  fault->text = text;
  if (fault->kind == Fault::slow) fault->times = 0;
  if (colon == std::string::npos) return fault;
  std::stringstream pairs(text.substr(colon + 1));
  for (std::string pair; std::getline(pairs, pair, ',');) {
    const size_t equals = pair.find('=');
    if (equals == std::string::npos) throw Error(ACL_ERROR_RT_PARAM_INVALID, "'" + pair + "' in fault '" + text + "' is not key=value");
    set_key(*fault, pair.substr(0, equals), pair.substr(equals + 1));
  }
  return fault;
}

std::vector<std::shared_ptr<Fault>> parse(std::string text) {
  std::vector<std::shared_ptr<Fault>> made;
  text.erase(std::remove_if(text.begin(), text.end(), [](unsigned char c) { return std::isspace(c) != 0; }), text.end());
  std::stringstream parts(text);
  for (std::string part; std::getline(parts, part, ';');) {
    if (!part.empty()) made.push_back(parse_one(part));
  }
  return made;
}

void set(const std::string& text) {
  auto made = parse(text);
  auto& own = faults();
  std::lock_guard lock(own.mutex);
  own.retired.insert(own.retired.end(), own.all.begin(), own.all.end());
  own.all = std::move(made);
  const uint64_t epoch = ++own.epoch;
  for (const auto& fault : own.all) fault->epoch = epoch;
  faulting = !own.all.empty() || std::any_of(std::begin(own.lost), std::end(own.lost), [](auto& lost) { return lost.load(); });
}

bool here(const Fault& fault, int device) {
  if (fault.device >= 0 && fault.device != device) return false;
  if (fault.rank < 0) return true;
  const char* rank = std::getenv("RANK");
  return rank != nullptr && std::atoll(rank) == fault.rank;
}

bool due(Fault& fault) {
  if (++fault.seen < fault.at) return false;
  return ++fault.struck <= fault.times || fault.times == 0;
}

void lose(int device) {
  faults().lost[device] = true;
  refuse_lost(device);
}

void flip(const Fault& fault, Task& task) {
  const Output output = task.output();
  if (output.data == nullptr || output.element == 0) return;
  const int64_t bits = int64_t(output.element) * 8, bit = fault.bit < 0 ? bits - 2 : fault.bit % bits;
  static_cast<unsigned char*>(output.data)[bit / 8] ^= static_cast<unsigned char>(1U << (bit % 8));
}

// Until faults are replaced, which may have happened before the launch's turn came.
void wait_for_ever(const Fault& fault) {
  while (faults().epoch == fault.epoch) std::this_thread::sleep_for(std::chrono::milliseconds(2));
}

}  // namespace

void load_faults() {
  const char* text = std::getenv("CANNSIM_FAULTS");
  if (text == nullptr || *text == '\0') return;
  try {
    set(text);
  } catch (const Error& error) {
    std::cerr << "cannsim: CANNSIM_FAULTS: " << error.what() << std::endl;
    std::_Exit(2);
  }
}

const Fault* strike(const Stream& stream, const Task& task) {
  auto& own = faults();
  std::lock_guard lock(own.mutex);
  for (const auto& fault : own.all) {
    if (fault->kind == Fault::out_of_memory || !here(*fault, stream.device)) continue;
    if (!fault->operation.empty() && fault->operation != task.activity->name) continue;
    if (due(*fault)) return fault.get();
  }
  return nullptr;
}

void run_struck(const Fault& fault, const Stream& stream, Task& task) {
  const std::string where = std::string(task.activity->name) + " on stream " + std::to_string(stream.id) + " of device " +
                            std::to_string(stream.device) + " (injected: " + fault.text + ")";
  switch (fault.kind) {
    case Fault::device_lost: return lose(stream.device);
    case Fault::operator_error: throw Error(int(fault.code), "an error in " + where);
    case Fault::killed: kill(getpid(), SIGKILL); return;
    case Fault::hang: wait_for_ever(fault); break;
    case Fault::slow: std::this_thread::sleep_for(std::chrono::microseconds(fault.delay_us)); break;
    default: break;
  }
  task.run();
  if (fault.kind == Fault::bit_flip) flip(fault, task);
}

void strike_allocation(int device, size_t bytes) {
  auto& own = faults();
  std::lock_guard lock(own.mutex);
  for (const auto& fault : own.all) {
    if (fault->kind == Fault::out_of_memory && here(*fault, device) && due(*fault))
      throw Error(ACL_ERROR_RT_MEMORY_ALLOCATION, "out of memory on device " + std::to_string(device) + ": " + std::to_string(bytes) +
                                                      " bytes asked (injected: " + fault->text + ")");
  }
}

void refuse_lost(int device) {
  if (faulting.load(std::memory_order_relaxed) && faults().lost[device])
    throw Error(ACL_ERROR_RT_LOST_HEARTBEAT, "device " + std::to_string(device) + " is lost: its task scheduler has no heartbeat (injected)");
}

void find_again(int device) { faults().lost[device] = false; }

}  // namespace cannsim

extern "C" {

// Replaces all faults; an empty text ends them, hangs too. Returns 0, or the code with the message
// in aclGetRecentErrMsg.
CANNSIM_API int cannsim_set_faults(const char* text) {
  return cannsim::guarded([&] { cannsim::set(text); });
}
// Says whether the text is well formed.
CANNSIM_API int cannsim_check_faults(const char* text) {
  return cannsim::guarded([&] { cannsim::parse(text); });
}
// How often the faults have struck, in their order, separated by spaces. Returns the length.
CANNSIM_API size_t cannsim_struck_faults(char* buffer, size_t room) {
  auto& own = cannsim::faults();
  std::lock_guard lock(own.mutex);
  std::string text;
  for (const auto& fault : own.all) {
    const int64_t struck = fault->struck;
    if (!text.empty()) text += ' ';
    text += std::to_string(fault->times == 0 ? struck : std::min(struck, fault->times));
  }
  if (room > 0) {
    std::strncpy(buffer, text.c_str(), room - 1);
    buffer[room - 1] = '\0';
  }
  return text.size();
}

}  // extern "C"
