// Fused inference attention: every layout, over a contiguous or a paged cache, in full or quantised.
#include "operators/attention.h"

#include <algorithm>
#include <cstring>
#include <limits>

using namespace cannsim;

namespace {

constexpr int64_t kCompressedMask = 2048;
const OptionalTensor kNone;
const Codes kNoCodes;

// Scale and offset of a quantised cache, and what they vary with (key_antiquant_mode's numbers).
struct Antiquant {
  const OptionalTensor& scale;
  const OptionalTensor& offset;
  int64_t mode;
};

struct Fused {
  const Codes& query;
  const CodesList &keys, &values;
  const OptionalTensor &shift, &mask;
  OptionalIntArray query_lengths, key_lengths;
  const OptionalTensor &score_scale, &weight_scale, &value_scale, &out_scale, &out_offset;
  Antiquant key_antiquant, value_antiquant;
  const OptionalTensor& table;
  const Codes &key_prefix, &value_prefix;
  OptionalIntArray prefix_lengths;
  const OptionalTensor &query_rope, &key_rope, &query_scale, &sink;
  int64_t heads;
  double scale;
  int64_t before, after;
  const std::string& layout;
  int64_t key_heads, sparse_mode, block;
  bool with_lse;
  Tensor& out;
  const OptionalTensor& lse;
};

std::string input_layout(const std::string& layout) { return layout.substr(0, layout.find('_')); }
std::string output_layout(const std::string& layout) {
  const size_t split = layout.find('_');
  return split == std::string::npos ? layout : layout.substr(split + 1);
}
bool packed(const std::string& layout) { return layout == "TND" || layout == "NTD"; }

double number(const OptionalTensor& scale, double otherwise) {
  if (!given(scale)) return otherwise;
  const bool words = scale->scalar_type() == at::kLong || scale->scalar_type() == at::kUInt64;
  return (words ? unpack_scale(*scale) : wide(*scale)).flatten()[0].item<double>();
}

int64_t length_at(OptionalIntArray lengths, int64_t index, int64_t otherwise) {
  if (!lengths || lengths->empty()) return otherwise;
  return lengths->size() == 1 ? (*lengths)[0] : (*lengths)[size_t(index)];
}

// ---- keys and values of one sequence -------------------------------------------------------------

Tensor pages_of(const Fused& a, int64_t batch, int64_t length) {
  return (*a.table)[batch].narrow(0, 0, (length + a.block - 1) / a.block);
}

// A paged cache, [blocks, block, heads * D], [blocks, heads, block, D] or (NZ) [blocks, heads,
// D / c0, block, c0], as numbers [length, heads, D].
Tensor gather_pages(const Fused& a, const Codes& cache, int64_t batch, int64_t length) {
  const Tensor raw = cache.tensor().index_select(0, pages_of(a, batch, length));
  Tensor tokens;
  if (raw.dim() == 5) tokens = raw.permute({0, 3, 1, 2, 4}).flatten(3);
  else if (raw.dim() == 4) tokens = raw.transpose(1, 2);
  else tokens = raw.unflatten(-1, {a.key_heads, -1});
  return Codes::numbers(tokens.flatten(0, 1).narrow(0, 0, length), cache.type, cache.packed_dim() < 0 ? -1 : 2);
}

// Scales that lie with the tokens, [.., tokens] or [.., heads, tokens], as [length, heads or 1, 1].
Tensor by_token(const Fused& a, const Tensor& table, int64_t mode, int64_t batch, int64_t length) {
  const Tensor values = wide(table);
  if (mode == 1) return values.reshape({-1, values.size(-1)})[batch].narrow(0, 0, length).view({-1, 1, 1});
  if (mode == 3) return values.view({-1, a.key_heads, values.size(-1)})[batch].narrow(1, 0, length).t().unsqueeze(-1);
  const Tensor pages = values.index_select(0, pages_of(a, batch, length));  // modes 4 and 5: [pages, (heads,) block]
  if (mode == 4) return pages.flatten().narrow(0, 0, length).view({-1, 1, 1});
  return pages.transpose(1, 2).flatten(0, 1).narrow(0, 0, length).unsqueeze(-1);
}
Tensor antiquant_factor(const Fused& a, const Tensor& table, int64_t mode, const Tensor& numbers, int64_t batch) {
  if (mode == 1 || mode >= 3) return by_token(a, table, mode, batch, numbers.size(0));
  const Tensor values = wide(table).flatten();
  if (values.numel() == numbers.size(1) * numbers.size(2)) return values.view({1, numbers.size(1), numbers.size(2)});
  if (values.numel() == numbers.size(1) && mode == 2) return values.view({1, -1, 1});
  return values.numel() == 1 ? values : values.view({1, 1, -1});
}
Tensor restored(const Fused& a, Tensor numbers, const Antiquant& antiquant, int64_t batch) {
  if (given(antiquant.offset)) numbers = numbers + antiquant_factor(a, *antiquant.offset, antiquant.mode, numbers, batch);
  if (given(antiquant.scale)) numbers = numbers * antiquant_factor(a, *antiquant.scale, antiquant.mode, numbers, batch);
  return numbers;
}

// One sequence's part of keys or values that are not paged: packed ones lie one after the other,
// lists have a tensor for each batch.
Tensor contiguous(const Fused& a, const CodesList& list, int64_t batch, int64_t first, int64_t length) {
  const std::string layout = input_layout(a.layout);
  if (list.size() > 1) return heads_of(list[size_t(batch)].values(), layout, a.key_heads)[0].narrow(0, 0, length);
  const Codes& one = list[0];
  if (layout == "TND") return one.rows(first, length).values();
  if (layout == "NTD") return heads_of(one.values(), layout, a.key_heads).narrow(0, first, length);
  if (layout == "SBH") return heads_of(one.values(), layout, a.key_heads)[batch].narrow(0, 0, length);
  return heads_of(one.rows(batch, 1).values(), layout, a.key_heads)[0].narrow(0, 0, length);
}

Tensor tokens_of(const Fused& a, const CodesList& list, const Codes& prefix, const Antiquant& antiquant, int64_t batch, int64_t first,
                 int64_t length) {
  Tensor tokens = given(a.table) ? gather_pages(a, list[0], batch, length) : contiguous(a, list, batch, first, length);
  tokens = restored(a, tokens, antiquant, batch);
  if (!prefix) return tokens;
  Tensor shared = heads_of(prefix.values(), input_layout(a.layout), a.key_heads)[0];
  return at::cat({shared.narrow(0, 0, length_at(a.prefix_lengths, 0, shared.size(0))), tokens}, 0);
}

// ---- the sequences -------------------------------------------------------------------------------

// What the kernel writes: the result in float32, scaled to int8 where that is asked.
void write(const Fused& a, const Tensor& result, Tensor out) {
  if (!given(a.out_scale)) {
    out.copy_(result);
    return;
  }
  const auto per_head = [&](const OptionalTensor& table) {
    const Tensor values = wide(*table).flatten();
    return values.numel() == 1 ? values : values.view({1, result.size(1), result.size(2)});
  };
  Tensor made = result * per_head(a.out_scale);
  if (given(a.out_offset)) made = made + per_head(a.out_offset);
  out.copy_(at::round(made).clamp(-128, 127));
}

struct Place {
  int64_t batch, first_key, length;
  Tensor query, out, lse;  // [rows, heads, D], [rows, heads, Dv], [rows, heads]
};

void run_one(const Fused& a, const Place& place) {
  if (place.query.size(0) == 0) return;
  const AttentionRule rule{a.heads,         a.key_heads, a.scale, a.sparse_mode, a.before, a.after, a.mask, a.shift, a.sink,
                           number(a.score_scale, 1), number(a.weight_scale, 0), number(a.value_scale, 1)};
  Tensor key = tokens_of(a, a.keys, a.key_prefix, a.key_antiquant, place.batch, place.first_key, place.length);
  if (given(a.key_rope)) {
    const Codes rope = Codes::of(*a.key_rope);
    key = at::cat({key, tokens_of(a, {rope}, kNoCodes, {kNone, kNone, 0}, place.batch, place.first_key, place.length)}, -1);
  }
  const Tensor value = tokens_of(a, a.values, a.value_prefix, a.value_antiquant, place.batch, place.first_key, place.length);
  const Tensor result = at::empty({place.query.size(0), a.heads, value.size(2)}, at::kFloat);
  AttentionSequence one{place.query, key, value, result, place.batch, key.size(0) - place.length};
  one.lse = place.lse;
  attend(rule, one);
  write(a, result, place.out);
}

// The query in float32, with its own scale (per token and head) and the rope part beside it.
Tensor whole_query(const Fused& a) {
  const std::string layout = input_layout(a.layout);
  Tensor query = heads_of(a.query.values(), layout, a.heads);
  if (given(a.query_scale)) {
    std::vector<int64_t> shape = query.sizes().vec();
    shape.back() = 1;
    const bool heads_first = layout == "BNSD" || layout == "NTD";
    query = query * (heads_first ? heads_of(wide(*a.query_scale).reshape({query.size(0), a.heads, -1, 1}), "BNSD", a.heads)
                                 : wide(*a.query_scale).reshape(shape));
  }
  return given(a.query_rope) ? at::cat({query, heads_of(wide(*a.query_rope), layout, a.heads)}, -1) : query;
}

// ---- decoding: one row of each sequence ----------------------------------------------------------

// Keys first to last (exclusive) of a sequence, and the page of its table that the first lies on.
struct Span {
  int64_t first, last, page;
};

// A step of decoding over a paged cache of plain numbers that asks for nothing but the causal rule or
// a band: what an engine launches for every layer and token, and so worth a way of its own.
bool plain_decode(const Fused& a, const Tensor& query) {
  const std::string layout = input_layout(a.layout);
  const int64_t batch = query.size(0);
  const auto one_each = [&](const auto& totals) {  // running totals of 1, 2, 3 ..: no sequence has two rows, or none
    for (size_t i = 0; i < totals.size(); ++i)
      if (totals[i] != int64_t(i) + 1) return false;
    return int64_t(totals.size()) == batch;
  };
  const bool one_row = layout == "TND" ? one_each(*a.query_lengths) : !packed(layout) && !a.query_lengths && query.size(1) == 1;
  if (!one_row || !given(a.table) || !a.key_lengths || int64_t(a.key_lengths->size()) != batch) return false;
  for (const OptionalTensor* other : {&a.shift, &a.score_scale, &a.weight_scale, &a.value_scale, &a.out_scale, &a.query_rope, &a.key_rope,
                                      &a.query_scale, &a.sink, &a.key_antiquant.scale, &a.value_antiquant.scale})
    if (given(*other)) return false;
  const auto plain = [](const Codes& cache) {
    return cache.dim() == 3 && (cache.type == ACL_FLOAT || cache.type == ACL_FLOAT16 || cache.type == ACL_BF16);
  };
  const bool rule = a.sparse_mode == 3 || (a.sparse_mode == 4 && a.after >= 0) || (a.sparse_mode == 0 && !given(a.mask));
  return rule && plain(a.keys[0]) && plain(a.values[0]) && !a.key_prefix && !(a.with_lse && given(a.lse));
}

std::vector<Span> spans_of(const Fused& a) {
  std::vector<Span> spans;
  for (const int64_t length : *a.key_lengths) {
    const int64_t first = a.sparse_mode == 4 ? std::max<int64_t>(0, length - 1 - a.before) : 0;
    spans.push_back({first, length, first / a.block});
  }
  return spans;
}

// Keys or values of all sequences, [batch, heads, length, D], each from the page of its first one on.
// What no row sees is zero: a cache holds anything there, and not-a-number times zero is none.
Tensor gather_together(const Fused& a, const Codes& cache, const std::vector<Span>& spans, const Tensor& pages, int64_t length) {
  const Tensor raw = cache.tensor().index_select(0, pages);
  const size_t row = size_t(raw.size(2)) * raw.element_size();
  char* at = static_cast<char*>(raw.data_ptr());
  for (const Span& span : spans) {
    const int64_t before = span.first - span.page * a.block, seen = span.last - span.page * a.block;
    std::memset(at, 0, size_t(before) * row);
    std::memset(at + size_t(seen) * row, 0, size_t(length - seen) * row);
    at += size_t(length) * row;
  }
  return wide(raw).view({int64_t(spans.size()), length, a.key_heads, -1}).transpose(1, 2);
}

// Added to the scores: minus infinity where a sequence has no key; undefined: all have all.
Tensor unseen(const Fused& a, const std::vector<Span>& spans, int64_t length) {
  const auto full = [&](const Span& s) { return s.first == s.page * a.block && s.last - s.first == length; };
  if (std::all_of(spans.begin(), spans.end(), full)) return {};
  const Tensor mask = at::full({int64_t(spans.size()), 1, 1, length}, -std::numeric_limits<float>::infinity());
  float* at = mask.data_ptr<float>();
  for (const Span& span : spans) {
    std::fill(at + span.first - span.page * a.block, at + span.last - span.page * a.block, 0.0f);
    at += length;
  }
  return mask;
}

// The whole batch at once, padded to the longest; false, and nothing done, where that would waste much.
// query and out: [batch, heads, D].
bool decode_together(const Fused& a, const Tensor& query, const Tensor& out) {
  const std::vector<Span> spans = spans_of(a);
  const int64_t batch = int64_t(spans.size());
  int64_t count = 0, seen = 0;
  for (const Span& span : spans) {
    if (span.last <= span.first) return false;
    count = std::max(count, (span.last + a.block - 1) / a.block - span.page);
    seen += span.last - span.first;
  }
  const int64_t length = count * a.block;
  if (batch * length > 2 * (seen + batch * a.block)) return false;
  const Tensor pages = at::empty({batch * count}, at::kLong), table = a.table->contiguous();
  int64_t* page = pages.data_ptr<int64_t>();
  for (int64_t i = 0; i < batch; ++i) {
    const int32_t* row = table.data_ptr<int32_t>() + i * table.size(1);
    const int64_t last = (spans[size_t(i)].last - 1) / a.block;
    for (int64_t j = 0; j < count; ++j) *page++ = row[std::min(spans[size_t(i)].page + j, last)];
  }
  const Tensor key = gather_together(a, a.keys[0], spans, pages, length), value = gather_together(a, a.values[0], spans, pages, length);
  // Heads that share a key head are rows of it: no row sees less than another.
  const Tensor rows = query.reshape({batch, a.key_heads, a.heads / a.key_heads, query.size(2)});
  const Tensor mask = unseen(a, spans, length);
  const Tensor mixed = at::scaled_dot_product_attention(rows, key, value, mask.defined() ? std::optional<Tensor>(mask) : std::nullopt, 0.0, false, a.scale);
  out.copy_(mixed.reshape({batch, a.heads, -1}));
  return true;
}

void run(Fused a) {
  if (a.key_heads == 0) a.key_heads = a.heads;
  const Tensor query = whole_query(a);
  const Tensor out = heads_of(a.out, output_layout(a.layout), a.heads);
  if (plain_decode(a, query)) {
    const bool rows = query.dim() == 3;
    if (decode_together(a, rows ? query : query.select(1, 0), rows ? out : out.select(1, 0))) return;
  }
  const bool with_lse = a.with_lse && given(a.lse);
  if (packed(input_layout(a.layout))) {  // lengths of queries (and of keys that are not paged) are running totals
    int64_t first = 0, first_key = 0;
    for (size_t i = 0; i < a.query_lengths->size(); ++i) {
      const int64_t rows = (*a.query_lengths)[i] - first;
      const int64_t length = given(a.table) ? (*a.key_lengths)[i] : (*a.key_lengths)[i] - first_key;
      const Tensor lse = with_lse ? a.lse->narrow(0, first, rows).squeeze(-1) : Tensor();
      run_one(a, {int64_t(i), first_key, length, query.narrow(0, first, rows), out.narrow(0, first, rows), lse});
      first += rows, first_key += given(a.table) ? 0 : length;
    }
    return;
  }
  const std::string layout = input_layout(a.layout);
  for (int64_t i = 0; i < query.size(0); ++i) {
    const int64_t rows = length_at(a.query_lengths, i, query.size(1));
    const int64_t all = given(a.table) ? 0 : a.keys.size() > 1 ? a.keys[size_t(i)].size(layout == "BNSD" ? 2 : 1) : a.keys[0].size(layout == "BNSD" ? 2 : layout == "SBH" ? 0 : 1);
    const Tensor lse = with_lse ? (*a.lse)[i].squeeze(-1).t().narrow(0, 0, rows) : Tensor();
    run_one(a, {i, 0, length_at(a.key_lengths, i, all), query[i].narrow(0, 0, rows), out[i].narrow(0, 0, rows), lse});
  }
}

// ---- what CANN refuses ---------------------------------------------------------------------------

std::string text(int64_t number) { return std::to_string(number); }

bool known_layout(const std::string& layout) {
  for (const char* known : {"BSH", "BSND", "BNSD", "TND", "NTD", "BNSD_BSND", "BSND_BNSD", "BSH_BNSD", "BSND_NBSD", "BNSD_NBSD", "BSH_NBSD",
                            "TND_NTD", "NTD_TND", "TND_NBSD"}) {
    if (layout == known) return true;
  }
  return false;
}

void check_query(const Codes& query) {
  if (!query.present) throw Error(kParameterNull, "query is required");
  const bool half = query.type == ACL_FLOAT16 || query.type == ACL_BF16, codes = query.type == ACL_INT8;
  refuse_unless(half || codes || (query.type == ACL_FLOAT && float32_attention()) || chip_is("Ascend950"),
                std::string("the data type of query is ") + (query.type == ACL_FLOAT ? "Float" : std::to_string(query.type)) +
                    "; the chip takes float16, bfloat16 and int8 (CANNSIM_EXTENSIONS=float32-attention lets the simulator take float32)");
}
void check_heads(int64_t heads, int64_t key_heads) {
  refuse_unless(heads > 0 && (key_heads == 0 || heads % key_heads == 0),
                "the number of query heads (" + std::to_string(heads) + ") must be a multiple of the number of key heads (" +
                    std::to_string(key_heads) + ")");
}
void check_mask(int64_t sparse_mode, const View& mask) {
  refuse_unless(sparse_mode >= 0 && sparse_mode <= 4, "sparse mode " + std::to_string(sparse_mode) + " is not simulated; 0 to 4 are");
  if (sparse_mode == 1) refuse_unless(mask.present, "sparse mode 1 needs an attention mask");
  if (sparse_mode < 2) return;
  refuse_unless(mask.present && mask.sizes.size() >= 2 && mask.sizes.back() == kCompressedMask && mask.sizes[mask.sizes.size() - 2] == kCompressedMask,
                "sparse mode " + std::to_string(sparse_mode) + " needs an attention mask of 2048 x 2048");
}
void check_pages(const View& table, int64_t block) {
  if (!table.present) return;
  refuse_unless(block > 0 && block <= 512 && block % 16 == 0,
                "a block size of " + std::to_string(block) + "; it must be a multiple of 16 and at most 512");
  refuse_unless(table.type == at::kInt, "the block table must be int32");
}

// Numbers to a head, and whether every sequence has one row ("Q_S is 1").
struct Rows {
  int64_t width;
  bool single;
};
Rows rows_of(const Codes& query, const std::string& layout, int64_t heads, OptionalIntArray lengths) {
  const int64_t last = query.size(-1);
  if (packed(layout)) {
    const int64_t tokens = query.size(layout == "TND" ? 0 : 1);
    return {last, !lengths || tokens <= int64_t(lengths->size())};
  }
  if (layout == "BSH") return {last / std::max<int64_t>(heads, 1), query.size(1) == 1};
  return {last, query.size(layout == "BNSD" ? 2 : 1) == 1};
}
// Limits and alignment of heads (CANN's document of aclnnFusedInferAttentionScoreV3, "constraints").
void check_widths(const Codes& query, const Codes& key, const Rows& rows, int64_t heads, int64_t key_heads) {
  refuse_unless(heads <= 256, text(heads) + " heads; at most 256 are taken");
  refuse_unless(key_heads == 0 || heads / key_heads <= 64,
                text(heads) + " query heads for " + text(key_heads) + " key heads; at most 64 to one are taken");
  refuse_unless(rows.width <= 512, "a head of " + text(rows.width) + " numbers; at most 512 are taken");
  if (rows.single || chip_is("Ascend950") || query.type == ACL_FLOAT) return;
  const bool half = query.type != ACL_INT8 && (key.type == ACL_FLOAT16 || key.type == ACL_BF16);
  const int64_t step = half ? 16 : key.type == ACL_INT8 || query.type == ACL_INT8 ? 32 : 64;
  refuse_unless(rows.width % step == 0, "a head of " + text(rows.width) + " numbers, with several rows to a query; the chip takes multiples of " + text(step) +
                                            (half ? " of float16 and bfloat16" : step == 32 ? " where one is int8" : " where one is int4"));
}
// A paged cache: the lengths of its sequences, the table's size, and what the copying instruction takes.
void check_paged_cache(const View& table, const Codes& key, OptionalIntArray lengths, const Rows& rows, int64_t block) {
  if (!table.present || c10::multiply_integers(table.sizes) == 0) return;
  refuse_unless(table.sizes.size() == 2, "the block table has " + text(int64_t(table.sizes.size())) + " dimensions; it must have two");
  refuse_unless(lengths.has_value() && !lengths->empty(), "a paged cache needs actual_seq_lengths_kv");
  const int64_t longest = *std::max_element(lengths->begin(), lengths->end()), pages = (longest + block - 1) / block;
  refuse_unless(table.sizes[1] >= pages, "the block table has " + text(table.sizes[1]) + " blocks to a sequence; the longest, of " + text(longest) +
                                             " tokens, needs " + text(pages) + " of " + text(block));
  refuse_unless(rows.single || key.dim() != 3 || key.size(-1) <= 65535,
                "a cache [blocks, block, heads * width] with " + text(key.size(-1)) + " numbers to a token; at most 65535 are taken, or [blocks, heads, block, width]");
}

// int8 or int4 keys and values by a query in 16 bits: what they need, and where they are taken ("fake
// quantisation" in the documents of aclnnFusedInferAttentionScoreV3 and V5).
void check_antiquant(const Codes& query, const Codes& key, bool scaled, const std::string& layout, const Rows& rows, bool paged) {
  const bool codes = key.type == ACL_INT8 || key.type == ACL_INT4 || key.type == ACL_INT32;
  if (!codes || query.type == ACL_INT8) return;
  refuse_unless(scaled, "keys and values are whole numbers and query is not; key_antiquant_scale and value_antiquant_scale are needed");
  refuse_unless(!packed(layout), "layout " + layout + " takes no int8 or int4 keys and values beside a query that is not quantised");
  refuse_unless(rows.single || !paged || chip_is("Ascend950"),
                "int8 or int4 keys and values in pages are taken for one row to a query; here are several");
}

// The first 24 arguments are the same in every version; the numbers begin at `numbers`.
template <size_t numbers, typename Arguments>
void check(const Arguments& arguments) {
  const CodesList& keys = std::get<1>(arguments).kept;
  const std::string& layout = std::get<numbers + 4>(arguments).kept;
  const auto& lengths = std::get<5>(arguments);
  check_query(std::get<0>(arguments).kept);
  refuse_unless(!keys.empty() && keys.size() == std::get<2>(arguments).kept.size(), "key and value must be lists of the same number of tensors");
  refuse_unless(known_layout(layout), "input layout " + layout + " is not simulated");
  refuse_unless(!packed(input_layout(layout)) || (lengths.present && std::get<6>(arguments).present),
                "layout " + layout + " needs actual_seq_lengths and actual_seq_lengths_kv");
  check_heads(std::get<numbers>(arguments).kept, std::get<numbers + 5>(arguments).kept);
  check_mask(std::get<numbers + 6>(arguments).kept, std::get<4>(arguments).kept);
  check_pages(std::get<14>(arguments).kept, std::get<numbers + 8>(arguments).kept);
  const auto given_lengths = [](const auto& argument) { return argument.present ? OptionalIntArray(IntArray(argument.kept)) : OptionalIntArray(); };
  const int64_t heads = std::get<numbers>(arguments).kept;
  const Codes& query = std::get<0>(arguments).kept;
  const Rows rows = rows_of(query, input_layout(layout), heads, given_lengths(lengths));
  check_widths(query, keys[0], rows, heads, std::get<numbers + 5>(arguments).kept);
  check_antiquant(query, keys[0], std::get<12>(arguments).kept.present || std::get<17>(arguments).kept.present, input_layout(layout), rows,
                  std::get<14>(arguments).kept.present);
  check_paged_cache(std::get<14>(arguments).kept, keys[0], given_lengths(std::get<6>(arguments)), rows, std::get<numbers + 8>(arguments).kept);
  const auto absent = [](const View& view, const char* name) {  // refused, never ignored
    refuse_unless(!view.present || c10::multiply_integers(view.sizes) == 0, std::string(name) + " is not simulated");
  };
  absent(std::get<15>(arguments).kept, "query_padding_size");
  absent(std::get<16>(arguments).kept, "kv_padding_size");
  refuse_unless(std::get<numbers + 9>(arguments).kept <= 1, "antiquant_mode " + std::to_string(std::get<numbers + 9>(arguments).kept) + "; 0 and 1 exist");
  for (size_t i : {0, 1}) {
    const int64_t mode = i == 0 ? std::get<numbers + 11>(arguments).kept : std::get<numbers + 12>(arguments).kept;
    refuse_unless(mode >= 0 && mode <= 5, "key or value antiquant mode " + std::to_string(mode) + " is not simulated; 0 to 5 are");
  }
}

// Scales of the older form hold keys' and values' in one tensor.
OptionalTensor half_of(const OptionalTensor& both, int64_t which) { return given(both) ? OptionalTensor((*both)[which]) : kNone; }

}  // namespace

