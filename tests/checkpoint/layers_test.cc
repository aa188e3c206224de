// SPDX-License-Identifier: Apache-2.0
// Layers of real checkpoints against outputs that the transformers library recorded (tests/data/checkpoints): exact,
// oracle and fast on the CPU, each MoE layer of each folder; and proof that the comparison catches a wrong layer.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>

#include "files.h"
#include "moesaic/checkpoint.h"
#include "moesaic/moe.h"
#include "tables/recipe_table.h"

namespace moesaic::testing {
namespace {

struct Recorded {
  const char* folder;
  const char* io;
};

const Recorded kRecorded[] = {
    {"mixtral", "io"},
    {"mixtral_tie", "io"},
    {"qwen2_moe", "io"},
    {"qwen3_moe", "io"},
    {"olmoe", "io"},
    {"qwen3_moe", "io_layer1"},
    {"deepseek_v2", "io"},
    {"deepseek_v3", "io"},
    {"glm4_moe", "io"},
    {"deepseek_v3", "io_layer2"},
    {"gpt_oss", "io"},
    {"llama4", "io"},
    {"qwen3_vl_moe", "io"},
    {"llama4_text", "io"},
    // Their recorded output is that of the dequantised weights with unquantised activations.
    {"deepseek_v3_fp8_block", "io"},
    {"qwen3_moe_fp8_block", "io"},
    {"qwen3_moe_modelopt_fp8", "io"},
    {"qwen3_moe_mxfp8", "io"},
    {"mixtral_nvfp4", "io"},
    {"qwen3_moe_nvfp4", "io"},
    {"qwen3_moe_ct_nvfp4", "io"},
    {"mixtral_ct_fp8", "io"},
    {"kimi_k2_ct_int4", "io"},
    {"qwen2_moe_gptq", "io"},
    {"qwen3_moe_awq", "io"},
    {"gpt_oss_mxfp4", "io"},
};

void PrintTo(const Recorded& recorded, std::ostream* out) { *out << recorded.folder << "/" << recorded.io; }

// --- numbers of this test, so that it trusts no conversion of the library --------------------------------------------

float from_bf16(std::uint16_t bits) {
  std::uint32_t wide = std::uint32_t{bits} << 16;
  float value;
  std::memcpy(&value, &wide, 4);
  return value;
}

std::uint16_t to_bf16(float value) {
  std::uint32_t bits;
  std::memcpy(&bits, &value, 4);
  return static_cast<std::uint16_t>((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16);
}

using Rows = std::vector<float>;

double worst_row_l2(const Rows& got, const Rows& want, std::int64_t width) {
  double worst = 0;
  for (std::size_t row = 0; row < want.size(); row += static_cast<std::size_t>(width)) {
    double difference = 0, norm = 0;
    for (std::size_t at = row; at < row + static_cast<std::size_t>(width); ++at) {
      difference += std::pow(double{got[at]} - want[at], 2);
      norm += std::pow(double{want[at]}, 2);
    }
    double error = std::sqrt(difference / norm);
    worst = std::isfinite(error) ? std::max(worst, error) : std::numeric_limits<double>::infinity();
  }
  return worst;
}

// |d| <= rel |ref| + rms_factor * rms(row): how many times over the worst element is.
double worst_element(const Rows& got, const Rows& want, std::int64_t width, const tables::Tolerance& tolerance) {
  double worst = 0;
  for (std::size_t row = 0; row < want.size(); row += static_cast<std::size_t>(width)) {
    double square = 0;
    for (std::size_t at = row; at < row + static_cast<std::size_t>(width); ++at) square += double{want[at]} * want[at];
    double rms = std::sqrt(square / static_cast<double>(width));
    for (std::size_t at = row; at < row + static_cast<std::size_t>(width); ++at) {
      double allowed = tolerance.element_rel * std::abs(double{want[at]}) + tolerance.element_rms * rms;
      double ratio = std::abs(double{got[at]} - want[at]) / allowed;
      worst = std::isfinite(ratio) ? std::max(worst, ratio) : std::numeric_limits<double>::infinity();
    }
  }
  return worst;
}

Rows floats(const StoredTensor& stored) {
  EXPECT_EQ(stored.view.dtype, DType::kF32);
  const auto* data = static_cast<const float*>(stored.view.data);
  return Rows(data, data + stored.view.num_elements());
}

// --- one recorded layer ----------------------------------------------------------------------------------------------

class LayerTest : public ::testing::TestWithParam<Recorded> {
 protected:
  void SetUp() override {
    Checkpoint checkpoint = Checkpoint::open(checkpoint_folder(GetParam().folder));
    std::string name = GetParam().io;
    layer_ = checkpoint.load(name == "io" ? -1 : name.back() - '0');
    use_io(checkpoint_folder(GetParam().folder) + "/" + name + ".safetensors");
  }

  void use_io(const std::string& file) {
    x_ = floats(read_tensor(file + ":x", ""));
    y_ = floats(read_tensor(file + ":y", ""));
    logits_ = floats(read_tensor(file + ":router_logits", ""));
    weights_ = floats(read_tensor(file + ":topk_weights", ""));
    StoredTensor ids = read_tensor(file + ":topk_ids", "");
    const auto* data = static_cast<const std::int32_t*>(ids.view.data);
    ids_.assign(data, data + ids.view.num_elements());
    tokens_ = ids.view.shape[0];
  }

  std::int64_t hidden() const { return layer_.config.hidden; }

  // x as FP32 in, FP32 out.
  Rows exact(bool routing_given = false) {
    Rows out(y_.size(), NAN);
    MoeRun run;
    run.x = TensorView(x_.data(), DType::kF32, {tokens_, hidden()});
    run.out = TensorView(out.data(), DType::kF32, {tokens_, hidden()});
    if (routing_given) {
      run.topk_ids = TensorView(ids_.data(), DType::kI32, {tokens_, layer_.config.top_k});
      run.topk_weights = TensorView(weights_.data(), DType::kF32, {tokens_, layer_.config.top_k});
    } else {
      want_routing(&run);
    }
    reference_moe(layer_.config, layer_.weights, ReferenceMode::kExact, run);
    return out;
  }

  // x and out in the recipe's type. Recorded inputs are exact in bf16, so only the recipe's own roundings act.
  Rows oracle() {
    MoeRun run = bf16_run();
    reference_moe(layer_.config, layer_.weights, ReferenceMode::kOracle, run);
    return bf16_result();
  }

  Rows fast() {
    FusedMoe moe = FusedMoe::create(layer_.config);
    auto prepared = aligned(moe.prepared_bytes(), 0xFF);
    moe.prepare(layer_.weights, prepared.get());
    auto workspace = aligned(moe.workspace_bytes(tokens_), 0xFF);  // NaN wherever it is read as a number
    MoeRun run = bf16_run();
    run.prepared = prepared.get();
    run.workspace = workspace.get();
    run.workspace_bytes = moe.workspace_bytes(tokens_);
    moe.run(run);
    return bf16_result();
  }

  void expect_recorded_routing() const {
    EXPECT_EQ(got_ids_, ids_);
    for (std::size_t i = 0; i < logits_.size(); ++i) EXPECT_NEAR(got_logits_[i], logits_[i], 1e-5) << i;
    for (std::size_t i = 0; i < weights_.size(); ++i) {
      EXPECT_NEAR(got_weights_[i], weights_[i], 1e-5 * std::max(1.0f, std::abs(weights_[i]))) << i;
    }
  }

  const tables::Tolerance& tolerance() const { return tables::get_recipe(layer_.config.recipe).tolerance; }

  CheckpointLayer layer_;
  std::int64_t tokens_ = 0;
  Rows x_, y_, logits_, weights_;
  std::vector<std::int32_t> ids_, got_ids_;
  Rows got_logits_, got_weights_;

 private:
  using Memory = std::unique_ptr<void, void (*)(void*)>;
  static Memory aligned(std::size_t bytes, int fill) {
    std::size_t rounded = (bytes + 256) / 256 * 256;
    Memory memory(std::aligned_alloc(256, rounded), std::free);
    std::memset(memory.get(), fill, rounded);
    return memory;
  }

  void want_routing(MoeRun* run) {
    got_logits_.assign(logits_.size(), NAN);
    got_weights_.assign(weights_.size(), NAN);
    got_ids_.assign(ids_.size(), -1);
    run->logits_out = TensorView(got_logits_.data(), DType::kF32, {tokens_, layer_.config.num_experts});
    run->topk_ids_out = TensorView(got_ids_.data(), DType::kI32, {tokens_, layer_.config.top_k});
    run->topk_weights_out = TensorView(got_weights_.data(), DType::kF32, {tokens_, layer_.config.top_k});
  }

  MoeRun bf16_run() {
    x16_.clear();
    for (float value : x_) x16_.push_back(to_bf16(value));
    out16_.assign(y_.size(), 0x7FC0);
    MoeRun run;
    run.x = TensorView(x16_.data(), DType::kBF16, {tokens_, hidden()});
    run.out = TensorView(out16_.data(), DType::kBF16, {tokens_, hidden()});
    want_routing(&run);
    return run;
  }

  Rows bf16_result() const {
    Rows out;
    for (std::uint16_t bits : out16_) out.push_back(from_bf16(bits));
    return out;
  }

  std::vector<std::uint16_t> x16_, out16_;
};

TEST_P(LayerTest, ExactMatchesTheRecordedOutput) {
  EXPECT_LT(worst_row_l2(exact(), y_, hidden()), 1e-5);
  expect_recorded_routing();
}

TEST_P(LayerTest, ExactMatchesWithTheRecordedRouting) {
  EXPECT_LT(worst_row_l2(exact(/*routing_given=*/true), y_, hidden()), 1e-5);
}

TEST_P(LayerTest, OracleIsWithinTheRecipesTolerance) {
  EXPECT_LT(worst_row_l2(oracle(), y_, hidden()), tolerance().exact_row_l2);
  expect_recorded_routing();
}

TEST_P(LayerTest, FastIsWithinTheRecipesToleranceAndTightAgainstTheOracle) {
  Rows want = oracle(), got = fast();
  expect_recorded_routing();
  EXPECT_LT(worst_row_l2(got, y_, hidden()), tolerance().exact_row_l2);
  EXPECT_LT(worst_row_l2(got, want, hidden()), tolerance().oracle_row_l2);
  EXPECT_LE(worst_element(got, want, hidden(), tolerance()), 1.0);
}

TEST_P(LayerTest, SwappedGateAndUpIsCaught) {
  for (ExpertWeights& expert : layer_.weights.experts) {
    std::swap(expert.gate, expert.up);
    std::swap(expert.gate_bias, expert.up_bias);
  }
  EXPECT_GT(worst_row_l2(exact(), y_, hidden()), 0.1);
}

TEST_P(LayerTest, OneWrongExpertIsCaught) {
  layer_.weights.experts[static_cast<std::size_t>(ids_.front())].down.data =
      layer_.weights.experts[static_cast<std::size_t>((ids_.front() + 1) % layer_.config.num_experts)].down.data;
  EXPECT_GT(worst_row_l2(exact(), y_, hidden()), 0.1);
}

TEST_P(LayerTest, AnotherRoutingMethodIsCaught) {
  layer_.config.routing = {RoutingMethod::kTopK};  // no family uses it
  layer_.weights.selection_bias = {};
  EXPECT_GT(worst_row_l2(exact(), y_, hidden()), 0.05);
}

INSTANTIATE_TEST_SUITE_P(Recorded, LayerTest, ::testing::ValuesIn(kRecorded),
                         [](const auto& info) { return std::string(info.param.folder) + "_" + info.param.io; });

// --- other ways in which the same weights may be stored --------------------------------------------------------------

class StoredOtherwiseTest : public LayerTest {
 protected:
  void SetUp() override {}

  // Loads a changed copy of a recorded folder and demands the recorded output.
  void expect_recorded_output(const TempFolder& folder, const std::string& name) {
    layer_ = Checkpoint::open(folder.path()).load();
    use_io(checkpoint_folder(name) + "/io.safetensors");
    EXPECT_LT(worst_row_l2(exact(), y_, hidden()), 1e-5);
  }
};

// [e, rows, cols] of 16-bit elements -> [e, cols, rows]
std::string swap_last_two(const std::string& bytes, std::size_t e, std::size_t rows, std::size_t cols) {
  std::string swapped(bytes.size(), '\0');
  for (std::size_t at = 0; at < e * rows * cols; ++at) {
    std::size_t matrix = at / (rows * cols), row = at / cols % rows, col = at % cols;
    std::memcpy(&swapped[2 * (matrix * rows * cols + col * rows + row)], &bytes[2 * at], 2);
  }
  return swapped;
}

// A copy whose fused tensors are [E, 2I, H] and [E, H, I].
void save_transposed(const std::string& name, const std::string& block, const TempFolder& folder) {
  copy_checkpoint(name, folder);
  Parts parts = read_parts(folder.path("model.safetensors")), changed;
  for (const auto& [tensor, entry] : parts.header.items()) {
    if (tensor == "__metadata__") continue;
    std::vector<std::int64_t> shape = entry["shape"];
    std::string bytes = tensor_bytes(parts, tensor);
    if (tensor.starts_with(block + "experts.") && shape.size() == 3) {
      bytes = swap_last_two(bytes, static_cast<std::size_t>(shape[0]), static_cast<std::size_t>(shape[1]),
                            static_cast<std::size_t>(shape[2]));
      std::swap(shape[1], shape[2]);
    }
    append_tensor(changed, tensor, entry["dtype"], shape, bytes);
  }
  write_bytes(folder.path("model.safetensors"), pack(changed));
}

TEST_F(StoredOtherwiseTest, FusedAsTransformers5SavesThem) {
  const std::pair<const char*, const char*> cases[] = {{"qwen3_vl_moe", "model.language_model.layers.0.mlp."},
                                                       {"llama4_text", "model.layers.0.feed_forward."},
                                                       {"gpt_oss", "model.layers.0.mlp."}};
  for (const auto& [name, block] : cases) {
    SCOPED_TRACE(name);
    TempFolder folder;
    save_transposed(name, block, folder);
    expect_recorded_output(folder, name);
    EXPECT_NE(layer_.layout.find("as transformers 5 saves it"), std::string::npos) << layer_.layout;
  }
}

TEST_F(StoredOtherwiseTest, OtherPrefixes) {
  for (const char* prefix : {"model.layers.", "language_model.model.layers.", "layers."}) {
    SCOPED_TRACE(prefix);
    TempFolder folder;
    copy_checkpoint("qwen3_vl_moe", folder);
    Parts parts = read_parts(folder.path("model.safetensors")), renamed;
    renamed.data = parts.data;
    for (const auto& [name, entry] : parts.header.items()) {
      std::string old = "model.language_model.layers.";
      renamed.header[name.starts_with(old) ? prefix + name.substr(old.size()) : name] = entry;
    }
    write_bytes(folder.path("model.safetensors"), pack(renamed));
    expect_recorded_output(folder, "qwen3_vl_moe");
  }
}

TEST_F(StoredOtherwiseTest, Fp32Weights) {
  TempFolder folder;
  copy_checkpoint("qwen2_moe", folder);
  Parts parts = read_parts(folder.path("model.safetensors")), wide;
  for (const auto& [name, entry] : parts.header.items()) {
    if (name == "__metadata__") continue;
    std::string bytes = tensor_bytes(parts, name), floats;
    for (std::size_t at = 0; at < bytes.size(); at += 2) floats += std::string(2, '\0') + bytes.substr(at, 2);
    append_tensor(wide, name, "F32", entry["shape"], floats);
  }
  write_bytes(folder.path("model.safetensors"), pack(wide));
  expect_recorded_output(folder, "qwen2_moe");
  EXPECT_EQ(layer_.stored, "f32");
  EXPECT_EQ(layer_.config.recipe, "bf16");
}

TEST_F(StoredOtherwiseTest, Fp16WeightsGiveTheFp16Recipe) {
  TempFolder folder;
  copy_checkpoint("qwen3_moe", folder);
  Parts parts = read_parts(folder.path("model.safetensors"));
  for (auto& [name, entry] : parts.header.items()) {
    if (name != "__metadata__") entry["dtype"] = "F16";
  }
  write_bytes(folder.path("model.safetensors"), pack(parts));
  CheckpointLayer layer = Checkpoint::open(folder.path()).load();
  EXPECT_EQ(layer.stored, "f16");
  EXPECT_EQ(layer.config.recipe, "fp16");
}

TEST_F(StoredOtherwiseTest, OffTheirNaturalAlignment) {
  for (const char* name : {"deepseek_v3", "gpt_oss"}) {
    SCOPED_TRACE(name);
    TempFolder folder;
    copy_checkpoint(name, folder);
    write_bytes(folder.path("model.safetensors"), pack(read_parts(folder.path("model.safetensors")), /*padding=*/1));
    expect_recorded_output(folder, name);
  }
}

}  // namespace
}  // namespace moesaic::testing
