// Attention with a state instead of a cache: the gated delta rule.
#include "operators/quantisation.h"

using namespace cannsim;

namespace {

struct Delta {
  Tensor query, key, value;  // [tokens, heads, width], float32, as many heads of each as of value
  Tensor beta;               // [tokens, heads] or undefined: ones
  Tensor decay;              // [tokens, heads] or [tokens, heads, width of key]: already exponentiated; undefined: ones
};

Delta widened(const Tensor& query, const Tensor& key, const Tensor& value, const OptionalTensor& beta, const OptionalTensor& g,
              const OptionalTensor& gk, double scale) {
  const int64_t groups = value.size(1) / key.size(1);
  Delta d{wide(query).repeat_interleave(groups, 1) * scale, wide(key).repeat_interleave(groups, 1), wide(value), {}, {}};
  if (given(beta)) d.beta = wide(*beta);
  if (given(g)) d.decay = at::exp(wide(*g)).unsqueeze(-1);
  if (given(gk)) d.decay = d.decay.defined() ? d.decay * at::exp(wide(*gk)) : at::exp(wide(*gk));
  return d;
}

// S = a S + b (v - a S k) k^T, then o = S q: one token, `state` [heads, width of value, width of key].
Tensor step(const Delta& d, int64_t token, Tensor& state) {
  const Tensor key = d.key[token].unsqueeze(-1);
  if (d.decay.defined()) state = state * d.decay[token].unsqueeze(-2);
  Tensor change = d.value[token].unsqueeze(-1) - at::matmul(state, key);
  if (d.beta.defined()) change = change * d.beta[token].view({-1, 1, 1});
  state = state + at::matmul(change, key.transpose(-1, -2));
  return at::matmul(state, d.query[token].unsqueeze(-1)).squeeze(-1);
}

template <typename Arguments>
void check(const Arguments& arguments) {
  const auto& query = std::get<0>(arguments).kept;
  const auto& key = std::get<1>(arguments).kept;
  const auto& value = std::get<2>(arguments).kept;
  refuse_unless(query.type == at::kBFloat16 || query.type == at::kHalf,
                std::string("the data type of query is ") + at::toString(query.type) + "; bfloat16 is taken");
  refuse_unless(query.sizes.size() == 3 && key.sizes == query.sizes && value.sizes.size() == 3, "query, key and value must be [tokens, heads, width]");
  refuse_unless(value.sizes[1] % key.sizes[1] == 0, "the heads of value (" + std::to_string(value.sizes[1]) + ") must be a multiple of key's (" +
                                                        std::to_string(key.sizes[1]) + ")");
}

}  // namespace

CHECKED_OPERATOR(aclnnChunkGatedDeltaRule, check, const Tensor& query, const Tensor& key, const Tensor& value, const OptionalTensor& beta,
                 const Tensor& initial, const Tensor& lengths, float scale, const OptionalTensor& g, Tensor& out, Tensor& final_state) {
  const Delta d = widened(query, key, value, beta, g, {}, scale);
  const auto counts = group_counts(lengths, 1, lengths.numel());
  int64_t token = 0;
  for (size_t i = 0; i < counts.size(); ++i) {
    Tensor state = wide(initial[int64_t(i)]);
    for (int64_t end = token + counts[i]; token < end; ++token) out[token].copy_(step(d, token, state));
    final_state[int64_t(i)].copy_(state);
  }
}

// The state after each token goes to its own place in `states`; a sequence starts from the place of
// the last token that was accepted (of the first, without speculation).
CHECKED_OPERATOR(aclnnRecurrentGatedDeltaRule, check, const Tensor& query, const Tensor& key, const Tensor& value, const OptionalTensor& beta,
                 Tensor& states, const OptionalTensor& lengths, const OptionalTensor& indices, const OptionalTensor& g, const OptionalTensor& gk,
                 const OptionalTensor& accepted, float scale, Tensor& out) {
  const Delta d = widened(query, key, value, beta, g, gk, scale);
  const int64_t tokens = query.size(0);
  const auto counts = given(lengths) ? group_counts(*lengths, 1, lengths->numel()) : std::vector<int64_t>(size_t(tokens), 1);
  const Tensor places = given(indices) ? indices->to(at::kLong).flatten().contiguous() : at::arange(tokens, at::kLong);
  const Tensor taken = given(accepted) ? accepted->to(at::kLong).contiguous() : Tensor();
  const int64_t* place = places.data_ptr<int64_t>();
  int64_t token = 0;
  for (size_t i = 0; i < counts.size(); ++i) {
    const int64_t start = token + (taken.defined() ? taken.data_ptr<int64_t>()[i] - 1 : 0);
    Tensor state = wide(states[place[start]]);
    for (int64_t end = token + counts[i]; token < end; ++token) {
      out[token].copy_(step(d, token, state));
      states[place[token]].copy_(state);
    }
  }
}