#define QUANTISATION_A                                                                                             \
  const OptionalTensor &dequant_scale1, const OptionalTensor &quant_scale1, const OptionalTensor &dequant_scale2,  \
      const OptionalTensor &quant_scale2, const OptionalTensor &quant_offset2, const OptionalTensor &antiquant_scale, \
      const OptionalTensor &antiquant_offset
#define QUANTISATION_B                                                                        \
  const OptionalTensor &key_scale, const OptionalTensor &key_offset, const OptionalTensor &value_scale, \
      const OptionalTensor &value_offset, const Codes &key_prefix, const Codes &value_prefix, OptionalIntArray prefix_lengths
#define BEGINNING                                                                                                            \
  const Codes &query, const CodesList &keys, const CodesList &values, const OptionalTensor &pse, const OptionalTensor &mask, \
      OptionalIntArray query_lengths, OptionalIntArray key_lengths, QUANTISATION_A, const OptionalTensor &block_table,        \
      const OptionalTensor &query_padding, const OptionalTensor &key_padding, QUANTISATION_B
#define NUMBERS                                                                                                            \
  int64_t heads, double scale, int64_t before, int64_t after, Text layout, int64_t key_heads, int64_t sparse_mode,         \
      int64_t inner_precise, int64_t block_size, int64_t antiquant_mode, bool with_lse, int64_t key_mode, int64_t value_mode
