// Captured graphs (aclmdlRI*): capture, replay, branches, and updates of captured arguments.
//
// Error codes are those of CANN's table of return codes (aclError). A refused wait or copy leaves the
// capture as it was, a refused dependency invalidates it (seen in reports of users); that one graph's
// replays on two streams follow each other is assumed.
#include "runtime/graph.h"

#include "runtime/faults.h"

#include <algorithm>
#include <cstring>
#include <fstream>
#include <sstream>

namespace cannsim {
namespace {

std::atomic<uint32_t> next_id{1};

// Graphs and task groups that a program holds by address: a stale one is told, not followed.
struct Known {
  std::mutex mutex;
  std::map<void*, std::shared_ptr<Graph>> graphs;
  std::map<void*, std::shared_ptr<TaskGroup>> groups;
  std::map<Stream*, std::pair<aclmdlRICaptureMode, std::thread::id>> captures;  // by the first stream
  std::atomic<int> capturing{0};
};
Known& known() {
  static auto* all = new Known;
  return *all;
}

thread_local aclmdlRICaptureMode tls_mode = ACL_MODEL_RI_CAPTURE_MODE_GLOBAL;

std::shared_ptr<Graph> graph_of(aclmdlRI handle) {
  auto& all = known();
  std::lock_guard lock(all.mutex);
  auto found = all.graphs.find(handle);
  if (found == all.graphs.end()) throw Error(ACL_ERROR_RT_PARAM_INVALID, "the model runtime instance does not exist, or has been destroyed");
  return found->second;
}

std::shared_ptr<TaskGroup> group_of(aclrtTaskGrp handle) {
  auto& all = known();
  std::lock_guard lock(all.mutex);
  auto found = all.groups.find(handle);
  if (found == all.groups.end()) throw Error(ACL_ERROR_RT_PARAM_INVALID, "the task group does not exist, or its graph has been destroyed");
  return found->second;
}

// Puts the stream's tasks into a lane of the graph.
struct Capture final : Recorder {
  Capture(std::shared_ptr<Graph> graph, uint32_t lane) : graph(std::move(graph)), lane(lane) {}
  void take(std::shared_ptr<Task> task) override { graph->add(lane, std::move(task)); }
  const std::shared_ptr<Graph> graph;
  const uint32_t lane;
};

// Gathers the tasks that replace a group's.
struct Update final : Recorder {
  explicit Update(std::shared_ptr<TaskGroup> group) : group(std::move(group)) {}
  void take(std::shared_ptr<Task> task) override { tasks.push_back(std::move(task)); }
  const std::shared_ptr<TaskGroup> group;
  std::vector<std::shared_ptr<Task>> tasks;
};

struct Replay final : Task {
  explicit Replay(std::shared_ptr<Graph> graph, Stream& stream) : graph(std::move(graph)), stream(stream) { ++this->graph->pending; }
  ~Replay() override { --graph->pending; }
  void run() override { graph->run(stream); }
  const std::shared_ptr<Graph> graph;
  Stream& stream;
};

// One captured task, on the thread of a stream.
void run_captured(Stream& stream, Task& task) {
  if (task.activity != nullptr) count_replay(stream, task);
  if (faulting.load(std::memory_order_relaxed) && task.activity != nullptr) {
    refuse_lost(stream.device);
    if (const Fault* fault = strike(stream, task)) return run_struck(*fault, stream, task);
  }
  run_task(stream, task);
}
const char* task_name(const Task& task) { return task.activity != nullptr ? task.activity->name : "task"; }

bool forbidden(aclmdlRICaptureMode mode, std::thread::id owner) {
  if (mode == ACL_MODEL_RI_CAPTURE_MODE_RELAXED) return false;
  if (owner == std::this_thread::get_id()) return tls_mode != ACL_MODEL_RI_CAPTURE_MODE_RELAXED;
  return mode == ACL_MODEL_RI_CAPTURE_MODE_GLOBAL && tls_mode == ACL_MODEL_RI_CAPTURE_MODE_GLOBAL;
}

const char* name_of(aclmdlRICaptureMode mode) {
  static constexpr const char* names[] = {"GLOBAL", "THREAD_LOCAL", "RELAXED"};
  return names[mode];
}

}  // namespace

std::shared_ptr<Graph> capture_of(Stream& stream, uint32_t* lane) {
  if (known().capturing.load(std::memory_order_relaxed) == 0) return nullptr;
  const auto recorder = stream.recorder();
  const auto* capture = dynamic_cast<const Capture*>(recorder.get());
  if (capture == nullptr) return nullptr;
  if (lane != nullptr) *lane = capture->lane;
  return capture->graph;
}

void refuse_captured(Stream& stream, const char* what) {
  if (!capture_of(stream)) return;
  throw Error(ACL_ERROR_RT_STREAM_CAPTURED, std::string(what) + ": stream " + std::to_string(stream.id) +
                                                " is captured; do this before aclmdlRICaptureBegin or after aclmdlRICaptureEnd");
}

void refuse_in_capture(const char* what, int code) {
  auto& all = known();
  if (all.capturing.load(std::memory_order_relaxed) == 0) return;
  std::lock_guard lock(all.mutex);
  for (const auto& [stream, capture] : all.captures) {
    const auto [mode, owner] = capture;
    if (!forbidden(mode, owner)) continue;
    throw Error(code, std::string(what) + ": the capture of stream " + std::to_string(stream->id) + " in mode " + name_of(mode) +
                          " does not allow this in a thread of mode " + name_of(tls_mode) +
                          "; use page-locked memory and an asynchronous copy, or mode RELAXED");
  }
}

Graph::Graph(int device, aclmdlRICaptureMode mode) : device(device), id(next_id++), mode(mode) {}

Graph::~Graph() {
  auto& all = known();
  std::lock_guard lock(all.mutex);
  for (const auto& group : groups) all.groups.erase(group.get());
}

void Graph::begin(Stream& stream) {
  capturing_ = true;
  auto& all = known();
  {
    std::lock_guard lock(all.mutex);
    all.graphs[this] = shared_from_this();
    all.captures[&stream] = {mode, thread};
  }
  ++all.capturing;
  join(stream);
}

void Graph::join(Stream& stream) {
  uint32_t lane;
  {
    std::lock_guard lock(mutex_);
    lane = uint32_t(lanes_.size());
    lanes_.push_back({&stream, {}, nullptr});
  }
  stream.set_recorder(std::make_shared<Capture>(shared_from_this(), lane));
}

void Graph::add(uint32_t lane, std::shared_ptr<Task> task) {
  std::lock_guard lock(mutex_);
  Lane& own = lanes_[lane];
  for (Lane& other : lanes_) {
    if (other.group && &other != &own && !own.group) other.group->broken = true;
  }
  if (own.group) own.group->steps.push_back(own.steps.size());
  own.steps.push_back({std::move(task), 0, 0, steps_++, own.group != nullptr});
}

void Graph::record(EventState& event, uint32_t lane) {
  std::lock_guard lock(mutex_);
  event.graph = weak_from_this();
  event.lane = lane;
  event.position = uint32_t(lanes_[lane].steps.size());
}

void Graph::wait(const EventState& event, uint32_t lane) {
  std::lock_guard lock(mutex_);
  if (event.lane != lane) lanes_[lane].steps.push_back({nullptr, event.lane, event.position, steps_++, false});
}

// Every stream's last step must be waited for, in the end by the stream where the capture began.
void Graph::check_joined() {
  std::vector<size_t> reached(lanes_.size(), 0);
  reached[0] = lanes_[0].steps.size();
  for (bool further = true; further;) {
    further = false;
    for (size_t i = 0; i < lanes_.size(); ++i) {
      for (size_t k = 0; k < reached[i]; ++k) {
        const Step& step = lanes_[i].steps[k];
        if (step.task || reached[step.lane] >= step.position) continue;
        reached[step.lane] = step.position;
        further = true;
      }
    }
  }
  for (size_t i = 1; i < lanes_.size(); ++i) {
    if (reached[i] == lanes_[i].steps.size()) continue;
    throw Error(ACL_ERROR_RT_STREAM_UNJOINED, "stream " + std::to_string(lanes_[i].stream->id) + " took part in the capture of stream " +
                                                  std::to_string(lanes_[0].stream->id) +
                                                  " and has not joined it: record an event there last, and let the first stream wait for it");
  }
}

void Graph::leave() {
  std::vector<Stream*> streams;
  {
    std::lock_guard lock(mutex_);
    for (Lane& lane : lanes_) streams.push_back(lane.stream);
  }
  auto& all = known();
  {
    std::lock_guard lock(all.mutex);
    all.captures.erase(streams[0]);
  }
  for (Stream* stream : streams) stream->set_recorder(nullptr);
  --all.capturing;
  capturing_ = false;
  if (parent != nullptr) --parent->open_branches;
}

void Graph::end(Stream& stream) {
  if (&stream != lanes_[0].stream)
    throw Error(ACL_ERROR_RT_STREAM_CAPTURE_UNMATCHED, "the capture began on stream " + std::to_string(lanes_[0].stream->id) + ", not on stream " +
                                                           std::to_string(stream.id) + "; end it there");
  leave();
  if (mode != ACL_MODEL_RI_CAPTURE_MODE_RELAXED && thread != std::this_thread::get_id())
    throw Error(ACL_ERROR_RT_STREAM_CAPTURE_WRONG_THREAD,
                std::string("the capture began in another thread, in mode ") + name_of(mode) + "; only a RELAXED one may end elsewhere");
  if (!valid_) throw Error(ACL_ERROR_RT_STREAM_CAPTURE_INVALIDATED, "an error has invalidated the capture; see the first error");
  if (open_branches > 0) throw Error(ACL_ERROR_RT_SUB_ACLGRAPH_IS_CAPTURING, "a conditional branch of the graph is still being captured");
  for (const Lane& lane : lanes_) {
    if (lane.group) throw Error(ACL_ERROR_STREAM_TASK_GROUP_STATUS, "a task group is open: call aclmdlRICaptureTaskGrpEnd before the capture ends");
  }
  check_joined();
}

void Graph::begin_group(uint32_t lane) {
  std::lock_guard lock(mutex_);
  if (lanes_[lane].group) throw Error(ACL_ERROR_STREAM_TASK_GROUP_STATUS, "a task group is already open on this stream");
  lanes_[lane].group = std::make_shared<TaskGroup>();
  lanes_[lane].group->graph = weak_from_this();
  lanes_[lane].group->lane = lane;
}

std::shared_ptr<TaskGroup> Graph::end_group(uint32_t lane) {
  std::shared_ptr<TaskGroup> group;
  {
    std::lock_guard lock(mutex_);
    group = std::move(lanes_[lane].group);
    lanes_[lane].group = nullptr;
    if (!group) throw Error(ACL_ERROR_STREAM_TASK_GROUP_STATUS, "no task group is open on this stream");
    if (group->broken)
      throw Error(ACL_ERROR_STREAM_TASK_GROUP_INTR, "while the task group was open another stream of the capture was given a task");
    group->open = false;
    groups.push_back(group);
  }
  auto& all = known();
  std::lock_guard lock(all.mutex);
  all.groups[group.get()] = group;
  return group;
}

void Graph::update(const TaskGroup& group, const std::vector<std::shared_ptr<Task>>& tasks) {
  std::lock_guard lock(mutex_);
  for (size_t i = 0; i < tasks.size(); ++i) lanes_[group.lane].steps[group.steps[i]].task = tasks[i];
}

// ---- replay -----------------------------------------------------------------------------------

// How far each lane has come in one replay.
struct Graph::Run {
  explicit Run(size_t lanes) : done(lanes, 0) {}
  std::mutex mutex;
  std::condition_variable changed;
  std::vector<size_t> done;
  size_t finished = 0;
  bool failed = false;
  std::exception_ptr error;
};

std::shared_ptr<Task> Graph::task_of(Step& step) {
  std::lock_guard lock(mutex_);
  return step.task;
}

void Graph::run_lane(uint32_t lane, Stream& stream, Run* run) {
  auto& steps = lanes_[lane].steps;
  for (size_t k = 0; k < steps.size(); ++k) {
    Step& step = steps[k];
    if (step.grouped) {
      run_captured(stream, *task_of(step));
    } else if (step.task) {
      run_captured(stream, *step.task);
    } else if (run != nullptr) {
      std::unique_lock lock(run->mutex);
      wait_until(run->changed, lock, [&] { return run->failed || run->done[step.lane] >= step.position; });
    }
    if (run == nullptr) continue;
    std::lock_guard lock(run->mutex);
    if (run->failed) return;
    run->done[lane] = k + 1;
    run->changed.notify_all();
  }
}

// Without threads of its own (inline mode): the order of the capture respects every wait.
void Graph::run_in_order(Stream& stream) {
  std::vector<Step*> all;
  for (Lane& lane : lanes_) {
    for (Step& step : lane.steps) all.push_back(&step);
  }
  std::sort(all.begin(), all.end(), [](Step* a, Step* b) { return a->order < b->order; });
  for (Step* step : all) {
    if (const auto task = task_of(*step)) run_captured(stream, *task);
  }
}

void Graph::run_lanes(Stream& stream) {
  Run run(lanes_.size());
  auto guarded_lane = [&](uint32_t lane, Stream& on) {
    try {
      run_lane(lane, on, &run);
    } catch (...) {
      std::lock_guard lock(run.mutex);
      if (!run.failed) run.error = std::current_exception();
      run.failed = true;
    }
    std::lock_guard lock(run.mutex);
    ++run.finished;
    run.changed.notify_all();
  };
  auto others = cannsim::device(device).borrow_streams(lanes_.size() - 1);
  for (uint32_t i = 1; i < lanes_.size(); ++i) {
    Stream& on = *others[i - 1];
    on.submit(make_task([&guarded_lane, &on, i] { guarded_lane(i, on); }));
  }
  guarded_lane(0, stream);
  {
    std::unique_lock lock(run.mutex);
    wait_until(run.changed, lock, [&] { return run.finished == lanes_.size(); });
  }
  for (auto& other : others) other->drain();  // `run` is theirs too
  cannsim::device(device).give_back(std::move(others));
  if (run.failed) std::rethrow_exception(run.error);
}

void Graph::run(Stream& stream) {
  std::lock_guard lock(running_);
  for (const auto& condition : conditions) condition->value = condition->initial;
  try {
    if (lanes_.size() == 1) {
      run_lane(0, stream, nullptr);
    } else if (settings().inline_mode) {
      run_in_order(stream);
    } else {
      run_lanes(stream);
    }
  } catch (const Error& error) {
    throw Error(error.code, "in the replay of graph " + std::to_string(id) + ": " + error.what());
  } catch (const std::exception& error) {
    throw Error(ACL_ERROR_RT_AICORE_EXCEPTION, "in the replay of graph " + std::to_string(id) + ": " + error.what());
  }
}

// As Chrome's trace format: one row a stream, one microsecond a task, in the order of the capture.
std::string Graph::json(bool verbose) {
  std::lock_guard lock(mutex_);
  std::ostringstream out;
  out << "[";
  const char* separator = "";
  for (const Lane& lane : lanes_) {
    for (const Step& step : lane.steps) {
      const char* kind = step.task ? task_name(*step.task) : "wait";
      out << separator << "\n{\"name\": \"" << kind << "\", \"ph\": \"X\", \"pid\": \"graph " << id << "\", \"tid\": \"stream "
          << &lane - lanes_.data() << "\", \"ts\": " << step.order << ", \"dur\": 1, \"args\": {\"Model Id\": " << id
          << ", \"Task Id\": " << step.order << ", \"Stream Id\": " << &lane - lanes_.data() << ", \"Task Type\": \""
          << (step.task ? "TASK" : "WAIT") << "\"";
      if (!step.task) out << ", \"waits for stream\": " << step.lane << ", \"tasks\": " << step.position;
      if (verbose && step.grouped) out << ", \"updatable\": true";
      out << "}}";
      separator = ",";
    }
  }
  out << "\n]\n";
  return out.str();
}

}  // namespace cannsim

