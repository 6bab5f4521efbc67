// What one launch of an operator costs: its arithmetic, and the bytes that it has to move.
//
// Every tensor operand counts its bytes as read or written, and one operation per element of the
// largest. Families of which that says little (products, attention, convolution, look-ups) have a
// formula by name in cost.cpp, which sees all operands in the order of the C interface.
#pragma once

#include <c10/core/ScalarType.h>

#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "acl/acl_base.h"
#include "runtime/counters.h"

namespace cannsim {

// A tensor operand: its sizes in numbers, its bytes in memory (an expanded dimension counts once),
// and the rate at which the cube unit takes numbers of its type.
struct Shape {
  std::vector<int64_t> sizes;
  uint64_t bytes = 0;
  Unit cube = Unit::cube_float16;
  int64_t size(int64_t dim) const;  // 1 for a dimension that it does not have
  uint64_t elements() const;
};
Unit cube_for(at::ScalarType type);
Unit cube_for(aclDataType type);

// One operand, as whichever of these it is; a missing optional tensor has none.
struct Operand {
  std::vector<Shape> shapes;  // a tensor, or those of a list
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

// What an argument keeps of a tensor: any type that says whether it is present and its bytes.
template <typename Kept>
concept KeptTensor = requires(const Kept& kept) {
  kept.present;
  kept.bytes();
};
template <typename Kept>
concept KeptTensors = requires(const Kept& kept) { kept.begin(); } && KeptTensor<typename Kept::value_type>;

template <KeptTensor Kept>
uint64_t elements_of(const Kept& kept) {
  if constexpr (requires { kept.elements(); }) {
    return kept.elements();
  } else {
    return kept.bytes();
  }
}
template <KeptTensors Kept>
uint64_t elements_of(const Kept& kept) {
  uint64_t sum = 0;
  for (const auto& one : kept) sum += elements_of(one);
  return sum;
}

template <KeptTensor Kept>
void add_shape(const Kept& kept, std::vector<Shape>& to) {
  if (!kept.present) return;
  if constexpr (requires { kept.sizes(); }) {
    to.push_back({kept.sizes(), kept.bytes(), cube_for(kept.type)});
  } else {
    to.push_back({kept.sizes, kept.bytes(), cube_for(kept.type)});
  }
}

template <typename Arg, typename Argument>
void count_operand(const Argument& argument, Work& work) {
  if constexpr (requires { argument.kept; }) {
    using Kept = std::remove_cvref_t<decltype(argument.kept)>;
    if constexpr (KeptTensor<Kept> || KeptTensors<Kept>) {
      (kWritten<Arg> ? work.written : work.read) += argument.bytes();
      const uint64_t elements = elements_of(argument.kept);
      if (elements > work.flops) work.flops = elements;
    }
  }
}

template <typename Arg, typename Argument>
Operand operand_of(const Argument& argument) {
  Operand made;
  made.written = kWritten<Arg>;
  if constexpr (requires { argument.kept; }) {
    using Kept = std::remove_cvref_t<decltype(argument.kept)>;
    if constexpr (std::is_arithmetic_v<Kept>) {
      made.number = double(argument.kept);
    } else if constexpr (std::is_same_v<Kept, std::string>) {
      made.text = &argument.kept;
    } else if constexpr (std::is_same_v<Kept, std::vector<int64_t>>) {
      made.integers = &argument.kept;
    } else if constexpr (KeptTensor<Kept>) {
      add_shape(argument.kept, made.shapes);
    } else if constexpr (KeptTensors<Kept>) {
      for (const auto& one : argument.kept) add_shape(one, made.shapes);
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