#define RUN(QUERY_ROPE, KEY_ROPE, QUERY_SCALE, SINK)                                                                                          \
  const OptionalTensor first_scale = half_of(antiquant_scale, 0), second_scale = half_of(antiquant_scale, 1);                                 \
  const OptionalTensor first_offset = half_of(antiquant_offset, 0), second_offset = half_of(antiquant_offset, 1);                             \
  const bool split = given(key_scale);                                                                                                        \
  run({query, keys, values, pse, mask, query_lengths, key_lengths, dequant_scale1, quant_scale1, dequant_scale2, quant_scale2, quant_offset2, \
       {split ? key_scale : first_scale, split ? key_offset : first_offset, split ? key_mode : antiquant_mode},                               \
       {split ? value_scale : second_scale, split ? value_offset : second_offset, split ? value_mode : antiquant_mode},                       \
       block_table, key_prefix, value_prefix, prefix_lengths, QUERY_ROPE, KEY_ROPE, QUERY_SCALE, SINK, heads, scale, before, after, layout,   \
       key_heads, sparse_mode, block_size, with_lse, out, lse})

#define ROPE const OptionalTensor &query_rope, const OptionalTensor &key_rope, const OptionalTensor &key_rope_scale
CHECKED_OPERATOR(aclnnFusedInferAttentionScoreV2, check<24>, BEGINNING, NUMBERS, Tensor& out, const OptionalTensor& lse) {
  RUN(kNone, kNone, kNone, kNone);
}
CHECKED_OPERATOR(aclnnFusedInferAttentionScoreV3, check<27>, BEGINNING, ROPE, NUMBERS, Tensor& out, const OptionalTensor& lse) {
  RUN(query_rope, key_rope, kNone, kNone);
}
CHECKED_OPERATOR(aclnnFusedInferAttentionScoreV4, check<29>, BEGINNING, ROPE, const OptionalTensor& query_scale, const OptionalTensor& sink, NUMBERS,
                 int64_t query_mode, Tensor& out, const OptionalTensor& lse) {
  RUN(query_rope, key_rope, query_scale, sink);
}
CHECKED_OPERATOR(aclnnFusedInferAttentionScoreV5, check<31>, BEGINNING, ROPE, const OptionalTensor& query_scale, const OptionalTensor& sink,
                 OptionalIntArray query_start, OptionalIntArray key_start, NUMBERS, int64_t query_mode, int64_t pse_type, Tensor& out,
                 const OptionalTensor& lse) {
  RUN(query_rope, key_rope, query_scale, sink);
}

