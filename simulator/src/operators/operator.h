// How an operator is written: one entry, `OPERATOR(aclnnName, typed arguments...) { ATen call }`.
//
// The entry's argument types are the C interface's: each is received as CANN's object (aclTensor*,
// aclScalar*, aclIntArray*, ...), copied into the executor, and given to the body as ATen's type
// when the stream gets there. `const Tensor&` is read, `Tensor&` is written; `Optional` may be null.
// `CHECKED_OPERATOR(aclnnName, check, arguments...)` refuses arguments as CANN does, before anything
// is queued: `check` sees the tuple of kept arguments and throws (see refuse_unless).
#pragma once

#include <ATen/ATen.h>
#include <ATen/ScalarOps.h>
#include <c10/core/InferenceMode.h>

#include <array>
#include <optional>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "operators/cost.h"
#include "operators/rules.h"
#include "runtime/runtime.h"

// ---- CANN's argument objects (opaque to the caller) -------------------------------------------

struct aclTensor {
  std::vector<int64_t> sizes, strides;
  int64_t offset;  // elements
  aclDataType type;
  aclFormat format;
  void* data;  // start of the storage
};
struct aclScalar {
  at::Scalar value;
};
struct aclIntArray {
  std::vector<int64_t> values;
};
struct aclFloatArray {
  std::vector<float> values;
};
struct aclBoolArray {
  std::vector<char> values;
};
struct aclTensorList {
  std::vector<const aclTensor*> tensors;
};
struct aclScalarList {
  std::vector<const aclScalar*> scalars;
};
struct aclOpExecutor {
  std::shared_ptr<cannsim::Task> task;  // with its activity and work
};

