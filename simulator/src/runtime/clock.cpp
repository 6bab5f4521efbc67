// The modelled clock: how long a chip would take for a launch, by its profile; and paced mode, which
// lets tasks take that long here.
#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <thread>

#include "runtime/runtime.h"
#include "runtime/timeline.h"

namespace cannsim {
namespace {

double rate(const ChipProfile& chip, Unit unit) {
  switch (unit) {
    case Unit::cube_float16: return chip.cube_float16_flops;
    case Unit::cube_float32: return chip.cube_float32_flops;
    case Unit::cube_int8: return chip.cube_int8_ops;
    default: return chip.vector_flops;
  }
}

// CANNSIM_PACED: how many times slower than modelled the device is; 0 (or none) for no pacing.
double read_pace() {
  const char* value = std::getenv("CANNSIM_PACED");
  return value == nullptr ? 0 : std::max(0.0, std::strtod(value, nullptr));
}

const double slower = read_pace();
const bool paced = slower > 0;

// A task ends when the chip would have ended it: its result is not there before. A stream that is
// late (the CPU was slower than the chip) does not sleep until it has caught up.
void pace(Stream& stream, const Task& task) {
  const int64_t begin = std::max(stream.paced_until_ns, task.submitted_ns);
  stream.paced_until_ns = begin + int64_t(slower * double(modelled_ns(task.work, task.activity->kind)));
  const int64_t wait = stream.paced_until_ns - steady_ns();
  if (wait > 0) std::this_thread::sleep_for(std::chrono::nanoseconds(wait));
}

}  // namespace

std::atomic<bool> observing{false};
[[maybe_unused]] static const bool observed = paced && (observing = true);

int64_t steady_ns() { return std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

// A roofline: the longer of arithmetic and traffic at the rates that the profile expects to be
// reached, and what every kernel takes to start.
uint64_t modelled_ns(const Work& work, Kind kind) {
  const ChipProfile& chip = settings().chip;
  const double moved = double(work.read + work.written);
  if (kind == Kind::copy) return uint64_t(chip.copy_ns + 1e9 * moved / (chip.host_link_bytes_per_second * chip.efficiency));
  if (kind == Kind::collective) return uint64_t(chip.launch_ns + 1e9 * moved / (chip.device_link_bytes_per_second * chip.efficiency));
  const double arithmetic = double(work.flops) / (rate(chip, work.unit) * chip.efficiency);
  const double traffic = moved / (chip.hbm_bytes_per_second * chip.efficiency);
  return uint64_t(chip.launch_ns + 1e9 * std::max(arithmetic, traffic));
}

HostCall::~HostCall() {
  if (begin_ns_ == 0) return;
  if (paced && bytes_ > 0) {
    const int64_t end = begin_ns_ + int64_t(slower * double(modelled_ns({0, bytes_, 0}, Kind::copy)));
    std::this_thread::sleep_for(std::chrono::nanoseconds(std::max<int64_t>(0, end - steady_ns())));
  }
  if (recording.load(std::memory_order_relaxed)) record_call(name_, begin_ns_, steady_ns());
}

void run_observed(Stream& stream, Task& task) {
  if (task.activity == nullptr) {
    task.run();
    return;
  }
  if (task.submitted_ns == 0) task.submitted_ns = steady_ns();
  const int64_t begin = steady_ns();
  if (paced) pace(stream, task);
  task.run();
  if (recording.load(std::memory_order_relaxed)) record_run(stream, task, paced ? std::min(begin, stream.paced_until_ns) : begin, steady_ns());
}

}  // namespace cannsim
