// Recurrent layers: forward, with what their backward passes would keep. Computed in float32.
//
// Assumed: what is kept for the backward pass lies by layer and direction, over time.
#include <algorithm>

#include "operators/legacy.h"
#include "operators/quantisation.h"

using namespace cannsim;

namespace {

TensorList widened(const TensorList& list) {
  TensorList made;
  for (const Tensor& one : list) made.push_back(wide(one));
  return made;
}
void keep(TensorList& list, size_t place, const std::vector<Tensor>& over_time) {
  if (place >= list.size() || !list[place].defined()) return;
  const Tensor made = at::stack(over_time);
  if (list[place].numel() == made.numel()) list[place].copy_(made.view(list[place].sizes()));  // else a placeholder
}

template <size_t dropout, typename Arguments>
void check_layers(const Arguments& a) {
  refuse_unless(std::get<dropout>(a).kept == 0 || !std::get<dropout + 1>(a).kept, "dropout between layers in training is not simulated");
  refuse_unless(!std::get<1>(a).kept.empty(), "a layer needs parameters");
  const View& packed = std::get<3>(a).kept;
  refuse_unless(!packed.present || c10::multiply_integers(packed.sizes) == 0, "packed sequences (batch_sizes) are not simulated");
}

// One direction of one layer: the steps of `x` [time, batch, width], forwards or backwards.
struct Layer {
  Tensor x, h, from_input, from_hidden, input_bias, hidden_bias;
  bool backwards;
  Tensor gates(const Tensor& step, const Tensor& weight, const Tensor& bias) const {
    const Tensor made = at::matmul(step, weight.t());
    return bias.defined() ? made + bias : made;
  }
};
// Parameters lie by layer and direction: two matrices, and two vectors if there are biases.
Layer layer_of(const TensorList& parameters, size_t place, bool biased, const Tensor& x, const Tensor& h, bool backwards) {
  const size_t first = place * (biased ? 4 : 2);
  return {x, h, parameters[first], parameters[first + 1], biased ? parameters[first + 2] : Tensor(), biased ? parameters[first + 3] : Tensor(), backwards};
}

// Runs `one(place, layer)`, which returns the outputs by time, over all layers and directions.
template <typename One>
Tensor all_layers(const Tensor& input, const TensorList& parameters, const Tensor& h, bool biased, int64_t layers, bool both, One one) {
  Tensor x = input;
  for (int64_t layer = 0; layer < layers; ++layer) {
    std::vector<Tensor> directions;
    for (int64_t direction = 0; direction < (both ? 2 : 1); ++direction) {
      const size_t place = size_t(layer * (both ? 2 : 1) + direction);
      directions.push_back(one(place, layer_of(parameters, place, biased, x, h[int64_t(place)], direction == 1)));
    }
    x = at::cat(directions, -1);
  }
  return x;
}
Tensor in_order(std::vector<Tensor> steps, bool backwards) {
  if (backwards) std::reverse(steps.begin(), steps.end());
  return at::stack(steps);
}

}  // namespace

#define LAYERS                                                                                                                             \
  const Tensor &input, const TensorList &parameters, const TensorList &states, const OptionalTensor &batch_sizes, bool biased, int64_t layers, \
      double dropout, bool train, bool both, bool batch_first
#define KEPT_OF_LSTM TensorList &i_kept, TensorList &j_kept, TensorList &f_kept, TensorList &o_kept, TensorList &h_kept, TensorList &c_kept, TensorList &t_kept
CHECKED_OPERATOR(aclnnLSTM, check_layers<6>, LAYERS, Tensor& out, Tensor& h_out, Tensor& c_out, KEPT_OF_LSTM) {
  const TensorList weights = widened(parameters), state = widened(states);
  std::vector<Tensor> last_h, last_c;
  const Tensor x = batch_first ? wide(input).transpose(0, 1) : wide(input);
  const Tensor y = all_layers(x, weights, state[0], biased, layers, both, [&](size_t place, const Layer& layer) {
    Tensor h = layer.h, c = state[1][int64_t(place)];
    std::vector<Tensor> i, j, f, o, hs, cs, ts;
    for (int64_t step = 0; step < layer.x.size(0); ++step) {
      const Tensor now = layer.x[layer.backwards ? layer.x.size(0) - 1 - step : step];
      const auto gates = (layer.gates(now, layer.from_input, layer.input_bias) + layer.gates(h, layer.from_hidden, layer.hidden_bias)).chunk(4, -1);
      i.push_back(at::sigmoid(gates[0])), f.push_back(at::sigmoid(gates[1])), j.push_back(at::tanh(gates[2])), o.push_back(at::sigmoid(gates[3]));
      c = f.back() * c + i.back() * j.back();
      cs.push_back(c), ts.push_back(at::tanh(c));
      h = o.back() * ts.back();
      hs.push_back(h);
    }
    last_h.push_back(h), last_c.push_back(c);
    keep(i_kept, place, i), keep(j_kept, place, j), keep(f_kept, place, f), keep(o_kept, place, o);
    keep(h_kept, place, hs), keep(c_kept, place, cs), keep(t_kept, place, ts);
    return in_order(hs, layer.backwards);
  });
  out.copy_(batch_first ? y.transpose(0, 1) : y);
  h_out.copy_(at::stack(last_h));
  c_out.copy_(at::stack(last_c));
}

