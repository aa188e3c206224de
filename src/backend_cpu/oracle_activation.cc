// SPDX-License-Identifier: Apache-2.0
// The oracle's activations: the formulas of moe.h in FP64. Comparisons are written so that NaN passes through.
#include <fmt/format.h>

#include <cmath>
#include <limits>
#include <numbers>

#include "backend_cpu/backend_cpu.h"

namespace moesaic::cpu {
namespace {

double at_most(double value, double limit) { return value > limit ? limit : value; }
double at_least(double value, double limit) { return value < limit ? limit : value; }
double clamped(double value, double limit) { return at_least(at_most(value, limit), -limit); }

double sigmoid(double x) { return 1.0 / (1.0 + std::exp(-x)); }
double silu(double x) { return x * sigmoid(x); }
// erfc(-z) is 1 + erf(z) without the cancellation at negative z.
double gelu(double x) { return 0.5 * x * std::erfc(-x / std::numbers::sqrt2); }
double gelu_tanh(double x) { return 0.5 * x * (1.0 + std::tanh(0.7978845608 * (x + 0.044715 * x * x * x))); }

}  // namespace

double activate(const Activation& activation, double g, double u) {
  const ActivationParameters parameters = activation_parameters(activation);
  const double alpha = parameters.alpha, beta = parameters.beta, limit = parameters.limit;
  switch (activation.kind) {
    case ActivationKind::kGelu:
      return gelu(g);
    case ActivationKind::kRelu:
      return at_least(g, 0.0);
    case ActivationKind::kSilu:
      return silu(g);
    case ActivationKind::kSwiglu:
      return silu(g) * u;
    case ActivationKind::kGeglu:
      return gelu(g) * u;
    case ActivationKind::kSwigluBias: {
      const double gate = at_most(g, limit);
      return gate * sigmoid(alpha * gate) * (clamped(u, limit) + beta);
    }
    case ActivationKind::kRelu2:
      return at_least(g, 0.0) * at_least(g, 0.0);
    case ActivationKind::kSwigluStep:
      return at_most(silu(g), limit) * clamped(u, limit);
    case ActivationKind::kGegluTanh:
      return gelu_tanh(g) * u;
    case ActivationKind::kIdentity:
      return g;
    case ActivationKind::kSitu:
      return alpha * std::tanh(g / alpha) * sigmoid(g) * (beta * std::tanh(u / beta));
  }
  throw Error(ErrorKind::kInvalidArgument,
              fmt::format("activate: kind has value {}, wanted an enumerator", static_cast<int>(activation.kind)));
}

}  // namespace moesaic::cpu
