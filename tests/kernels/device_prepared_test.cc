// SPDX-License-Identifier: Apache-2.0
// Prepared weights on a GPU: one expert at a time, saved and loaded, bytes and results.
#include <gtest/gtest.h>

#include "backend_cuda/device_weights.h"
#include "moesaic/quantize.h"
#include "support/device_layer.h"
#include "support/expect_error.h"
#include "support/temporary_folder.h"

namespace moesaic {
namespace {

using testing::HostLayer;

constexpr Device kGpu{DeviceType::kCuda, 0};

struct DevicePreparedTest : testing::DeviceTest {};

MoeConfig config_on(Device device, int shared = 40) {
  MoeConfig c;
  c.hidden = 136, c.intermediate = 72, c.num_experts = 6, c.top_k = 2, c.max_tokens = 64;
  c.shared.intermediate = shared;
  c.device = device;
  return c;
}

HostLayer layer_of(unsigned seed, int shared = 40) {
  std::mt19937 rng(seed);
  return testing::random_layer(rng, config_on({}, shared), {.biases = true});
}

std::vector<unsigned char> bytes_of(const cuda::DeviceBuffer& buffer) {
  std::vector<unsigned char> bytes(buffer.size());
  buffer.download(bytes.data(), bytes.size());
  return bytes;
}

void check_expert_by_expert(int shared) {
  SCOPED_TRACE("shared experts of " + std::to_string(shared));
  const unsigned seed = testing::fresh_seed();
  const HostLayer first = layer_of(seed, shared), second = layer_of(seed + 1, shared);
  const FusedMoe layer = FusedMoe::create(config_on(kGpu, shared));
  const cuda::DeviceWeights uploads(kGpu, second.weights), other_uploads(kGpu, first.weights);
  const MoeWeights& wanted = uploads.views();
  MoeWeights mixed = wanted;
  mixed.experts = other_uploads.views().experts;
  cuda::DeviceBuffer whole(kGpu, layer.prepared_bytes()), memory(kGpu, layer.prepared_bytes());
  whole.fill(0xff);
  memory.fill(0xff);
  const cuda::Stream stream(kGpu);
  layer.prepare(wanted, whole.data(), stream.get());
  layer.prepare(mixed, memory.data(), stream.get());
  stream.synchronize();
  EXPECT_NE(bytes_of(memory), bytes_of(whole));
  for (const int e : {5, 0, 3, 1, 4, 2}) {
    layer.prepare_expert(e, wanted.experts[static_cast<std::size_t>(e)], memory.data(), stream.get());
  }
  stream.synchronize();
  EXPECT_EQ(bytes_of(memory), bytes_of(whole));
}

// Shared experts of the routed ones' size lie behind them.
TEST_F(DevicePreparedTest, ExpertByExpertIsTheWholeLayer) {
  check_expert_by_expert(40);
  check_expert_by_expert(72);
}

// What lies between the parts goes into files too. Recipes with every kind of part, and static scales that no shared
// experts have.
TEST_F(DevicePreparedTest, SameWeightsAreTheSameBytesWhateverTheMemoryHeld) {
  std::mt19937 rng(testing::fresh_seed());
  for (const char* recipe : {"bf16", "fp8_tensor", "fp8_block", "mxfp8", "nvfp4", "bf16_int4"}) {
    for (const int shared : {0, 64}) {
      SCOPED_TRACE(std::string(recipe) + " with shared experts of " + std::to_string(shared));
      MoeConfig c = config_on(kGpu);
      c.hidden = 192, c.intermediate = 64, c.shared.intermediate = shared;
      c.recipe = recipe;
      c.int4 = {32, true};
      const HostLayer host = testing::random_layer(rng, c, {.biases = true});
      const OwnedWeights converted = convert_weights(c, host.weights);
      const FusedMoe layer = FusedMoe::create(c);
      const cuda::DeviceWeights uploads(kGpu, converted.weights);
      cuda::DeviceBuffer first(kGpu, layer.prepared_bytes()), second(kGpu, layer.prepared_bytes());
      first.fill(0x5a);
      second.fill(0xff);
      const cuda::Stream stream(kGpu);
      layer.prepare(uploads.views(), first.data(), stream.get());
      layer.prepare(uploads.views(), second.data(), stream.get());
      EXPECT_TRUE(bytes_of(first) == bytes_of(second));
    }
  }
}

TEST_F(DevicePreparedTest, SavedAndLoadedAreTheSameBytes) {
  const HostLayer host = layer_of(testing::fresh_seed());
  const FusedMoe layer = FusedMoe::create(config_on(kGpu));
  const cuda::DeviceWeights uploads(kGpu, host.weights);
  cuda::DeviceBuffer memory(kGpu, layer.prepared_bytes()), again(kGpu, layer.prepared_bytes());
  const testing::TemporaryFolder folder;
  const cuda::Stream stream(kGpu);
  layer.prepare(uploads.views(), memory.data(), stream.get());
  layer.save_prepared(memory.data(), folder / "gpu", stream.get());  // in stream order after prepare
  again.fill(0xff);
  layer.load_prepared(folder / "gpu", again.data(), stream.get());
  EXPECT_EQ(bytes_of(again), bytes_of(memory));

  // The CPU's layout is another one.
  const FusedMoe cpu = FusedMoe::create(config_on({}));
  std::vector<unsigned char> cpu_memory(cpu.prepared_bytes() + 256);
  const auto address = reinterpret_cast<std::uintptr_t>(cpu_memory.data());
  void* aligned = cpu_memory.data() + (256 - address % 256) % 256;
  testing::expect_error(ErrorKind::kInvalidArgument, {"layout", "cuda"},
                        [&] { cpu.load_prepared(folder / "gpu", aligned); });
  cpu.prepare(host.weights, aligned);
  cpu.save_prepared(aligned, folder / "cpu");
  testing::expect_error(ErrorKind::kInvalidArgument, {"layout", "cuda"},
                        [&] { layer.load_prepared(folder / "cpu", again.data(), stream.get()); });
  EXPECT_EQ(bytes_of(again), bytes_of(memory));
}

}  // namespace
}  // namespace moesaic
