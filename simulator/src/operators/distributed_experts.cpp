// Mixture of experts over the ranks of a communicator: tokens go to the ranks of their experts
// (dispatch) and come back to be summed (combine).
//
// Source of the rules and of what goes where: CANN's documents of aclnnMoeDistributeDispatch[V2..V4]
// and aclnnMoeDistributeCombine[V2..V4]. They leave open what expandIdx, assistInfoForCombine and
// epRecvCounts hold, beyond that combine takes what dispatch gave; assumed here: rows lie expert by
// expert, and rank by rank within an expert, epRecvCounts are their running totals, and a triple of
// assistInfoForCombine is (rank, token, choice).
//
// Unlike CANN on Atlas A2, communicators of any size are taken, not only of 16 ranks and more.
#include <algorithm>

#include "operators/quantisation.h"
#include "operators/ranks.h"

using namespace cannsim;

namespace {

bool is_a2() { return chip_is("Ascend910B"); }

void refuse_tiling_unless(bool fits, const std::string& message) {
  if (!fits) throw Error(kTilingFailed, message);
}

Tensor positions(int64_t count) { return at::arange(count, at::kLong); }
std::vector<int64_t> numbers(const Tensor& x) {
  const Tensor dense = x.to(at::kLong).contiguous();
  return {dense.data_ptr<int64_t>(), dense.data_ptr<int64_t>() + dense.numel()};
}

// Which rank has which experts. The first `shared_ranks` ranks have the shared experts, each on as
// many ranks; the experts that tokens choose lie on the others, equally many on each.
struct Layout {
  int64_t world, rank, experts, shared_experts, shared_ranks;

