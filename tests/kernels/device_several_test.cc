// SPDX-License-Identifier: Apache-2.0
// Ops of a device that is not current to the calling thread: every op, whatever context is current or none, and two
// devices at once. The same bytes come out, and what was current stays current.
#include <gtest/gtest.h>

#include <functional>
#include <thread>

#include "backend_cuda/device.h"
#include "backend_cuda/device_weights.h"
#include "moesaic/activation.h"
#include "moesaic/quantize.h"
#include "support/current_context.h"
#include "support/device_gemm.h"
#include "support/device_layer.h"
#include "support/quant_case.h"
#include "support/replayed_layer.h"
#include "support/router_case.h"
#include "support/temporary_folder.h"

namespace moesaic {
namespace {

using testing::DeviceLayer;
using testing::HostArray;
using testing::HostLayer;
using testing::PoisonedBuffer;

using Bytes = std::vector<unsigned char>;

Device gpu(int index) { return {DeviceType::kCuda, index}; }

void append(Bytes& all, const Bytes& more) { all.insert(all.end(), more.begin(), more.end()); }

MoeConfig layer_config(const std::string& recipe, Device device) {
  MoeConfig c;
  c.hidden = 256, c.intermediate = 128, c.num_experts = 16, c.top_k = 4, c.max_tokens = 256;
  c.shared.intermediate = 64;
  c.shared.gated = true;
  c.recipe = recipe;
  c.device = device;
  return c;
}

/// Prepared as a whole, one expert again, saved and loaded; then run.
Bytes layer_result(const std::string& recipe, unsigned seed, Device device, void* stream) {
  std::mt19937 rng(seed);
  const MoeConfig c = layer_config(recipe, device);
  const HostLayer host = testing::random_layer(rng, c, {.biases = true});
  const OwnedWeights converted = convert_weights(c, host.weights);
  const DeviceLayer device_layer(converted.weights, c);
  const FusedMoe& layer = device_layer.layer();
  const cuda::DeviceWeights weights(device, converted.weights);
  const PoisonedBuffer prepared(device, layer.prepared_bytes()), loaded(device, layer.prepared_bytes());
  const testing::TemporaryFolder folder;
  layer.prepare(weights.views(), prepared.data(), stream);
  layer.prepare_expert(3, weights.views().experts[3], prepared.data(), stream);
  layer.save_prepared(prepared.data(), folder / "layer", stream);
  layer.load_prepared(folder / "layer", loaded.data(), stream);
  Bytes result = device_layer.prepared_bytes();
  append(result, prepared.fetch<unsigned char>());
  append(result, loaded.fetch<unsigned char>());
  const HostArray x = testing::random_array(rng, 40 * c.hidden, DType::kBF16, 1.0);
  append(result, device_layer.run_into(DType::kF32, {x, {}, {}, {}}, stream).y.bytes);
  return result;
}

/// Ids and rows by one launch and by two, with an expert map in device memory.
Bytes router_result(unsigned seed, Device device, void* stream) {
  std::mt19937 rng(seed);
  const RouterConfig config = testing::router_configs(device)[2];
  EXPECT_FALSE(config.experts.slots.empty());
  const Router router = Router::create(config);
  Bytes result;
  for (const std::int64_t tokens : {100, 1500}) {
    const testing::RouterCase c = testing::random_router_case(rng, config, tokens);
    const std::int64_t entries = tokens * c.slots(), offsets = c.sorted_experts() + 1;
    const PoisonedBuffer logits(device, c.logits), ids(device, entries * 4), weights(device, entries * 4),
        row_offsets(device, offsets * 4), row_token(device, entries * 4), row_weight(device, entries * 4),
        slot_row(device, entries * 4), workspace(device, router.workspace_bytes(tokens));
    RouteRun run;
    run.logits = TensorView(logits.data(), DType::kF32, {tokens, config.num_experts});
    run.ids = TensorView(ids.data(), DType::kI32, {tokens, c.slots()});
    run.weights = TensorView(weights.data(), DType::kF32, {tokens, c.slots()});
    run.row_offsets = TensorView(row_offsets.data(), DType::kI32, {offsets});
    run.row_token = TensorView(row_token.data(), DType::kI32, {entries});
    run.row_weight = TensorView(row_weight.data(), DType::kF32, {entries});
    run.slot_row = TensorView(slot_row.data(), DType::kI32, {tokens, c.slots()});
    run.workspace = workspace.data();
    run.workspace_bytes = workspace.size();
    router.run(run, stream);
    for (const PoisonedBuffer* part : {&ids, &weights, &row_offsets, &row_token, &row_weight, &slot_row}) {
      append(result, part->fetch<unsigned char>());
    }
  }
  return result;
}

Bytes activation_result(unsigned seed, Device device, void* stream) {
  constexpr int kRows = 37, kCols = 130;
  std::mt19937 rng(seed);
  const ActivationOp op = ActivationOp::create({}, device);
  const HostArray x = testing::random_array(rng, kRows * 2 * kCols, DType::kBF16, 2.0);
  const PoisonedBuffer given(device, x.bytes), out(device, kRows * kCols * 4);
  op.run(
      {TensorView(given.data(), DType::kBF16, {kRows, 2 * kCols}), TensorView(out.data(), DType::kF32, {kRows, kCols})},
      stream);
  return out.fetch<unsigned char>();
}

/// Three groups, activations quantised on the way.
Bytes gemm_result(unsigned seed, Device device, void* stream) {
  std::mt19937 rng(seed);
  GemmConfig c;
  c.recipe = "fp8_block";
  c.n = 72, c.k = 256, c.groups = 3, c.max_rows = 512;
  const testing::HostGemm host = testing::random_gemm(rng, c, true);
  const testing::DeviceGemm gemm(host, {}, device, stream);
  const testing::GemmRows rows = testing::random_gemm_rows(rng, c, {70, 0, 5}, testing::Grouping::kOffsets);
  std::vector<float> shape_of_out(static_cast<std::size_t>(rows.rows * c.n));
  return gemm.run(rows.run(shape_of_out.data(), DType::kF32, c.n), stream).bytes;
}

/// The one format that needs a memset, and back.
Bytes quantizer_result(unsigned seed, Device device, void* stream) {
  std::mt19937 rng(seed);
  testing::QuantCase c;
  c.spec.format = QuantFormat::kFp8Tensor;
  c.rows = 33, c.cols = 256;
  const Quantizer quantizer = Quantizer::create(c.spec, device);
  const HostArray x = testing::random_array(rng, c.rows * c.cols, c.dtype, 1.0);
  const testing::QuantBuffers sizes = testing::quant_buffers(c, 1.0f);
  const PoisonedBuffer given(device, x.bytes), codes(device, sizes.codes), scales(device, sizes.scales),
      back(device, x.bytes.size());
  testing::QuantAddresses at;
  at.x = given.data(), at.codes = codes.data(), at.scales = scales.data();
  quantizer.quantize(testing::quant_run(c, at), stream);
  at.x = back.data();
  quantizer.dequantize(testing::quant_run(c, at), stream);
  Bytes result = codes.fetch<unsigned char>();
  append(result, scales.fetch<unsigned char>());
  append(result, back.fetch<unsigned char>());
  return result;
}

/// Scales into tiles, and back.
Bytes swizzled_result(unsigned seed, Device device, void* stream) {
  constexpr std::int64_t kRows = 200, kCols = 9;
  std::mt19937 rng(seed);
  QuantSpec spec;
  spec.format = QuantFormat::kMxfp8, spec.layout = ScaleLayout::k128x4;
  const Quantizer quantizer = Quantizer::create(spec, device);
  const std::int64_t bytes = scale_layout_bytes(spec.layout, kRows, kCols);
  const Bytes linear = testing::random_array(rng, kRows * kCols, DType::kF32, 1.0).bytes;
  const PoisonedBuffer from(device, linear), tiles(device, static_cast<std::size_t>(bytes)),
      back(device, kRows * kCols);
  const TensorView view(tiles.data(), DType::kU8, {bytes});
  quantizer.swizzle_scales(TensorView(from.data(), DType::kU8, {kRows, kCols}), view, stream);
  quantizer.unswizzle_scales(view, TensorView(back.data(), DType::kU8, {kRows, kCols}), stream);
  Bytes result = tiles.fetch<unsigned char>();
  append(result, back.fetch<unsigned char>());
  return result;
}

/// Creates an op on the device, enqueues on a stream of it (nullptr: its default one), waits, and gives what came out.
struct Op {
  const char* name;
  std::function<Bytes(unsigned seed, Device device, void* stream)> result;
};
const std::vector<Op>& all_ops() {
  static const std::vector<Op> all = {
      {"layer in bf16", [](unsigned seed, Device d, void* stream) { return layer_result("bf16", seed, d, stream); }},
      {"layer in fp8_block",
       [](unsigned seed, Device d, void* stream) { return layer_result("fp8_block", seed, d, stream); }},
      {"router", router_result},
      {"activation", activation_result},
      {"gemm", gemm_result},
      {"quantizer", quantizer_result},
      {"swizzled scales", swizzled_result}};
  return all;
}

Bytes result_with_own_device_current(const Op& op, unsigned seed, Device device) {
  const cuda::DeviceGuard current(device.index);
  return op.result(seed, device, nullptr);
}

/// With whatever is current to the calling thread.
void expect_result(const Op& op, unsigned seed, Device device, const Bytes& wanted) {
  SCOPED_TRACE(std::string(op.name) + " on " + device_name(device));
  void* const before = testing::current_context();
  EXPECT_TRUE(op.result(seed, device, nullptr) == wanted) << "on the default stream";
  EXPECT_EQ(testing::current_context(), before) << "on the default stream";
  const cuda::Stream stream(device);
  EXPECT_TRUE(op.result(seed, device, stream.get()) == wanted) << "on a stream";
  EXPECT_EQ(testing::current_context(), before) << "on a stream";
}

/// A thread begins without a current context; what it throws fails the test.
std::thread start(std::function<void()> work) {
  return std::thread([work = std::move(work)] {
    try {
      work();
    } catch (const std::exception& e) {
      ADD_FAILURE() << e.what();
    }
  });
}

struct DeviceContextTest : testing::DeviceTest {};

TEST_F(DeviceContextTest, OpsRunWithoutACurrentContext) {
  const unsigned seed = testing::fresh_seed();
  for (const Op& op : all_ops()) {
    const Bytes wanted = result_with_own_device_current(op, seed, gpu(0));
    start([&] {
      EXPECT_EQ(testing::current_context(), nullptr);
      expect_result(op, seed, gpu(0), wanted);
    }).join();
  }
}

TEST_F(DeviceContextTest, OpsRunWhileAnotherContextOfTheDeviceIsCurrent) {
  const unsigned seed = testing::fresh_seed();
  for (const Op& op : all_ops()) {
    const Bytes wanted = result_with_own_device_current(op, seed, gpu(0));
    start([&] {
      const testing::OtherContext other(0);
      ASSERT_EQ(testing::current_context(), other.get());
      expect_result(op, seed, gpu(0), wanted);
    }).join();
  }
}

class DeviceSeveralTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!testing::have_gpu()) GTEST_SKIP() << "no GPU";
    const std::size_t gpus = cuda::list_devices().size();
    if (gpus < 2) GTEST_SKIP() << "two GPUs are needed, " << gpus << " is here";
  }
};

