// SPDX-License-Identifier: Apache-2.0
// Activations element by element.
#include "backend_cpu/fast_activation.h"

#include <cmath>
#include <limits>

namespace moesaic::cpu {
namespace {

double logistic(double x) { return 1.0 / (1.0 + std::exp(-x)); }
// FP64: in FP32 the tails would vanish, and 0 times an infinite u is NaN where a tiny number times it is not.
double gelu(double x) { return 0.5 * x * std::erfc(x * -0.70710678118654752); }
// (1 + tanh z) / 2 = sigmoid(2 z), without the cancellation.
double gelu_tanh(double x) { return x * logistic(2 * 0.7978845608 * (x + 0.044715 * x * x * x)); }

}  // namespace

FastActivation fast_activation(const Activation& activation) {
  const ActivationParameters parameters = activation_parameters(activation);
  return {activation.kind, parameters.alpha, parameters.beta, parameters.limit};
}

void activate_scalar(const FastActivation& activation, const float* g, const float* u, int count, float* h) {
  const double alpha = activation.alpha, beta = activation.beta;
  for (int i = 0; i < count; ++i) {
    switch (activation.kind) {
      case ActivationKind::kGelu:
        h[i] = static_cast<float>(gelu(g[i]));
        break;
      case ActivationKind::kGeglu:
        h[i] = static_cast<float>(gelu(g[i]) * u[i]);
        break;
      case ActivationKind::kGegluTanh:
        h[i] = static_cast<float>(gelu_tanh(g[i]) * u[i]);
        break;
      case ActivationKind::kSitu:
        h[i] = static_cast<float>(alpha * std::tanh(g[i] / alpha) * logistic(g[i]) * (beta * std::tanh(u[i] / beta)));
        break;
      default:  // has vector code in every set of kernels
        h[i] = std::numeric_limits<float>::quiet_NaN();
        break;
    }
  }
}

}  // namespace moesaic::cpu
