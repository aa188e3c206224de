// SPDX-License-Identifier: Apache-2.0
// Prepared weights: one expert at a time, saved, loaded, and every damaged or foreign file refused.
#include <gtest/gtest.h>

#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>

#include "moesaic/quantize.h"
#include "support/expect_error.h"
#include "support/random_layer.h"
#include "support/temporary_folder.h"

namespace moesaic {
namespace {

using testing::expect_error;

MoeConfig small_config(const std::string& recipe = "bf16") {
  MoeConfig c;
  c.recipe = recipe;
  c.hidden = 64, c.intermediate = 32, c.num_experts = 4, c.top_k = 2, c.max_tokens = 16;
  return c;
}

/// Memory at a multiple of 256 bytes.
class Memory {
 public:
  explicit Memory(std::size_t size, unsigned char content = 0xa5) : size_(size), bytes_(size + 256, content) {}
  char* data() {
    const auto address = reinterpret_cast<std::uintptr_t>(bytes_.data());
    return reinterpret_cast<char*>(bytes_.data() + (256 - address % 256) % 256);
  }
  std::string text() { return {data(), size_}; }

 private:
  std::size_t size_;
  std::vector<unsigned char> bytes_;
};

/// Weights in the recipe's format, with static scales where asked.
struct Layer {
  testing::HostLayer host;
  OwnedWeights owned;

  Layer(const MoeConfig& config, unsigned seed, float static_scale = 0.0f) {
    std::mt19937 rng(seed);
    MoeConfig bf16 = config;
    bf16.recipe = "bf16";
    host = testing::random_layer(rng, bf16, {.biases = true});
    owned = convert_weights(config, host.weights);
    for (std::size_t e = 0; e < owned.weights.experts.size(); ++e) {
      owned.weights.experts[e].input_scale = static_scale * static_cast<float>(e + 1);
      owned.weights.experts[e].down_input_scale = static_scale;
    }
  }
  const MoeWeights& weights() const { return owned.weights; }
};

class PreparedRecipes : public ::testing::TestWithParam<const char*> {};

TEST_P(PreparedRecipes, ExpertByExpertIsTheWholeLayer) {
  const MoeConfig c = small_config(GetParam());
  const unsigned seed = testing::fresh_seed();
  // The first weights' static scales are larger: none may survive. Then one expert has none, so the layer has none.
  const Layer first(c, seed, 0.5f), second(c, seed + 1, 0.25f), third(c, seed + 2);
  const FusedMoe layer = FusedMoe::create(c);
  for (const Layer* wanted : {&second, &third}) {
    Memory memory(layer.prepared_bytes()), whole(layer.prepared_bytes());
    std::memset(whole.data(), 0xa5, layer.prepared_bytes());
    layer.prepare(wanted->weights(), whole.data());
    MoeWeights mixed = wanted->weights();  // router and the like are not an expert's
    mixed.experts = first.weights().experts;
    layer.prepare(mixed, memory.data());
    EXPECT_NE(memory.text(), whole.text());
    for (const int e : {2, 0, 3, 1}) {
      layer.prepare_expert(e, wanted->weights().experts[static_cast<std::size_t>(e)], memory.data());
    }
    EXPECT_EQ(memory.text(), whole.text());
  }
}

TEST_P(PreparedRecipes, SavedAndLoadedAreTheSameBytes) {
  const MoeConfig c = small_config(GetParam());
  const Layer weights(c, testing::fresh_seed(), 0.5f);
  const FusedMoe layer = FusedMoe::create(c);
  Memory memory(layer.prepared_bytes()), again(layer.prepared_bytes());
  layer.prepare(weights.weights(), memory.data());
  const testing::TemporaryFolder folder;
  const std::string path = folder.path() + "/layer.prepared";
  layer.save_prepared(memory.data(), path);
  layer.load_prepared(path, again.data());
  EXPECT_EQ(again.text(), memory.text());
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder.path()), {}), 1);
}

// Parts begin at multiples of 64 bytes: what lies between them is a file's, too.
TEST_P(PreparedRecipes, FilesSayNothingOfTheMemoryBefore) {
  MoeConfig c = small_config(GetParam());
  c.num_experts = 5;
  c.shared.intermediate = 32;
  c.shared.gated = true;
  c.routing.method = RoutingMethod::kHash;
  c.routing.vocabulary = 7;
  const std::vector<std::int32_t> table(static_cast<std::size_t>(c.routing.vocabulary * c.top_k), 1);
  Layer weights(c, testing::fresh_seed());
  weights.owned.weights.token_experts = TensorView(table.data(), DType::kI32, {c.routing.vocabulary, c.top_k});
  const FusedMoe layer = FusedMoe::create(c);
  const testing::TemporaryFolder folder;
  std::string files[2];
  for (const int i : {0, 1}) {
    Memory memory(layer.prepared_bytes(), i == 0 ? 0x00 : 0xa5);
    layer.prepare(weights.weights(), memory.data());
    const std::string path = folder.path() + "/layer.prepared";
    layer.save_prepared(memory.data(), path);
    std::ifstream file(path, std::ios::binary);
    files[i] = {std::istreambuf_iterator<char>(file), {}};
  }
  ASSERT_GT(files[0].size(), layer.prepared_bytes());
  EXPECT_TRUE(files[0] == files[1]);
}