TEST_F(DeviceSeveralTest, OpsRunWhileAnotherDeviceIsCurrent) {
  const unsigned seed = testing::fresh_seed();
  for (const Op& op : all_ops()) {
    for (const int index : {0, 1}) {
      const Bytes wanted = result_with_own_device_current(op, seed, gpu(index));
      const cuda::DeviceGuard other(1 - index);
      expect_result(op, seed, gpu(index), wanted);
    }
  }
}

// Captures come first: while one lasts, no other thread may allocate.
TEST_F(DeviceSeveralTest, TwoDevicesReplayGraphsAtOnce) {
  std::mt19937 rng(testing::fresh_seed());
  for (const char* recipe : {"bf16", "fp8_block"}) {
    SCOPED_TRACE(recipe);
    std::vector<std::unique_ptr<testing::ReplayedLayer>> replayed;
    std::vector<std::unique_ptr<DeviceLayer>> layers;
    for (const int index : {0, 1}) {
      const MoeConfig c = layer_config(recipe, gpu(index));
      const HostLayer host = testing::random_layer(rng, c, {.biases = true});
      layers.push_back(std::make_unique<DeviceLayer>(convert_weights(c, host.weights).weights, c));
      replayed.push_back(std::make_unique<testing::ReplayedLayer>(rng, *layers.back(), 16));
    }
    const unsigned seed = testing::fresh_seed();
    std::vector<std::thread> threads;
    for (const auto& one : replayed) threads.push_back(start([&one, seed] { one->replay(500, seed); }));
    for (std::thread& thread : threads) thread.join();
    for (const auto& one : replayed) one->expect_right();
  }
}

}  // namespace
}  // namespace moesaic
