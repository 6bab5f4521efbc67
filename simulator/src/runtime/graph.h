// Captured graphs: what streams were given between aclmdlRICaptureBegin and End, to run again and again.
#pragma once

#include <set>

#include "runtime/runtime.h"

namespace cannsim {

class Graph;

// Tasks of one stream, in their order, which a later aclmdlRICaptureTaskUpdateBegin can replace.
struct TaskGroup {
  std::weak_ptr<Graph> graph;
  uint32_t lane;
  std::vector<size_t> steps;
  bool open = true;       // still being recorded
  bool broken = false;    // another stream of the capture was given a task meanwhile
  bool updating = false;
};

// What a conditional task looks at: the device writes it; each replay begins with `initial`.
struct Condition {
  uint64_t value;
  uint32_t initial;
};

// One lane for each stream that took part; lane 0 is the stream where the capture began. Waits of one
// stream for an event of another become waits for a number of the other lane's steps.
class Graph : public std::enable_shared_from_this<Graph> {
 public:
  struct Step {
    std::shared_ptr<Task> task;        // null: a wait
    uint32_t lane = 0, position = 0;   // of a wait: for that many steps of that lane
    uint64_t order = 0;                // in the capture, over all lanes
    bool grouped = false;              // belongs to a TaskGroup: read under the mutex
  };
  struct Lane {
    Stream* stream = nullptr;
    std::vector<Step> steps;
    std::shared_ptr<TaskGroup> group;  // being recorded
  };

  Graph(int device, aclmdlRICaptureMode mode);
  ~Graph();

  // ---- while capturing
  void begin(Stream& stream);
  void join(Stream& stream);
  void add(uint32_t lane, std::shared_ptr<Task> task);
  void record(EventState& event, uint32_t lane);
  void wait(const EventState& event, uint32_t lane);
  void end(Stream& stream);
  void invalidate() { valid_ = false; }
  bool capturing() const { return capturing_; }
  bool valid() const { return valid_; }
  void begin_group(uint32_t lane);
  std::shared_ptr<TaskGroup> end_group(uint32_t lane);

  // ---- captured
  void update(const TaskGroup& group, const std::vector<std::shared_ptr<Task>>& tasks);
  void run(Stream& stream);
  std::string json(bool verbose);

  const int device;
  const uint32_t id;
  const aclmdlRICaptureMode mode;
  const std::thread::id thread = std::this_thread::get_id();
  std::atomic<int> pending{0};  // replays that have not finished
  std::string name;
  Graph* parent = nullptr;      // of a conditional branch
  int open_branches = 0;        // of the capture: branches that are being captured
  std::vector<std::shared_ptr<TaskGroup>> groups;
  std::vector<std::shared_ptr<Condition>> conditions;

 private:
  struct Run;
  void leave();
  void check_joined();
  void run_lane(uint32_t lane, Stream& stream, Run* run);
  void run_in_order(Stream& stream);
  void run_lanes(Stream& stream);
  std::shared_ptr<Task> task_of(Step& step);
  std::mutex mutex_, running_;
  std::vector<Lane> lanes_;
  uint64_t steps_ = 0;
  std::atomic<bool> capturing_{false}, valid_{true};
};

// The capture that the stream takes part in, and its lane there; null outside of a capture.
std::shared_ptr<Graph> capture_of(Stream& stream, uint32_t* lane = nullptr);

// For what no graph can hold. The first throws ACL_ERROR_RT_STREAM_CAPTURED while the stream is
// captured; the second ACL_ERROR_RT_CAPTURE_MODE_NOT_SUPPORT (or `code`) while a capture's mode forbids
// it to this thread.
void refuse_captured(Stream& stream, const char* what);
void refuse_in_capture(const char* what, int code = ACL_ERROR_RT_CAPTURE_MODE_NOT_SUPPORT);

}  // namespace cannsim