  bool shared(int64_t of) const { return of < shared_ranks; }
  int64_t each() const { return experts / (world - shared_ranks); }  // experts of a rank that has no shared one
  int64_t held_by(int64_t of) const { return shared(of) ? 1 : each(); }
  // A rank's tokens go to one of the ranks that have the same shared expert (assumed: by its number).
  bool goes_to(int64_t from, int64_t to) const {
    const int64_t copies = shared_ranks / shared_experts;
    return to % copies == from % copies;
  }
  int64_t first_scale() const { return shared_ranks > 0 ? shared_experts : 0; }  // rows of the shared experts in a table of all
};

// ---- what is refused -------------------------------------------------------------------------------

std::string text(int64_t number) { return std::to_string(number); }

struct Terms {
  const Ranks& group;
  Layout layout;
  int64_t tensor_parallel, sharding;
  int64_t tokens, width, k, batch;
  int64_t special;  // experts that are none: zero, copy, constant
  const View& mask;
};
// The memory that the documents ask for, of HCCL_BUFFSIZE.
void check_buffer(const Terms& t) {
  constexpr uint64_t kMega = 1 << 20;
  const uint64_t tokens = uint64_t(t.batch > 0 ? t.batch / t.layout.world : t.tokens), width = uint64_t(t.width), world = uint64_t(t.layout.world),
                 local = uint64_t(t.layout.each()), k = uint64_t(t.k);
  const uint64_t needed = is_a2() ? 2 * (tokens * world * std::min(local, k) * width * 2 + 2 * kMega)
                                  : 2 * (tokens * 2 * (width + 128) * (world * local + k + 1)) + 2 * kMega;
  refuse_tiling_unless(t.group.buffer_bytes() >= needed,
                       "the communicator's buffer (HCCL_BUFFSIZE) has " + text(int64_t(t.group.buffer_bytes() / kMega)) + " MB; " + text(t.tokens) +
                           " tokens of " + text(t.width) + " numbers for " + text(t.layout.experts) + " experts on " + text(t.layout.world) +
                           " ranks need " + text(int64_t((needed + kMega - 1) / kMega)) + " MB");
}
void check_layout(const Terms& t) {
  const Layout& l = t.layout;
  refuse_tiling_unless(t.tensor_parallel <= 1, "tp_world_size " + text(t.tensor_parallel) + "; dispatch over tensor-parallel ranks is not simulated (0 or 1 is)");
  refuse_tiling_unless(l.world == t.group.ranks(), "ep_world_size is " + text(l.world) + ", the communicator '" + t.group.name() + "' has " +
                                                       text(t.group.ranks()) + " ranks");
  refuse_tiling_unless(l.rank == t.group.rank(), "ep_rank_id is " + text(l.rank) + ", this is rank " + text(t.group.rank()) + " of the communicator '" +
                                                     t.group.name() + "'");
  refuse_tiling_unless(t.sharding == 0, "expert_shard_type " + text(t.sharding) + "; 0 (shared experts on the first ranks) exists");
  refuse_tiling_unless(l.shared_ranks >= 0 && l.shared_ranks < l.world,
                       "shared_expert_rank_num " + text(l.shared_ranks) + "; from 0 to below ep_world_size, " + text(l.world));
  refuse_tiling_unless(l.shared_experts >= 0 && l.shared_experts <= 4, "shared_expert_num " + text(l.shared_experts) + "; from 0 to 4 are taken");
  if (l.shared_ranks == 0) refuse_tiling_unless(l.shared_experts <= 1, "shared_expert_num " + text(l.shared_experts) + " on no rank (shared_expert_rank_num 0)");
  if (l.shared_ranks > 0)
    refuse_tiling_unless(l.shared_experts > 0 && l.shared_ranks % l.shared_experts == 0,
                         text(l.shared_experts) + " shared experts cannot lie equally often on " + text(l.shared_ranks) + " ranks");
  const int64_t most = is_a2() ? 512 : 1024;
  refuse_tiling_unless(l.experts > 0 && l.experts <= most, "moe_expert_num " + text(l.experts) + "; from 1 to " + text(most) + " are taken");
  refuse_tiling_unless(l.experts % (l.world - l.shared_ranks) == 0,
                       "moe_expert_num " + text(l.experts) + " is no multiple of the ranks that have them, " + text(l.world - l.shared_ranks));
}
void check_terms(const Terms& t) {
  check_layout(t);
  refuse_tiling_unless(t.k > 0 && t.k <= t.layout.experts + t.special, "every token chooses " + text(t.k) + " experts of " + text(t.layout.experts + t.special));
  refuse_tiling_unless(t.batch == 0 || (t.batch >= t.tokens * t.layout.world && t.batch % t.layout.world == 0),
                       "global_bs " + text(t.batch) + "; 0, or ep_world_size times the most tokens of a rank (this one has " + text(t.tokens) + ")");
  if (is_a2()) {
    refuse_tiling_unless(t.layout.shared_ranks == 0, "shared_expert_rank_num " + text(t.layout.shared_ranks) + "; Atlas A2 takes 0, Atlas A3 others");
    refuse_tiling_unless(t.special == 0, "zero, copy or constant experts; Atlas A2 has none, Atlas A3 does");
    refuse_tiling_unless(t.width > 0 && t.width <= 7168 && t.width % 32 == 0, "tokens of " + text(t.width) + " numbers; Atlas A2 takes multiples of 32 up to 7168");
    refuse_tiling_unless(t.tokens > 0 && t.tokens <= 256, text(t.tokens) + " tokens; Atlas A2 takes from 1 to 256");
    refuse_tiling_unless(t.k <= 16, "every token chooses " + text(t.k) + " experts; Atlas A2 takes up to 16");
  }
  if (t.mask.present) {
    const auto& sizes = t.mask.sizes;
    refuse_tiling_unless(t.mask.type == at::kBool, std::string("x_active_mask is ") + at::toString(t.mask.type) + "; it must be bool");
    refuse_tiling_unless(sizes == std::vector<int64_t>{t.tokens} || (!is_a2() && sizes == std::vector<int64_t>{t.tokens, t.k}),
                         "x_active_mask must have one flag for each of the " + text(t.tokens) + " tokens" + (is_a2() ? "" : ", or for each of their choices"));
  }
  check_buffer(t);
}
void check_experts(const View& experts) {
  refuse_unless(experts.type == at::kInt, std::string("the data type of expert_ids is ") + at::toString(experts.type) + "; it must be int32");
  refuse_tiling_unless(experts.sizes.size() == 2, "expert_ids must have two dimensions");
}
void check_elastic(const View& elastic) { refuse_tiling_unless(!elastic.present, "elastic_info: leaving ranks out is not simulated"); }

// `group`: the position of the communicator's name; `special`: of zero_expert_num, 0: none.
template <size_t group, typename Arguments>
Layout layout_of(const Arguments& a) {
  return {std::get<group + 1>(a).kept, std::get<group + 2>(a).kept, std::get<group + 3>(a).kept, std::get<group + 8>(a).kept, std::get<group + 9>(a).kept};
}
template <size_t special, typename Arguments>
int64_t special_of(const Arguments& a) {
  if constexpr (special == 0) return 0;
  else return std::get<special>(a).kept + std::get<special + 1>(a).kept + std::get<special + 2>(a).kept;
}
template <size_t group, size_t special, typename Arguments>
void check_dispatch(const Arguments& a) {
  const View &x = std::get<0>(a).kept, &experts = std::get<1>(a).kept, &scales = std::get<2>(a).kept;
  const int64_t quant = std::get<group + 10>(a).kept, type = std::get<group + 12>(a).kept;
  refuse_unless(x.type == at::kHalf || x.type == at::kBFloat16,
                std::string("the data type of x is ") + at::toString(x.type) + "; float16 and bfloat16 are taken");
  check_experts(experts);
  refuse_tiling_unless(x.sizes.size() == 2 && experts.sizes[0] == x.sizes[0], "x and expert_ids must have two dimensions and the same rows");
  if constexpr (group > 5) check_elastic(std::get<5>(a).kept);
  const Layout layout = layout_of<group>(a);
  check_terms({std::get<group>(a).kept, layout, std::get<group + 5>(a).kept, std::get<group + 7>(a).kept, x.sizes[0], x.sizes[1], experts.sizes[1],
               std::get<group + 11>(a).kept, special_of<special>(a), std::get<3>(a).kept});
  refuse_tiling_unless(quant == 0 || quant == 2, "quant_mode " + text(quant) + "; 0 (none) and 2 (each token by its range) are simulated");
  refuse_tiling_unless(type == 0 || type == 1, "expert_token_nums_type " + text(type) + "; 0 (running totals) and 1 (counts) exist");
  if (!scales.present || scales.sizes.empty() || scales.sizes[0] == 0) return;
  refuse_tiling_unless(quant == 2, "scales are given, but quant_mode is 0");
  const int64_t rows = layout.first_scale() + layout.experts;
  refuse_tiling_unless(scales.sizes == std::vector<int64_t>({rows, x.sizes[1]}),
                       "scales must have a row for each of the " + text(rows) + " experts, the shared ones first, of " + text(x.sizes[1]) + " numbers");
}
template <size_t group, size_t special, size_t elastic, typename Arguments>
void check_combine(const Arguments& a) {
  const View &rows = std::get<0>(a).kept, &experts = std::get<1>(a).kept;
  check_experts(experts);
  refuse_unless(rows.type == at::kHalf || rows.type == at::kBFloat16,
                std::string("the data type of expand_x is ") + at::toString(rows.type) + "; float16 and bfloat16 are taken");
  refuse_tiling_unless(rows.sizes.size() == 2, "expand_x must have two dimensions");
  if constexpr (elastic > 0) check_elastic(std::get<elastic>(a).kept);
  // The operands before it differ: the mask is two places after expert_scales (4), or after gamma.
  constexpr size_t mask = std::is_same_v<std::tuple_element_t<6, Arguments>, Argument<const OptionalTensor&>> ? 6 : 8;
  check_terms({std::get<group>(a).kept, layout_of<group>(a), std::get<group + 5>(a).kept, std::get<group + 7>(a).kept, experts.sizes[0], rows.sizes[1],
               experts.sizes[1], std::get<group + 10>(a).kept, special_of<special>(a), std::get<mask>(a).kept});
  const int64_t quant = std::get<group + 12>(a).kept;
  refuse_tiling_unless(quant == 0 || quant == 2, "comm_quant_mode " + text(quant) + "; 0 (none) and 2 (int8) exist");
}

// ---- which rows go where -----------------------------------------------------------------------------

// A rank's choices of experts: by rank, then by expert, then by token.
struct Going {
  Tensor token, choice, expert;  // of each row; expert: its row in a table of all, the shared ones first
  Tensor shared;                 // whether it goes to a shared expert
  Rows rows;                     // by rank
  std::vector<std::vector<int64_t>> counts;  // by rank, of each of its experts
};
// The tokens' choices with -1 for those that go nowhere: not active, or of an expert that is none.
Tensor going_experts(const Tensor& experts, const OptionalTensor& active, int64_t count) {
  const Tensor chosen = experts.to(at::kLong);
  Tensor stays = (chosen < 0).logical_or(chosen >= count);
  if (given(active)) {
    const Tensor mask = active->to(at::kBool);
    stays = stays.logical_or((mask.dim() == 1 ? mask.unsqueeze(-1) : mask).logical_not());
  }
  return chosen.masked_fill(stays, -1);
}
Tensor active_tokens(const Tensor& experts, const OptionalTensor& active) {
  if (!given(active)) return positions(experts.size(0));
  const Tensor mask = active->to(at::kBool);
  return (mask.dim() == 1 ? mask : mask.any(1)).nonzero().flatten();
}
Going going_from(const Layout& l, const Tensor& experts, const OptionalTensor& active) {
  const int64_t k = experts.size(1);
  const Tensor flat = going_experts(experts, active, l.experts).flatten();
  const Tensor inside = (flat >= 0).nonzero().flatten();
  auto [expert, order] = at::sort(flat.index({inside}), std::optional<bool>(true), 0, false);
  const Tensor place = inside.index({order});
  const std::vector<int64_t> each = numbers(at::bincount(expert, {}, l.experts));
  const Tensor everyone = active_tokens(experts, active);

  Going made;
  std::vector<Tensor> token, choice, table, shared;
  const auto add = [&](const Tensor& tokens, const Tensor& choices, const Tensor& rows, bool is_shared) {
    token.push_back(tokens), choice.push_back(choices), table.push_back(rows);
    shared.push_back(at::full({tokens.size(0)}, is_shared, at::kBool));
  };
  for (int64_t to = 0; to < l.shared_ranks; ++to) {
    const int64_t count = l.goes_to(l.rank, to) ? everyone.size(0) : 0, number = to / (l.shared_ranks / l.shared_experts);
    made.rows.push_back(count);
    made.counts.push_back({count});
    add(everyone.narrow(0, 0, count), at::full({count}, k + number, at::kLong), at::full({count}, number, at::kLong), true);
  }
  for (int64_t to = l.shared_ranks; to < l.world; ++to) {
    const auto first = each.begin() + (to - l.shared_ranks) * l.each();
    made.counts.emplace_back(first, first + l.each());
    made.rows.push_back(0);
    for (int64_t count : made.counts.back()) made.rows.back() += count;
  }
  add(place.div(k, "floor"), place.remainder(k), expert + l.first_scale(), false);
  made.token = at::cat(token), made.choice = at::cat(choice), made.expert = at::cat(table), made.shared = at::cat(shared);
  return made;
}

// ---- dispatch ----------------------------------------------------------------------------------------

struct Dispatch {
  const char* name;
  Ranks& group;
  Layout layout;
  const Tensor& x;
  const Tensor& experts;
  const OptionalTensor &scales, &active, &weights;
  int64_t quant_mode, count_type;
  bool triples;  // of assistInfoForCombine; else expandIdx of the first version
  Codes& out;
  const OptionalTensor& out_scales;
  Tensor &index, &counts, &received;
  const OptionalTensor& out_weights;
};

// Each message's row: the token, and its scale, weight and place.
enum Extra { kScale, kWeight, kToken, kChoice, kExtras };

Tensor packed(const Dispatch& d, const Going& going) {
  Tensor x = wide(d.x).index({going.token});
  Tensor scale = at::zeros({x.size(0)}, at::kFloat), weight = at::zeros({x.size(0)}, at::kFloat);
  if (d.quant_mode == 2) {
    if (given(d.scales)) x = x * wide(*d.scales).index({going.expert});
    scale = x.abs().amax(-1).div_(d.out.greatest());
    x = x / at::where(scale == 0, at::ones_like(scale), scale).unsqueeze(-1);
  }
  if (given(d.weights)) {
    const Tensor chosen = wide(*d.weights).index({going.token, going.choice.clamp_max(d.experts.size(1) - 1)});
    weight = at::where(going.shared, at::ones_like(chosen), chosen);
  }
  const auto as_bits = [](const Tensor& numbers) { return numbers.to(at::kInt).view(at::kFloat); };
  return at::cat({x, at::stack({scale, weight, as_bits(going.token), as_bits(going.choice)}, 1)}, 1);
}

// How many rows of each of this rank's experts come from each rank: [rank][expert].
Tensor incoming(const Dispatch& d, const Going& going, const Ranks::Terms& terms) {
  const int64_t world = d.layout.world, held = d.layout.held_by(d.layout.rank);
  std::vector<int64_t> all;
  Rows sent;
  for (const auto& counts : going.counts) {
    all.insert(all.end(), counts.begin(), counts.end());
    sent.push_back(int64_t(counts.size()));
  }
  const Tensor mine = at::tensor(all, at::kLong);
  return d.group.exchange(mine, sent, Rows(size_t(world), held), terms).view({world, held});
}

void write_index(const Dispatch& d, const Going& going, const Tensor& arrived, const Tensor& source) {
  d.index.zero_();
  if (d.triples) {
    const Tensor bits = arrived.narrow(1, arrived.size(1) - kExtras + kToken, 2).contiguous().view(at::kInt).to(at::kLong);
    const Tensor all = at::cat({source.unsqueeze(1), bits}, 1).flatten();
    refuse_tiling_unless(d.index.numel() >= all.numel(), "assist_info_for_combine has " + text(d.index.numel()) + " numbers; " + text(all.numel()) + " are needed");
    d.index.narrow(0, 0, all.numel()).copy_(all);
    return;
  }
  // The place of each choice among those that this rank sends to the same expert.
  const Tensor chosen = going.shared.logical_not().nonzero().flatten();
  const Tensor expert = going.expert.index({chosen});
  const Tensor first = at::searchsorted(expert, expert, false, false);
  Tensor places = at::zeros({d.index.numel()}, at::kLong);
  places.index_put_({going.token.index({chosen}) * d.experts.size(1) + going.choice.index({chosen})}, positions(chosen.size(0)) - first);
  d.index.copy_(places);
}

void dispatch(const Dispatch& d) {
  const Layout& l = d.layout;
  const Ranks::Terms terms{uint64_t(l.experts), uint32_t(d.quant_mode), uint32_t(l.shared_ranks)};
  const Going going = going_from(l, d.experts, d.active);
  const Tensor from = incoming(d, going, terms);  // [rank, expert]
  const Tensor arrived = d.group.exchange(packed(d, going), going.rows, numbers(from.sum(1)), terms);
  const int64_t rows = d.out.size(0), width = d.x.size(1), count = arrived.size(0);
  refuse_tiling_unless(count <= rows, text(count) + " rows arrive at rank " + text(l.rank) + "; its output has " + text(rows));

  // They came rank by rank, and lie expert by expert.
  const Tensor block = positions(from.numel());
  const Tensor expert = block.remainder(from.size(1)).repeat_interleave(from.flatten()),
               rank = block.div(from.size(1), "floor").repeat_interleave(from.flatten());
  const Tensor order = std::get<1>(at::sort(expert, std::optional<bool>(true), 0, false));
  const Tensor sorted = arrived.index({order});
  const auto spread = [&](const Tensor& values) { return at::constant_pad_nd(values, {0, rows - count}); };
  d.out.assign(at::constant_pad_nd(sorted.narrow(1, 0, width), {0, 0, 0, rows - count}));
  if (d.quant_mode == 2 && given(d.out_scales)) Tensor(*d.out_scales).copy_(spread(sorted.select(1, width + kScale)).view(d.out_scales->sizes()));
  if (given(d.weights) && given(d.out_weights))
    Tensor(*d.out_weights).copy_(spread(sorted.select(1, width + kWeight)).narrow(0, 0, d.out_weights->numel()).view(d.out_weights->sizes()));
  write_index(d, going, sorted, rank.index({order}));

  const Tensor per_expert = from.sum(0), totals = from.t().flatten().cumsum(0);
  d.counts.copy_(d.count_type == 0 ? per_expert.cumsum(0) : per_expert);
  refuse_tiling_unless(d.received.numel() >= totals.numel(), "ep_recv_counts has " + text(d.received.numel()) + " numbers; " + text(totals.numel()) + " are needed");
  d.received.zero_();
  d.received.narrow(0, 0, totals.numel()).copy_(totals);
}

// ---- combine -----------------------------------------------------------------------------------------

// Experts that are none: numbers from `first` on; those of `zero` give nothing, those of `copy` the
// token, constant ones a multiple of it and of a vector of their own.
struct Special {
  int64_t zero = 0, copy = 0, constant = 0;
  const OptionalTensor &original, &alpha1, &alpha2, &vector;
};
struct Combine {
  const char* name;
  Ranks& group;
  Layout layout;
  const Tensor& rows;
  const Tensor& experts;
  const Tensor& counts;  // dispatch's epRecvCounts
  const Tensor& weights;
  const OptionalTensor &active, &shared;
  int64_t quant_mode;
  const Special& special;
};

// A rank's rows, from expert by expert to rank by rank: those of each rank, and how many.
std::pair<Tensor, Rows> to_ranks(const Combine& c) {
  const int64_t world = c.layout.world, held = c.layout.held_by(c.layout.rank);
  refuse_tiling_unless(c.counts.numel() >= held * world, "ep_send_counts has " + text(c.counts.numel()) + " numbers; dispatch gave " + text(held * world));
  const std::vector<int64_t> totals = numbers(c.counts.flatten().narrow(0, 0, held * world));
  std::vector<Tensor> parts;
  Rows sent;
  for (int64_t to = 0; to < world; ++to) {
    sent.push_back(0);
    for (int64_t expert = 0; expert < held; ++expert) {
      const size_t i = size_t(expert * world + to);
      const int64_t first = i == 0 ? 0 : totals[i - 1], count = totals[i] - first;
      refuse_tiling_unless(count >= 0 && totals[i] <= c.rows.size(0),
                           "ep_send_counts are not running totals up to the rows of expand_x, " + text(c.rows.size(0)) + ": they must be dispatch's");
      parts.push_back(c.rows.narrow(0, first, count));
      sent.back() += count;
    }
  }
  Tensor rows = wide(at::cat(parts));
  if (c.quant_mode == 2) {  // int8 on the way (assumed: each row by its range)
    const Tensor scale = rows.abs().amax(-1, true).div_(127);
    rows = at::round(rows / at::where(scale == 0, at::ones_like(scale), scale)) * scale;
  }
  return {rows, sent};
}

Tensor of_special(const Combine& c) {
  const Special& s = c.special;
  Tensor sum = at::zeros({c.experts.size(0), c.rows.size(1)}, at::kFloat);
  if (s.copy + s.constant == 0) return sum;
  const Tensor x = wide(*s.original).unsqueeze(1), number = c.experts.to(at::kLong) - c.layout.experts - s.zero;  // [tokens, k]
  Tensor each = x * (number >= 0).logical_and(number < s.copy).unsqueeze(-1);
  if (s.constant > 0) {
    const Tensor constant = number - s.copy, is = (constant >= 0).logical_and(constant < s.constant).unsqueeze(-1);
    const Tensor row = constant.clamp(0, s.constant - 1);
    const Tensor made = wide(*s.alpha1).index({row}).unsqueeze(-1) * x + wide(*s.alpha2).index({row}).unsqueeze(-1) * wide(*s.vector).index({row});
    each = each + made * is;
  }
  Tensor weights = wide(c.weights);
  if (given(c.active)) {
    const Tensor mask = c.active->to(at::kBool);
    weights = weights * (mask.dim() == 1 ? mask.unsqueeze(-1) : mask);
  }
  return (each * weights.unsqueeze(-1)).sum(1);
}

Tensor combined(const Combine& c) {
  const Layout& l = c.layout;
  const Going going = going_from(l, c.experts, c.active);
  const auto [rows, sent] = to_ranks(c);
  const Tensor back = c.group.exchange(rows, sent, going.rows, {uint64_t(l.experts), uint32_t(c.quant_mode), uint32_t(l.shared_ranks)});
  // In the order in which they were sent; summed in the order of each token's choices.
  Tensor each = at::zeros({c.experts.size(0), c.experts.size(1) + l.first_scale(), c.rows.size(1)}, at::kFloat);
  each.index_put_({going.token, going.choice}, back);
  const Tensor weights = at::constant_pad_nd(wide(c.weights), {0, l.first_scale()}, 1);
  Tensor sum = (each * weights.unsqueeze(-1)).sum(1) + of_special(c);
  if (given(c.shared)) sum = sum + wide(*c.shared).view(sum.sizes());
  return sum;
}

void add_and_normalise(const Tensor& sum, const Tensor& residual, const Tensor& gamma, double epsilon, Tensor& y, Tensor& rstd, Tensor& x) {
  const Tensor added = sum.view(x.sizes()) + wide(residual);
  x.copy_(added);
  const Tensor inverse = at::rsqrt(added.square().mean(-1, true) + epsilon);
  rstd.copy_(inverse.view(rstd.sizes()));
  y.copy_(added * inverse * wide(gamma));
}

const OptionalTensor kNone;
const Special kNothingSpecial{0, 0, 0, kNone, kNone, kNone, kNone};

}  // namespace

