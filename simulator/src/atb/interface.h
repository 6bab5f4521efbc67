// The interface of the Ascend Transformer Boost library (libatb.so) as far as torch-npu calls it:
// the same names, the same order of virtual functions and of fields, since the compiled wheel
// reaches them by place (its public headers, include/atb). Of the operators' parameters only the
// fields up to the last that is read are declared: they come by reference.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "acl/acl.h"

namespace atb {

using Status = int32_t;
inline constexpr Status kOk = 0;
inline constexpr Status kInvalidParameter = 1;

struct Dims {
  int64_t dims[8];
  uint64_t dimNum;
};
struct TensorDesc {
  aclDataType dtype;
  aclFormat format;
  Dims shape;
};
struct Tensor {
  TensorDesc desc;
  void* deviceData;
  void* hostData;
  uint64_t dataSize;
};

// A vector whose first elements lie inside it; only read here.
template <typename T>
class SVector {
 public:
  size_t size() const { return size_; }
  const T& operator[](size_t i) const { return heap_ != nullptr ? heap_[i] : storage_[i]; }

 private:
  size_t capacity_, size_;
  T storage_[65];
  T* heap_;
};
struct VariantPack {
  SVector<Tensor> inTensors, outTensors;
};

class Context {
 public:
  virtual ~Context() = default;
  virtual Status SetExecuteStream(aclrtStream stream) = 0;
  virtual aclrtStream GetExecuteStream() const = 0;
  virtual Status SetAsyncTilingCopyStatus(bool enable) = 0;
  virtual bool GetAsyncTilingCopyStatus() const = 0;
  virtual Status SetExecuteStreams(const std::vector<aclrtStream>& streams) = 0;
  virtual std::vector<aclrtStream> GetExecuteStreams() = 0;
  virtual Status SetExecuteType(int type) = 0;
  virtual int GetExecuteType() = 0;
  virtual Status SetL2WorkspaceBuffer(void* buffer, size_t size) = 0;
  virtual Status SetL2TensorBuffer(void* buffer, size_t size) = 0;
};

class Operation {
 public:
  virtual ~Operation() = default;
  virtual std::string GetName() const = 0;
  virtual Status InferShape(const SVector<TensorDesc>& inputs, SVector<TensorDesc>& outputs) const = 0;
  virtual uint32_t GetInputNum() const = 0;
  virtual uint32_t GetOutputNum() const = 0;
  virtual Status Setup(const VariantPack& tensors, uint64_t& workspaceSize, Context* context) = 0;
  virtual Status Execute(const VariantPack& tensors, uint8_t* workspace, uint64_t workspaceSize, Context* context) = 0;
};

namespace infer {

struct LinearParam {
  bool transposeA, transposeB, hasBias;
  aclDataType outDataType;
  bool enAccum;
};
struct ElewiseParam {};
struct RmsNormParam {};
struct GroupTopkParam {};
struct ReshapeAndCacheParam {
  int32_t compressType, kvCacheCfg;
};
struct RopeParam {
  int32_t rotaryCoeff, cosFormat;
};
struct SelfAttentionParam {
  enum Mask : int32_t { kNone = 0, kAdded = 1, kCompressed = 3, kWindow = 7, kWindowCompressed = 8, kCausal = 9 };
  enum Calculation : int32_t { kPackedEncoder = 3 };
  int32_t quantType, outDataType, headNum, kvHeadNum;
  float qScale, qkScale;
  bool batchRunStatusEnable;
  uint32_t isTriuMask;
  int32_t calcType, kernelType, clampType;
  float clampMin, clampMax;
  int32_t maskType, kvcacheCfg, scaleType, inputLayout;
  uint32_t mlaVHeadSize;
  int8_t cacheType;
  uint32_t windowSize;
};
struct PagedAttentionParam {
  enum Mask : int32_t { kNone = 0, kAdded = 1, kSpeculative = 3, kPattern = 5 };
  int32_t headNum;
  float qkScale;
  int32_t kvHeadNum, maskType;
  bool batchRunStatusEnable;
  int32_t quantType, outDataType;
  bool hasQuantOffset;
  int32_t compressType, calcType, scaleType, inputLayout;
  uint32_t mlaVHeadSize;
};

}  // namespace infer

template <typename Parameter>
Status CreateOperation(const Parameter& parameter, Operation** operation);
Status DestroyOperation(Operation* operation);
Status CreateContext(Context** context);
Status DestroyContext(Context* context);

class Utils {
 public:
  static uint64_t GetTensorSize(const Tensor& tensor);
};

}  // namespace atb
