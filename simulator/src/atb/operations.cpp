// The operators that torch-npu runs through ATB: writes to a paged cache, rotary positions, attention
// over packed sequences and over a paged cache, and a product that accumulates.
#include <ATen/ATen.h>
#include <c10/core/InferenceMode.h>

#include <functional>
#include <limits>

#include "atb/interface.h"
#include "operators/attention.h"
#include "operators/caches.h"

#define EXPORT __attribute__((visibility("default")))

namespace {

using cannsim::AttentionRule;
using cannsim::AttentionSequence;
using cannsim::Error;
using cannsim::OptionalTensor;
using cannsim::wide;
using Numbers = std::vector<int64_t>;

const OptionalTensor kNone;

at::Tensor tensor_of(const atb::Tensor& tensor, const void* data) {
  const auto& shape = tensor.desc.shape;
  return at::from_blob(const_cast<void*>(data), at::IntArrayRef(shape.dims, shape.dimNum),
                       at::TensorOptions().dtype(cannsim::scalar_type(tensor.desc.dtype)));
}

// What a call was given: views of device memory, and a copy of what lies on the host (the caller
// may free it once the call returns).
struct Call {
  std::vector<at::Tensor> inputs, outputs;
  explicit Call(const atb::VariantPack& tensors) {
    for (size_t i = 0; i < tensors.inTensors.size(); ++i) {
      const atb::Tensor& one = tensors.inTensors[i];
      inputs.push_back(one.hostData != nullptr ? tensor_of(one, one.hostData).clone() : tensor_of(one, one.deviceData));
    }
    for (size_t i = 0; i < tensors.outTensors.size(); ++i) outputs.push_back(tensor_of(tensors.outTensors[i], tensors.outTensors[i].deviceData));
  }
};
Numbers numbers(const at::Tensor& list) {
  const at::Tensor wide_list = list.to(at::kLong).contiguous();
  return {wide_list.data_ptr<int64_t>(), wide_list.data_ptr<int64_t>() + wide_list.numel()};
}

using Body = std::function<void(const Call&)>;
using Check = std::function<void(const Call&)>;  // throws, before anything is queued

class Made final : public atb::Operation {
 public:
  Made(std::string name, Body body, Check check) : name_(std::move(name)), body_(std::move(body)), check_(std::move(check)) {}
  std::string GetName() const override { return name_; }
  atb::Status InferShape(const atb::SVector<atb::TensorDesc>&, atb::SVector<atb::TensorDesc>&) const override { return atb::kOk; }
  uint32_t GetInputNum() const override { return 0; }
  uint32_t GetOutputNum() const override { return 0; }
  atb::Status Setup(const atb::VariantPack& tensors, uint64_t& workspace, atb::Context*) override {
    workspace = 0;
    const auto look = [&] {
      if (check_) check_(Call(tensors));
    };
    return cannsim::guarded(look) == ACL_SUCCESS ? atb::kOk : atb::kInvalidParameter;
  }
  atb::Status Execute(const atb::VariantPack& tensors, uint8_t*, uint64_t, atb::Context* context) override {
    return cannsim::guarded([&] {
      auto call = std::make_shared<Call>(tensors);
      cannsim::Work work;
      for (const auto& one : call->inputs) work.read += one.nbytes();
      for (const auto& one : call->outputs) work.written += one.nbytes();
      const auto& self = cannsim::activity("atb::" + name_);
      cannsim::stream_of(context->GetExecuteStream()).submit(cannsim::make_task(self, work, [call, body = body_] {
        c10::InferenceMode inference;
        body(*call);
      }));
    }) == ACL_SUCCESS
               ? atb::kOk
               : atb::kInvalidParameter;
  }

 private:
  std::string name_;
  Body body_;
  Check check_;
};

class Streams final : public atb::Context {
 public:
  atb::Status SetExecuteStream(aclrtStream stream) override {
    stream_ = stream;
    return atb::kOk;
  }
  aclrtStream GetExecuteStream() const override { return stream_; }
  atb::Status SetAsyncTilingCopyStatus(bool enable) override {
    copies_apart_ = enable;
    return atb::kOk;
  }
  bool GetAsyncTilingCopyStatus() const override { return copies_apart_; }
  atb::Status SetExecuteStreams(const std::vector<aclrtStream>& streams) override {
    stream_ = streams.empty() ? nullptr : streams[0];
    return atb::kOk;
  }
  std::vector<aclrtStream> GetExecuteStreams() override { return {stream_}; }
  atb::Status SetExecuteType(int type) override {
    type_ = type;
    return atb::kOk;
  }
  int GetExecuteType() override { return type_; }
  atb::Status SetL2WorkspaceBuffer(void*, size_t) override { return atb::kOk; }
  atb::Status SetL2TensorBuffer(void*, size_t) override { return atb::kOk; }

