// Steps of optimizers, in place (CANN's documents of aclnnApplyAdamW and aclnnApplyAdamWV2; Adam's is
// TensorFlow's, which the operator is named after). Computed in float32.
#include <cmath>

#include "operators/legacy.h"
#include "operators/quantisation.h"

using namespace cannsim;

namespace {

double number(const Tensor& tensor) { return tensor.reshape({-1})[0].item().toDouble(); }

struct Moments {
  Tensor &m, &v;
  const Tensor& gradient;
  double beta1, beta2;
};
std::pair<Tensor, Tensor> advance(const Moments& a, bool maximize) {
  const Tensor gradient = maximize ? -wide(a.gradient) : wide(a.gradient);
  const Tensor m = wide(a.m) * a.beta1 + gradient * (1 - a.beta1), v = wide(a.v) * a.beta2 + gradient.square() * (1 - a.beta2);
  a.m.copy_(m);
  a.v.copy_(v);
  return {m, v};
}
struct Decay {
  double rate, decay, epsilon, correction1, correction2;
};
void step(Tensor& weights, const Tensor& m, const Tensor& v, const Decay& d) {
  const Tensor old = wide(weights);
  weights.copy_(old - (m / d.correction1) / (at::sqrt(v / d.correction2) + d.epsilon) * d.rate - old * (d.rate * d.decay));
}

template <typename Arguments>
void check_greatest(const Arguments& a) {
  refuse_unless(!std::get<11>(a).kept || std::get<3>(a).kept.present, "amsgrad needs maxGradNorm");
}

}  // namespace

// lr * sqrt(1 - beta2^t) / (1 - beta1^t) * m / (sqrt(v) + epsilon); Nesterov's looks a step ahead.
struct Adam {
  Tensor &weights, &m, &v;
  double beta1_power, beta2_power, rate, beta1, beta2, epsilon;
  const Tensor& gradient;
};
static void apply(const Adam& a, bool nesterov) {
  const auto [m, v] = advance({a.m, a.v, a.gradient, a.beta1, a.beta2}, false);
  const double each = a.rate * std::sqrt(1 - a.beta2_power) / (1 - a.beta1_power);
  const Tensor ahead = nesterov ? m * a.beta1 + wide(a.gradient) * (1 - a.beta1) : m;
  a.weights.copy_(wide(a.weights) - ahead * each / (at::sqrt(v) + a.epsilon));
}
// The powers are those of the step before.
static void apply_decayed(const Adam& a, double decay, const OptionalTensor& greatest, bool maximize) {
  auto [m, v] = advance({a.m, a.v, a.gradient, a.beta1, a.beta2}, maximize);
  if (given(greatest)) v = at::maximum(v, wide(*greatest));
  step(a.weights, m, v, {a.rate, decay, a.epsilon, 1 - a.beta1_power * a.beta1, 1 - a.beta2_power * a.beta2});
}

OPERATOR(aclnnApplyAdam, Tensor& weights, Tensor& m, Tensor& v, const Tensor& beta1_power, const Tensor& beta2_power, const Tensor& rate,
         const Tensor& beta1, const Tensor& beta2, const Tensor& epsilon, const Tensor& gradient, bool locking, bool nesterov) {
  apply({weights, m, v, number(beta1_power), number(beta2_power), number(rate), number(beta1), number(beta2), number(epsilon), gradient}, nesterov);
}
OPERATOR(aclnnApplyAdamW, Tensor& weights, Tensor& m, Tensor& v, const Tensor& beta1_power, const Tensor& beta2_power, const Tensor& rate,
         const Tensor& decay, const Tensor& beta1, const Tensor& beta2, const Tensor& epsilon, const Tensor& gradient, const OptionalTensor& greatest,
         bool amsgrad, bool maximize) {
  apply_decayed({weights, m, v, number(beta1_power), number(beta2_power), number(rate), number(beta1), number(beta2), number(epsilon), gradient},
                number(decay), amsgrad ? greatest : OptionalTensor(), maximize);
}
// The same by the older interface: weights, m, v, powers, numbers, gradient; out come weights, m, v.
static void legacy_adam(LegacyCall& call, bool decayed) {
  const auto value = [&](size_t i) { return call.scalar(i).toDouble(); };
  const size_t at = decayed ? 7 : 6;  // weight_decay lies between the rate and the betas
  Tensor weights = call.in(0).clone(), m = call.in(1).clone(), v = call.in(2).clone();
  const Tensor gradient = call.in(at + 3);
  const Adam adam{weights, m, v, value(3), value(4), value(5), value(at), value(at + 1), value(at + 2), gradient};
  if (decayed) {
    const bool amsgrad = call.flag("amsgrad", false);
    apply_decayed(adam, value(6), amsgrad ? OptionalTensor(call.in(at + 4)) : OptionalTensor(), call.flag("maximize", false));
  } else {
    apply(adam, call.flag("use_nesterov", false));
  }
  call.set(0, weights);
  call.set(1, m);
  call.set(2, v);
}
LEGACY(ApplyAdamD) { legacy_adam(call, false); }
LEGACY(ApplyAdamW) { legacy_adam(call, true); }
// `steps` counts the steps before this one: what torch-npu passes, where the document says "t".
CHECKED_OPERATOR(aclnnApplyAdamWV2, check_greatest, Tensor& weights, Tensor& m, Tensor& v, const OptionalTensor& greatest, const Tensor& gradient,
                 const Tensor& steps, float rate, float beta1, float beta2, float decay, float epsilon, bool amsgrad, bool maximize) {
  auto [next_m, next_v] = advance({m, v, gradient, beta1, beta2}, maximize);
  const double count = number(steps) + 1;
  if (amsgrad && given(greatest)) {
    next_v = at::maximum(next_v, wide(*greatest));
    Tensor(*greatest).copy_(next_v);
  }
  step(weights, next_m, next_v, {rate, decay, epsilon, 1 - std::pow(double(beta1), count), 1 - std::pow(double(beta2), count)});
}
