// Attention over chosen keys (the lightning indexer and sparse flash attention), and merging the
// results of attention over parts of the keys.
#include <limits>

#include "operators/attention.h"

using namespace cannsim;

namespace {

const OptionalTensor kNone;
constexpr double kLowest = -std::numeric_limits<double>::infinity();

// Where each sequence's rows and keys lie: packed ones by running totals, others by batch.
struct Geometry {
  const OptionalTensor &query_lengths, &key_lengths, &table;
  bool packed_query, packed_key;
  int64_t batches, rows, keys;  // of a batched layout
  std::vector<int64_t> queries, lengths, first_query, first_key;

  Geometry(const Tensor& query, const Tensor& key, const OptionalTensor& query_lengths, const OptionalTensor& key_lengths,
           const OptionalTensor& table, const std::string& query_layout, const std::string& key_layout)
      : query_lengths(query_lengths), key_lengths(key_lengths), table(table), packed_query(query_layout == "TND"), packed_key(key_layout == "TND") {
    batches = packed_query ? query_lengths->numel() : query.size(0);
    rows = packed_query ? 0 : query.size(1);
    keys = key_layout == "BSND" ? key.size(1) : 0;
    const auto numbers = [](const OptionalTensor& list, bool totals, int64_t count, int64_t otherwise) {
      return given(list) ? group_counts(*list, totals ? 0 : 1, count) : std::vector<int64_t>(size_t(count), otherwise);
    };
    queries = numbers(query_lengths, packed_query, batches, rows);
    lengths = numbers(key_lengths, packed_key, batches, keys);
    int64_t query_total = 0, key_total = 0;
    for (int64_t i = 0; i < batches; ++i) {
      first_query.push_back(query_total), first_key.push_back(key_total);
      query_total += queries[size_t(i)], key_total += lengths[size_t(i)];
    }
  }
  // x of sequence i: [rows, ...]
  Tensor query_of(const Tensor& x, int64_t i) const {
    return packed_query ? x.narrow(0, first_query[size_t(i)], queries[size_t(i)]) : x[i].narrow(0, 0, queries[size_t(i)]);
  }
  Tensor key_of(const Tensor& x, int64_t i) const {
    const int64_t length = lengths[size_t(i)];
    if (given(table)) {  // [blocks, block, heads, width]
      const int64_t block = x.size(1);
      const Tensor pages = (*table)[i].to(at::kLong).narrow(0, 0, (length + block - 1) / block);
      return x.index({pages}).flatten(0, 1).narrow(0, 0, length);
    }
    return packed_key ? x.narrow(0, first_key[size_t(i)], length) : x[i].narrow(0, 0, length);
  }
};

// How many keys row i sees: all, or (mode 3) up to its own from the right lower corner.
Tensor visible(int64_t rows, int64_t length, int64_t mode) {
  if (mode == 0) return at::full({rows}, length, at::kLong);
  return (at::arange(rows, at::kLong) + (length - rows + 1)).clamp(0, length);
}

struct Indexer {
  const Codes &query, &key;
  const Tensor& weights;
  const OptionalTensor &query_scale, &key_scale;
  const Geometry& geometry;
  int64_t count, mode;
  Tensor& indices;
  const OptionalTensor& values;
};
// The `count` keys with the greatest sum over heads of weight * relu(query . key); -1 where a row sees fewer.
void choose(const Indexer& x) {
  const Tensor query = x.query.values(), key = x.key.values();
  x.indices.fill_(-1);
  for (int64_t i = 0; i < x.geometry.batches; ++i) {
    const Tensor q = x.geometry.query_of(query, i), k = x.geometry.key_of(key, i).select(1, 0);  // [rows, heads, D], [length, D]
    const int64_t rows = q.size(0), length = k.size(0), count = std::min(x.count, length);
    if (rows == 0 || count == 0) continue;
    Tensor scores = at::matmul(q, k.t());  // [rows, heads, length]
    if (given(x.query_scale)) scores = scores * wide(x.geometry.query_of(*x.query_scale, i)).unsqueeze(-1);
    if (given(x.key_scale)) scores = scores * wide(x.geometry.key_of(*x.key_scale, i)).flatten().view({1, 1, -1});
    scores = (at::relu(scores) * wide(x.geometry.query_of(x.weights, i)).unsqueeze(-1)).sum(1);
    const Tensor seen = visible(rows, length, x.mode).unsqueeze(1);
    scores = scores.masked_fill(at::arange(length, at::kLong).unsqueeze(0) >= seen, kLowest);
    auto [value, place] = at::topk(scores, count, -1);
    const Tensor none = value == kLowest;
    x.geometry.query_of(x.indices, i).select(1, 0).narrow(1, 0, count).copy_(place.masked_fill(none, -1));
    if (given(x.values)) x.geometry.query_of(*x.values, i).select(1, 0).narrow(1, 0, count).copy_(value.masked_fill(none, 0));
  }
}

bool known_layouts(const std::string& query, const std::string& key) {
  return (query == "BSND" || query == "TND") && (key == "PA_BSND" || key == query);
}
template <size_t query_layout, typename Arguments>
void check_layouts(const Arguments& arguments, const char* what) {
  const std::string& query = std::get<query_layout>(arguments).kept;
  const std::string& key = std::get<query_layout + 1>(arguments).kept;
  refuse_unless(known_layouts(query, key),
                std::string(what) + " layout " + query + " with key layout " + key + "; BSND and TND exist, with the same or PA_BSND for keys");
}
void check_sparse_mode(int64_t mode) {
  refuse_unless(mode == 0 || mode == 3, "sparse mode " + std::to_string(mode) + "; 0 (all keys) and 3 (right-down causal) exist");
}
template <size_t layout, typename Arguments>
void check_indexer(const Arguments& arguments) {
  check_layouts<layout>(arguments, "query");
  const int64_t count = std::get<layout + 2>(arguments).kept;
  refuse_unless(count >= 1 && count <= 8192, "sparse_count " + std::to_string(count) + "; from 1 to 8192 are taken");
  check_sparse_mode(std::get<layout + 3>(arguments).kept);
}

}  // namespace