// No operator here needs a workspace, however long its sequences become in a captured graph.
LARGEST_WORKSPACE(aclnnFusedInferAttentionScoreV2)
LARGEST_WORKSPACE(aclnnFusedInferAttentionScoreV3)
LARGEST_WORKSPACE(aclnnFusedInferAttentionScoreV4)
LARGEST_WORKSPACE(aclnnFusedInferAttentionScoreV5)

// ---- the older forms -----------------------------------------------------------------------------

template <typename Arguments>
static void check_prompt(const Arguments& arguments) {
  const std::string& layout = std::get<16>(arguments).kept;
  check_query(std::get<0>(arguments).kept);
  refuse_unless(known_layout(layout), "input layout " + layout + " is not simulated");
  check_heads(std::get<12>(arguments).kept, std::get<17>(arguments).kept);
  check_mask(std::get<18>(arguments).kept, std::get<4>(arguments).kept);
}
CHECKED_OPERATOR(aclnnPromptFlashAttentionV3, check_prompt, const Codes& query, const Codes& key, const Codes& value, const OptionalTensor& pse,
                 const OptionalTensor& mask, OptionalIntArray query_lengths, OptionalIntArray key_lengths, const OptionalTensor& dequant_scale1,
                 const OptionalTensor& quant_scale1, const OptionalTensor& dequant_scale2, const OptionalTensor& quant_scale2,
                 const OptionalTensor& quant_offset2, int64_t heads, double scale, int64_t before, int64_t after, Text layout, int64_t key_heads,
                 int64_t sparse_mode, int64_t inner_precise, Tensor& out) {
  const CodesList keys{key}, values{value};
  run({query, keys, values, pse, mask, query_lengths, key_lengths, dequant_scale1, quant_scale1, dequant_scale2, quant_scale2, quant_offset2,
       {kNone, kNone, 0}, {kNone, kNone, 0}, kNone, kNoCodes, kNoCodes, {}, kNone, kNone, kNone, kNone, heads, scale, before, after, layout, key_heads,
       sparse_mode, 0, false, out, kNone});
}

