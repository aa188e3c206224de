// SPDX-License-Identifier: Apache-2.0
// The CPU layer beside oneDNN's matmul on the same two GEMMs, in turns: `build/bench/bench_cpu_gemm [model] [tokens]`.
// Times are medians; on shared machines only the ratio means anything.
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <dnnl.hpp>
#include <memory>
#include <string>
#include <vector>

#include "moesaic/moe.h"
#include "tables/model_table.h"

namespace moesaic {
namespace {

constexpr int kRepeats = 7;

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

template <typename Work>
double seconds(const Work& work) {
  const auto begin = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

/// bf16 numbers between 0.0078 and 0.03.
std::vector<std::uint16_t> random_numbers(std::int64_t count) {
  std::vector<std::uint16_t> numbers(static_cast<std::size_t>(count));
  std::uint32_t state = 1;
  for (std::uint16_t& b : numbers) {
    state = state * 1664525u + 1013904223u;
    b = static_cast<std::uint16_t>((state >> 16 & 0x80ff) | 0x3c00);
  }
  return numbers;
}

/// out [m, n] = x [m, k] weight [n, k]^T; oneDNN chooses how the weight lies. fp32 results.
class DnnlMatmul {
 public:
  DnnlMatmul(dnnl::engine& engine, dnnl::stream& stream, dnnl::memory::data_type type, std::int64_t m, std::int64_t n,
             std::int64_t k)
      : stream_(stream) {
    using Memory = dnnl::memory;
    const Memory::desc x({m, k}, type, Memory::format_tag::ab),
        out({m, n}, Memory::data_type::f32, Memory::format_tag::ab);
    const Memory::desc any({k, n}, type, Memory::format_tag::any);
    const dnnl::matmul::primitive_desc description({x, any, out}, engine);
    x_ = Memory(x, engine);
    out_ = Memory(out, engine);
    weight_ = Memory(description.weights_desc(), engine);
    const std::vector<std::uint16_t> numbers = random_numbers(std::max(m, n) * k);
    fill(engine, numbers, {m, k}, Memory::format_tag::ab, x_);
    fill(engine, numbers, {k, n}, Memory::format_tag::ba, weight_);
    matmul_ = dnnl::matmul(description);
    stream.wait();
  }
  void run() {
    matmul_.execute(stream_, {{DNNL_ARG_SRC, x_}, {DNNL_ARG_WEIGHTS, weight_}, {DNNL_ARG_DST, out_}});
    stream_.wait();
  }

 private:
  void fill(dnnl::engine& engine, const std::vector<std::uint16_t>& numbers, const dnnl::memory::dims& shape,
            dnnl::memory::format_tag order, dnnl::memory& to) {
    dnnl::memory from({shape, dnnl::memory::data_type::bf16, order}, engine,
                      const_cast<std::uint16_t*>(numbers.data()));
    dnnl::reorder(from, to).execute(stream_, from, to);
    stream_.wait();
  }

  dnnl::stream& stream_;
  dnnl::memory x_, weight_, out_;
  dnnl::matmul matmul_;
};

/// The layer with routing given: token t goes to experts t k, t k + 1, ... (mod E), so all experts get the same.
class Layer {
 public:
  Layer(const MoeConfig& config, int tokens)
      : layer_(FusedMoe::create(config)),
        prepared_(allocate(layer_.prepared_bytes())),
        workspace_(allocate(layer_.workspace_bytes(tokens))),
        x_(random_numbers(std::int64_t{tokens} * config.hidden)),
        y_(x_.size()) {
    const std::vector<std::uint16_t> numbers = random_numbers(std::int64_t{config.intermediate} * config.hidden);
    ExpertWeights expert;
    expert.gate = {numbers.data(), DType::kBF16, config.intermediate, config.hidden, config.hidden, 1};
    expert.up = expert.gate;
    expert.down = {numbers.data(), DType::kBF16, config.hidden, config.intermediate, config.intermediate, 1};
    MoeWeights weights;
    weights.experts.assign(static_cast<std::size_t>(config.num_experts), expert);
    layer_.prepare(weights, prepared_.get());
    for (int i = 0; i < tokens * config.top_k; ++i) ids_.push_back(i % config.num_experts);
    shares_.assign(ids_.size(), 0.5f);
    run_.x = TensorView(x_.data(), DType::kBF16, {tokens, config.hidden});
    run_.out = TensorView(y_.data(), DType::kBF16, {tokens, config.hidden});
    run_.topk_ids = TensorView(ids_.data(), DType::kI32, {tokens, config.top_k});
    run_.topk_weights = TensorView(shares_.data(), DType::kF32, {tokens, config.top_k});
    run_.prepared = prepared_.get();
    run_.workspace = workspace_.get();
    run_.workspace_bytes = layer_.workspace_bytes(tokens);
  }
  void run() { layer_.run(run_); }

 private:
  using Memory = std::unique_ptr<void, decltype(&std::free)>;
  static Memory allocate(std::size_t bytes) { return {std::aligned_alloc(256, (bytes + 255) / 256 * 256), &std::free}; }

  FusedMoe layer_;
  Memory prepared_, workspace_;
  std::vector<std::uint16_t> x_, y_;
  std::vector<std::int32_t> ids_;
  std::vector<float> shares_;
  MoeRun run_;
};

void compare(const std::string& model, int tokens) {
  MoeConfig config = tables::model_config(tables::get_model(model));
  config.activation = {};
  config.shared = {};
  config.router = false;
  const std::int64_t rows = std::int64_t{tokens} * config.top_k / config.num_experts;
  const std::int64_t hidden = config.hidden, intermediate = config.intermediate;
  const double flops = 6.0 * static_cast<double>(tokens * config.top_k * hidden * intermediate);

  Layer layer(config, tokens);
  dnnl::engine engine(dnnl::engine::kind::cpu, 0);
  dnnl::stream stream(engine);
  using Type = dnnl::memory::data_type;
  // One expert's weights serve all experts: they are larger than a cache share.
  DnnlMatmul up16(engine, stream, Type::bf16, rows, 2 * intermediate, hidden);
  DnnlMatmul down16(engine, stream, Type::bf16, rows, hidden, intermediate);
  DnnlMatmul up32(engine, stream, Type::f32, rows, 2 * intermediate, hidden);
  DnnlMatmul down32(engine, stream, Type::f32, rows, hidden, intermediate);
  const auto all_experts = [&](DnnlMatmul& up, DnnlMatmul& down) {
    for (int e = 0; e < config.num_experts; ++e) {
      up.run();
      down.run();
    }
  };
  std::vector<double> ours, dnnl16, dnnl32;
  for (int repeat = 0; repeat < kRepeats; ++repeat) {
    ours.push_back(seconds([&] { layer.run(); }));
    dnnl16.push_back(seconds([&] { all_experts(up16, down16); }));
    dnnl32.push_back(seconds([&] { all_experts(up32, down32); }));
  }
  const auto rate = [&](const std::vector<double>& times) { return flops / median(times) / 1e9; };
  fmt::print("{}, T = {}: {} rows an expert\n", model, tokens, rows);
  fmt::print("layer, bf16          {:8.1f} GFLOP/s\n", rate(ours));
  fmt::print("oneDNN, bf16 matmul  {:8.1f} GFLOP/s, layer at {:.0f}% of it\n", rate(dnnl16),
             100 * rate(ours) / rate(dnnl16));
  fmt::print("oneDNN, fp32 matmul  {:8.1f} GFLOP/s, layer at {:.0f}% of it\n", rate(dnnl32),
             100 * rate(ours) / rate(dnnl32));
}

}  // namespace
}  // namespace moesaic

int main(int argc, char** argv) {
  moesaic::compare(argc > 1 ? argv[1] : "mixtral-8x7b", argc > 2 ? std::atoi(argv[2]) : 256);
  return 0;
}