CHECKED_OPERATOR(aclnnLightningIndexer, check_indexer<6>, const Codes& query, const Codes& key, const Tensor& weights,
                 const OptionalTensor& query_lengths, const OptionalTensor& key_lengths, const OptionalTensor& table, Text query_layout,
                 Text key_layout, int64_t count, int64_t mode, int64_t before, int64_t after, bool with_values, Tensor& indices,
                 const OptionalTensor& values) {
  const Geometry geometry(query.tensor(), key.tensor(), query_lengths, key_lengths, table, query_layout, key_layout);
  choose({query, key, weights, kNone, kNone, geometry, count, mode, indices, with_values ? values : kNone});
}
CHECKED_OPERATOR(aclnnQuantLightningIndexer, check_indexer<10>, const Codes& query, const Codes& key, const Tensor& weights,
                 const OptionalTensor& query_scale, const OptionalTensor& key_scale, const OptionalTensor& query_lengths,
                 const OptionalTensor& key_lengths, const OptionalTensor& table, int64_t query_mode, int64_t key_mode, Text query_layout,
                 Text key_layout, int64_t count, int64_t mode, int64_t before, int64_t after, Tensor& indices) {
  const Geometry geometry(query.tensor(), key.tensor(), query_lengths, key_lengths, table, query_layout, key_layout);
  choose({query, key, weights, query_scale, key_scale, geometry, count, mode, indices, kNone});
}