template <typename Arguments>
static void check_incremental(const Arguments& arguments) {
  const std::string& layout = std::get<17>(arguments).kept;
  check_query(std::get<0>(arguments).kept);
  refuse_unless(layout == "BSH" || layout == "BSND" || layout == "BNSD", "input layout " + layout + "; BSH, BSND and BNSD exist");
  check_heads(std::get<15>(arguments).kept, std::get<18>(arguments).kept);
  check_pages(std::get<13>(arguments).kept, std::get<19>(arguments).kept);
  refuse_unless(!std::get<14>(arguments).kept.present, "kv_padding_size is not simulated");
}
// One row of query to a sequence; the lengths are the keys'. A mask of two dimensions has a row for each sequence.
CHECKED_OPERATOR(aclnnIncreFlashAttentionV4, check_incremental, const Codes& query, const CodesList& keys, const CodesList& values,
                 const OptionalTensor& pse, const OptionalTensor& mask, OptionalIntArray key_lengths, const OptionalTensor& dequant_scale1,
                 const OptionalTensor& quant_scale1, const OptionalTensor& dequant_scale2, const OptionalTensor& quant_scale2,
                 const OptionalTensor& quant_offset2, const OptionalTensor& antiquant_scale, const OptionalTensor& antiquant_offset,
                 const OptionalTensor& block_table, const OptionalTensor& key_padding, int64_t heads, double scale, Text layout, int64_t key_heads,
                 int64_t block_size, int64_t inner_precise, Tensor& out) {
  const OptionalTensor rows = given(mask) && mask->dim() == 2 ? OptionalTensor(mask->unsqueeze(1)) : mask;
  const OptionalTensor key_scale = half_of(antiquant_scale, 0), value_scale = half_of(antiquant_scale, 1);
  const OptionalTensor key_offset = half_of(antiquant_offset, 0), value_offset = half_of(antiquant_offset, 1);
  run({query, keys, values, pse, rows, {}, key_lengths, dequant_scale1, quant_scale1, dequant_scale2, quant_scale2, quant_offset2,
       {key_scale, key_offset, 0}, {value_scale, value_offset, 0}, block_table, kNoCodes, kNoCodes, {}, kNone, kNone, kNone, kNone, heads, scale,
       INT32_MAX, INT32_MAX, layout, key_heads, 0, block_size, false, out, kNone});
}

