// What one launch of an operator costs: its arithmetic, and the bytes that it has to move.
//
// Every tensor operand counts its bytes as read or written, and one operation per element of the
// largest. Families of which that says little (products, attention, convolution, look-ups) have a
// formula by name in cost.cpp, which sees all operands in the order of the C interface.
#pragma once

#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "runtime/counters.h"

namespace cannsim {

struct View;

// One operand, as whichever of these it is; a missing optional tensor is a view that is not present.
struct Operand {
  const View* view = nullptr;
  const std::vector<View>* list = nullptr;
  const std::vector<int64_t>* integers = nullptr;
  const std::string* text = nullptr;
  double number = 0;
  bool written = false;
};

// By position in the C call; a position that does not exist is an empty operand.
struct Operands {
  std::vector<Operand> all;
  const Operand& operator[](size_t position) const {
    static const Operand none;
    return position < all.size() ? all[position] : none;
  }
};

// Replaces what was counted by default where it knows better.
using Cost = void (*)(const Operands& operands, Work& work);
Cost cost_of(const char* name);  // nullptr: the default

template <typename Arg>
inline constexpr bool kWritten = std::is_lvalue_reference_v<Arg> && !std::is_const_v<std::remove_reference_t<Arg>>;

inline uint64_t elements_of(const View& view);
template <typename Views>
uint64_t elements_of(const Views& views) {
  uint64_t sum = 0;
  for (const auto& view : views) sum += elements_of(view);
  return sum;
}

template <typename Arg, typename Kept>
void count_operand(const Kept& argument, Work& work) {
  if constexpr (requires { argument.kept.present && argument.bytes(); } || requires { argument.kept.front().present; }) {
    (kWritten<Arg> ? work.written : work.read) += argument.bytes();
    const uint64_t elements = elements_of(argument.kept);
    if (elements > work.flops) work.flops = elements;
  }
}

template <typename Arg, typename Kept>
Operand operand_of(const Kept& argument) {
  Operand made;
  made.written = kWritten<Arg>;
  if constexpr (requires { argument.kept; }) {
    using Type = std::remove_cvref_t<decltype(argument.kept)>;
    if constexpr (std::is_arithmetic_v<Type>) {
      made.number = double(argument.kept);
    } else if constexpr (std::is_same_v<Type, std::string>) {
      made.text = &argument.kept;
    } else if constexpr (std::is_same_v<Type, std::vector<int64_t>>) {
      made.integers = &argument.kept;
    } else if constexpr (std::is_same_v<Type, View>) {
      made.view = &argument.kept;
    } else if constexpr (std::is_same_v<Type, std::vector<View>>) {
      made.list = &argument.kept;
    }
  }
  return made;
}

// The work of a call with these arguments (a tuple of Argument<Args>).
template <typename... Args, typename Tuple>
Work work_of(Cost cost, const Tuple& arguments) {
  Work work;
  std::apply([&](const auto&... argument) { (count_operand<Args>(argument, work), ...); }, arguments);
  if (cost != nullptr) {
    const Operands operands{std::apply([](const auto&... argument) { return std::vector<Operand>{operand_of<Args>(argument)...}; }, arguments)};
    cost(operands, work);
  }
  return work;
}

}  // namespace cannsim