namespace {

struct Sparse {
  const Geometry& geometry;
  const Tensor& indices;  // [rows..., key heads, count]: blocks of `block` keys; -1 ends a row's list
  const OptionalTensor& sinks;
  double scale;
  int64_t block, mode;
  Tensor& out;
  const OptionalTensor &greatest, &sum;
};

// Row by row: the keys of its blocks, up to what it sees.
void attend_sparsely(const Sparse& s, int64_t batch, const Tensor& query, const Tensor& key, const Tensor& value) {
  const int64_t rows = query.size(0), length = key.size(0), heads = query.size(1), key_heads = key.size(1);
  const Tensor chosen = s.geometry.query_of(s.indices, batch).to(at::kLong), seen = visible(rows, length, s.mode);
  Tensor out = s.geometry.query_of(s.out, batch);
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t head = 0; head < key_heads; ++head) {
      const Tensor list = chosen[row][head];
      Tensor keys = (list.index({list >= 0}).unsqueeze(1) * s.block + at::arange(s.block, at::kLong)).flatten();
      keys = keys.index({keys < seen[row]});
      const int64_t groups = heads / key_heads;
      const OptionalTensor sink = given(s.sinks) ? OptionalTensor(s.sinks->narrow(0, head * groups, groups)) : kNone;
      const AttentionRule rule{groups, 1, s.scale, 0, INT32_MAX, INT32_MAX, kNone, kNone, sink};
      AttentionSequence one{query.narrow(0, row, 1).narrow(1, head * groups, groups), key.index({keys}).narrow(1, head, 1),
                            value.index({keys}).narrow(1, head, 1), out.narrow(0, row, 1).narrow(1, head * groups, groups)};
      Tensor greatest = at::zeros({1, groups}, at::kFloat), sum = at::zeros({1, groups}, at::kFloat);
      if (given(s.greatest)) one.greatest = greatest, one.sum = sum;
      attend(rule, one);
      if (!given(s.greatest)) continue;
      // [key heads, tokens, groups], or [batch, key heads, rows, groups]
      const bool packed = s.geometry.packed_query;
      const int64_t token = packed ? s.geometry.first_query[size_t(batch)] + row : row;
      const auto place = [&](const Tensor& table) { return packed ? table[head][token] : table[batch][head][token]; };
      place(*s.greatest).copy_(greatest[0]);
      place(*s.sum).copy_(sum[0]);
    }
  }
}
template <size_t layout, typename Arguments>
void check_sparse(const Arguments& arguments) {
  check_layouts<layout>(arguments, "query");
  check_sparse_mode(std::get<layout + 2>(arguments).kept);
  const auto& query = std::get<0>(arguments).kept;
  refuse_unless(query.type == at::kHalf || query.type == at::kBFloat16,
                std::string("the data type of query is ") + at::toString(query.type) + "; float16 and bfloat16 are taken");
}

void sparse_flash(const Tensor& query, const Tensor& key, const Tensor& value, const Tensor& indices, const OptionalTensor& table,
                  const OptionalTensor& query_lengths, const OptionalTensor& key_lengths, const OptionalTensor& query_rope,
                  const OptionalTensor& key_rope, const OptionalTensor& sinks, double scale, int64_t block, const std::string& query_layout,
                  const std::string& key_layout, int64_t mode, Tensor& out, const OptionalTensor& greatest, const OptionalTensor& sum) {
  const Geometry geometry(query, key, query_lengths, key_lengths, table, query_layout, key_layout);
  for (int64_t i = 0; i < geometry.batches; ++i) {
    Tensor q = wide(geometry.query_of(query, i)), k = wide(geometry.key_of(key, i));
    if (given(query_rope)) q = at::cat({q, wide(geometry.query_of(*query_rope, i))}, -1);
    if (given(key_rope)) k = at::cat({k, wide(geometry.key_of(*key_rope, i))}, -1);
    attend_sparsely({geometry, indices, sinks, scale, block, mode, out, greatest, sum}, i, q, k, wide(geometry.key_of(value, i)));
  }
}

}  // namespace

#define SPARSE_OPERANDS                                                                                                                  \
  const Tensor &query, const Tensor &key, const Tensor &value, const Tensor &indices, const OptionalTensor &table,                       \
      const OptionalTensor &query_lengths, const OptionalTensor &key_lengths, const OptionalTensor &query_rope, const OptionalTensor &key_rope