// ---- the training form, forward ------------------------------------------------------------------

namespace {

struct Training {
  const Tensor &query, &key, &value;
  const OptionalTensor &query_rope, &key_rope, &shift, &mask, &sink;
  OptionalIntArray query_ends, key_ends;  // of packed sequences
  double scale;
  int64_t before, after, heads;
  const std::string& layout;
  int64_t sparse_mode;
  Tensor &greatest, &sum, &out;  // greatest and sum: eight equal columns
};

void run_training(const Training& t) {
  const bool tokens = t.layout == "TND";
  const auto head_count = [&](const Tensor& x) {
    if (t.layout == "TND") return x.size(1);
    if (t.layout == "BNSD") return x.size(1);
    if (t.layout == "BSND") return x.size(2);
    return x.size(2) / (t.query.size(2) / t.heads);
  };
  const int64_t key_heads = head_count(t.key);
  const auto whole = [&](const Tensor& x, const OptionalTensor& rope, int64_t heads) {
    const Tensor wide_heads = heads_of(wide(x), t.layout, heads);
    return given(rope) ? at::cat({wide_heads, heads_of(wide(*rope), t.layout, heads)}, -1) : wide_heads;
  };
  const Tensor query = whole(t.query, t.query_rope, t.heads), key = whole(t.key, t.key_rope, key_heads), value = whole(t.value, kNone, key_heads);
  const Tensor out = heads_of(t.out, t.layout, t.heads);
  const AttentionRule rule{t.heads, key_heads, t.scale, t.sparse_mode, t.before, t.after, t.mask, t.shift, t.sink};
  const auto one = [&](int64_t batch, const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& made, const Tensor& greatest, const Tensor& sum) {
    const Tensor result = at::empty({q.size(0), t.heads, v.size(2)}, at::kFloat);
    const Tensor top = at::empty({q.size(0), t.heads}, at::kFloat), total = at::empty_like(top);
    attend(rule, {q, k, v, result, batch, 0, {}, top, total});
    Tensor(made).copy_(result);
    Tensor(greatest).copy_(top.unsqueeze(-1).expand_as(greatest));
    Tensor(sum).copy_(total.unsqueeze(-1).expand_as(sum));
  };
  if (!tokens) {
    for (int64_t i = 0; i < query.size(0); ++i)
      one(i, query[i], key[i], value[i], out[i], t.greatest[i].transpose(0, 1), t.sum[i].transpose(0, 1));
    return;
  }
  int64_t first = 0, first_key = 0;
  for (size_t i = 0; i < t.query_ends->size(); ++i) {
    const int64_t rows = (*t.query_ends)[i] - first, length = (*t.key_ends)[i] - first_key;
    one(int64_t(i), query.narrow(0, first, rows), key.narrow(0, first_key, length), value.narrow(0, first_key, length), out.narrow(0, first, rows),
        t.greatest.narrow(0, first, rows), t.sum.narrow(0, first, rows));
    first += rows, first_key += length;
  }
}

template <size_t mask, size_t keep, typename Arguments>
void check_training(const Arguments& arguments) {
  const auto& query = std::get<0>(arguments).kept;
  const double kept = std::get<keep>(arguments).kept;
  const int64_t heads = std::get<keep + 3>(arguments).kept, sparse_mode = std::get<keep + 6>(arguments).kept;
  const std::string& layout = std::get<keep + 4>(arguments).kept;
  refuse_unless(query.type == at::kHalf || query.type == at::kBFloat16 || query.type == at::kFloat,
                std::string("the data type of query is ") + at::toString(query.type) + "; float16, bfloat16 and float32 are taken");
  refuse_unless(layout == "BSH" || layout == "SBH" || layout == "BSND" || layout == "BNSD" || layout == "TND",
                "input layout " + layout + "; BSH, SBH, BSND, BNSD and TND exist");
  refuse_unless(heads > 0, "head_num must be positive");
  refuse_unless(kept == 1, "dropout (keep_prob " + std::to_string(kept) + ") is not simulated; 1 is");
  check_mask(sparse_mode, std::get<mask>(arguments).kept);
}

}  // namespace

