// Formulas for the work of families whose operands alone do not say it.
//
// A product of (m, k) and (k, n) is 2mkn operations; attention is two products per query, key and
// head (2 * 2 * d); a convolution is a product per output element. A look-up reads the rows that it
// takes, not the table; a write into a cache writes the rows that it is given, not the cache.
#include <algorithm>
#include <cstring>
#include <string_view>

#include "operators/operator.h"

namespace cannsim {
namespace {

const Shape* tensor(const Operands& operands, size_t position) {
  const auto& shapes = operands[position].shapes;
  return shapes.empty() ? nullptr : &shapes.front();
}

uint64_t elements_written(const Operands& operands) {
  uint64_t most = 0;
  for (const Operand& operand : operands.all) {
    uint64_t sum = 0;
    for (const Shape& shape : operand.shapes) sum += shape.elements();
    if (operand.written) most = std::max(most, sum);
  }
  return most;
}

// An operator in place reads what it writes.
void in_place(const Operands& operands, Work& work) {
  if (!operands.all.empty() && operands[0].written && tensor(operands, 0) != nullptr) work.read += tensor(operands, 0)->bytes;
}

// The first factor is operand `factor`; its last dimension is the one that is summed over.
template <size_t factor>
void product(const Operands& operands, Work& work) {
  const Shape* first = tensor(operands, factor);
  if (first == nullptr) return;
  work.flops = 2 * elements_written(operands) * uint64_t(first->size(-1));
  work.unit = first->cube;
  if constexpr (factor > 0) in_place(operands, work);
}

// (x, weight, ...) whose output has but a part of x's rows.
void product_of_all_rows(const Operands& operands, Work& work) {
  const Shape *first = tensor(operands, 0), *second = tensor(operands, 1);
  if (first == nullptr || second == nullptr) return;
  work.flops = 2 * first->elements() * uint64_t(second->size(-1));
  work.unit = first->cube;
}

// (self, weight, bias, stride, padding, dilation, transposed, output padding, groups, out, ...)
void convolution(const Operands& operands, Work& work) {
  const Shape *self = tensor(operands, 0), *weight = tensor(operands, 1);
  if (self == nullptr || weight == nullptr) return;
  const bool transposed = operands[6].number != 0;
  const uint64_t each = weight->elements() / uint64_t(std::max<int64_t>(1, weight->size(0)));
  work.flops = 2 * (transposed ? self->elements() : elements_written(operands)) * each;
  work.unit = self->cube;
}

// Lengths of sequences: themselves, or their running sum in the packed layouts.
std::vector<int64_t> lengths(const std::vector<int64_t>* given, bool summed) {
  if (given == nullptr) return {};
  std::vector<int64_t> made = *given;
  if (summed) {
    for (size_t i = made.size(); i-- > 1;) made[i] -= made[i - 1];
  }
  return made;
}

// Query-key pairs of one sequence; `causal` ones end together (right-down), as decoding needs it.
uint64_t pairs(int64_t queries, int64_t keys, bool causal) {
  const uint64_t all = uint64_t(queries) * uint64_t(keys);
  if (!causal) return all;
  const uint64_t above = uint64_t(std::min(queries, keys));
  return all - above * (above - 1) / 2;
}

bool starts(std::string_view text, std::string_view beginning) { return text.substr(0, beginning.size()) == beginning; }

int64_t key_length(const Shape& key, std::string_view layout) {
  if (starts(layout, "TND") || starts(layout, "NTD")) return key.size(layout[0] == 'T' ? 0 : 1);
  return starts(layout, "BNSD") ? key.size(2) : starts(layout, "SBH") ? key.size(0) : key.size(1);
}

// Fused attention of a query (operand 0) over keys and values (1 and 2), whose lengths are operands
// `lengths_at` and the next; the layout is the first text. A paged cache is read by context only.
template <size_t lengths_at, size_t table_at>
void attention(const Operands& operands, Work& work) {
  const Shape *query = tensor(operands, 0), *key = tensor(operands, 1);
  if (query == nullptr || key == nullptr) return;
  size_t at = 0;
  while (at < operands.all.size() && operands[at].text == nullptr) ++at;
  const std::string_view layout = operands[at].text != nullptr ? std::string_view(*operands[at].text) : "BSH";
  const int mode = int(operands[at + 2].number);
  const bool causal = mode == 2 || mode == 3, packed = starts(layout, "TND") || starts(layout, "NTD");
  const bool paged = table_at > 0 && tensor(operands, table_at) != nullptr;
  auto queries = lengths(operands[lengths_at].integers, packed), keys = lengths(operands[lengths_at + 1].integers, packed && !paged);
  if (keys.empty()) keys = {key_length(*key, layout)};
  const uint64_t batch = packed ? std::max(queries.size(), keys.size()) : uint64_t(starts(layout, "SBH") ? query->size(1) : query->size(0));
  const int64_t tokens = packed ? query->size(layout[0] == 'T' ? 0 : 1)
                                : int64_t(batch) * (starts(layout, "BNSD") ? query->size(2) : starts(layout, "SBH") ? query->size(0) : query->size(1));
  if (tokens == 0 || batch == 0) return;
  const uint64_t width = query->elements() / uint64_t(tokens);  // heads * head size
  uint64_t done = 0, context = 0;
  for (uint64_t i = 0; i < batch; ++i) {
    const int64_t length = keys[std::min<size_t>(i, keys.size() - 1)];
    const int64_t asked = packed && !queries.empty() ? queries[std::min<size_t>(i, queries.size() - 1)] : tokens / int64_t(batch);
    done += pairs(asked, length, causal);
    context += uint64_t(length);
  }
  work.flops = 4 * done * width;
  work.unit = query->cube;
  if (!paged) return;
  const uint64_t capacity = uint64_t(key->size(0)) * std::max<uint64_t>(1, uint64_t(operands[at + 4].number));
  const uint64_t value_bytes = tensor(operands, 2) != nullptr ? tensor(operands, 2)->bytes : 0;
  const uint64_t stored = key->bytes + value_bytes;
  work.read = work.read - stored + uint64_t(double(stored) * double(std::min(context, capacity)) / double(capacity));
}

// Takes rows of operand 0: reads what it writes, and the indices.
void look_up(const Operands& operands, Work& work) {
  const Shape* table = tensor(operands, 0);
  if (table == nullptr) return;
  work.read = work.read - table->bytes + work.written;
  work.flops = elements_written(operands);
}

// Writes the rows that it is given into its written operands: the rest of those is left alone.
void write_rows(const Operands& operands, Work& work) {
  work.written = std::min(work.written, work.read);
  work.flops = 0;
  for (const Operand& operand : operands.all) {
    for (const Shape& shape : operand.shapes) work.flops += operand.written ? 0 : shape.elements();
  }
}

// By the beginning of the name; the longest wins.
struct Row {
  std::string_view beginning;
  Cost cost;
};
constexpr Row kRows[] = {
    {"aclnnInplace", in_place},
    {"aclnnMatmul", product<0>},
    {"aclnnMatmulReduceScatter", product_of_all_rows},
    {"aclnnAllGatherMatmul", product<0>},
    {"aclnnAlltoAllvGroupedMatMul", product<0>},
    {"aclnnGroupedMatMulAlltoAllv", product<0>},
    {"aclnnWeightQuantMatmulAllReduce", product<0>},
    {"aclnnMm", product<0>},
    {"aclnnBatchMatMul", product<0>},
    {"aclnnMv", product<0>},
    {"aclnnDot", product<0>},
    {"aclnnGemm", product<0>},
    {"aclnnAddmm", product<1>},
    {"aclnnInplaceAddmm", product<1>},
    {"aclnnAddmv", product<1>},
    {"aclnnBaddbmm", product<1>},
    {"aclnnInplaceBaddbmm", product<1>},
    {"aclnnAddbmm", product<1>},
    {"aclnnInplaceAddbmm", product<1>},
    {"aclnnQuantMatmul", product<0>},
    {"aclnnFusedMatmul", product<0>},
    {"aclnnFusedQuantMatmul", product<0>},
    {"aclnnWeightQuantBatchMatmul", product<0>},
    {"aclnnTransposeBatchMatMul", product<0>},
    {"aclnnTransposeQuantBatchMatMul", product<0>},
    {"aclnnGroupedMatmul", product<0>},
    {"aclnnQuantGroupedMatmul", product<0>},
    {"aclnnConvolution", convolution},
    {"aclnnConvolutionBackward", nullptr},
    {"aclnnFusedInferAttentionScore", attention<5, 14>},
    {"aclnnPromptFlashAttention", attention<5, 0>},
    {"aclnnIncreFlashAttention", attention<4, 0>},
    {"aclnnFlashAttentionScore", attention<8, 0>},
    {"aclnnFlashAttentionVarLenScore", attention<8, 0>},
    {"aclnnFlashAttentionScoreGrad", nullptr},
    {"aclnnFlashAttentionVarLenScoreV3", attention<10, 0>},
    {"aclnnFlashAttentionVarLenScoreV5", attention<11, 0>},
    {"aclnnEmbedding", look_up},
    {"aclnnEmbeddingRenorm", nullptr},
    {"aclnnEmbeddingDenseBackward", nullptr},
    {"aclnnIndex", look_up},
    {"aclnnIndexSelect", look_up},
    {"aclnnIndexAdd", nullptr},
    {"aclnnIndexCopy", nullptr},
    {"aclnnIndexFill", nullptr},
    {"aclnnIndexPutImpl", write_rows},
    {"aclnnInplaceIndexCopy", write_rows},
    {"aclnnInplacePut", write_rows},
    {"aclnnInplaceScatter", write_rows},
    {"aclnnInplaceScatterValue", in_place},
    {"aclnnScatterNdUpdate", write_rows},
    {"aclnnScatterPaKvCache", write_rows},
    {"aclnnGather", look_up},
    {"aclnnTake", look_up},
};

}  // namespace

int64_t Shape::size(int64_t dim) const {
  const int64_t dims = int64_t(sizes.size());
  if (dim < 0) dim += dims;
  return dim >= 0 && dim < dims ? sizes[size_t(dim)] : 1;
}

uint64_t Shape::elements() const {
  uint64_t product = 1;
  for (int64_t length : sizes) product *= uint64_t(length);
  return product;
}

Unit cube_for(at::ScalarType type) {
  const bool wide = type == at::kFloat || type == at::kDouble;
  return wide ? Unit::cube_float32 : c10::elementSize(type) == 1 ? Unit::cube_int8 : Unit::cube_float16;
}

Unit cube_for(aclDataType type) {
  switch (type) {
    case ACL_FLOAT:
    case ACL_DOUBLE: return Unit::cube_float32;
    case ACL_FLOAT16:
    case ACL_BF16: return Unit::cube_float16;
    default: return Unit::cube_int8;
  }
}

Cost cost_of(const char* name) {
  const Row* best = nullptr;
  for (const Row& row : kRows) {
    if (starts(name, row.beginning) && (best == nullptr || row.beginning.size() > best->beginning.size())) best = &row;
  }
  return best == nullptr ? nullptr : best->cost;
}

}  // namespace cannsim