 private:
  aclrtStream stream_ = nullptr;
  bool copies_apart_ = false;
  int type_ = 0;
};

// ---- bodies --------------------------------------------------------------------------------------

at::Tensor by_heads(const at::Tensor& x, int64_t heads) { return x.view({x.size(0), heads, -1}); }

void attend_one(int64_t heads, int64_t key_heads, double scale, const OptionalTensor& shift, bool causal, int64_t window, const at::Tensor& query,
                const at::Tensor& key, const at::Tensor& value, at::Tensor out) {
  const int64_t mode = window > 0 ? 4 : causal ? 3 : 0;
  const at::Tensor result = at::empty({query.size(0), heads, value.size(2)}, at::kFloat);
  const AttentionRule rule{heads, key_heads, scale, mode, window > 0 ? window - 1 : INT32_MAX, window > 0 ? 0 : INT32_MAX, kNone, shift, kNone};
  cannsim::attend(rule, {wide(query), wide(key), wide(value), result});
  out.copy_(result);
}
// An added mask's part: [rows, length], the same for all heads.
OptionalTensor added(const at::Tensor& mask, int64_t heads, int64_t first, int64_t rows, int64_t length) {
  at::Tensor part = mask;
  while (part.dim() > 2) part = part.select(0, 0);
  part = part.narrow(0, first, rows).narrow(1, 0, length);
  return wide(part).view({1, 1, rows, length}).expand({1, heads, rows, length});
}

// Packed sequences; inputs: query, key, value, (mask,) lengths.
void attend_packed(const atb::infer::SelfAttentionParam& p, const Call& call) {
  using Parameter = atb::infer::SelfAttentionParam;
  const int64_t heads = p.headNum, key_heads = p.kvHeadNum > 0 ? p.kvHeadNum : p.headNum;
  const at::Tensor query = by_heads(call.inputs[0], heads), key = by_heads(call.inputs[1], key_heads), value = by_heads(call.inputs[2], key_heads);
  const at::Tensor out = by_heads(call.outputs[0], heads);
  const bool causal = p.maskType == Parameter::kCompressed || p.maskType == Parameter::kCausal;
  const int64_t window = p.maskType == Parameter::kWindowCompressed || p.maskType == Parameter::kWindow ? p.windowSize : 0;
  int64_t first = 0;
  for (const int64_t rows : numbers(call.inputs.back())) {
    const OptionalTensor shift = p.maskType == Parameter::kAdded ? added(call.inputs[3], heads, 0, rows, rows) : kNone;
    attend_one(heads, key_heads, double(p.qScale) * p.qkScale, shift, causal, window, query.narrow(0, first, rows), key.narrow(0, first, rows),
               value.narrow(0, first, rows), out.narrow(0, first, rows));
    first += rows;
  }
}

// A paged cache; inputs: query, key cache, value cache, block table, lengths(, mask, rows of each query).
void attend_paged(const atb::infer::PagedAttentionParam& p, const Call& call) {
  using Parameter = atb::infer::PagedAttentionParam;
  const int64_t heads = p.headNum, key_heads = p.kvHeadNum > 0 ? p.kvHeadNum : p.headNum;
  const at::Tensor query = by_heads(call.inputs[0], heads), out = by_heads(call.outputs[0], heads);
  const Numbers lengths = numbers(call.inputs[4]);
  // Several rows of a query: each sees the tokens up to its own, as the mask says, or by a
  // mask that is only the pattern of it (kPattern, ATB's MASK_TYPE_NORM_COMPRESS).
  const bool pattern = p.maskType == Parameter::kPattern;
  const bool speculative = (pattern || p.maskType == Parameter::kSpeculative) && call.inputs.size() > 6;
  const Numbers rows = speculative ? numbers(call.inputs[6]) : Numbers(lengths.size(), 1);
  const at::Tensor table = call.inputs[3].to(at::kLong);
  int64_t first = 0;
  for (size_t i = 0; i < lengths.size(); ++i) {
    const auto tokens = [&](const at::Tensor& cache) {  // [blocks, block, heads, width]
      const int64_t pages = (lengths[i] + cache.size(1) - 1) / cache.size(1);
      return cache.index({table[int64_t(i)].narrow(0, 0, pages)}).flatten(0, 1).narrow(0, 0, lengths[i]).reshape({lengths[i], key_heads, -1});
    };
    OptionalTensor shift;
    if (p.maskType == Parameter::kAdded) shift = added(call.inputs[5], heads, 0, 1, lengths[i]);
    const bool own_rows = speculative && !pattern && call.inputs[5].size(0) == query.size(0);  // the mask has a row for each token
    if (own_rows) shift = added(call.inputs[5], heads, first, rows[i], lengths[i]);
    attend_one(heads, key_heads, p.qkScale, shift, speculative && !own_rows, 0, query.narrow(0, first, rows[i]), tokens(call.inputs[1]),
               tokens(call.inputs[2]), out.narrow(0, first, rows[i]));
    first += rows[i];
  }
}

// Inputs: key, value, key cache, value cache, slots; the outputs are the caches.
void write_cache(const Call& call) {
  for (size_t i = 0; i < 2; ++i) {
    const at::Tensor& rows = call.inputs[i];
    const at::Tensor& cache = call.outputs[i];
    const bool nz = cache.dim() == 4 && cache.size(3) == 16 && rows.size(-1) != 16;
    cannsim::write_slots(rows, call.inputs[4], nz ? cannsim::Pages::Nz : cannsim::Pages::Norm, cache);
  }
}

// Inputs: query, key [tokens, heads * width], cosines and sines [tokens, width]; in place. A
// coefficient of two pairs the halves, any other neighbours.
void rotate(const atb::infer::RopeParam& p, const Call& call) {
  const at::Tensor cos = wide(call.inputs[2]).unsqueeze(1), sin = wide(call.inputs[3]).unsqueeze(1);
  for (size_t i = 0; i < 2; ++i) {
    const at::Tensor x = wide(call.inputs[i]).reshape({cos.size(0), -1, cos.size(2)});
    at::Tensor turned;
    if (p.rotaryCoeff == 2) {
      const auto halves = x.chunk(2, -1);
      turned = at::cat({-halves[1], halves[0]}, -1);
    } else {
      turned = at::stack({-x.slice(-1, 1, std::nullopt, 2), x.slice(-1, 0, std::nullopt, 2)}, -1).flatten(-2);
    }
    at::Tensor(call.outputs[i]).copy_((x * cos + turned * sin).view(call.outputs[i].sizes()));
  }
}

void multiply(const atb::infer::LinearParam& p, const Call& call) {
  const at::Tensor x = wide(call.inputs[0]), weight = wide(call.inputs[1]);
  const at::Tensor product = at::matmul(p.transposeA ? x.transpose(-1, -2) : x, p.transposeB ? weight.transpose(-1, -2) : weight);
  at::Tensor out = call.outputs[0];
  out.copy_(p.enAccum ? product + wide(call.inputs[2]) : product);
}

// ATB's document of PagedAttention, "constraints".
void check_paged(const atb::infer::PagedAttentionParam& p, const Call& call) {
  const auto refuse_unless = [](bool fits, const std::string& message) {
    if (!fits) throw Error(ACL_ERROR_INVALID_PARAM, "PagedAttention: " + message);
  };
  const int64_t heads = p.headNum, key_heads = p.kvHeadNum > 0 ? p.kvHeadNum : p.headNum, block = call.inputs[1].size(1);
  refuse_unless(heads > 0 && heads % key_heads == 0,
                std::to_string(heads) + " query heads are no multiple of " + std::to_string(key_heads) + " key heads");
  refuse_unless(block % 16 == 0, "a block of " + std::to_string(block) + " tokens; it must be a multiple of 16");
  const bool several = p.maskType == atb::infer::PagedAttentionParam::kSpeculative || p.maskType == atb::infer::PagedAttentionParam::kPattern;
  refuse_unless(!several || block <= 128, "a block of " + std::to_string(block) + " tokens, with several rows to a query; at most 128 are taken");
  const int64_t width = call.inputs[1].size(-1);
  refuse_unless(width <= (several ? 256 : 576), "a head of " + std::to_string(width) + " numbers; at most " + (several ? "256" : "576") + " are taken");
}

atb::Status make(atb::Operation** operation, const char* name, Body body, Check check = nullptr) {
  *operation = new Made(name, std::move(body), std::move(check));
  return atb::kOk;
}
atb::Status refuse(atb::Operation** operation, const std::string& what) {
  *operation = nullptr;
  cannsim::report(ACL_ERROR_INVALID_PARAM, "libatb: " + what);
  return atb::kInvalidParameter;
}

}  // namespace

