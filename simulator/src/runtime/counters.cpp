// Counters: launches by operator, bytes, copies, synchronisations and memory of this process.
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <shared_mutex>
#include <sstream>

#include "runtime/runtime.h"

namespace cannsim {
namespace {

struct Operators {
  std::mutex mutex;
  std::map<std::string, std::unique_ptr<Tally>> tallies;
};

Operators& operators() {
  static auto* all = new Operators;
  return *all;
}

std::string json(const Tally& tally) {
  return "{\"count\": " + std::to_string(tally.count.load()) + ", \"bytes\": " + std::to_string(tally.bytes.load()) + "}";
}

void clear(Tally& tally) {
  tally.count = 0;
  tally.bytes = 0;
}

// Written beside and renamed, so that a reader never sees half a file.
void write_counters() {
  const std::string& base = settings().counters_path;
  const std::string path = base + "/counters." + std::to_string(getpid()) + ".json";
  const std::string part = path + ".part";
  FILE* file = std::fopen(part.c_str(), "w");
  if (file == nullptr) {
    std::perror(("cannsim: cannot write the counters to " + part).c_str());
    return;
  }
  const std::string text = counters_json() + "\n";
  const bool whole = std::fwrite(text.data(), 1, text.size(), file) == text.size();
  if (std::fclose(file) != 0 || !whole || std::rename(part.c_str(), path.c_str()) != 0)
    std::perror(("cannsim: cannot write the counters to " + path).c_str());
}

}  // namespace

Counters& counters() {
  static auto* all = new Counters;
  return *all;
}

Tally& operator_tally(const std::string& name) {
  Operators& all = operators();
  std::lock_guard lock(all.mutex);
  auto& tally = all.tallies[name];
  if (!tally) tally = std::make_unique<Tally>();
  return *tally;
}

std::string counters_json() {
  Counters& c = counters();
  std::ostringstream out;
  out << "{\"schema\": 1, \"pid\": " << getpid() << ", \"chip\": \"" << settings().chip.soc << "\", \"cann\": \"" << settings().cann.version
      << "\", \"launches\": {";
  {
    Operators& all = operators();
    std::lock_guard lock(all.mutex);
    const char* separator = "";
    for (auto& [name, tally] : all.tallies) {
      if (tally->count.load() == 0) continue;
      out << separator << '"' << name << "\": " << json(*tally);
      separator = ", ";
    }
  }
  out << "}, \"copies\": {\"host_to_device\": " << json(c.host_to_device) << ", \"device_to_host\": " << json(c.device_to_host)
      << ", \"device_to_device\": " << json(c.device_to_device) << ", \"memset\": " << json(c.memset)
      << "}, \"synchronizations\": {\"stream\": " << c.stream_syncs << ", \"device\": " << c.device_syncs << ", \"event\": " << c.event_syncs
      << "}, \"events\": {\"recorded\": " << c.events_recorded << ", \"waits\": " << c.event_waits << "}, \"allocations\": " << c.allocations
      << ", \"memory\": [";
  for (size_t i = 0; i < settings().visible.size(); ++i) {
    Device& d = device(int(i));
    out << (i ? ", " : "") << "{\"device\": " << i << ", \"current\": " << d.used << ", \"peak\": " << d.peak << "}";
  }
  out << "]}";
  return out.str();
}

void reset_counters() {
  Counters& c = counters();
  for (Tally* tally : {&c.host_to_device, &c.device_to_host, &c.device_to_device, &c.memset}) clear(*tally);
  for (auto* value : {&c.stream_syncs, &c.device_syncs, &c.event_syncs, &c.events_recorded, &c.event_waits, &c.allocations}) *value = 0;
  Operators& all = operators();
  std::lock_guard lock(all.mutex);
  for (auto& [name, tally] : all.tallies) clear(*tally);
}

// atexit runs in a process that leaves by exit(); one that leaves by _exit() (a child of Python's
// multiprocessing) asks for its counters through cannsim_write_counters.
void write_counters_at_exit() {
  if (settings().counters_path.empty()) return;
  static const int registered = std::atexit(write_counters);
  (void)registered;
}

}  // namespace cannsim

extern "C" {

// The counters of this process as JSON. Returns the length; writes at most `room` bytes.
CANNSIM_API size_t cannsim_counters(char* buffer, size_t room) {
  const std::string text = cannsim::counters_json();
  if (room > 0) {
    const size_t length = std::min(room - 1, text.size());
    std::memcpy(buffer, text.data(), length);
    buffer[length] = '\0';
  }
  return text.size();
}
CANNSIM_API void cannsim_reset_counters() { cannsim::reset_counters(); }
CANNSIM_API void cannsim_write_counters() { cannsim::write_counters(); }

}  // extern "C"