using namespace cannsim;

namespace {

// Takes the branch that its value names by then.
struct Branch final : Task {
  void run() override {
    auto take = [&](size_t i) {
      if (i < branches.size()) branches[i]->run(stream);
    };
    switch (type) {
      case ACL_MODEL_RI_COND_TYPE_IF: return take(condition->value != 0 ? 0 : 1);
      case ACL_MODEL_RI_COND_TYPE_SWITCH: return take(condition->value);
      case ACL_MODEL_RI_COND_TYPE_WHILE:
        while (condition->value != 0) take(0);
    }
  }
  Branch(std::shared_ptr<Condition> condition, aclmdlRICondTaskType type, Stream& stream)
      : condition(std::move(condition)), type(type), stream(stream) {}
  std::shared_ptr<Condition> condition;
  aclmdlRICondTaskType type;
  Stream& stream;
  std::vector<std::shared_ptr<Graph>> branches;
};

void begin_capture(Stream& stream, const std::shared_ptr<Graph>& graph) {
  if (&stream == &device(stream.device).default_stream())
    throw Error(ACL_ERROR_RT_STREAM_CAPTURE_IMPLICIT, "the default stream cannot be captured; use another stream");
  if (stream.recorder())
    throw Error(ACL_ERROR_RT_STREAM_CAPTURED, "stream " + std::to_string(stream.id) + " is captured already");
  graph->begin(stream);
}

std::shared_ptr<Graph> captured_here(Stream& stream, uint32_t* lane) {
  const auto graph = capture_of(stream, lane);
  if (!graph)
    throw Error(ACL_ERROR_RT_STREAM_NOT_CAPTURED, "stream " + std::to_string(stream.id) + " is not captured; call aclmdlRICaptureBegin first");
  return graph;
}

void check_mode(aclmdlRICaptureMode mode) {
  if (mode < ACL_MODEL_RI_CAPTURE_MODE_GLOBAL || mode > ACL_MODEL_RI_CAPTURE_MODE_RELAXED)
    throw Error(ACL_ERROR_RT_PARAM_INVALID, "capture mode " + std::to_string(int(mode)) + " does not exist: 0 GLOBAL, 1 THREAD_LOCAL, 2 RELAXED");
}

std::shared_ptr<Graph> executable(aclmdlRI handle) {
  auto graph = graph_of(handle);
  if (graph->capturing()) throw Error(ACL_ERROR_RT_MODEL_CAPTURED, "the graph is still being captured; call aclmdlRICaptureEnd first");
  return graph;
}

void forget(const std::shared_ptr<Graph>& graph) {
  auto& all = known();
  std::lock_guard lock(all.mutex);
  all.graphs.erase(graph.get());
  for (const auto& group : graph->groups) all.groups.erase(group.get());
  graph->groups.clear();
}

}  // namespace