INSTANTIATE_TEST_SUITE_P(Recipes, PreparedRecipes,
                         ::testing::Values("bf16", "fp16", "fp8_tensor", "fp8_block", "nvfp4", "mxfp8_mxfp4",
                                           "bf16_int4"),
                         [](const auto& info) { return std::string(info.param); });

/// A saved layer and its file's bytes.
struct Saved {
  MoeConfig config = small_config();
  FusedMoe layer = FusedMoe::create(config);
  Layer weights{config, 5};
  Memory memory{layer.prepared_bytes()};
  testing::TemporaryFolder folder;
  std::string path = folder.path() + "/layer.prepared";

  Saved() {
    layer.prepare(weights.weights(), memory.data());
    layer.save_prepared(memory.data(), path);
  }
  std::string read() const {
    std::ifstream file(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
  }
  void write(const std::string& bytes) const { std::ofstream(path, std::ios::binary | std::ios::trunc) << bytes; }
  void expect_damaged() {
    Memory target(layer.prepared_bytes());
    expect_error(ErrorKind::kIo, {"load_prepared", path}, [&] { layer.load_prepared(path, target.data()); });
  }
};

TEST(Prepared, EveryFlipIsSeen) {
  Saved saved;
  const std::string bytes = saved.read();
  // All of the header, then weights and their hash at steps that are no power of two.
  for (std::size_t at = 0; at < bytes.size(); at += at < 600 || at + 70 > bytes.size() ? 1 : 997) {
    std::string damaged = bytes;
    damaged[at] = static_cast<char>(damaged[at] ^ (1 << (at % 8)));
    saved.write(damaged);
    SCOPED_TRACE(at);
    saved.expect_damaged();
    if (::testing::Test::HasFailure()) return;
  }
}

TEST(Prepared, EveryTruncationAndWhatIsTooMuchIsSeen) {
  Saved saved;
  const std::string bytes = saved.read();
  for (std::size_t size = 0; size < bytes.size(); size += size < 600 || size + 70 > bytes.size() ? 1 : 997) {
    saved.write(bytes.substr(0, size));
    SCOPED_TRACE(size);
    saved.expect_damaged();
    if (::testing::Test::HasFailure()) return;
  }
  saved.write(bytes + "x");
  saved.expect_damaged();
  std::filesystem::remove(saved.path);
  saved.expect_damaged();
}

TEST(Prepared, RunRefusesWhatADamagedFileLeft) {
  Saved saved;
  std::string bytes = saved.read();
  bytes[bytes.size() - 100] ^= 1;  // in the weights
  saved.write(bytes);
  EXPECT_THROW(saved.layer.load_prepared(saved.path, saved.memory.data()), Error);
  std::vector<unsigned char> x(64 * 2), y(64 * 4);
  Memory workspace(saved.layer.workspace_bytes(1));
  MoeRun run;
  run.x = TensorView(x.data(), DType::kBF16, {1, 64});
  run.out = TensorView(y.data(), DType::kF32, {1, 64});
  run.prepared = saved.memory.data();
  run.workspace = workspace.data();
  run.workspace_bytes = saved.layer.workspace_bytes(1);
  expect_error(ErrorKind::kInvalidArgument, {"prepared", "prepare wrote"}, [&] { saved.layer.run(run); });
  expect_error(ErrorKind::kInvalidArgument, {"save_prepared", "prepared"},
               [&] { saved.layer.save_prepared(saved.memory.data(), saved.path); });
}

TEST(Prepared, FilesOfOtherLayersAreRefusedByField) {
  Saved saved;
  const auto expect = [&](const std::vector<std::string>& words, void (*change)(MoeConfig&)) {
    MoeConfig c = saved.config;
    change(c);
    const FusedMoe other = FusedMoe::create(c);
    Memory target(other.prepared_bytes());
    const std::string before = target.text();
    expect_error(ErrorKind::kInvalidArgument, words, [&] { other.load_prepared(saved.path, target.data()); });
    EXPECT_EQ(target.text(), before);
  };
  expect({"hidden is 64, wanted 128", "bytes is"}, [](MoeConfig& c) { c.hidden = 128; });
  expect({"intermediate is 32, wanted 48"}, [](MoeConfig& c) { c.intermediate = 48; });
  expect({"num_experts is 4, wanted 5"}, [](MoeConfig& c) { c.num_experts = 5; });
  expect({"recipe is \"bf16\", wanted \"nvfp4\""}, [](MoeConfig& c) { c.recipe = "nvfp4"; });
  expect({"recipe is \"bf16\", wanted \"fp16\""}, [](MoeConfig& c) { c.recipe = "fp16"; });
  expect({"gated is true, wanted false"}, [](MoeConfig& c) { c.activation.kind = ActivationKind::kRelu2; });
  expect({"shared_intermediate is 0, wanted 32"}, [](MoeConfig& c) { c.shared.intermediate = 32; });
  expect({"router is true, wanted false"}, [](MoeConfig& c) { c.router = false; });
  expect({"int4_group_size is 32, wanted 64"}, [](MoeConfig& c) { c.int4.size = 64; });
  expect({"int4_f32_scales is false, wanted true"}, [](MoeConfig& c) { c.int4.f32_scales = true; });
  expect({"static_scales is false, wanted true"}, [](MoeConfig& c) { c.static_scales = true; });
  // What the bytes do not depend on is no reason.
  MoeConfig c = saved.config;
  c.max_tokens = 8, c.top_k = 1, c.routing.method = RoutingMethod::kLlama4;
  const FusedMoe other = FusedMoe::create(c);
  Memory target(other.prepared_bytes());
  other.load_prepared(saved.path, target.data());
  EXPECT_EQ(target.text(), saved.memory.text());
}

TEST(Prepared, PromisedStaticScalesMustBeThere) {
  for (const char* recipe : {"fp8_tensor", "nvfp4", "mxfp8"}) {
    MoeConfig c = small_config(recipe);
    c.static_scales = true;
    const FusedMoe layer = FusedMoe::create(c);
    Memory memory(layer.prepared_bytes());
    Layer layers(c, testing::fresh_seed(), 0.5f);
    MoeWeights& weights = layers.owned.weights;
    layer.prepare(weights, memory.data());
    weights.experts[2].down_input_scale = 0.0f;
    if (c.recipe == std::string("mxfp8")) {  // has none, so none is missing
      layer.prepare(weights, memory.data());
      continue;
    }
    const std::string before = memory.text();
    expect_error(ErrorKind::kInvalidArgument, {"weights.experts[2]", "down_input_scale is 0", "static_scales"},
                 [&] { layer.prepare(weights, memory.data()); });
    expect_error(ErrorKind::kInvalidArgument, {"weights of expert 2", "down_input_scale is 0", "static_scales"},
                 [&] { layer.prepare_expert(2, weights.experts[2], memory.data()); });
    EXPECT_EQ(memory.text(), before);
  }
}

TEST(Prepared, WrongArgumentsAreRefused) {
  Saved saved;
  const FusedMoe& layer = saved.layer;
  const ExpertWeights& expert = saved.weights.weights().experts[1];
  const auto refuse = [&](const std::vector<std::string>& words, int index, const ExpertWeights& w, void* memory) {
    expect_error(ErrorKind::kInvalidArgument, words, [&] { layer.prepare_expert(index, w, memory); });
  };
  const std::string before = saved.memory.text();
  refuse({"expert is 4", "0 to 3"}, 4, expert, saved.memory.data());
  refuse({"expert is -1"}, -1, expert, saved.memory.data());
  ExpertWeights wrong = expert;
  wrong.down.cols = 31;
  refuse({"expert 1.down", "[64, 31]", "[64, 32]"}, 1, wrong, saved.memory.data());
  wrong = expert;
  wrong.up = {};
  refuse({"expert 2.up"}, 2, wrong, saved.memory.data());
  refuse({"prepared", "null"}, 1, expert, nullptr);
  refuse({"prepared", "multiple of 256"}, 1, expert, saved.memory.data() + 1);
  EXPECT_EQ(saved.memory.text(), before);
  Memory never(layer.prepared_bytes());
  refuse({"prepared", "header"}, 1, expert, never.data());
  expect_error(ErrorKind::kInvalidArgument, {"save_prepared", "null"}, [&] { layer.save_prepared(nullptr, "x"); });
  expect_error(ErrorKind::kInvalidArgument, {"load_prepared", "256"},
               [&] { layer.load_prepared(saved.path, saved.memory.data() + 64); });
  expect_error(ErrorKind::kIo, {"save_prepared", "/no/such/folder"},
               [&] { layer.save_prepared(saved.memory.data(), "/no/such/folder/x"); });
  expect_error(ErrorKind::kIo, {"load_prepared", "regular"},
               [&] { layer.load_prepared(saved.folder.path(), saved.memory.data()); });
}

}  // namespace
}  // namespace moesaic