#define DISPATCH_HEAD \
  const Tensor &x, const Tensor &experts, const OptionalTensor &scales, const OptionalTensor &active, const OptionalTensor &weights
#define GROUPS                                                                                                                       \
  Ranks &group, int64_t world, int64_t rank, int64_t expert_count, Text tp_group, int64_t tp_world, int64_t tp_rank, int64_t sharding, \
      int64_t shared_experts, int64_t shared_ranks
#define DISPATCH_MODES int64_t quant_mode, int64_t batch, int64_t count_type
#define SPECIAL int64_t zero_experts, int64_t copy_experts, int64_t constant_experts
#define DISPATCH_RESULTS                                                                                                               \
  Codes &out, const OptionalTensor &out_scales, Tensor &index, Tensor &counts, Tensor &received, const OptionalTensor &tp_received, \
      const OptionalTensor &out_weights
#define LAYOUT \
  Layout { world, rank, expert_count, shared_experts, shared_ranks }
#define DISPATCH(NAME, TRIPLES)                                                                                                             \
  group.perform(NAME, [&] {                                                                                                                 \
    dispatch({NAME, group, LAYOUT, x, experts, scales, active, weights, quant_mode, count_type, TRIPLES, out, out_scales, index, counts, received, \
              out_weights});                                                                                                                \
  })