namespace cannsim {

using at::Scalar;
using at::Tensor;
using OptionalTensor = std::optional<Tensor>;
using OptionalScalar = std::optional<Scalar>;
using IntArray = at::IntArrayRef;
using OptionalIntArray = at::OptionalIntArrayRef;
using TensorList = std::vector<Tensor>;
using ScalarList = std::vector<Scalar>;
template <size_t N>
using Flags = std::array<bool, N>;  // which results are wanted
using Text = const std::string&;

inline constexpr int kParameterNull = 161001;     // ACLNN_ERR_PARAM_NULLPTR
inline constexpr int kParameterInvalid = 161002;  // ACLNN_ERR_PARAM_INVALID
inline constexpr int kKernelNotFound = 561003;    // ACLNN_ERR_INNER_FIND_KERNEL_ERROR

// Arguments that CANN refuses: the error that the user sees at the call.
inline void refuse_unless(bool fits, const std::string& message) {
  if (!fits) throw Error(kParameterInvalid, message);
}

// This chip has no kernel for the operator.
[[noreturn]] void refuse_on_chip();

CANNSIM_API at::ScalarType scalar_type(aclDataType type);
aclDataType acl_type(at::ScalarType type);
std::string describe(const aclTensor& tensor);

// Random numbers that follow from a seed and an offset alone.
at::Generator random_generator(int64_t seed, int64_t offset);

// What the executor keeps of a tensor: a view of device memory, made an at::Tensor when run.
struct View {
  explicit View(const aclTensor* tensor);
  Tensor tensor() const;
  uint64_t elements() const;  // in memory: those of an expanded dimension count once
  uint64_t bytes() const { return elements() * c10::elementSize(type); }
  std::vector<int64_t> sizes, strides;
  at::ScalarType type = at::kFloat;
  void* data = nullptr;
  bool present = false;
};

// ---- one rule for each kind of argument: the C type, what is kept, what the body gets -----------

template <typename T>
struct Argument {  // numbers and booleans pass as they are
  using C = T;
  T kept;
  explicit Argument(C value) : kept(value) {}
  T get() { return kept; }
  uint64_t bytes() const { return 0; }
};

template <>
struct Argument<const Tensor&> {
  using C = const aclTensor*;
  View kept;
  Tensor made;
  explicit Argument(C value) : kept(value) {
    if (value == nullptr) throw Error(kParameterNull, "a required tensor is null");
  }
  const Tensor& get() { return made = kept.tensor(); }
  uint64_t bytes() const { return kept.bytes(); }
};
template <>
struct Argument<Tensor&> : Argument<const Tensor&> {
  using Argument<const Tensor&>::Argument;
  Tensor& get() { return made = kept.tensor(); }
};
template <>
struct Argument<const OptionalTensor&> {
  using C = const aclTensor*;
  View kept;
  OptionalTensor made;
  explicit Argument(C value) : kept(value) {}
  const OptionalTensor& get() {
    made = kept.present ? OptionalTensor(kept.tensor()) : std::nullopt;
    return made;
  }
  uint64_t bytes() const { return kept.bytes(); }
};
template <>
struct Argument<const TensorList&> {
  using C = const aclTensorList*;
  std::vector<View> kept;
  TensorList made;
  explicit Argument(C value) {
    if (value == nullptr) return;
    for (const aclTensor* tensor : value->tensors) kept.emplace_back(tensor);
  }
  const TensorList& get() {
    made.clear();
    for (auto& view : kept) made.push_back(view.present ? view.tensor() : Tensor());
    return made;
  }
  uint64_t bytes() const {
    uint64_t sum = 0;
    for (auto& view : kept) sum += view.bytes();
    return sum;
  }
};
template <>
struct Argument<TensorList&> : Argument<const TensorList&> {
  using Argument<const TensorList&>::Argument;
  TensorList& get() {
    Argument<const TensorList&>::get();
    return made;
  }
};
template <>
struct Argument<const Scalar&> {
  using C = const aclScalar*;
  Scalar kept;
  explicit Argument(C value) {
    if (value == nullptr) throw Error(kParameterNull, "a required scalar is null");
    kept = value->value;
  }
  const Scalar& get() { return kept; }
  uint64_t bytes() const { return 0; }
};
template <>
struct Argument<const OptionalScalar&> {
  using C = const aclScalar*;
  OptionalScalar kept;
  explicit Argument(C value) {
    if (value != nullptr) kept = value->value;
  }
  const OptionalScalar& get() { return kept; }
  uint64_t bytes() const { return 0; }
};
template <>
struct Argument<const ScalarList&> {
  using C = const aclScalarList*;
  ScalarList kept;
  explicit Argument(C value) {
    if (value == nullptr) throw Error(kParameterNull, "a required list of scalars is null");
    for (const aclScalar* scalar : value->scalars) kept.push_back(scalar->value);
  }
  const ScalarList& get() { return kept; }
  uint64_t bytes() const { return 0; }
};
template <size_t N>
struct Argument<Flags<N>> {
  using C = const aclBoolArray*;
  Flags<N> kept;
  explicit Argument(C value) {
    if (value == nullptr || value->values.size() != N)
      throw Error(kParameterInvalid, "an array of " + std::to_string(N) + " booleans is expected");
    std::copy(value->values.begin(), value->values.end(), kept.begin());
  }
  Flags<N> get() { return kept; }
  uint64_t bytes() const { return 0; }
};
template <>
struct Argument<IntArray> {
  using C = const aclIntArray*;
  std::vector<int64_t> kept;
  explicit Argument(C value) {
    if (value != nullptr) kept = value->values;
  }
  IntArray get() { return kept; }
  uint64_t bytes() const { return 0; }
};
template <>
struct Argument<OptionalIntArray> {
  using C = const aclIntArray*;
  std::vector<int64_t> kept;
  bool present;
  explicit Argument(C value) : present(value != nullptr) {
    if (present) kept = value->values;
  }
  OptionalIntArray get() { return present ? OptionalIntArray(IntArray(kept)) : OptionalIntArray(); }
  uint64_t bytes() const { return 0; }
};
template <>
struct Argument<at::ScalarType> {
  using C = aclDataType;
  at::ScalarType kept;
  explicit Argument(C value) : kept(scalar_type(value)) {}
  at::ScalarType get() { return kept; }
  uint64_t bytes() const { return 0; }
};
template <>
struct Argument<Text> {
  using C = const char*;
  std::string kept;
  explicit Argument(C value) : kept(value == nullptr ? "" : value) {}
  Text get() { return kept; }
  uint64_t bytes() const { return 0; }
};

// What is kept of an argument's tensors, if it has any.
template <typename A, typename Visit>
void each_view(const A& argument, Visit&& visit) {
  if constexpr (std::is_same_v<decltype(argument.kept), View>) {
    if (argument.kept.present) visit(argument.kept);
  } else if constexpr (std::is_same_v<decltype(argument.kept), std::vector<View>>) {
    for (const View& view : argument.kept)
      if (view.present) visit(view);
  }
}
template <typename Arguments>
void refuse_by_rules(const TypeRule* rule, bool any_device, const Arguments& arguments) {
  const View* first = nullptr;
  int device = -1;
  const auto look = [&](const View& view) {
    if (first == nullptr) first = &view;
    if (!any_device && view.data != nullptr) same_device(view.data, device);
  };
  std::apply([&](const auto&... argument) { (each_view(argument, look), ...); }, arguments);
  if (rule != nullptr && first != nullptr) obey(*rule, first->type, first->sizes);
}

// The first tensor that is written, for Task::output.
template <typename T>
void find_output(const Argument<T>& argument, Output* found) {
  if constexpr (std::is_same_v<T, Tensor&>) {
    if (found->data == nullptr) *found = {argument.kept.data, c10::elementSize(argument.kept.type)};
  }
}

// ---- the two C functions of an operator --------------------------------------------------------

template <typename Signature>
struct Operator;

template <typename... Args>
struct Operator<void(Args...)> {
  struct Call final : Task {
    Call(void (*body)(Args...), typename Argument<Args>::C... values) : body(body), arguments(Argument<Args>(values)...) {}
    void run() override {
      c10::InferenceMode inference;
      std::apply([this](auto&... argument) { body(argument.get()...); }, arguments);
    }
    void prepare(Stream& stream) override {
      const auto each = [&](auto& argument) {
        if constexpr (requires { argument.prepare(activity->name, stream); }) argument.prepare(activity->name, stream);
      };
      std::apply([&](auto&... argument) { (each(argument), ...); }, arguments);
    }
    Output output() override {
      Output first;
      std::apply([&](auto&... argument) { (find_output(argument, &first), ...); }, arguments);
      return first;
    }
    void (*body)(Args...);
    std::tuple<Argument<Args>...> arguments;
  };