#define KEPT_OF_GRU TensorList &r_kept, TensorList &z_kept, TensorList &n_kept, TensorList &hn_kept, TensorList &h_kept
CHECKED_OPERATOR(aclnnGRU, check_layers<6>, const Tensor& input, const TensorList& parameters, const Tensor& state, const OptionalTensor& batch_sizes,
                 bool biased, int64_t layers, double dropout, bool train, bool both, bool batch_first, Tensor& out, Tensor& h_out, KEPT_OF_GRU) {
  const TensorList weights = widened(parameters);
  std::vector<Tensor> last_h;
  const Tensor x = batch_first ? wide(input).transpose(0, 1) : wide(input);
  const Tensor y = all_layers(x, weights, wide(state), biased, layers, both, [&](size_t place, const Layer& layer) {
    Tensor h = layer.h;
    std::vector<Tensor> r, z, n, hn, hs;
    for (int64_t step = 0; step < layer.x.size(0); ++step) {
      const Tensor now = layer.x[layer.backwards ? layer.x.size(0) - 1 - step : step];
      const auto from_x = layer.gates(now, layer.from_input, layer.input_bias).chunk(3, -1);
      const auto from_h = layer.gates(h, layer.from_hidden, layer.hidden_bias).chunk(3, -1);
      r.push_back(at::sigmoid(from_x[0] + from_h[0])), z.push_back(at::sigmoid(from_x[1] + from_h[1]));
      hn.push_back(from_h[2]), n.push_back(at::tanh(from_x[2] + r.back() * from_h[2]));
      h = (1 - z.back()) * n.back() + z.back() * h;
      hs.push_back(h);
    }
    last_h.push_back(h);
    keep(r_kept, place, r), keep(z_kept, place, z), keep(n_kept, place, n), keep(hn_kept, place, hn), keep(h_kept, place, hs);
    return in_order(hs, layer.backwards);
  });
  out.copy_(batch_first ? y.transpose(0, 1) : y);
  h_out.copy_(at::stack(last_h));
}

// A cell after its two products; the gates are kept as they are after their functions.
OPERATOR(aclnnThnnFusedLstmCell, const Tensor& from_input, const Tensor& from_hidden, const Tensor& c, const OptionalTensor& input_bias,
         const OptionalTensor& hidden_bias, Tensor& h_out, Tensor& c_out, Tensor& kept) {
  Tensor gates = wide(from_input) + wide(from_hidden);
  if (given(input_bias)) gates = gates + wide(*input_bias);
  if (given(hidden_bias)) gates = gates + wide(*hidden_bias);
  const auto parts = gates.chunk(4, -1);
  const Tensor i = at::sigmoid(parts[0]), f = at::sigmoid(parts[1]), g = at::tanh(parts[2]), o = at::sigmoid(parts[3]);
  const Tensor next = f * wide(c) + i * g;
  c_out.copy_(next);
  h_out.copy_(o * at::tanh(next));
  if (kept.numel() == gates.numel()) kept.copy_(at::cat({i, f, g, o}, -1).view(kept.sizes()));
}

// One layer of an LSTM by the older interface: (x, h) times weights, plus a bias, and the order of
// the four gates by name: input i, new j, forgotten f, output o. Out come y, h, c and the gates.
static void legacy_lstm(LegacyCall& call, const Tensor& from_input, const Tensor& from_hidden, size_t bias, size_t state) {
  const std::string order = call.text("gate_order", "ijfo");
  const bool backwards = call.text("direction", "UNIDIRECTIONAL") == "REDIRECTIONAL";
  const Tensor x = wide(call.in(0));
  const int64_t steps = x.size(0), batch = x.size(1), width = from_hidden.size(0);
  for (const char gate : {'i', 'f', 'o'})
    refuse_unless(order.find(gate) != std::string::npos && order.size() == 4, "gate order " + order + "; ijfo, ifjo and ifco are known");
  const auto initial = [&](size_t i) { return call.has(i) ? wide(call.in(i)).reshape({batch, width}) : at::zeros({batch, width}, at::kFloat); };
  Tensor h = initial(state), c = initial(state + 1);
  std::vector<std::vector<Tensor>> kept(7);  // h, c, i, j, f, o, tanh(c), by time
  for (int64_t step = 0; step < steps; ++step) {
    Tensor gates = at::matmul(x[backwards ? steps - 1 - step : step], from_input) + at::matmul(h, from_hidden);
    if (call.has(bias)) gates = gates + wide(call.in(bias));
    const auto parts = gates.chunk(4, -1);
    const auto gate = [&](char name) {  // the new content is j, or c
      const size_t place = order.find(name);
      return parts[place == std::string::npos ? order.find('c') : place];
    };
    const Tensor i = at::sigmoid(gate('i')), j = at::tanh(gate('j')), f = at::sigmoid(gate('f') + call.number("forget_bias", 0)), o = at::sigmoid(gate('o'));
    c = f * c + i * j;
    const Tensor t = at::tanh(c);
    h = o * t;
    const Tensor all[] = {h, c, i, j, f, o, t};
    for (size_t k = 0; k < 7; ++k) kept[k].push_back(all[k]);
  }
  for (size_t k = 0; k < 8 && k < call.outputs(); ++k) {  // y is h again
    const Tensor made = in_order(kept[k == 0 ? 0 : k - 1], backwards);
    const Tensor out = call.out(k);
    call.set(k, made.numel() == out.numel() ? made.view(out.sizes()) : made[backwards ? 0 : steps - 1].view(out.sizes()));
  }
}
LEGACY(DynamicRNN) {
  const Tensor weights = wide(call.in(1));
  const int64_t width = weights.size(1) / 4;
  legacy_lstm(call, weights.narrow(0, 0, weights.size(0) - width), weights.narrow(0, weights.size(0) - width, width), 2, 4);
}
LEGACY(DynamicRNNV2) { legacy_lstm(call, wide(call.in(1)), wide(call.in(2)), 3, 5); }