CHECKED_OPERATOR(aclnnMoeDistributeDispatch, (check_dispatch<5, 0>), DISPATCH_HEAD, GROUPS, DISPATCH_MODES, DISPATCH_RESULTS) {
  DISPATCH("aclnnMoeDistributeDispatch", false);
}
CHECKED_OPERATOR(aclnnMoeDistributeDispatchV2, (check_dispatch<5, 0>), DISPATCH_HEAD, GROUPS, DISPATCH_MODES, Text algorithm, DISPATCH_RESULTS) {
  DISPATCH("aclnnMoeDistributeDispatchV2", true);
}
CHECKED_OPERATOR(aclnnMoeDistributeDispatchV3, (check_dispatch<6, 20>), DISPATCH_HEAD, const OptionalTensor& elastic, GROUPS, DISPATCH_MODES,
                 Text algorithm, SPECIAL, DISPATCH_RESULTS) {
  DISPATCH("aclnnMoeDistributeDispatchV3", true);
}
CHECKED_OPERATOR(aclnnMoeDistributeDispatchV4, (check_dispatch<7, 21>), DISPATCH_HEAD, const OptionalTensor& elastic,
                 const OptionalTensor& performance, GROUPS, DISPATCH_MODES, Text algorithm, SPECIAL, DISPATCH_RESULTS) {
  DISPATCH("aclnnMoeDistributeDispatchV4", true);
}