namespace atb {

template <>
EXPORT Status CreateOperation(const infer::SelfAttentionParam& parameter, Operation** operation) {
  using Parameter = infer::SelfAttentionParam;
  const int32_t mask = parameter.maskType;
  if (parameter.calcType != Parameter::kPackedEncoder)
    return refuse(operation, "SelfAttention of calculation type " + std::to_string(parameter.calcType) + " is not simulated; 3 (PA_ENCODER) is");
  if (parameter.quantType != 0 || (mask != 0 && mask != 1 && mask != 3 && mask != 7 && mask != 8 && mask != 9))
    return refuse(operation, "SelfAttention with mask type " + std::to_string(mask) + " and quantisation type " + std::to_string(parameter.quantType) +
                                 " is not simulated; masks 0, 1, 3, 7, 8 and 9 without quantisation are");
  return make(operation, "SelfAttention", [parameter](const Call& call) { attend_packed(parameter, call); });
}
template <>
EXPORT Status CreateOperation(const infer::PagedAttentionParam& parameter, Operation** operation) {
  if (parameter.quantType != 0 || parameter.mlaVHeadSize != 0 || (parameter.maskType != 0 && parameter.maskType != 1 && parameter.maskType != 3 && parameter.maskType != 5))
    return refuse(operation, "PagedAttention with mask type " + std::to_string(parameter.maskType) + ", quantisation type " +
                                 std::to_string(parameter.quantType) + " and latent values of " + std::to_string(parameter.mlaVHeadSize) +
                                 " is not simulated; masks 0, 1, 3 and 5 of plain caches are");
  return make(
      operation, "PagedAttention", [parameter](const Call& call) { attend_paged(parameter, call); },
      [parameter](const Call& call) { check_paged(parameter, call); });
}
template <>
EXPORT Status CreateOperation(const infer::ReshapeAndCacheParam& parameter, Operation** operation) {
  if (parameter.compressType != 0 || parameter.kvCacheCfg != 0) return refuse(operation, "ReshapeAndCache with compression is not simulated");
  return make(operation, "ReshapeAndCache", write_cache);
}
template <>
EXPORT Status CreateOperation(const infer::RopeParam& parameter, Operation** operation) {
  return make(operation, "Rope", [parameter](const Call& call) { rotate(parameter, call); });
}
template <>
EXPORT Status CreateOperation(const infer::LinearParam& parameter, Operation** operation) {
  if (parameter.hasBias) return refuse(operation, "Linear with a bias is not simulated");
  return make(operation, "Linear", [parameter](const Call& call) { multiply(parameter, call); });
}
template <>
EXPORT Status CreateOperation(const infer::ElewiseParam&, Operation** operation) {
  return refuse(operation, "Elewise is not simulated");
}
template <>
EXPORT Status CreateOperation(const infer::RmsNormParam&, Operation** operation) {
  return refuse(operation, "RmsNorm is not simulated");
}
template <>
EXPORT Status CreateOperation(const infer::GroupTopkParam&, Operation** operation) {
  return refuse(operation, "GroupTopk is not simulated");
}

EXPORT Status DestroyOperation(Operation* operation) {
  delete operation;
  return kOk;
}
EXPORT Status CreateContext(Context** context) {
  *context = new Streams;
  return kOk;
}
EXPORT Status DestroyContext(Context* context) {
  delete context;
  return kOk;
}
EXPORT uint64_t Utils::GetTensorSize(const Tensor& tensor) {
  uint64_t bytes = c10::elementSize(cannsim::scalar_type(tensor.desc.dtype));
  for (uint64_t i = 0; i < tensor.desc.shape.dimNum; ++i) bytes *= uint64_t(tensor.desc.shape.dims[i]);
  return bytes;
}

}  // namespace atb
