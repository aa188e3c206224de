// SPDX-License-Identifier: Apache-2.0
// The data of check.h as the C++ interface sees it, and a layer run through that.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <vector>

#include "check.h"
#include "moesaic/moe.h"

namespace moesaic {

class CapiTest : public ::testing::Test {
 protected:
  CapiTest() { capi_fill(&data); }

  MoeConfig config() const {
    MoeConfig c;
    c.hidden = kHidden, c.intermediate = kIntermediate, c.num_experts = kExperts, c.top_k = kTopK, c.max_tokens = 16;
    return c;
  }
  MoeWeights weights() {
    MoeWeights w;
    w.experts =
        expert_views(TensorView(data.w13, DType::kBF16, {kExperts, 2 * kIntermediate, kHidden}),
                     TensorView(data.w2, DType::kBF16, {kExperts, kHidden, kIntermediate}), GateUpOrder::kGateFirst,
                     true, false, TensorView(data.b13, DType::kF32, {kExperts, 2 * kIntermediate}),
                     TensorView(data.b2, DType::kF32, {kExperts, kHidden}));
    w.router = {data.router, DType::kBF16, kExperts, kHidden, kHidden, 1};
    return w;
  }
  TensorView x() { return {data.x, DType::kBF16, {kTokens, kHidden}}; }
  std::vector<float> run(const MoeConfig& c, const MoeWeights& w) {
    MoeRun r;
    r.x = x();
    return run(c, w, r);
  }
  /// Output, prepared memory and workspace are this function's.
  static std::vector<float> run(const MoeConfig& c, const MoeWeights& w, MoeRun r) {
    const FusedMoe layer = FusedMoe::create(c);
    r.workspace_bytes = is_dispatched(r) ? layer.dispatched_workspace_bytes(r.x.num_elements() / kHidden)
                                         : layer.workspace_bytes(r.x.shape[0]);
    std::vector<std::uint64_t> memory((layer.prepared_bytes() + r.workspace_bytes) / 8 + 128);
    auto address = (reinterpret_cast<std::uintptr_t>(memory.data()) + 255) / 256 * 256;
    auto* prepared = reinterpret_cast<char*>(address);
    auto* workspace = prepared + (layer.prepared_bytes() + 255) / 256 * 256;
    layer.prepare(w, prepared);
    std::vector<float> y(static_cast<std::size_t>(r.x.num_elements()));
    r.out = r.x;
    r.out.data = y.data();
    r.out.dtype = DType::kF32;
    r.prepared = prepared;
    r.workspace = workspace;
    layer.run(r);
    return y;
  }

  capi_data data;
};

}  // namespace moesaic