#define SPARSE_NUMBERS                                                                                                                     \
  double scale, int64_t block, Text query_layout, Text key_layout, int64_t mode, int64_t before, int64_t after, int64_t attention_mode,    \
      bool with_lse, Tensor &out, const OptionalTensor &greatest, const OptionalTensor &sum
#define SPARSE_FLASH(SINKS)                                                                                                                  \
  sparse_flash(query, key, value, indices, table, query_lengths, key_lengths, query_rope, key_rope, SINKS, scale, block, query_layout,       \
               key_layout, mode, out, with_lse ? greatest : kNone, with_lse ? sum : kNone)
CHECKED_OPERATOR(aclnnSparseFlashAttention, check_sparse<11>, SPARSE_OPERANDS, SPARSE_NUMBERS) { SPARSE_FLASH(kNone); }
CHECKED_OPERATOR(aclnnSparseFlashAttentionV2, check_sparse<12>, SPARSE_OPERANDS, const OptionalTensor& sinks, SPARSE_NUMBERS) {
  SPARSE_FLASH(sinks);
}

namespace {

// A key of int8 numbers, the rope part in the query's type and float32 scales of each tile, one after
// the other in bytes: [.., width + 2 * rope + 4 * width / tile].
struct Unpacked {
  Tensor key, value;  // with the rope part; without
};
Unpacked unpack(const Tensor& bytes, at::ScalarType type, int64_t width, int64_t rope, int64_t tile) {
  const Tensor numbers = wide(bytes.narrow(-1, 0, width));
  const Tensor turned = bytes.narrow(-1, width, rope * 2).contiguous().view(type).to(at::kFloat);
  const Tensor scales = bytes.narrow(-1, width + rope * 2, width / tile * 4).contiguous().view(at::kFloat);
  const Tensor value = numbers * scales.repeat_interleave(tile, -1);
  return {at::cat({value, turned}, -1), value};
}
struct SparseBytes {
  const Tensor &query, &key, &indices;
  const OptionalTensor &table, &query_lengths, &key_lengths, &sinks;
  double scale;
  int64_t block;
  const std::string &query_layout, &key_layout;
  int64_t mode, tile, rope;
  Tensor& out;
};
void sparse_flash_of_bytes(const SparseBytes& s) {
  const Geometry geometry(s.query, s.key, s.query_lengths, s.key_lengths, s.table, s.query_layout, s.key_layout);
  for (int64_t i = 0; i < geometry.batches; ++i) {
    const Unpacked u = unpack(geometry.key_of(s.key, i), s.query.scalar_type(), s.query.size(-1) - s.rope, s.rope, s.tile);
    attend_sparsely({geometry, s.indices, s.sinks, s.scale, s.block, s.mode, s.out, kNone, kNone}, i, wide(geometry.query_of(s.query, i)), u.key,
                    u.value);
  }
}
template <size_t numbers, typename Arguments>
void check_sparse_bytes(const Arguments& arguments) {
  const auto& key = std::get<1>(arguments).kept;
  const int64_t key_mode = std::get<numbers + 1>(arguments).kept, repository = std::get<numbers + 10>(arguments).kept;
  const int64_t tile = std::get<numbers + 11>(arguments).kept;
  check_layouts<numbers + 4>(arguments, "query");
  check_sparse_mode(std::get<numbers + 6>(arguments).kept);
  refuse_unless(key.type == at::kChar || chip_is("Ascend950"), std::string("the data type of key is ") + at::toString(key.type) + "; int8 is taken");
  refuse_unless(key_mode == 2 && repository == 1, "key_quant_mode " + std::to_string(key_mode) + " with quant_scale_repo_mode " +
                                                      std::to_string(repository) + "; 2 (by tiles) with 1 (beside the data) is taken");
  refuse_unless(tile == 128, "tiles of " + std::to_string(tile) + " numbers; 128 are taken");
}

}  // namespace

