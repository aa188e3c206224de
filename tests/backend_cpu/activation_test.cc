// SPDX-License-Identifier: Apache-2.0
// Activations of the oracle and of every fast instruction set against the recorded table, infinities and NaN included.
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <set>
#include <string>
#include <vector>

#include "backend_cpu/backend_cpu.h"
#include "backend_cpu/fast_activation.h"
#include "tests/support/safetensors_reader.h"

namespace moesaic::cpu {
namespace {

// Parameters of the table's columns "out.<number>.<name>.<parameters>".
Activation column_activation(const std::string& column) {
  Activation activation;
  const std::size_t number = column.find("out.") + 4;
  activation.kind = static_cast<ActivationKind>(std::stoi(column.substr(number)));
  const auto has = [&](const char* text) { return column.find(text) != std::string::npos; };
  if (has(".gpt_oss")) {
    activation.alpha = 1.702f;
    activation.beta = 1.0f;
    activation.limit = 7.0f;
  } else if (has(".a1.25_b0.5_l3")) {
    activation.alpha = 1.25f;
    activation.beta = 0.5f;
    activation.limit = 3.0f;
  } else if (has(".b1_lb1")) {
    activation.alpha = 1.0f;
    activation.beta = 1.0f;
  } else if (has(".l2")) {
    activation.limit = 2.0f;
  }
  return activation;  // .default, .l7 and .b4_lb25 are the defaults of their kinds
}

using Evaluate =
    std::function<std::vector<double>(const Activation&, const std::vector<float>& g, const std::vector<float>& u)>;

// relative 0: the table's own bound, 1e-6 |out| + 1e-9.
void compare_with_table(const Evaluate& evaluate, double relative, double absolute) {
  const auto table =
      moesaic::testing::read_safetensors(std::string(MOESAIC_TEST_DATA) + "/tables/activations.safetensors");
  std::set<ActivationKind> kinds;
  int columns = 0;
  for (const auto& [name, array] : table.arrays) {
    const bool special = name.rfind("special.", 0) == 0;
    if (name.find("out.") == std::string::npos) continue;
    SCOPED_TRACE(name);
    const Activation activation = column_activation(name);
    const auto g = table.at(special ? "special.g" : "g").values<float>();
    const auto u = table.at(special ? "special.u" : "u").values<float>();
    const auto wanted = array.values<float>();
    const auto got = evaluate(activation, g, u);
    ASSERT_EQ(got.size(), wanted.size());
    for (std::size_t i = 0; i < wanted.size(); ++i) {
      const bool same_special = (std::isnan(wanted[i]) && std::isnan(got[i])) || got[i] == wanted[i];
      const double bound = relative * std::fabs(wanted[i]) + absolute;
      ASSERT_TRUE(same_special || std::fabs(got[i] - wanted[i]) <= bound)
          << "g " << g[i] << " u " << u[i] << " got " << got[i] << " wanted " << wanted[i];
    }
    kinds.insert(activation.kind);
    ++columns;
  }
  EXPECT_EQ(kinds.size(), 11u);
  EXPECT_EQ(columns, 30);
}

TEST(OracleActivation, MatchesTable) {
  compare_with_table(
      [](const Activation& activation, const std::vector<float>& g, const std::vector<float>& u) {
        std::vector<double> out;
        for (std::size_t i = 0; i < g.size(); ++i)
          out.push_back(round_to(activate(activation, g[i], u[i]), DType::kF32));
        return out;
      },
      1e-6, 1e-9);
}

TEST(FastActivation, MatchesTableOnEveryInstructionSet) {
  for (const FastKernels* kernels : available_kernels()) {
    SCOPED_TRACE(kernels->name);
    // FP32 arithmetic: a few units in the last place (2^-24 = 6e-8) for each of up to about 20 operations.
    compare_with_table(
        [&](const Activation& activation, std::vector<float> g, std::vector<float> u) {
          const std::size_t size = g.size();
          g.resize((size + 15) / 16 * 16);
          u.resize(g.size());
          std::vector<float> h(g.size());
          const FastActivation parameters = fast_activation(activation);
          const int count = static_cast<int>(g.size());
          if (!kernels->activate(parameters, g.data(), u.data(), count, h.data())) {
            activate_scalar(parameters, g.data(), u.data(), count, h.data());
          }
          return std::vector<double>(h.begin(), h.begin() + static_cast<std::ptrdiff_t>(size));
        },
        3e-6, 1e-6);
  }
}

TEST(OracleActivation, DefaultsByKind) {
  const auto defaults = [](ActivationKind kind) { return activation_parameters({kind, {}, {}, {}}); };
  EXPECT_EQ(defaults(ActivationKind::kSwigluBias).alpha, 1.0f);
  EXPECT_EQ(defaults(ActivationKind::kSwigluBias).beta, 0.0f);
  EXPECT_TRUE(std::isinf(defaults(ActivationKind::kSwigluBias).limit));
  EXPECT_EQ(defaults(ActivationKind::kSwigluStep).limit, 7.0f);
  EXPECT_EQ(defaults(ActivationKind::kSitu).alpha, 4.0f);
  EXPECT_EQ(defaults(ActivationKind::kSitu).beta, 25.0f);
}

TEST(OracleActivation, GateOfSwigluBiasIsBoundedAboveOnly) {
  const Activation activation{ActivationKind::kSwigluBias, 1.702f, 1.0f, 7.0f};
  EXPECT_EQ(activate(activation, 50.0, 0.5), activate(activation, 7.0, 0.5));
  EXPECT_NE(activate(activation, -9.0, 0.5), activate(activation, -7.0, 0.5));
  EXPECT_EQ(activate(activation, 1.0, -50.0), activate(activation, 1.0, -7.0));
}

}  // namespace
}  // namespace moesaic::cpu
