// What is counted of the devices' work, how long a chip would take for it, and who watches it run.
//
// A task that a device spends time on names its activity (an operator, a copy, a collective) and its
// work before it is put on a stream; the stream counts it when it is submitted, and again whenever a
// captured graph replays it. Everything else here follows from the two.
#pragma once

#include <atomic>
#include <cstdint>
#include <string>

#define CANNSIM_API __attribute__((visibility("default")))

namespace cannsim {

class Stream;
class Task;

using Count = std::atomic<uint64_t>;

struct Tally {
  Count count{0}, bytes{0};
  void add(uint64_t size) {
    count.fetch_add(1, std::memory_order_relaxed);
    bytes.fetch_add(size, std::memory_order_relaxed);
  }
};

// Which of the chip's rates bounds the arithmetic of a launch (cannsim/profiles/chips.toml).
enum class Unit : uint8_t { vector, cube_float16, cube_float32, cube_int8 };

// What one launch does: floating-point (or integer) operations, and bytes of operands by direction.
struct Work {
  uint64_t flops = 0, read = 0, written = 0;
  Unit unit = Unit::vector;
};

// `copy`: the bytes pass the host's link; `collective`: the link between devices; `move`: within the
// device's memory. Copies and moves are no launches.
enum class Kind : uint8_t { operation, copy, collective, move };

// A kind of device work by name, e.g. an aclnn function. Never destroyed.
struct Activity {
  const char* name;
  uint32_t slot;
  Kind kind;
};
CANNSIM_API const Activity& activity(const std::string& name, Kind kind = Kind::operation);

// Launches of one activity on one stream: `count` by the host, `replayed` by graphs; the rest is of
// both. `modelled_ns` is the cost model's, never a measurement.
struct Launches {
  Count count{0}, replayed{0}, flops{0}, read{0}, written{0}, modelled_ns{0};
};

inline constexpr int kMaxDevices = 64;
inline constexpr int kMaxActivities = 2048;
inline constexpr int kMaxStreams = 1024;
inline constexpr int kMaxRows = 8192;

// All counters of a process, in one piece of memory: a shared mapping of a file, so that `cannsim smi`
// sees them, and that with CANNSIM_COUNTERS nothing is lost when the process is killed.
struct Counters {
  char magic[8];
  uint64_t pid, started;  // started: clock ticks since boot, tells a process from a later one of its number
  int64_t device_memory;
  int32_t visible[kMaxDevices];  // the physical number of each device
  char chip[32], cann[32];
  Tally host_to_device, device_to_host, device_to_device, memset;
  Count stream_syncs, device_syncs, event_syncs, events_recorded, event_waits, allocations;
  Count graph_captures, graph_replays;
  struct {
    std::atomic<int64_t> current, peak;  // bytes
  } memory[kMaxDevices];
  Count devices, activities, streams, rows;
  struct {
    char name[111];
    Kind kind;
  } activity[kMaxActivities];
  struct {
    int32_t device, id;
  } stream[kMaxStreams];
  struct Row {
    uint32_t activity, stream;
    Launches launches;
  } row[kMaxRows];
};
CANNSIM_API Counters& counters();
CANNSIM_API std::string counters_json(const Counters& all);
CANNSIM_API void reset_counters();

// The host waits as long as this lives: counted, drawn in timelines, and told to whoever traces it
// (the Python line, on request).
enum class Wait : int { stream, device, event };
class CANNSIM_API HostWait {
 public:
  explicit HostWait(Wait what);
  ~HostWait();

 private:
  Wait what_;
  int64_t begin_ns_;
};

// Where a stream finds its rows, by the activity's slot. Part of every Stream.
struct StreamRows {
  std::atomic<Launches*> of[kMaxActivities] = {};
};

// For Stream: a task that names its activity is counted when the host submits it, and when a graph
// replays it (on the stream's thread).
CANNSIM_API void count_launch(Stream& stream, Task& task);
CANNSIM_API void count_replay(Stream& stream, Task& task);

// ---- the modelled clock, paced mode and the timeline ------------------------------------------

CANNSIM_API int64_t steady_ns();

// Nanoseconds that the chip would take, by its profile. Not a measurement.
CANNSIM_API uint64_t modelled_ns(const Work& work, Kind kind);

// True while somebody watches tasks run: paced mode, a timeline, the profiler.
extern CANNSIM_API std::atomic<bool> observing;
// Runs the task as it is watched: at its modelled time, and noted.
CANNSIM_API void run_observed(Stream& stream, Task& task);

}  // namespace cannsim
