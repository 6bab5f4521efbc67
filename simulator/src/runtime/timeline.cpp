// Timelines: trace events of host calls and device work, written as they happen.
//
// Format: the JSON array of trace events that Chrome, Perfetto and MindStudio Insight open. Each
// device is a process whose threads are its streams; the host's threads are themselves. An arrow
// (flow) goes from a launch to its run. The array may lack its end when the process was killed;
// the format allows that.
#include "runtime/timeline.h"

#include <sys/syscall.h>
#include <unistd.h>

#include <cinttypes>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <set>

#include "runtime/runtime.h"

namespace cannsim {
namespace {

constexpr int64_t kLaunchNs = 500;  // how long a launch is drawn on the host's row

struct Sink {
  std::string path;
  FILE* file;
  std::set<std::pair<int, int>> named;         // (pid, tid) whose names were written
  std::map<int, int64_t> memory;               // bytes last written, by device
};

std::mutex sinks_mutex;
std::vector<std::unique_ptr<Sink>> sinks;
std::atomic<uint64_t> next_flow{1};

// A device is a process of its own in the trace, with a number that no process here has.
int pid_of(int device) { return int(getpid()) + (device + 1) * 10'000'000; }
int thread() {
  static thread_local const int id = int(syscall(SYS_gettid));
  return id;
}

void name_track(Sink& sink, int pid, int tid, const std::string& process, const std::string& name) {
  if (sink.named.insert({pid, -1}).second)
    std::fprintf(sink.file, "{\"ph\":\"M\",\"name\":\"process_name\",\"pid\":%d,\"args\":{\"name\":\"%s\"}},\n", pid, process.c_str());
  if (sink.named.insert({pid, tid}).second)
    std::fprintf(sink.file, "{\"ph\":\"M\",\"name\":\"thread_name\",\"pid\":%d,\"tid\":%d,\"args\":{\"name\":\"%s\"}},\n", pid, tid, name.c_str());
}

void name_host(Sink& sink) {
  char name[16] = "host";
  pthread_getname_np(pthread_self(), name, sizeof(name));
  std::string safe;
  for (const char* c = name; *c != '\0'; ++c) {
    if (*c >= ' ' && *c != '"' && *c != '\\') safe += *c;
  }
  name_track(sink, int(getpid()), thread(), "host", safe);
}

struct Microseconds {
  char text[32];
  explicit Microseconds(int64_t ns) { std::snprintf(text, sizeof(text), "%" PRId64 ".%03d", ns / 1000, int(ns % 1000)); }
};

template <typename Write>
void each_sink(Write write) {
  std::lock_guard lock(sinks_mutex);
  for (auto& sink : sinks) write(*sink);
}

void close(Sink& sink) {
  // The last element has no comma after it: this one ends the array.
  std::fprintf(sink.file, "{\"ph\":\"M\",\"name\":\"process_labels\",\"pid\":%d,\"args\":{\"labels\":\"cannsim, simulated\"}}]\n", int(getpid()));
  std::fclose(sink.file);
}

void close_all() {
  each_sink([](Sink& sink) { close(sink); });
  sinks.clear();
  recording = false;
}

// A forked child has its parent's open files, and writes none of them.
void forget_in_child() {
  for (auto& sink : sinks) sink.release();
  sinks.clear();
  recording = false;
}

void follow_environment() {
  const char* folder = std::getenv("CANNSIM_TIMELINE");
  if (folder == nullptr || *folder == '\0') return;
  const int code = guarded([&] { start_timeline(std::string(folder) + "/timeline." + std::to_string(getpid()) + ".json"); });
  if (code != ACL_SUCCESS) std::fprintf(stderr, "cannsim: %s\n", aclGetRecentErrMsg());
}

// Also the process that is forked from one that has not touched a device yet: so, when it is first
// used, not when the library is loaded.
[[maybe_unused]] const bool registered = [] {
  pthread_atfork(nullptr, nullptr, [] {
    forget_in_child();
    follow_environment();
  });
  std::atexit(close_all);
  follow_environment();
  return true;
}();

}  // namespace

std::atomic<bool> recording{false};

void start_timeline(const std::string& path) {
  FILE* file = std::fopen(path.c_str(), "w");
  if (file == nullptr) throw Error(ACL_ERROR_INVALID_FILE, "cannot write a timeline to " + path + ": " + std::strerror(errno));
  std::fputs("[\n", file);
  std::lock_guard lock(sinks_mutex);
  sinks.push_back(std::make_unique<Sink>(Sink{path, file, {}, {}}));
  recording = true;
  observing = true;
}

void stop_timeline(const std::string& path) {
  std::lock_guard lock(sinks_mutex);
  for (auto it = sinks.begin(); it != sinks.end(); ++it) {
    if ((*it)->path != path) continue;
    close(**it);
    sinks.erase(it);
    recording = !sinks.empty();
    return;
  }
  throw Error(ACL_ERROR_INVALID_PARAM, "no timeline is being written to " + path);
}

void record_launch(Task& task, int64_t at_ns) {
  task.flow = next_flow.fetch_add(1, std::memory_order_relaxed);
  const Microseconds at(at_ns), length(kLaunchNs);
  each_sink([&](Sink& sink) {
    name_host(sink);
    std::fprintf(sink.file,
                 "{\"ph\":\"X\",\"cat\":\"launch\",\"name\":\"%s\",\"pid\":%d,\"tid\":%d,\"ts\":%s,\"dur\":%s},\n"
                 "{\"ph\":\"s\",\"cat\":\"launch\",\"name\":\"launch\",\"id\":%" PRIu64 ",\"pid\":%d,\"tid\":%d,\"ts\":%s},\n",
                 task.activity->name, int(getpid()), thread(), at.text, length.text, task.flow, int(getpid()), thread(), at.text);
  });
}

void record_run(const Stream& stream, const Task& task, int64_t begin_ns, int64_t end_ns) {
  static const char* const kinds[] = {"operator", "copy", "collective", "copy"};
  const int pid = pid_of(stream.device);
  const Microseconds begin(begin_ns), length(std::max<int64_t>(1, end_ns - begin_ns));
  const int64_t memory = counters().memory[stream.device].current;
  each_sink([&](Sink& sink) {
    name_track(sink, pid, stream.id, "NPU " + std::to_string(stream.device) + " (" + settings().chip.soc + ", simulated)",
               "stream " + std::to_string(stream.id));
    std::fprintf(sink.file,
                 "{\"ph\":\"X\",\"cat\":\"%s\",\"name\":\"%s\",\"pid\":%d,\"tid\":%d,\"ts\":%s,\"dur\":%s,\"args\":{\"flops\":%" PRIu64
                 ",\"bytes_read\":%" PRIu64 ",\"bytes_written\":%" PRIu64 ",\"modelled_ns\":%" PRIu64 "}},\n",
                 kinds[int(task.activity->kind)], task.activity->name, pid, stream.id, begin.text, length.text, task.work.flops, task.work.read,
                 task.work.written, modelled_ns(task.work, task.activity->kind));
    if (task.flow != 0)
      std::fprintf(sink.file, "{\"ph\":\"f\",\"bp\":\"e\",\"cat\":\"launch\",\"name\":\"launch\",\"id\":%" PRIu64 ",\"pid\":%d,\"tid\":%d,\"ts\":%s},\n",
                   task.flow, pid, stream.id, begin.text);
    if (auto [known, fresh] = sink.memory.try_emplace(stream.device, -1); fresh || known->second != memory) {
      known->second = memory;
      std::fprintf(sink.file, "{\"ph\":\"C\",\"name\":\"memory\",\"pid\":%d,\"ts\":%s,\"args\":{\"bytes\":%" PRId64 "}},\n", pid, begin.text, memory);
    }
  });
}

void record_call(const char* name, int64_t begin_ns, int64_t end_ns) {
  const Microseconds begin(begin_ns), length(std::max<int64_t>(1, end_ns - begin_ns));
  each_sink([&](Sink& sink) {
    name_host(sink);
    std::fprintf(sink.file, "{\"ph\":\"X\",\"cat\":\"call\",\"name\":\"%s\",\"pid\":%d,\"tid\":%d,\"ts\":%s,\"dur\":%s},\n", name, int(getpid()), thread(),
                 begin.text, length.text);
  });
}

}  // namespace cannsim

extern "C" {

CANNSIM_API int cannsim_start_timeline(const char* path) {
  return cannsim::guarded([&] { cannsim::start_timeline(path); });
}
CANNSIM_API int cannsim_stop_timeline(const char* path) {
  return cannsim::guarded([&] { cannsim::stop_timeline(path); });
}

}  // extern "C"
