// SPDX-License-Identifier: Apache-2.0
// Prepares and runs one product on a GPU.
#include "support/device_gemm.h"

#include <gtest/gtest.h>

#include "backend_cuda/device_weights.h"

namespace moesaic::testing {
namespace {

GemmConfig on_device(GemmConfig config, Device device) {
  config.device = device;
  return config;
}

}  // namespace

DeviceGemm::DeviceGemm(const HostGemm& host, const ModuleOptions& modules, Device device, void* stream)
    : device_(device),
      gemm_(Gemm::create(on_device(host.config, device), modules)),
      prepared_(device, gemm_.prepared_bytes()) {
  MoeWeights views;  // a group's matrix and bias as an expert's gate
  for (const GemmWeights& w : host.weights) {
    ExpertWeights expert;
    expert.gate = w.w;
    expert.gate_bias = w.bias;
    views.experts.push_back(expert);
  }
  const cuda::DeviceWeights weights(device, views);
  std::vector<GemmWeights> uploaded;
  for (const ExpertWeights& expert : weights.views().experts) uploaded.push_back({expert.gate, expert.gate_bias});
  gemm_.prepare(uploaded, prepared_.data(), stream);
  cuda::synchronize(device);
  EXPECT_TRUE(prepared_.intact()) << "prepare wrote behind its memory";
}

HostArray DeviceGemm::run(const GemmRun& host, void* stream) const {
  const std::int64_t rows = host.out.num_elements() / gemm_.config().n;
  std::vector<PoisonedBuffer> copies;
  GemmRun run = host;
  for (TensorView* t :
       {&run.x, &run.x_scale, &run.x_row_scale, &run.input_scale, &run.group_offsets, &run.group_counts}) {
    if (t->empty()) continue;
    const std::size_t bytes = static_cast<std::size_t>(t->num_elements()) * dtype_size(t->dtype);
    copies.emplace_back(device_, bytes);
    copies.back().upload(t->data, bytes);
    t->data = copies.back().data();
  }
  const std::size_t out_bytes = static_cast<std::size_t>(host.out.num_elements()) * dtype_size(host.out.dtype);
  const PoisonedBuffer out(device_, out_bytes), workspace(device_, gemm_.workspace_bytes(rows));
  run.out.data = out.data();
  run.prepared = prepared_.data();
  run.workspace = workspace.data();
  run.workspace_bytes = workspace.size();
  gemm_.run(run, stream);
  HostArray result{host.out.dtype, out.fetch<unsigned char>()};
  EXPECT_TRUE(out.intact()) << "wrote behind out";
  EXPECT_TRUE(workspace.intact()) << "wrote behind the workspace";
  return result;
}

}  // namespace moesaic::testing