#define COMBINE_HEAD const Tensor &rows, const Tensor &experts, const Tensor &index, const Tensor &send_counts, const Tensor &weights
#define COMBINE_OPTIONS                                                                                                       \
  const OptionalTensor &tp_counts, const OptionalTensor &active, const OptionalTensor &activation_scale,                     \
      const OptionalTensor &weight_scale, const OptionalTensor &group_list, const OptionalTensor &expand_scales
#define SPECIAL_OPERANDS                                                                                                          \
  const OptionalTensor &elastic, const OptionalTensor &original, const OptionalTensor &alpha1, const OptionalTensor &alpha2,      \
      const OptionalTensor &vector
#define COMBINE_MODES int64_t batch, int64_t type, int64_t comm_quant, int64_t list_type
#define COMBINED(NAME, SHARED, NONE) \
  combined({NAME, group, LAYOUT, rows, experts, send_counts, weights, active, SHARED, comm_quant, NONE})
#define COMBINE(NAME, SHARED, NONE) group.perform(NAME, [&] { out.copy_(COMBINED(NAME, SHARED, NONE).view(out.sizes())); })
#define MAKE_SPECIAL \
  const Special special { zero_experts, copy_experts, constant_experts, original, alpha1, alpha2, vector }
CHECKED_OPERATOR(aclnnMoeDistributeCombine, (check_combine<11, 0, 0>), COMBINE_HEAD, COMBINE_OPTIONS, GROUPS, COMBINE_MODES, Tensor& out) {
  COMBINE("aclnnMoeDistributeCombine", kNone, kNothingSpecial);
}
CHECKED_OPERATOR(aclnnMoeDistributeCombineV2, (check_combine<12, 0, 0>), COMBINE_HEAD, COMBINE_OPTIONS, const OptionalTensor& shared, GROUPS,
                 COMBINE_MODES, Text algorithm, Tensor& out) {
  COMBINE("aclnnMoeDistributeCombineV2", shared, kNothingSpecial);
}
CHECKED_OPERATOR(aclnnMoeDistributeCombineV3, (check_combine<17, 32, 12>), COMBINE_HEAD, COMBINE_OPTIONS, const OptionalTensor& shared,
                 SPECIAL_OPERANDS, GROUPS, COMBINE_MODES, Text algorithm, SPECIAL, Tensor& out) {
  MAKE_SPECIAL;
  COMBINE("aclnnMoeDistributeCombineV3", shared, special);
}
CHECKED_OPERATOR(aclnnMoeDistributeCombineV4, (check_combine<18, 33, 12>), COMBINE_HEAD, COMBINE_OPTIONS, const OptionalTensor& shared,
                 SPECIAL_OPERANDS, const OptionalTensor& performance, GROUPS, COMBINE_MODES, Text algorithm, SPECIAL, Tensor& out) {
  MAKE_SPECIAL;
  COMBINE("aclnnMoeDistributeCombineV4", shared, special);
}

