// The older operator interface: an operator is found by its type's name, with tensor descriptions
// and attributes. The operators are in legacy_table.cpp.
#include "operators/legacy.h"

#include <ATen/ExpandUtils.h>

#include <algorithm>
#include <sstream>

namespace cannsim {
namespace {

std::map<std::string, LegacyBody>& table() {
  static std::map<std::string, LegacyBody> all;
  return all;
}

size_t distance(const std::string& a, const std::string& b) {
  std::vector<size_t> row(b.size() + 1);
  for (size_t j = 0; j <= b.size(); ++j) row[j] = j;
  for (size_t i = 1; i <= a.size(); ++i) {
    size_t corner = row[0];
    row[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t above = row[j];
      row[j] = std::min({row[j] + 1, row[j - 1] + 1, corner + (a[i - 1] != b[j - 1])});
      corner = above;
    }
  }
  return row[b.size()];
}

LegacyBody body_of(const std::string& type) {
  const auto found = table().find(type);
  if (found != table().end()) return found->second;
  const auto nearest = std::min_element(table().begin(), table().end(), [&](const auto& one, const auto& other) {
    return distance(type, one.first) < distance(type, other.first);
  });
  throw Error(ACL_ERROR_OP_NOT_FOUND,
              "operator " + type + " is not simulated on the path of compiled operators (the nearest of " + std::to_string(table().size()) +
                  " that are is " + nearest->first + "), and libopapi.so has no aclnn function that torch-npu could call for it. Add it: " +
                  "OPERATOR(aclnn..., ...) in simulator/src/operators, in the file of its family, or LEGACY(" + type +
                  ") in legacy_table.cpp there");
}

}  // namespace

LegacyEntry::LegacyEntry(const char* type, LegacyBody body) { table()[type] = body; }

LegacyCall::Operand LegacyCall::operand(const aclTensorDesc* description, const aclDataBuffer* buffer) {
  Operand made;
  if (description == nullptr || description->type == ACL_DT_UNDEFINED) return made;
  made.present = true;
  made.type = scalar_type(description->type);
  made.sizes = description->dims;
  made.data = buffer == nullptr ? nullptr : buffer->data;
  if (description->place != ACL_MEMTYPE_DEVICE && made.data != nullptr) {
    const char* begin = static_cast<const char*>(made.data);
    made.kept.assign(begin, begin + buffer->size);
  }
  return made;
}

LegacyCall::LegacyCall(const LegacyRequest& request) : type(request.type), shapes_unknown(request.shapes_unknown) {
  for (int i = 0; i < request.inputs; ++i) inputs_.push_back(operand(request.input_descriptions[i], request.input_buffers[i]));
  for (int i = 0; i < request.outputs; ++i) outputs_.push_back(operand(request.output_descriptions[i], request.output_buffers[i]));
  if (request.attributes != nullptr) attributes_ = request.attributes->values;
}

Tensor LegacyCall::in(size_t i) const {
  if (!has(i)) throw Error(ACL_ERROR_INVALID_PARAM, type + ": input " + std::to_string(i) + " is missing");
  const Operand& from = inputs_[i];
  void* data = from.kept.empty() ? from.data : const_cast<char*>(from.kept.data());
  return at::from_blob(data, from.sizes, at::TensorOptions().dtype(from.type));
}
Tensor LegacyCall::out(size_t i) const {
  if (i >= outputs_.size() || !outputs_[i].present) throw Error(ACL_ERROR_INVALID_PARAM, type + ": output " + std::to_string(i) + " is missing");
  return at::from_blob(outputs_[i].data, outputs_[i].sizes, at::TensorOptions().dtype(outputs_[i].type));
}
std::vector<int64_t> LegacyCall::integers(size_t i) const {
  const Tensor values = in(i).to(at::kLong).reshape({-1});
  return {values.data_ptr<int64_t>(), values.data_ptr<int64_t>() + values.numel()};
}
Scalar LegacyCall::scalar(size_t i) const { return in(i).reshape({}).item(); }

void LegacyCall::set(size_t i, const Tensor& value) {
  Tensor to = out(i);
  const bool same = value.numel() == to.numel();
  if (!same && !at::is_expandable_to(value.sizes(), to.sizes())) {
    std::ostringstream text;
    text << "the result is of size " << value.sizes() << ", output " << i << " is described with " << to.sizes();
    throw Error(ACL_ERROR_INVALID_PARAM, text.str());
  }
  to.copy_(same ? value.reshape(to.sizes()) : value);
}
void LegacyCall::set_resized(size_t i, const Tensor& value) {
  outputs_[i].sizes = value.sizes().vec();
  outputs_[i].resized = true;
  out(i).copy_(value);
}

const aclopAttr::Value* LegacyCall::find(const char* name) const {
  const auto found = attributes_.find(name);
  return found == attributes_.end() ? nullptr : &found->second;
}
int64_t LegacyCall::integer(const char* name, int64_t otherwise) const {
  const auto* value = find(name);
  if (value == nullptr) return otherwise;
  if (const auto* truth = std::get_if<bool>(value)) return *truth;
  return std::get<int64_t>(*value);
}
double LegacyCall::number(const char* name, double otherwise) const {
  const auto* value = find(name);
  if (value == nullptr) return otherwise;
  if (const auto* integer = std::get_if<int64_t>(value)) return double(*integer);
  return std::get<float>(*value);
}
bool LegacyCall::flag(const char* name, bool otherwise) const {
  const auto* value = find(name);
  if (value == nullptr) return otherwise;
  if (const auto* integer = std::get_if<int64_t>(value)) return *integer != 0;
  return std::get<bool>(*value);
}
std::string LegacyCall::text(const char* name, const char* otherwise) const {
  const auto* value = find(name);
  return value == nullptr ? otherwise : std::get<std::string>(*value);
}
std::vector<int64_t> LegacyCall::list(const char* name) const {
  const auto* value = find(name);
  if (value == nullptr) return {};
  if (const auto* one = std::get_if<int64_t>(value)) return {*one};
  return std::get<std::vector<int64_t>>(*value);
}

Work LegacyCall::work() const {
  Work made;
  uint64_t most = 0;
  const auto add = [&most](const Operand& each, auto& bytes) {
    const uint64_t elements = each.present ? uint64_t(c10::multiply_integers(each.sizes)) : 0;
    bytes += elements * c10::elementSize(each.type);
    most = std::max(most, elements);
  };
  for (const Operand& each : inputs_) add(each, made.read);
  for (const Operand& each : outputs_) add(each, made.written);
  made.flops = most;
  return made;
}
void LegacyCall::describe(aclTensorDesc* const* outputs) const {
  for (size_t i = 0; i < outputs_.size(); ++i) {
    if (outputs_[i].resized) outputs[i]->dims = outputs_[i].sizes;
  }
}

}  // namespace cannsim

using namespace cannsim;

extern "C" __attribute__((visibility("default"))) int cannsim_legacy_execute(const LegacyRequest& request) {
  return guarded([&] {
    const LegacyBody body = body_of(request.type);
    auto call = std::make_shared<LegacyCall>(request);
    Stream& stream = stream_of(request.stream);
    auto task = make_task([call, body] {
      c10::InferenceMode inference;
      try {
        body(*call);
      } catch (const Error& error) {
        throw Error(error.code, call->type + ": " + error.what());
      }
    });
    task->activity = &activity(request.type);
    task->work = call->work();
    stream.submit(std::move(task));
    if (!request.shapes_unknown) return;
    stream.synchronize();
    call->describe(request.output_descriptions);
  });
}