extern "C" {

aclError aclmdlRICaptureBegin(aclrtStream stream, aclmdlRICaptureMode mode) {
  return guarded([&] {
    check_mode(mode);
    Stream& found = stream_of(stream);
    begin_capture(found, std::make_shared<Graph>(found.device, mode));
  });
}
aclError aclmdlRICaptureGetInfo(aclrtStream stream, aclmdlRICaptureStatus *status, aclmdlRI *model) {
  return guarded([&] {
    const auto graph = capture_of(stream_of(stream));
    *status = !graph          ? ACL_MODEL_RI_CAPTURE_STATUS_NONE
              : graph->valid() ? ACL_MODEL_RI_CAPTURE_STATUS_ACTIVE
                               : ACL_MODEL_RI_CAPTURE_STATUS_INVALIDATED;
    *model = graph.get();
  });
}
aclError aclmdlRICaptureEnd(aclrtStream stream, aclmdlRI *model) {
  return guarded([&] {
    Stream& found = stream_of(stream);
    const auto graph = captured_here(found, nullptr);
    try {
      graph->end(found);
    } catch (const Error&) {
      if (!graph->capturing()) forget(graph);
      throw;
    }
    counters().graph_captures.fetch_add(1, std::memory_order_relaxed);
    *model = graph.get();
  });
}
aclError aclmdlRICaptureThreadExchangeMode(aclmdlRICaptureMode *mode) {
  return guarded([&] {
    check_mode(*mode);
    std::swap(*mode, tls_mode);
  });
}

aclError aclmdlRIExecuteAsync(aclmdlRI model, aclrtStream stream) {
  return guarded([&] {
    Stream& found = stream_of(stream);
    auto graph = executable(model);
    refuse_captured(found, "aclmdlRIExecuteAsync");
    counters().graph_replays.fetch_add(1, std::memory_order_relaxed);
    found.submit(std::make_shared<Replay>(std::move(graph), found));
  });
}
aclError aclmdlRIExecute(aclmdlRI model, int32_t timeout) {
  return guarded([&] {
    auto graph = executable(model);
    auto lent = device(graph->device).borrow_streams(1);
    counters().graph_replays.fetch_add(1, std::memory_order_relaxed);
    lent[0]->submit(std::make_shared<Replay>(graph, *lent[0]));
    lent[0]->synchronize(timeout);
    device(graph->device).give_back(std::move(lent));
  });
}
aclError aclmdlRIDestroy(aclmdlRI model) {
  return guarded([&] {
    auto graph = executable(model);
    if (graph->pending > 0) throw Error(ACL_ERROR_RT_MODEL_RUNNING, "a replay of the graph has not finished; synchronise its stream first");
    forget(graph);
  });
}
aclError aclmdlRIAbort(aclmdlRI) {
  return report(ACL_ERROR_RT_FEATURE_NOT_SUPPORT, "aclmdlRIAbort: a replay that runs cannot be ended here; use aclrtDeviceTaskAbort");
}

aclError aclmdlRIGetId(aclmdlRI model, uint32_t *id) {
  return guarded([&] { *id = graph_of(model)->id; });
}
aclError aclmdlRISetName(aclmdlRI model, const char *name) {
  return guarded([&] { graph_of(model)->name = name; });
}
aclError aclmdlRIGetName(aclmdlRI model, uint32_t room, char *name) {
  return guarded([&] {
    const auto graph = graph_of(model);
    if (room <= graph->name.size()) throw Error(ACL_ERROR_RT_INSUFFICIENT_INPUT_ARRAY, "the graph's name has " + std::to_string(graph->name.size()) + " characters");
    std::strcpy(name, graph->name.c_str());
  });
}
aclError aclmdlRIDebugPrint(aclmdlRI model) {
  return guarded([&] { std::fputs(executable(model)->json(true).c_str(), stdout); });
}
aclError aclmdlRIDebugJsonPrint(aclmdlRI model, const char *path, uint32_t flags) {
  return guarded([&] {
    std::ofstream file(path);
    file << executable(model)->json(flags == ACL_MDLRI_DEBUG_JSON_PRINT_VERBOSE);
    file.flush();
    if (!file) throw Error(ACL_ERROR_RT_FILE_WRITE, std::string("cannot write the graph to ") + path);
  });
}

// ---- updates of captured arguments ------------------------------------------------------------

aclError aclmdlRICaptureTaskGrpBegin(aclrtStream stream) {
  return guarded([&] {
    uint32_t lane;
    const auto graph = captured_here(stream_of(stream), &lane);
    graph->begin_group(lane);
  });
}
aclError aclmdlRICaptureTaskGrpEnd(aclrtStream stream, aclrtTaskGrp *handle) {
  return guarded([&] {
    uint32_t lane;
    const auto graph = captured_here(stream_of(stream), &lane);
    *handle = graph->end_group(lane).get();
  });
}
aclError aclmdlRICaptureTaskUpdateBegin(aclrtStream stream, aclrtTaskGrp handle) {
  return guarded([&] {
    Stream& found = stream_of(stream);
    const auto group = group_of(handle);
    if (found.recorder()) throw Error(ACL_ERROR_STREAM_TASK_GROUP_STATUS, "the stream is captured, or updates a task group already");
    if (group->updating) throw Error(ACL_ERROR_STREAM_TASK_GROUP_STATUS, "the task group is being updated already");
    const auto graph = group->graph.lock();
    if (!graph || graph->capturing()) throw Error(ACL_ERROR_RT_MODEL_CAPTURED, "the graph of the task group is still being captured");
    group->updating = true;
    found.set_recorder(std::make_shared<Update>(group));
  });
}
// The new tasks take the old ones' place when the stream gets there: a replay that waits for an
// event which is recorded after the update runs with them.
aclError aclmdlRICaptureTaskUpdateEnd(aclrtStream stream) {
  return guarded([&] {
    Stream& found = stream_of(stream);
    const auto update = std::dynamic_pointer_cast<Update>(found.recorder());
    if (!update) throw Error(ACL_ERROR_STREAM_TASK_GROUP_STATUS, "the stream updates no task group; call aclmdlRICaptureTaskUpdateBegin first");
    found.set_recorder(nullptr);
    const auto group = update->group;
    group->updating = false;
    if (update->tasks.size() != group->steps.size())
      throw Error(ACL_ERROR_RT_MODEL_UPDATE_FAILED, "the task group has " + std::to_string(group->steps.size()) + " tasks, the update " +
                                                        std::to_string(update->tasks.size()));
    found.submit(make_task([group, tasks = update->tasks] {
      if (const auto graph = group->graph.lock()) graph->update(*group, tasks);
    }));
  });
}

// ---- conditional branches ---------------------------------------------------------------------

aclError aclmdlRICondHandleCreate(aclmdlRI model, uint32_t initial, aclmdlRICondHandleFlag, aclmdlRICondHandle *handle) {
  return guarded([&] {
    const auto graph = graph_of(model);
    auto condition = std::make_shared<Condition>(Condition{initial, initial});
    graph->conditions.push_back(condition);
    *handle = condition.get();
  });
}
aclError aclmdlRICondHandleGetCondPtr(aclmdlRICondHandle handle, uint64_t **value) {
  return guarded([&] {
    if (handle == nullptr) throw Error(ACL_ERROR_RT_PARAM_INVALID, "condition handle is null");
    *value = &static_cast<Condition*>(handle)->value;
  });
}
aclError aclmdlRIAddCondTask(aclmdlRICondTaskParams params, aclrtStream stream, uint32_t) {
  return guarded([&] {
    Stream& found = stream_of(stream);
    uint32_t lane;
    const auto graph = captured_here(found, &lane);
    const size_t most = params.type == ACL_MODEL_RI_COND_TYPE_IF ? 2 : params.type == ACL_MODEL_RI_COND_TYPE_WHILE ? 1 : SIZE_MAX;
    if (params.handle == nullptr || params.size == 0 || params.size > most)
      throw Error(ACL_ERROR_RT_PARAM_INVALID, "a conditional task of " + std::to_string(params.size) + " branches: IF has 1 or 2, WHILE 1, SWITCH 1 or more");
    std::shared_ptr<Condition> condition;
    for (const auto& own : graph->conditions) {
      if (own.get() == params.handle) condition = own;
    }
    if (!condition) throw Error(ACL_ERROR_RT_PARAM_INVALID, "the condition belongs to another graph");
    auto branch = std::make_shared<Branch>(condition, params.type, found);
    for (uint32_t i = 0; i < params.size; ++i) {
      auto made = std::make_shared<Graph>(graph->device, graph->mode);
      made->parent = graph.get();
      branch->branches.push_back(made);
      std::lock_guard lock(known().mutex);
      known().graphs[made.get()] = made;
      params.modelRIArray[i] = made.get();
    }
    found.submit(branch);
  });
}
aclError aclmdlRICaptureToModelRIBegin(aclrtStream stream, aclmdlRI model, aclmdlRICaptureMode mode) {
  return guarded([&] {
    check_mode(mode);
    const auto graph = graph_of(model);
    if (graph->parent == nullptr) throw Error(ACL_ERROR_RT_PARAM_INVALID, "only a branch of a conditional task is captured into");
    begin_capture(stream_of(stream), graph);
    ++graph->parent->open_branches;
  });
}

}  // extern "C"
