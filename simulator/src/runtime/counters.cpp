// Counters: launches by operator, bytes, copies, synchronisations and memory of this process.
#include <fcntl.h>
#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <iostream>
#include <sstream>

#include "runtime/runtime.h"

namespace cannsim {
namespace {

constexpr char kMagic[8] = {'C', 'A', 'N', 'N', 'S', 'I', 'M', '1'};

std::mutex names_mutex;
Counters* all = nullptr;

std::string folder;  // where this process keeps its counters; empty: nowhere

std::string path_of(uint64_t pid, const char* suffix) { return folder + "/counters." + std::to_string(pid) + suffix; }

// A file of the process that is mapped, or private memory when nobody asked for counters or the
// file cannot be made (said once, and the program goes on). CANNSIM_COUNTERS is read here, not
// with the other settings: a process may set it before it forks the one that uses the device.
void* map(void* where) {
  int file = -1, flags = MAP_PRIVATE | MAP_ANONYMOUS;
  const char* wanted = std::getenv("CANNSIM_COUNTERS");
  folder = wanted == nullptr ? "" : wanted;
  if (!folder.empty()) {
    const std::string path = path_of(uint64_t(getpid()), ".bin");
    file = open(path.c_str(), O_RDWR | O_CREAT | O_TRUNC, 0644);
    if (file >= 0 && posix_fallocate(file, 0, sizeof(Counters)) == 0) {
      flags = MAP_SHARED;
    } else {
      std::perror(("cannsim: cannot keep counters in " + path).c_str());
      if (file >= 0) close(file), file = -1;
      folder.clear();
    }
  }
  void* made = mmap(where, sizeof(Counters), PROT_READ | PROT_WRITE, flags | (where != nullptr ? MAP_FIXED : 0), file, 0);
  if (file >= 0) close(file);
  if (made == MAP_FAILED) {
    std::perror("cannsim: no memory for counters");
    std::abort();
  }
  return made;
}

void begin(Counters& fresh) {
  std::memcpy(fresh.magic, kMagic, sizeof(kMagic));
  fresh.pid = uint64_t(getpid());
  std::strncpy(fresh.chip, settings().chip.soc, sizeof(fresh.chip) - 1);
  std::strncpy(fresh.cann, settings().cann.version, sizeof(fresh.cann) - 1);
  fresh.devices = settings().visible.size();
}

// A forked child counts for itself, at the same addresses: the names stay, the counts begin anew.
void restart_in_child() {
  auto names = std::make_unique<std::vector<std::string>>();
  for (uint64_t i = 0; i < all->operators; ++i) names->push_back(all->slots[i].name);
  map(all);
  begin(*all);
  for (size_t i = 0; i < names->size(); ++i) std::strncpy(all->slots[i].name, (*names)[i].c_str(), sizeof(all->slots[i].name) - 1);
  all->operators = names->size();
}

// At a normal exit the mapping becomes JSON, written beside and renamed.
void write_json() {
  if (folder.empty()) return;
  const std::string path = path_of(all->pid, ".json"), part = path + ".part";
  const std::string text = counters_json(*all) + "\n";
  FILE* file = std::fopen(part.c_str(), "w");
  const bool whole = file != nullptr && std::fwrite(text.data(), 1, text.size(), file) == text.size();
  if (file == nullptr || std::fclose(file) != 0 || !whole || std::rename(part.c_str(), path.c_str()) != 0) {
    std::perror(("cannsim: cannot write the counters to " + path).c_str());
    return;
  }
  std::remove(path_of(all->pid, ".bin").c_str());
}

std::string json(const Tally& tally) {
  return "{\"count\": " + std::to_string(tally.count.load()) + ", \"bytes\": " + std::to_string(tally.bytes.load()) + "}";
}

void clear(Tally& tally) {
  tally.count = 0;
  tally.bytes = 0;
}

size_t hand_out(const std::string& text, char* buffer, size_t room) {
  if (room > 0) {
    const size_t length = std::min(room - 1, text.size());
    std::memcpy(buffer, text.data(), length);
    buffer[length] = '\0';
  }
  return text.size();
}

}  // namespace

Counters& counters() {
  static Counters* made = [] {
    all = static_cast<Counters*>(map(nullptr));
    begin(*all);
    pthread_atfork(nullptr, nullptr, restart_in_child);
    std::atexit(write_json);
    return all;
  }();
  return *made;
}

Tally& operator_tally(const std::string& name) {
  Counters& c = counters();
  std::lock_guard lock(names_mutex);
  const uint64_t known = c.operators;
  for (uint64_t i = 0; i < known; ++i) {
    if (name == c.slots[i].name) return c.slots[i].tally;
  }
  if (known == kMaxOperators) throw Error(ACL_ERROR_INTERNAL_ERROR, "more than " + std::to_string(kMaxOperators) + " operators were launched");
  std::strncpy(c.slots[known].name, name.c_str(), sizeof(c.slots[known].name) - 1);
  c.operators = known + 1;
  return c.slots[known].tally;
}

std::string counters_json(const Counters& c) {
  std::map<std::string, const Tally*> launches;
  for (uint64_t i = 0; i < c.operators; ++i) {
    if (c.slots[i].tally.count > 0) launches[c.slots[i].name] = &c.slots[i].tally;
  }
  std::ostringstream out;
  out << "{\"schema\": 1, \"pid\": " << c.pid << ", \"chip\": \"" << c.chip << "\", \"cann\": \"" << c.cann << "\", \"launches\": {";
  const char* separator = "";
  for (const auto& [name, tally] : launches) {
    out << separator << '"' << name << "\": " << json(*tally);
    separator = ", ";
  }
  out << "}, \"copies\": {\"host_to_device\": " << json(c.host_to_device) << ", \"device_to_host\": " << json(c.device_to_host)
      << ", \"device_to_device\": " << json(c.device_to_device) << ", \"memset\": " << json(c.memset)
      << "}, \"synchronizations\": {\"stream\": " << c.stream_syncs << ", \"device\": " << c.device_syncs << ", \"event\": " << c.event_syncs
      << "}, \"events\": {\"recorded\": " << c.events_recorded << ", \"waits\": " << c.event_waits << "}, \"allocations\": " << c.allocations
      << ", \"memory\": [";
  for (uint64_t i = 0; i < c.devices; ++i) {
    out << (i ? ", " : "") << "{\"device\": " << i << ", \"current\": " << c.memory[i].current << ", \"peak\": " << c.memory[i].peak << "}";
  }
  out << "]}";
  return out.str();
}

void reset_counters() {
  Counters& c = counters();
  for (Tally* tally : {&c.host_to_device, &c.device_to_host, &c.device_to_device, &c.memset}) clear(*tally);
  for (auto* value : {&c.stream_syncs, &c.device_syncs, &c.event_syncs, &c.events_recorded, &c.event_waits, &c.allocations}) *value = 0;
  for (uint64_t i = 0; i < c.operators; ++i) clear(c.slots[i].tally);
}

}  // namespace cannsim

