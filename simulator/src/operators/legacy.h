// How an operator of the older interface is written: one entry by its type's name,
// `LEGACY(Axpy) { call.set(0, at::add(call.in(0), call.in(1), call.number("alpha", 1))); }`.
//
// torch-npu comes this way for operators without an aclnn function, for those that the CANN version
// lacks, and for all in `torch.npu.set_compile_mode(jit_compile=True)`. Tensors are dense.
#pragma once

#include "operators/operator.h"
#include "runtime/descriptors.h"

namespace cannsim {

class LegacyCall {
 public:
  explicit LegacyCall(const LegacyRequest& request);

  size_t inputs() const { return inputs_.size(); }
  size_t outputs() const { return outputs_.size(); }
  bool has(size_t i) const { return i < inputs_.size() && inputs_[i].present; }
  Tensor in(size_t i) const;                          // throws for one that is absent
  std::vector<int64_t> integers(size_t i) const;      // the values of an input
  Scalar scalar(size_t i) const;                      // the value of an input of one element
  Tensor out(size_t i) const;
  // Writes output i: a result of its size, or one that broadcasts to it.
  void set(size_t i, const Tensor& value);
  // Writes the front of output i, and has its description say the result's sizes.
  void set_resized(size_t i, const Tensor& value);

  int64_t integer(const char* name, int64_t otherwise) const;
  double number(const char* name, double otherwise) const;
  bool flag(const char* name, bool otherwise) const;
  std::string text(const char* name, const char* otherwise) const;
  std::vector<int64_t> list(const char* name) const;  // empty when absent

  const std::string type;
  const bool shapes_unknown;
  Work work() const;  // by the default of cost.h
  // After the run: tells the caller's descriptions the sizes that were found.
  void describe(aclTensorDesc* const* outputs) const;

 private:
  struct Operand {
    bool present = false;
    at::ScalarType type = at::kFloat;
    std::vector<int64_t> sizes;
    void* data = nullptr;
    std::vector<char> kept;  // what lay in host memory at the call
    bool resized = false;
  };
  static Operand operand(const aclTensorDesc* description, const aclDataBuffer* buffer);
  const aclopAttr::Value* find(const char* name) const;
  std::vector<Operand> inputs_, outputs_;
  std::map<std::string, aclopAttr::Value> attributes_;
};

// In gradients.cpp; torch-npu asks for it by either interface.
Tensor cdist_gradient(const Tensor& gradient, const Tensor& first, const Tensor& second, const Tensor& distances, double p);

using LegacyBody = void (*)(LegacyCall&);
struct LegacyEntry {
  LegacyEntry(const char* type, LegacyBody body);
};

}  // namespace cannsim

#define LEGACY(TYPE)                                                  \
  static void legacy_##TYPE(::cannsim::LegacyCall& call);             \
  static const ::cannsim::LegacyEntry entry_##TYPE(#TYPE, legacy_##TYPE); \
  static void legacy_##TYPE(::cannsim::LegacyCall& call)