#define SPARSE_BYTES                                                                                                                         \
  const Tensor &query, const Tensor &key, const Tensor &value, const Tensor &indices, const OptionalTensor &key_scale,                       \
      const OptionalTensor &value_scale, const OptionalTensor &table, const OptionalTensor &query_lengths, const OptionalTensor &key_lengths
#define SPARSE_BYTES_NUMBERS                                                                                                            \
  double scale, int64_t key_mode, int64_t value_mode, int64_t block, Text query_layout, Text key_layout, int64_t mode, int64_t before, \
      int64_t after, int64_t attention_mode, int64_t repository, int64_t tile, int64_t rope, Tensor &out
CHECKED_OPERATOR(aclnnKvQuantSparseFlashAttention, check_sparse_bytes<9>, SPARSE_BYTES, SPARSE_BYTES_NUMBERS) {
  sparse_flash_of_bytes({query, key, indices, table, query_lengths, key_lengths, kNone, scale, block, query_layout, key_layout, mode, tile, rope, out});
}
CHECKED_OPERATOR(aclnnKvQuantSparseFlashAttentionV2, check_sparse_bytes<10>, SPARSE_BYTES, const OptionalTensor& sinks, SPARSE_BYTES_NUMBERS) {
  sparse_flash_of_bytes({query, key, indices, table, query_lengths, key_lengths, sinks, scale, block, query_layout, key_layout, mode, tile, rope, out});
}

// ---- merging -------------------------------------------------------------------------------------

// Results over parts of the keys with their log-sum-exps: O = sum of O_i exp(lse_i - lse).
OPERATOR(aclnnAttentionUpdate, const TensorList& lse, const TensorList& parts, int64_t type, Tensor& out, const OptionalTensor& lse_out) {
  std::vector<Tensor> logs, results;
  for (const auto& one : lse) logs.push_back(wide(one).flatten());
  for (const auto& one : parts) results.push_back(wide(one));
  // An infinite log-sum-exp marks a part in which a row saw no key.
  const Tensor all = at::stack(logs).masked_fill(at::stack(logs) == std::numeric_limits<double>::infinity(), kLowest);
  const Tensor total = at::logsumexp(all, at::IntArrayRef{0}, false);
  const Tensor weight = at::exp(all - total).nan_to_num(0);
  out.copy_((at::stack(results) * weight.unsqueeze(-1)).sum(0).view(out.sizes()));
  if (type == 1 && given(lse_out)) Tensor(*lse_out).copy_(total.view(lse_out->sizes()));
}

// Two results with their greatest scores and sums (eight equal columns): [B, N, S, 8] beside [S, B, H],
// or [T, N, 8] beside [T, N, D].
OPERATOR(aclnnRingAttentionUpdateV2, const Tensor& first_out, const Tensor& first_max, const Tensor& first_sum, const Tensor& second_out,
         const Tensor& second_max, const Tensor& second_sum, const OptionalTensor& lengths, Text layout, Text softmax_layout, Tensor& out,
         Tensor& greatest_out, Tensor& sum_out) {
  const Tensor greatest = at::maximum(first_max, second_max);
  const Tensor first = first_sum * at::exp(first_max - greatest), second = second_sum * at::exp(second_max - greatest);
  const Tensor sum = first + second;
  const auto weighted = [&](const Tensor& part, const Tensor& share) {
    Tensor weight = (share / sum).select(-1, 0);
    if (layout == "SBH") {
      weight = weight.permute({2, 0, 1}).unsqueeze(-1);  // [S, B, N, 1]
      return (wide(part).view({part.size(0), part.size(1), weight.size(2), -1}) * weight).flatten(2);
    }
    return wide(part) * weight.unsqueeze(-1);
  };
  out.copy_(weighted(first_out, first) + weighted(second_out, second));
  greatest_out.copy_(greatest);
  sum_out.copy_(sum);
}