#define TRAINING_HEAD                                                                                                              \
  const Tensor &query, const Tensor &key, const Tensor &value, const OptionalTensor &shift, const OptionalTensor &drop,            \
      const OptionalTensor &padding, const OptionalTensor &mask
#define TRAINING_ROPE_HEAD                                                                                                                \
  const Tensor &query, const OptionalTensor &query_rope, const Tensor &key, const OptionalTensor &key_rope, const Tensor &value,          \
      const OptionalTensor &shift, const OptionalTensor &drop, const OptionalTensor &padding, const OptionalTensor &mask
#define TRAINING_NUMBERS                                                                                                            \
  double scale, double keep, int64_t before, int64_t after, int64_t heads, Text layout, int64_t inner_precise, int64_t sparse_mode
#define TRAINING_RESULTS Tensor &greatest, Tensor &sum, const OptionalTensor &softmax, Tensor &out
#define TRAIN(QUERY_ROPE, KEY_ROPE, SINK, QUERY_ENDS, KEY_ENDS)                                                                          \
  run_training({query, key, value, QUERY_ROPE, KEY_ROPE, shift, mask, SINK, QUERY_ENDS, KEY_ENDS, scale, before, after, heads, layout, \
                sparse_mode, greatest, sum, out})
CHECKED_OPERATOR(aclnnFlashAttentionScore, (check_training<6, 9>), TRAINING_HEAD, OptionalIntArray prefix, TRAINING_NUMBERS, TRAINING_RESULTS) {
  TRAIN(kNone, kNone, kNone, {}, {});
}
CHECKED_OPERATOR(aclnnFlashAttentionScoreV2, (check_training<6, 11>), TRAINING_HEAD, OptionalIntArray prefix, OptionalIntArray query_start,
                 OptionalIntArray key_start, TRAINING_NUMBERS, int64_t pse_type, TRAINING_RESULTS) {
  TRAIN(kNone, kNone, kNone, {}, {});
}
CHECKED_OPERATOR(aclnnFlashAttentionScoreV3, (check_training<6, 12>), TRAINING_HEAD, const OptionalTensor& sink, OptionalIntArray prefix,
                 OptionalIntArray query_start, OptionalIntArray key_start, TRAINING_NUMBERS, int64_t pse_type, TRAINING_RESULTS) {
  TRAIN(kNone, kNone, sink, {}, {});
}
// The form of the 950: packed and not, rope parts and a sink; float8 operands with their scales are not
// simulated.
template <typename Arguments>
static void check_training_v4(const Arguments& arguments) {
  check_training<6, 19>(arguments);
  for (const auto* scale : {&std::get<9>(arguments).kept, &std::get<10>(arguments).kept, &std::get<11>(arguments).kept})
    refuse_unless(!scale->present || c10::multiply_integers(scale->sizes) == 0, "scales of float8 operands are not simulated");
}
CHECKED_OPERATOR(aclnnFlashAttentionScoreV4, check_training_v4, TRAINING_HEAD, const OptionalTensor& query_rope, const OptionalTensor& key_rope,
                 const OptionalTensor& query_scale, const OptionalTensor& key_scale, const OptionalTensor& value_scale, const OptionalTensor& sink,
                 OptionalIntArray prefix, OptionalIntArray query_ends, OptionalIntArray key_ends, OptionalIntArray query_start,
                 OptionalIntArray key_start, TRAINING_NUMBERS, int64_t out_type, int64_t pse_type, Text softmax_layout, int64_t seed, int64_t offset,
                 TRAINING_RESULTS) {
  TRAIN(query_rope, key_rope, sink, query_ends, key_ends);
}
#define ENDS OptionalIntArray prefix, OptionalIntArray query_ends, OptionalIntArray key_ends
CHECKED_OPERATOR(aclnnFlashAttentionVarLenScore, (check_training<6, 11>), TRAINING_HEAD, ENDS, TRAINING_NUMBERS, TRAINING_RESULTS) {
  TRAIN(kNone, kNone, kNone, query_ends, key_ends);
}
CHECKED_OPERATOR(aclnnFlashAttentionVarLenScoreV2, (check_training<6, 13>), TRAINING_HEAD, ENDS, OptionalIntArray query_start,
                 OptionalIntArray key_start, TRAINING_NUMBERS, int64_t pse_type, TRAINING_RESULTS) {
  TRAIN(kNone, kNone, kNone, query_ends, key_ends);
}
CHECKED_OPERATOR(aclnnFlashAttentionVarLenScoreV3, (check_training<8, 15>), TRAINING_ROPE_HEAD, ENDS, OptionalIntArray query_start,
                 OptionalIntArray key_start, TRAINING_NUMBERS, int64_t pse_type, TRAINING_RESULTS) {
  TRAIN(query_rope, key_rope, kNone, query_ends, key_ends);
}
CHECKED_OPERATOR(aclnnFlashAttentionVarLenScoreV4, (check_training<6, 11>), TRAINING_HEAD, ENDS, TRAINING_NUMBERS, Text softmax_layout,
                 TRAINING_RESULTS) {
  TRAIN(kNone, kNone, kNone, query_ends, key_ends);
}
CHECKED_OPERATOR(aclnnFlashAttentionVarLenScoreV5, (check_training<8, 16>), TRAINING_ROPE_HEAD, const OptionalTensor& sink, ENDS,
                 OptionalIntArray query_start, OptionalIntArray key_start, TRAINING_NUMBERS, int64_t pse_type, Text softmax_layout,
                 TRAINING_RESULTS) {
  TRAIN(query_rope, key_rope, sink, query_ends, key_ends);
}
LARGEST_WORKSPACE(aclnnFlashAttentionVarLenScoreV5)
