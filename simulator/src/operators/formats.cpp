// Internal formats (FRACTAL_NZ and its kin). A tensor in such a format keeps its numbers in the
// order of its logical shape here; the format is metadata, and what it pads is memory only. So every
// operator takes it as it is, and a cast between formats copies.
#include "operators/quantisation.h"

using namespace cannsim;

namespace {

constexpr int64_t kRow = 16;          // rows of a fractal
constexpr int64_t kFractalBytes = 32;  // bytes of a fractal's row

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

int64_t element_bytes(int type) {
  if (type == ACL_INT4 || type == ACL_FLOAT4_E2M1 || type == ACL_FLOAT4_E1M2 || type == ACL_HIFLOAT8) return 1;
  return int64_t(c10::elementSize(scalar_type(aclDataType(type))));
}

bool nz(int format) {
  return format == ACL_FORMAT_FRACTAL_NZ || format == ACL_FORMAT_FRACTAL_NZ_C0_16 || format == ACL_FORMAT_FRACTAL_NZ_C0_32;
}

// [.., k, n] in NZ: [.., n / c0, k / 16, 16, c0].
std::vector<int64_t> nz_shape(const std::vector<int64_t>& sizes, int64_t c0) {
  const size_t dims = sizes.size();
  std::vector<int64_t> shape(sizes.begin(), sizes.end() - 2);
  for (int64_t size : {ceil_div(sizes[dims - 1], c0), ceil_div(sizes[dims - 2], kRow), kRow, c0}) shape.push_back(size);
  return shape;
}

}  // namespace

// The storage that a cast to `format` needs, and the format that it gives. `type` is the data type
// that the innermost dimension is counted in (-1: the tensor's own). The caller frees the shape.
extern "C" __attribute__((visibility("default"))) int aclnnNpuFormatCastCalculateSizeAndFormat(const aclTensor* source, const int format, const int type,
                                                                                               int64_t** shape, uint64_t* dims, int* actual) {
  return guarded([&] {
    if (source == nullptr) throw Error(kParameterNull, "aclnnNpuFormatCastCalculateSizeAndFormat: the tensor is null");
    std::vector<int64_t> made = source->sizes;
    if (nz(format)) {
      refuse_unless(source->sizes.size() >= 2 && source->sizes.size() <= 6,
                    "aclnnNpuFormatCastCalculateSizeAndFormat: a tensor of " + std::to_string(source->sizes.size()) +
                        " dimensions has no form in FRACTAL_NZ; from 2 to 6 are taken");
      made = nz_shape(source->sizes, kFractalBytes / element_bytes(type == -1 ? int(source->type) : type));
    }
    *dims = made.size();
    *shape = new int64_t[made.size()];
    std::copy(made.begin(), made.end(), *shape);
    *actual = format;
  });
}

OPERATOR(aclnnNpuFormatCast, const Codes& source, Codes& destination) { destination.copy(source); }