// x = residual + combined, y = x / rms(x) * gamma.
#define NORMALISED const Tensor &residual, const Tensor &gamma
#define NORMALISED_RESULTS Tensor &y, Tensor &rstd, Tensor &sum
CHECKED_OPERATOR(aclnnMoeDistributeCombineAddRmsNorm, (check_combine<14, 0, 0>), COMBINE_HEAD, NORMALISED, COMBINE_OPTIONS, const OptionalTensor& shared,
                 GROUPS, COMBINE_MODES, Text algorithm, float epsilon, NORMALISED_RESULTS) {
  constexpr const char* kName = "aclnnMoeDistributeCombineAddRmsNorm";
  group.perform(kName, [&] { add_and_normalise(COMBINED(kName, shared, kNothingSpecial), residual, gamma, epsilon, y, rstd, sum); });
}
CHECKED_OPERATOR(aclnnMoeDistributeCombineAddRmsNormV2, (check_combine<19, 35, 14>), COMBINE_HEAD, NORMALISED, COMBINE_OPTIONS,
                 const OptionalTensor& shared, SPECIAL_OPERANDS, GROUPS, COMBINE_MODES, Text algorithm, float epsilon, SPECIAL, NORMALISED_RESULTS) {
  constexpr const char* kName = "aclnnMoeDistributeCombineAddRmsNormV2";
  MAKE_SPECIAL;
  group.perform(kName, [&] { add_and_normalise(COMBINED(kName, shared, special), residual, gamma, epsilon, y, rstd, sum); });
}
