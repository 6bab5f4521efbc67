// Counters: launches by operator and stream, bytes, copies, waits, graphs and memory of this process.
#include "runtime/counters.h"

#include <dirent.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <sstream>

#include "runtime/runtime.h"
#include "runtime/timeline.h"

namespace cannsim {
namespace {

constexpr char kMagic[8] = {'C', 'A', 'N', 'N', 'S', 'I', 'M', '2'};

std::mutex names_mutex;
Counters* all = nullptr;
Activity known_activities[kMaxActivities];

std::string folder;  // where this process leaves its counters; empty: nowhere
std::string entry;   // where others see it while it lives; empty: nowhere

std::string path_of(uint64_t pid, const char* suffix) { return folder + "/counters." + std::to_string(pid) + suffix; }

// When a process started, in clock ticks since boot (field 22 of /proc/<pid>/stat); 0: it is gone.
uint64_t started_at(uint64_t pid) {
  char text[1024];
  FILE* file = std::fopen(("/proc/" + std::to_string(pid) + "/stat").c_str(), "r");
  if (file == nullptr) return 0;
  const size_t length = std::fread(text, 1, sizeof(text) - 1, file);
  std::fclose(file);
  text[length] = '\0';
  const char* field = std::strrchr(text, ')');  // the name before it may hold anything
  for (int i = 2; field != nullptr && i < 22; ++i) field = std::strchr(field + 1, ' ');
  return field == nullptr ? 0 : std::strtoull(field, nullptr, 10);
}

// The folder in which live processes are found (CANNSIM_REGISTRY; "0" for none).
std::string registry() {
  const char* wanted = std::getenv("CANNSIM_REGISTRY");
  if (wanted != nullptr && std::strcmp(wanted, "0") == 0) return "";
  const std::string path = wanted != nullptr && *wanted != '\0' ? wanted : "/dev/shm/cannsim-" + std::to_string(getuid());
  return mkdir(path.c_str(), 0700) == 0 || errno == EEXIST ? path : "";
}

// Removes what killed processes left, so that the folder does not grow.
void sweep(const std::string& path) {
  DIR* all = opendir(path.c_str());
  if (all == nullptr) return;
  while (const dirent* found = readdir(all)) {
    const uint64_t pid = std::strtoull(found->d_name, nullptr, 10);
    if (pid > 0 && started_at(pid) == 0) unlink((path + "/" + found->d_name).c_str());
  }
  closedir(all);
}

// A file of the process that is mapped, or private memory where none can be made (said once where
// counters were asked for, and the program goes on). CANNSIM_COUNTERS is read here, not with the
// other settings: a process may set it before it forks the one that uses the device.
void* map(void* where) {
  int file = -1, flags = MAP_PRIVATE | MAP_ANONYMOUS;
  const char* wanted = std::getenv("CANNSIM_COUNTERS");
  folder = wanted == nullptr ? "" : wanted;
  const std::string seen = registry(), number = std::to_string(getpid());
  entry = seen.empty() ? "" : seen + "/" + number + ".bin";
  if (!seen.empty()) sweep(seen);
  if (!folder.empty() || !entry.empty()) {
    const std::string path = folder.empty() ? entry : path_of(uint64_t(getpid()), ".bin");
    file = open(path.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    if (file >= 0 && posix_fallocate(file, 0, sizeof(Counters)) == 0) {
      flags = MAP_SHARED;
    } else {
      if (!folder.empty()) std::perror(("cannsim: cannot keep counters in " + path).c_str());
      if (file >= 0) close(file), file = -1;
      unlink(path.c_str());
      folder.clear();
      entry.clear();
    }
    if (!folder.empty() && !entry.empty()) {
      char* absolute = realpath(path.c_str(), nullptr);
      unlink(entry.c_str());
      if (absolute == nullptr || symlink(absolute, entry.c_str()) != 0) entry.clear();
      std::free(absolute);
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
  fresh.pid = uint64_t(getpid());
  fresh.started = started_at(fresh.pid);
  fresh.device_memory = settings().device_memory;
  for (size_t i = 0; i < settings().visible.size() && i < kMaxDevices; ++i) fresh.visible[i] = settings().visible[i];
  std::strncpy(fresh.chip, settings().chip.soc, sizeof(fresh.chip) - 1);
  std::strncpy(fresh.cann, settings().cann.version, sizeof(fresh.cann) - 1);
  fresh.devices = std::min<size_t>(settings().visible.size(), kMaxDevices);
  std::memcpy(fresh.magic, kMagic, sizeof(kMagic));  // last: a reader takes it for whole
}

void clear(Tally& tally) {
  tally.count = 0;
  tally.bytes = 0;
}

void clear(Launches& launches) {
  for (Count* value : {&launches.count, &launches.replayed, &launches.flops, &launches.read, &launches.written, &launches.modelled_ns}) *value = 0;
}

void clear(Counters& c) {
  for (Tally* tally : {&c.host_to_device, &c.device_to_host, &c.device_to_device, &c.memset}) clear(*tally);
  for (Count* value : {&c.stream_syncs, &c.device_syncs, &c.event_syncs, &c.events_recorded, &c.event_waits, &c.allocations, &c.graph_captures,
                       &c.graph_replays})
    *value = 0;
  for (uint64_t i = 0; i < c.rows; ++i) clear(c.row[i].launches);
}

// A forked child counts for itself, at the same addresses: activities, streams and rows stay where
// they are, the counts begin anew.
void restart_in_child() {
  auto kept = std::make_unique<char[]>(sizeof(Counters));
  std::memcpy(kept.get(), static_cast<void*>(all), sizeof(Counters));
  map(all);
  std::memcpy(static_cast<void*>(all), kept.get(), sizeof(Counters));
  clear(*all);
  for (auto& memory : all->memory) memory.current = 0, memory.peak = 0;
  begin(*all);
}

// At a normal exit the process is no longer listed, and the mapping becomes JSON, written beside
// and renamed.
void leave() {
  if (!entry.empty()) unlink(entry.c_str());
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

// Where the launches of an activity on a stream are counted. When there are more streams or pairs
// than rows, the rest is counted without its stream, in the row that each activity has from the start.
Launches& find_row(const Activity& activity, const Stream& stream) {
  std::lock_guard lock(names_mutex);
  Counters& c = counters();
  uint32_t number = 0;
  while (number < c.streams && (c.stream[number].device != stream.device || c.stream[number].id != stream.id)) ++number;
  if (number == kMaxStreams) return c.row[activity.slot].launches;
  if (number == c.streams) {
    c.stream[number].device = stream.device;
    c.stream[number].id = stream.id;
    c.streams = number + 1;
  }
  const uint64_t rows = c.rows;
  for (uint64_t i = kMaxActivities; i < rows; ++i) {
    if (c.row[i].activity == activity.slot && c.row[i].stream == number) return c.row[i].launches;
  }
  if (rows == kMaxRows) return c.row[activity.slot].launches;
  c.row[rows].activity = activity.slot;
  c.row[rows].stream = number;
  c.rows = rows + 1;
  return c.row[rows].launches;
}

Launches& row_of(Stream& stream, const Activity& activity) {
  auto& known = stream.rows.of[activity.slot];
  Launches* row = known.load(std::memory_order_acquire);
  if (row == nullptr) {
    row = &find_row(activity, stream);
    known.store(row, std::memory_order_release);
  }
  return *row;
}

void add(Count& to, uint64_t value) { to.fetch_add(value, std::memory_order_relaxed); }

Launches& add_work(Stream& stream, const Task& task) {
  Launches& row = row_of(stream, *task.activity);
  add(row.flops, task.work.flops);
  add(row.read, task.work.read);
  add(row.written, task.work.written);
  add(row.modelled_ns, modelled_ns(task.work, task.activity->kind));
  return row;
}

// ---- JSON -------------------------------------------------------------------------------------

struct Sum {
  uint64_t count = 0, replayed = 0, flops = 0, read = 0, written = 0, modelled_ns = 0;
  void add(const Launches& row) {
    count += row.count, replayed += row.replayed, flops += row.flops, read += row.read, written += row.written, modelled_ns += row.modelled_ns;
  }
  bool any() const { return count + replayed > 0; }
};
using Sums = std::map<std::string, Sum>;

std::string json(const Tally& tally) {
  return "{\"count\": " + std::to_string(tally.count.load()) + ", \"bytes\": " + std::to_string(tally.bytes.load()) + "}";
}

std::string json(const Sum& sum) {
  std::ostringstream out;
  out << "{\"count\": " << sum.count << ", \"replayed\": " << sum.replayed << ", \"flops\": " << sum.flops << ", \"bytes\": " << sum.read + sum.written
      << ", \"bytes_read\": " << sum.read << ", \"bytes_written\": " << sum.written << ", \"modelled_ns\": " << sum.modelled_ns << "}";
  return out.str();
}

std::string json(const Sums& sums) {
  std::ostringstream out;
  const char* separator = "{";
  for (const auto& [name, sum] : sums) {
    if (!sum.any()) continue;
    out << separator << '"' << name << "\": " << json(sum);
    separator = ", ";
  }
  if (separator[0] == '{') out << '{';
  out << '}';
  return out.str();
}

// Of rows that `take` accepts, by activity.
template <typename Take>
Sums sums(const Counters& c, Take take) {
  Sums made;
  for (uint64_t i = 0; i < c.rows; ++i) {
    const auto& entry = c.activity[c.row[i].activity];
    if (c.row[i].activity < c.activities && take(c.row[i], entry.kind)) made[entry.name].add(c.row[i].launches);
  }
  return made;
}

std::string memory_json(const Counters& c) {
  std::ostringstream out;
  for (uint64_t i = 0; i < c.devices && i < kMaxDevices; ++i) {
    out << (i ? ", " : "[") << "{\"device\": " << i << ", \"physical\": " << c.visible[i] << ", \"current\": " << c.memory[i].current
        << ", \"peak\": " << c.memory[i].peak << "}";
  }
  return c.devices == 0 ? "[]" : out.str() + "]";
}

// What `cannsim smi` needs of a process.
std::string process_json(const Counters& c) {
  std::ostringstream out;
  out << "{\"pid\": " << c.pid << ", \"started\": " << c.started << ", \"chip\": \"" << c.chip << "\", \"cann\": \"" << c.cann
      << "\", \"device_memory\": " << c.device_memory << ", \"memory\": " << memory_json(c) << "}";
  return out.str();
}

std::string streams_json(const Counters& c) {
  std::ostringstream out;
  const char* separator = "{";
  for (uint32_t number = 0; number < c.streams; ++number) {
    Sum total;
    auto of_stream = [&](const Counters::Row& row, Kind) { return &row >= &c.row[kMaxActivities] && row.stream == number; };
    const Sums found = sums(c, of_stream);
    for (const auto& [name, sum] : found) {
      total.count += sum.count, total.replayed += sum.replayed, total.flops += sum.flops;
      total.read += sum.read, total.written += sum.written, total.modelled_ns += sum.modelled_ns;
    }
    if (!total.any()) continue;
    out << separator << '"' << c.stream[number].device << ':' << c.stream[number].id << "\": {\"total\": " << json(total)
        << ", \"launches\": " << json(found) << '}';
    separator = ", ";
  }
  if (separator[0] == '{') out << '{';
  out << '}';
  return out.str();
}

size_t hand_out(const std::string& text, char* buffer, size_t room) {
  if (room > 0) {
    const size_t length = std::min(room - 1, text.size());
    std::memcpy(buffer, text.data(), length);
    buffer[length] = '\0';
  }
  return text.size();
}

// ---- who is told of waits ---------------------------------------------------------------------

using WaitListener = void (*)(int what);
std::atomic<WaitListener> wait_listener{nullptr};

// Whether this thread runs Python. Asked without the interpreter's lock: a thread of torch-npu's
// must not wait for it while a Python thread holds it and waits for that thread.
bool in_python() {
  using Function = void* (*)();
  static const auto current = reinterpret_cast<Function>(dlsym(RTLD_DEFAULT, "PyGILState_GetThisThreadState"));
  return current != nullptr && current() != nullptr;
}

}  // namespace

Counters& counters() {
  static Counters* made = [] {
    all = static_cast<Counters*>(map(nullptr));
    begin(*all);
    for (uint32_t i = 0; i < kMaxActivities; ++i) all->row[i].activity = i;
    all->rows = kMaxActivities;
    pthread_atfork(nullptr, nullptr, restart_in_child);
    std::atexit(leave);
    return all;
  }();
  return *made;
}

const Activity& activity(const std::string& name, Kind kind) {
  Counters& c = counters();
  std::lock_guard lock(names_mutex);
  const uint32_t known = uint32_t(c.activities);
  for (uint32_t i = 0; i < known; ++i) {
    if (name == c.activity[i].name) return known_activities[i];
  }
  if (known == kMaxActivities) throw Error(ACL_ERROR_INTERNAL_ERROR, "more than " + std::to_string(kMaxActivities) + " operators were launched");
  std::strncpy(c.activity[known].name, name.c_str(), sizeof(c.activity[known].name) - 1);
  c.activity[known].kind = kind;
  known_activities[known] = {c.activity[known].name, known, kind};
  c.activities = known + 1;
  return known_activities[known];
}

void count_launch(Stream& stream, Task& task) {
  add(add_work(stream, task).count, 1);
  if (!observing.load(std::memory_order_relaxed)) return;
  task.submitted_ns = steady_ns();
  if (recording.load(std::memory_order_relaxed)) record_launch(task, task.submitted_ns);
}
void count_replay(Stream& stream, Task& task) {
  add(add_work(stream, task).replayed, 1);
  if (observing.load(std::memory_order_relaxed)) task.submitted_ns = steady_ns(), task.flow = 0;
}

HostWait::HostWait(Wait what) : what_(what), begin_ns_(recording.load(std::memory_order_relaxed) ? steady_ns() : 0) {
  Counters& c = counters();
  add(what == Wait::stream ? c.stream_syncs : what == Wait::device ? c.device_syncs : c.event_syncs, 1);
  if (WaitListener listener = wait_listener.load(std::memory_order_acquire); listener != nullptr && in_python()) listener(int(what));
}

HostWait::~HostWait() {
  static const char* const names[] = {"wait for stream", "wait for device", "wait for event"};
  if (begin_ns_ != 0 && recording.load(std::memory_order_relaxed)) record_call(names[int(what_)], begin_ns_, steady_ns());
}

std::string counters_json(const Counters& c) {
  std::ostringstream out;
  out << "{\"schema\": 2, \"pid\": " << c.pid << ", \"chip\": \"" << c.chip << "\", \"cann\": \"" << c.cann
      << "\", \"launches\": " << json(sums(c, [](const Counters::Row&, Kind kind) { return kind == Kind::operation || kind == Kind::collective; }))
      << ", \"collectives\": " << json(sums(c, [](const Counters::Row&, Kind kind) { return kind == Kind::collective; }))
      << ", \"copies\": {\"host_to_device\": " << json(c.host_to_device) << ", \"device_to_host\": " << json(c.device_to_host)
      << ", \"device_to_device\": " << json(c.device_to_device) << ", \"memset\": " << json(c.memset)
      << "}, \"synchronizations\": {\"stream\": " << c.stream_syncs << ", \"device\": " << c.device_syncs << ", \"event\": " << c.event_syncs
      << "}, \"events\": {\"recorded\": " << c.events_recorded << ", \"waits\": " << c.event_waits << "}, \"graphs\": {\"captures\": " << c.graph_captures
      << ", \"replays\": " << c.graph_replays << "}, \"allocations\": " << c.allocations << ", \"streams\": " << streams_json(c)
      << ", \"memory\": " << memory_json(c) << "}";
  return out.str();
}

void reset_counters() { clear(counters()); }

}  // namespace cannsim

extern "C" {

// The counters of this process as JSON. Returns the length; writes at most `room` bytes.
CANNSIM_API size_t cannsim_counters(char* buffer, size_t room) {
  return cannsim::hand_out(cannsim::counters_json(cannsim::counters()), buffer, room);
}
CANNSIM_API void cannsim_reset_counters() { cannsim::reset_counters(); }

// Calls `listener` with the kind (0 stream, 1 device, 2 event) whenever a Python thread waits for
// the device; null ends it.
CANNSIM_API void cannsim_on_wait(void (*listener)(int)) { cannsim::wait_listener.store(listener, std::memory_order_release); }

namespace {

// Hands out what `describe` says of the counters in a file. Returns the length, or 0 when the file
// is not one of counters (of this version).
size_t of_file(const char* path, std::string (*describe)(const cannsim::Counters&), char* buffer, size_t room) {
  const int file = open(path, O_RDONLY | O_CLOEXEC);
  if (file < 0) return 0;
  const bool whole = lseek(file, 0, SEEK_END) == off_t(sizeof(cannsim::Counters));
  void* mapped = whole ? mmap(nullptr, sizeof(cannsim::Counters), PROT_READ, MAP_SHARED, file, 0) : MAP_FAILED;
  close(file);
  if (mapped == MAP_FAILED) return 0;
  const auto& left = *static_cast<const cannsim::Counters*>(mapped);
  const bool ours = std::memcmp(left.magic, cannsim::kMagic, sizeof(left.magic)) == 0 && left.activities <= cannsim::kMaxActivities &&
                    left.rows <= cannsim::kMaxRows && left.streams <= cannsim::kMaxStreams && left.devices <= cannsim::kMaxDevices;
  const size_t length = ours ? cannsim::hand_out(describe(left), buffer, room) : 0;
  munmap(mapped, sizeof(cannsim::Counters));
  return length;
}

}  // namespace

// The counters in a file that a process left without writing JSON (it was killed, or left by
// _exit()), or that a live one has mapped. Length as above; 0 when it is no file of counters.
CANNSIM_API size_t cannsim_counters_file(const char* path, char* buffer, size_t room) { return of_file(path, cannsim::counters_json, buffer, room); }
// The process behind such a file: its number, when it started, its chip and its devices' memory.
CANNSIM_API size_t cannsim_process_file(const char* path, char* buffer, size_t room) { return of_file(path, cannsim::process_json, buffer, room); }
CANNSIM_API uint64_t cannsim_started_at(uint64_t pid) { return cannsim::started_at(pid); }

}  // extern "C"
