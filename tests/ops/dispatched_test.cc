// SPDX-License-Identifier: Apache-2.0
// Rows that were dispatched before, on the CPU: what a routed run gives each of its rows, in both forms.
#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <string>
#include <utility>

#include "support/dispatched_rows.h"
#include "support/expect_error.h"

namespace moesaic {
namespace {

using testing::DispatchedRows;
using testing::HostLayer;

MoeConfig layer_config() {
  MoeConfig c;
  c.hidden = 48, c.intermediate = 20, c.num_experts = 7, c.top_k = 2, c.max_tokens = 800;
  c.shared.intermediate = 12;
  return c;
}

void* aligned(std::vector<unsigned char>& bytes) {
  const auto address = reinterpret_cast<std::uintptr_t>(bytes.data());
  return bytes.data() + (256 - address % 256) % 256;
}

std::vector<float> fast(const HostLayer& host, const DispatchedRows& rows) {
  const FusedMoe layer = FusedMoe::create(host.config);
  std::vector<unsigned char> prepared(layer.prepared_bytes() + 256),
      workspace(layer.dispatched_workspace_bytes(rows.count()) + 256, 0xff);
  layer.prepare(host.weights, aligned(prepared));
  std::vector<float> y(static_cast<std::size_t>(rows.x.size()), std::nanf(""));
  MoeRun run = rows.run(y.data(), DType::kF32);
  run.prepared = aligned(prepared);
  run.workspace = aligned(workspace);
  run.workspace_bytes = workspace.size() - 256;
  layer.run(run);
  return y;
}

TEST(DispatchedRows, OracleGivesWhatATokenOfOneExpertGets) {
  std::mt19937 rng(testing::fresh_seed());
  const HostLayer host = testing::random_layer(rng, layer_config(), {.biases = true});
  for (const bool masked : {false, true}) {
    const DispatchedRows rows = testing::random_rows(rng, host.config, {3, 0, 5, 1, 0, 2, 4}, masked);
    std::vector<double> y(static_cast<std::size_t>(rows.x.size()), std::nan(""));
    reference_moe(host.config, host.weights, ReferenceMode::kOracle, rows.run(y.data(), DType::kF64));
    EXPECT_EQ(y, testing::routed_one_by_one(host, rows)) << (masked ? "masked" : "contiguous");
  }
}

TEST(DispatchedRows, FastPathMatchesTheOracle) {
  std::mt19937 rng(testing::fresh_seed());
  const HostLayer host = testing::random_layer(rng, layer_config(), {.biases = true});
  for (const bool masked : {false, true}) {
    // The second is more than one chunk of the CPU's.
    for (const std::vector<int>& counts : {std::vector<int>{3, 0, 5, 1, 0, 2, 4}, {200, 200, 170, 200, 150, 1, 199}}) {
      const DispatchedRows rows = testing::random_rows(rng, host.config, counts, masked);
      std::vector<double> wanted(static_cast<std::size_t>(rows.x.size()));
      reference_moe(host.config, host.weights, ReferenceMode::kOracle, rows.run(wanted.data(), DType::kF64));
      const auto d = testing::compare(fast(host, rows), wanted, host.config.hidden, tables::kTolBf16);
      EXPECT_TRUE(d.finite);
      EXPECT_LE(d.row_l2, tables::kTolBf16.oracle_row_l2) << (masked ? "masked" : "contiguous");
    }
  }
}

TEST(DispatchedRows, RefusedByName) {
  std::mt19937 rng(5);
  const HostLayer host = testing::random_layer(rng, layer_config(), {});
  const FusedMoe layer = FusedMoe::create(host.config);
  std::vector<float> y(48 * 70, -7.0f);
  const auto refused = [&](bool masked, auto change, const char* word) {
    const DispatchedRows rows = testing::random_rows(rng, host.config, {3, 0, 5, 1, 0, 2, 4}, masked);
    MoeRun run = rows.run(y.data(), DType::kF32);
    change(run);
    testing::expect_error(ErrorKind::kInvalidArgument, {"fused_moe: ", word}, [&] { layer.run(run); });
    EXPECT_EQ(y, std::vector<float>(y.size(), -7.0f)) << "nothing is written";
  };
  refused(
      false, [](MoeRun& r) { r.expert_offsets.shape[0] = 7; }, "expert_offsets");
  refused(
      false, [](MoeRun& r) { r.expert_counts = r.expert_offsets; }, "expert_counts");
  refused(
      false, [](MoeRun& r) { r.x.shape[1] = 47; }, "x is");
  refused(
      false, [](MoeRun& r) { r.x.shape[0] = r.out.shape[0] = 1601; }, "max_tokens * top_k = 1600");
  refused(
      false, [](MoeRun& r) { r.router_logits = r.out; }, "router_logits");
  refused(
      false, [](MoeRun& r) { r.topk_ids_out = r.expert_offsets; }, "topk_ids_out");
  refused(
      false, [](MoeRun& r) { r.out.dtype = DType::kF64; }, "out");
  refused(
      true, [](MoeRun& r) { r.expert_counts.dtype = DType::kI64; }, "expert_counts");
  refused(
      true, [](MoeRun& r) { r.x.shape[0] = 6; }, "x is");
  refused(
      true, [](MoeRun& r) { r.out.shape[1] += 1; }, "out");
  refused(
      true, [](MoeRun&) {}, "prepared");
  refused(
      true, [](MoeRun& r) { r.x.shape[1] = r.out.shape[1] = std::int64_t{1} << 62; }, "max_tokens * top_k = 1600");
  testing::expect_error(ErrorKind::kInvalidArgument, {"1601 rows"}, [&] { layer.dispatched_workspace_bytes(1601); });
}

// Sizes that wrapped would look like few rows, or none.
TEST(DispatchedRows, ReferenceRefusesSizesThatOverflow) {
  std::mt19937 rng(5);
  const HostLayer host = testing::random_layer(rng, layer_config(), {});
  for (const bool masked : {false, true}) {
    const DispatchedRows rows = testing::random_rows(rng, host.config, {3, 0, 5, 1, 0, 2, 4}, masked);
    std::vector<double> y(static_cast<std::size_t>(rows.x.size()), -7.0);
    for (const int log2_rows : {31, 60, 62}) {
      MoeRun run = rows.run(y.data(), DType::kF64);
      run.x.shape[masked ? 1 : 0] = run.out.shape[masked ? 1 : 0] = std::int64_t{1} << log2_rows;
      testing::expect_error(ErrorKind::kInvalidArgument, {"fused_moe: x is", "0 to 1073741824 rows"},
                            [&] { reference_moe(host.config, host.weights, ReferenceMode::kOracle, run); });
    }
    EXPECT_EQ(y, std::vector<double>(y.size(), -7.0)) << "nothing is written";
  }
}

// The oracle writes by them; a layer takes rows of no expert, or of another one.
TEST(DispatchedRows, ReferenceRefusesOffsetsAndCountsThatDoNotFit) {
  std::mt19937 rng(5);
  const HostLayer host = testing::random_layer(rng, layer_config(), {});
  for (const bool masked : {false, true}) {
    DispatchedRows rows = testing::random_rows(rng, host.config, {3, 0, 5, 1, 0, 2, 4}, masked);
    std::vector<double> y(static_cast<std::size_t>(rows.x.size()), -7.0);
    const MoeRun run = rows.run(y.data(), DType::kF64);
    for (const std::size_t at : {std::size_t{0}, std::size_t{2}, rows.numbers.size() - 1}) {
      for (const std::int32_t wrong : {-1, 1 << 30}) {
        const std::int32_t right = std::exchange(rows.numbers[at], wrong);
        testing::expect_error(ErrorKind::kInvalidArgument,
                              {(masked ? "expert_counts[" : "expert_offsets[") + std::to_string(at), " to "},
                              [&] { reference_moe(host.config, host.weights, ReferenceMode::kOracle, run); });
        rows.numbers[at] = right;
      }
    }
    EXPECT_EQ(y, std::vector<double>(y.size(), -7.0)) << "nothing is written";
  }
}

}  // namespace
}  // namespace moesaic