  // <name>GetWorkspaceSize: keeps the arguments, after `check` has seen them; no operator here
  // needs a workspace.
  template <void (*body)(Args...), const char* name, void (*check)(const std::tuple<Argument<Args>...>&)>
  static int plan(typename Argument<Args>::C... values, uint64_t* workspace, aclOpExecutor** executor) {
    static const Activity& self = activity(name);
    static const Cost cost = cost_of(name);
    static const bool absent = chip_lacks(name);
    static const TypeRule* rule = type_rule(name);
    static const bool any_device = crosses_devices(name);
    return guarded([&] {
      try {
        if (absent) refuse_on_chip();
        auto call = std::make_shared<Call>(body, values...);
        refuse_by_rules(rule, any_device, call->arguments);
        if constexpr (check != nullptr) check(call->arguments);
        call->activity = &self;
        call->work = work_of<Args...>(cost, call->arguments);
        *workspace = 0;
        *executor = new aclOpExecutor{std::move(call)};
      } catch (const Error& error) {
        throw Error(error.code, std::string(name) + ": " + error.what());
      }
    });
  }
};

// <name>: puts the planned call on the stream.
int launch(void* workspace, uint64_t size, aclOpExecutor* executor, aclrtStream stream);

// What a look-up of an operator's C function answers: null when the CANN version lacks it.
using Entry = void (*)();
template <typename Function>
Entry exported(const char* name, Function* function) {
  return cann_lacks(name) ? nullptr : reinterpret_cast<Entry>(function);
}

}  // namespace cannsim

// Exports one operator. The functions are resolved when they are looked up (ifunc), so that a name
// which the chosen CANN version lacks is absent (null) to dlsym, as it is on the real one.
#define CHECKED_OPERATOR(NAME, CHECK, ...)                                                          \
  static void NAME##_body(__VA_ARGS__);                                                             \
  static constexpr char NAME##_name[] = #NAME;                                                      \
  extern "C" {                                                                                      \
  __attribute__((used)) static ::cannsim::Entry NAME##_find_plan() {                                \
    using Made = ::cannsim::Operator<decltype(NAME##_body)>;                                        \
    return ::cannsim::exported(#NAME, &Made::plan<NAME##_body, NAME##_name, CHECK>);                \
  }                                                                                                 \
  __attribute__((used)) static ::cannsim::Entry NAME##_find_launch() {                              \
    return ::cannsim::exported(#NAME, &::cannsim::launch);                                          \
  }                                                                                                 \
  __attribute__((visibility("default"), ifunc(#NAME "_find_plan"))) void NAME##GetWorkspaceSize();  \
  __attribute__((visibility("default"), ifunc(#NAME "_find_launch"))) void NAME();                  \
  }                                                                                                 \
  static void NAME##_body(__VA_ARGS__)
#define OPERATOR(NAME, ...) CHECKED_OPERATOR(NAME, nullptr, __VA_ARGS__)

// Exports <name>GetMaxWorkspaceSize, which torch-npu asks before it captures: no workspace depends on
// the lengths, so it is the same question. In the file of the operator.
#define LARGEST_WORKSPACE(NAME)                                                                       \
  extern "C" __attribute__((visibility("default"), ifunc(#NAME "_find_plan"))) void NAME##GetMaxWorkspaceSize();