extern "C" {

// The counters of this process as JSON. Returns the length; writes at most `room` bytes.
CANNSIM_API size_t cannsim_counters(char* buffer, size_t room) {
  return cannsim::hand_out(cannsim::counters_json(cannsim::counters()), buffer, room);
}
CANNSIM_API void cannsim_reset_counters() { cannsim::reset_counters(); }

// The counters in a file that a process left without writing JSON (it was killed, or left by
// _exit()). Returns the length, or 0 when the file is not one of counters.
CANNSIM_API size_t cannsim_counters_file(const char* path, char* buffer, size_t room) {
  const int file = open(path, O_RDONLY);
  if (file < 0) return 0;
  const bool whole = lseek(file, 0, SEEK_END) == off_t(sizeof(cannsim::Counters));
  void* mapped = whole ? mmap(nullptr, sizeof(cannsim::Counters), PROT_READ, MAP_PRIVATE, file, 0) : MAP_FAILED;
  close(file);
  if (mapped == MAP_FAILED) return 0;
  const auto& left = *static_cast<const cannsim::Counters*>(mapped);
  const bool ours = std::memcmp(left.magic, cannsim::kMagic, sizeof(left.magic)) == 0 && left.operators <= cannsim::kMaxOperators;
  const size_t length = ours ? cannsim::hand_out(cannsim::counters_json(left), buffer, room) : 0;
  munmap(mapped, sizeof(cannsim::Counters));
  return length;
}

}  // extern "C"
