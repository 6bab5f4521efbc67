// Data types that CANN's operators take, and operands on the wrong device.
//
// Source of the types: the parameter tables of CANN's aclnn reference (aclnnMatmul, aclnnMm,
// aclnnGelu, aclnnBitwiseAndTensor: read for Atlas A2; "dimensions: 0-8" from the same tables). The
// operators in the groups below that those pages do not name are assumed to follow them.
#include "operators/rules.h"

#include <string>
#include <unordered_map>

#include "operators/operator.h"

namespace cannsim {

struct TypeRule {
  const char* taken;  // as text
  std::vector<at::ScalarType> types;
};

namespace {

constexpr size_t kMostDimensions = 8;

const TypeRule kFloats{"float32, float16, bfloat16", {at::kFloat, at::kHalf, at::kBFloat16}};
const TypeRule kFloatsAndDouble{"float32, float16, bfloat16, float64", {at::kFloat, at::kHalf, at::kBFloat16, at::kDouble}};
const TypeRule kWhole{"bool, int8, int16, int32, int64, uint8, uint16",
                      {at::kBool, at::kChar, at::kShort, at::kInt, at::kLong, at::kByte, at::kUInt16}};
const TypeRule kOrdered{"float32, float16, bfloat16, float64, int8, int16, int32, int64, uint8",
                        {at::kFloat, at::kHalf, at::kBFloat16, at::kDouble, at::kChar, at::kShort, at::kInt, at::kLong, at::kByte}};

const std::unordered_map<std::string, const TypeRule*>& rules() {
  static const auto* all = [] {
    auto* made = new std::unordered_map<std::string, const TypeRule*>;
    const auto put = [made](const TypeRule& rule, std::initializer_list<const char*> names) {
      for (const char* name : names) made->emplace(name, &rule);
    };
    // Products run on the cube unit, which has no integers but in the quantised products.
    put(kFloats, {"aclnnMatmul", "aclnnMm", "aclnnBatchMatMul", "aclnnAddmm", "aclnnInplaceAddmm", "aclnnBaddbmm", "aclnnInplaceBaddbmm",
                  "aclnnMatmulWeightNz", "aclnnMv", "aclnnConvolution"});
    put(kFloats, {"aclnnGelu", "aclnnGeluV2", "aclnnSilu", "aclnnMish", "aclnnSoftplus", "aclnnElu", "aclnnInplaceElu", "aclnnCelu",
                  "aclnnHardswish", "aclnnInplaceHardswish", "aclnnLogSigmoid", "aclnnLogSigmoidForward", "aclnnGlu", "aclnnPrelu",
                  "aclnnLogit"});
    put(kFloatsAndDouble, {"aclnnSoftmax", "aclnnLogSoftmax", "aclnnLeakyRelu", "aclnnInplaceLeakyRelu"});
    put(kFloats, {"aclnnLayerNorm", "aclnnGroupNorm", "aclnnBatchNorm", "aclnnRmsNorm", "aclnnNorm", "aclnnLinalgVectorNorm"});
    put(kFloats, {"aclnnMseLoss", "aclnnL1Loss", "aclnnSmoothL1Loss", "aclnnSoftMarginLoss", "aclnnBinaryCrossEntropy",
                  "aclnnBinaryCrossEntropyWithLogits"});
    put(kWhole, {"aclnnBitwiseAndTensor", "aclnnBitwiseAndScalar", "aclnnBitwiseOrTensor", "aclnnBitwiseOrScalar", "aclnnBitwiseXorTensor",
                 "aclnnBitwiseXorScalar", "aclnnBitwiseNot", "aclnnInplaceBitwiseAndTensor", "aclnnInplaceBitwiseAndScalar",
                 "aclnnInplaceBitwiseOrTensor", "aclnnInplaceBitwiseOrScalar", "aclnnInplaceBitwiseXorTensor",
                 "aclnnInplaceBitwiseXorScalar"});
    put(kOrdered, {"aclnnTopk", "aclnnArgMax", "aclnnArgMin", "aclnnMedian", "aclnnMedianDim", "aclnnKthvalue"});
    return made;
  }();
  return *all;
}

}  // namespace

const TypeRule* type_rule(const char* name) {
  const auto found = rules().find(name);
  return found == rules().end() ? nullptr : found->second;
}

void obey(const TypeRule& rule, at::ScalarType type, const std::vector<int64_t>& sizes) {
  for (at::ScalarType taken : rule.types) {
    if (taken != type) continue;
    refuse_unless(sizes.size() <= kMostDimensions, "a tensor of " + std::to_string(sizes.size()) + " dimensions; at most " +
                                                       std::to_string(kMostDimensions) + " are taken");
    return;
  }
  throw Error(kParameterInvalid, "a tensor of " + std::string(c10::getDtypeNames(type).first) + "; the data type must be one of " + rule.taken);
}

void same_device(const void* data, int& seen) {
  const int where = device_of(data);
  if (where < 0) return;
  if (seen >= 0 && where != seen)
    throw Error(ACL_ERROR_RT_AICORE_EXCEPTION, "operands on device " + std::to_string(seen) + " and on device " + std::to_string(where) +
                                                   ": an NPU's cores fault at the other's memory. Copy one of them to the other's device first");
  seen = where;
}

bool crosses_devices(const char* name) { return std::string(name) == "aclnnInplaceCopy"; }

}  // namespace cannsim
