// SPDX-License-Identifier: Apache-2.0
// One run of the fast path: project and route, sort pairs by expert, GEMM 1 with activation, GEMM 2, weighted sum.
//
// Each result element is summed in an order that depends on nothing but its own K: a token's output is bit for bit the
// same whatever other tokens are in the batch and however many threads run (within one instruction set).
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "backend_cpu/arguments.h"
#include "backend_cpu/backend_cpu.h"
#include "backend_cpu/fast_activation.h"
#include "backend_cpu/fast_kernels.h"
#include "backend_cpu/fast_layout.h"
#include "backend_cpu/fast_routing.h"
#include "backend_cpu/fast_threads.h"

namespace moesaic::cpu {
namespace {

constexpr int kProjectTaskRows = 32;
constexpr std::int64_t kTokensPerTask = 8;

// Where tile `tile` of `tiles` begins when `count` rows are dealt out evenly.
std::int64_t share(std::int64_t count, std::int64_t tile, std::int64_t tiles) { return count * tile / tiles; }

// A run on tokens [first, first + tokens) of the batch.
class Chunk {
 public:
  Chunk(const MoeConfig& config, const MoeRun& run, std::int64_t first, std::int64_t tokens)
      : config_(config),
        run_(run),
        kernels_(fast_kernels()),
        prepared_layout_(prepared_layout(config)),
        layout_(workspace_layout(config, run.x.shape[0])),
        scratch_(thread_scratch(config)),
        activation_(fast_activation(config.activation)),
        gated_(is_gated(config.activation.kind)),
        first_(first),
        tokens_(tokens) {}

  void execute() {
    project_tokens();
    route_tokens();
    sort_pairs();
    multiply_up();
    multiply_down();
    combine();
  }

 private:
  template <typename T>
  T* work(std::size_t offset) const {
    return reinterpret_cast<T*>(static_cast<std::byte*>(run_.workspace) + offset);
  }
  template <typename T>
  T* scratch(int thread, std::size_t offset) const {
    return work<T>(layout_.threads + static_cast<std::size_t>(thread) * layout_.thread_bytes + offset);
  }
  template <typename T>
  const T* prepared(std::size_t offset) const {
    return reinterpret_cast<const T*>(static_cast<const std::byte*>(run_.prepared) + offset);
  }
  const std::uint16_t* x_row(std::int64_t token) const {
    return static_cast<const std::uint16_t*>(run_.x.data) + (first_ + token) * config_.hidden;
  }
  bool has_shared() const { return config_.shared.intermediate > 0; }
  // Rows of `tensor` that belong to this chunk.
  template <typename T>
  T* rows(const TensorView& tensor) const {
    return static_cast<T*>(tensor.data) + first_ * tensor.shape[1];
  }

  void project_tokens();
  void project_block(std::int64_t token, int row_begin, int row_end, int thread);
  void route_tokens();
  void route_one(std::int64_t token, int thread);
  void sort_pairs();
  void multiply_up();
  void multiply_down();
  void combine();
  void combine_one(std::int64_t token, float* sum);

  template <typename RowOf, typename Finish>
  void multiply(bool up, const RowOf& row_of, const Finish& finish);
  template <typename RowOf, typename Finish>
  void multiply_group(const WorkItem& item, const PackedMatrix& matrix, const std::byte* expert,
                      std::int64_t panel_begin, std::int64_t panel_end, int thread, const RowOf& row_of,
                      const Finish& finish);
  void finish_up(const PackedMatrix& matrix, std::int64_t panel, const float* bias, float scale, float* sums,
                 std::uint16_t* h) const;

  const MoeConfig& config_;
  const MoeRun& run_;
  const FastKernels& kernels_;
  const PreparedLayout prepared_layout_;
  const WorkspaceLayout layout_;
  const ThreadScratch scratch_;
  const FastActivation activation_;
  const bool gated_;
  const std::int64_t first_, tokens_;
  std::int64_t num_items_ = 0;
};

void Chunk::project_tokens() {
  const bool router = needs_logits(run_) && run_.router_logits.empty();
  // Row E is the shared gate; blocks begin at multiples of kProjectRows.
  const int begin = router ? 0 : config_.num_experts / kProjectRows * kProjectRows;
  const int end = config_.num_experts + (config_.shared.gated ? 1 : 0);
  if (end <= begin || (!router && !config_.shared.gated)) return;
  const std::int64_t row_tasks = (end - begin + kProjectTaskRows - 1) / kProjectTaskRows;
  const std::int64_t token_tasks = (tokens_ + kProjectTokens - 1) / kProjectTokens;
  parallel_for(row_tasks * token_tasks, [&](std::int64_t task, int thread) {
    const int row = begin + static_cast<int>(task % row_tasks) * kProjectTaskRows;
    project_block(task / row_tasks * kProjectTokens, row, std::min(row + kProjectTaskRows, end), thread);
  });
}

void Chunk::project_block(std::int64_t token, int row_begin, int row_end, int thread) {
  const std::int64_t depth = prepared_layout_.router_cols;
  const int count = static_cast<int>(std::min<std::int64_t>(kProjectTokens, tokens_ - token));
  auto* x = scratch<double>(thread, scratch_.tile);
  float* row = scratch<float>(thread, scratch_.row);
  for (int t = 0; t < count; ++t) {
    kernels_.widen(x_row(token + t), config_.hidden, prepared_layout_.io, row);
    std::copy_n(row, config_.hidden, x + t * depth);
    std::fill(x + t * depth + config_.hidden, x + (t + 1) * depth, 0.0);
  }
  const float* router = prepared<float>(prepared_layout_.router);
  const float* bias = prepared<float>(prepared_layout_.router_bias);
  float* logits = work<float>(layout_.logits);
  for (int r = row_begin; r < row_end; r += kProjectRows) {
    double sums[kProjectTokens * kProjectRows];
    kernels_.project[count - 1](x, router + r * depth, depth, sums);
    for (int i = 0; i < count * kProjectRows; ++i) {
      const int target = r + i % kProjectRows;
      const std::int64_t index = (token + i / kProjectRows) * prepared_layout_.router_rows + target;
      logits[index] = static_cast<float>(sums[i] + bias[target]);
    }
  }
}

void Chunk::route_tokens() {
  parallel_for((tokens_ + kTokensPerTask - 1) / kTokensPerTask, [&](std::int64_t task, int thread) {
    const std::int64_t end = std::min(tokens_, (task + 1) * kTokensPerTask);
    for (std::int64_t token = task * kTokensPerTask; token < end; ++token) route_one(token, thread);
  });
}

void Chunk::route_one(std::int64_t token, int thread) {
  const int k = config_.top_k, experts = config_.num_experts;
  const float* projected = work<float>(layout_.logits) + token * prepared_layout_.router_rows;
  const float* logits = run_.router_logits.empty() ? projected : rows<float>(run_.router_logits) + token * experts;
  std::int32_t* ids = work<std::int32_t>(layout_.ids) + token * k;
  float* weights = work<float>(layout_.weights) + token * k;
  if (run_.topk_ids.empty()) {
    fast_route_token(config_.routing, logits, prepared<float>(prepared_layout_.selection_bias), experts, k,
                     scratch<std::byte>(thread, scratch_.route), ids, weights);
  } else {
    std::copy_n(rows<std::int32_t>(run_.topk_ids) + token * k, k, ids);
    std::copy_n(rows<float>(run_.topk_weights) + token * k, k, weights);
  }
  float gate = 1.0f;
  if (config_.shared.gated) gate = static_cast<float>(1.0 / (1.0 + std::exp(-static_cast<double>(projected[experts]))));
  work<float>(layout_.gates)[token] = gate;
  if (!run_.logits_out.empty()) std::copy_n(logits, experts, rows<float>(run_.logits_out) + token * experts);
  if (!run_.topk_ids_out.empty()) std::copy_n(ids, k, rows<std::int32_t>(run_.topk_ids_out) + token * k);
  if (!run_.topk_weights_out.empty()) std::copy_n(weights, k, rows<float>(run_.topk_weights_out) + token * k);
}

// Counting sort of pairs by expert, then blocks of at most kBlockPairs.
void Chunk::sort_pairs() {
  const std::int32_t experts = config_.num_experts;
  const std::int32_t pairs = static_cast<std::int32_t>(tokens_ * config_.top_k);
  const std::int32_t* ids = work<std::int32_t>(layout_.ids);
  std::int32_t* starts = work<std::int32_t>(layout_.starts);
  std::int32_t* order = work<std::int32_t>(layout_.order);
  const auto valid = [&](std::int32_t id) { return id >= 0 && id < experts; };
  std::fill_n(starts, experts + 2, 0);
  for (std::int32_t pair = 0; pair < pairs; ++pair) {
    if (valid(ids[pair])) ++starts[ids[pair] + 2];
  }
  for (std::int32_t e = 2; e <= experts + 1; ++e) starts[e] += starts[e - 1];
  // starts[e + 1] is where expert e begins, and moves to its end here, which is where expert e + 1 begins.
  for (std::int32_t pair = 0; pair < pairs; ++pair) {
    if (valid(ids[pair])) order[starts[ids[pair] + 1]++] = pair;
  }
  WorkItem* items = work<WorkItem>(layout_.items);
  num_items_ = 0;
  const auto add_items = [&](std::int32_t expert, std::int32_t begin, std::int32_t end) {
    const std::int64_t blocks = (end - begin + kBlockPairs - 1) / kBlockPairs;
    for (std::int64_t block = 0; block < blocks; ++block) {
      const auto first = static_cast<std::int32_t>(share(end - begin, block, blocks));
      const auto last = static_cast<std::int32_t>(share(end - begin, block + 1, blocks));
      items[num_items_++] = {expert, begin + first, last - first};
    }
  };
  if (has_shared()) add_items(experts, 0, static_cast<std::int32_t>(tokens_));
  for (std::int32_t e = 0; e < experts; ++e) add_items(e, starts[e], starts[e + 1]);
}

// row_of(pair, is_shared): 16-bit input row; finish(pair, is_shared, matrix, panel, bias, sums [32]).
template <typename RowOf, typename Finish>
void Chunk::multiply(bool up, const RowOf& row_of, const Finish& finish) {
  const WorkItem* items = work<WorkItem>(layout_.items);
  // Few items (small batches) are split along the weight rows so that every thread has a share of the weights to read.
  const std::int64_t groups = num_items_ == 0 ? 0 : (8 * max_threads() + num_items_ - 1) / num_items_;
  parallel_for(num_items_ * groups, [&](std::int64_t task, int thread) {
    const WorkItem& item = items[task / groups];
    const bool shared = item.expert == config_.num_experts;
    const PackedExpert& packed = shared ? prepared_layout_.shared_expert : prepared_layout_.expert;
    const std::size_t offset = shared ? prepared_layout_.shared
                                      : prepared_layout_.experts + static_cast<std::size_t>(item.expert) * packed.bytes;
    const PackedMatrix& matrix = up ? packed.up : packed.down;
    const std::int64_t group = task % groups;
    const std::int64_t begin = share(matrix.panels, group, groups), end = share(matrix.panels, group + 1, groups);
    if (begin == end) return;
    multiply_group(item, matrix, prepared<std::byte>(offset), begin, end, thread, row_of, finish);
  });
}

template <typename RowOf, typename Finish>
void Chunk::multiply_group(const WorkItem& item, const PackedMatrix& matrix, const std::byte* expert,
                           std::int64_t panel_begin, std::int64_t panel_end, int thread, const RowOf& row_of,
                           const Finish& finish) {
  const bool shared = item.expert == config_.num_experts;
  const std::int32_t* order = work<std::int32_t>(layout_.order);
  const auto pair_at = [&](std::int64_t i) { return shared ? item.first + i : order[item.first + i]; };
  const std::int64_t tiles = (item.count + kernels_.max_tokens - 1) / kernels_.max_tokens;
  float* packed = scratch<float>(thread, scratch_.tile);
  float* row = scratch<float>(thread, scratch_.row);
  float* sums = scratch<float>(thread, scratch_.sums);
  for (std::int64_t tile = 0; tile < tiles; ++tile) {
    const std::int64_t begin = share(item.count, tile, tiles), size = share(item.count, tile + 1, tiles) - begin;
    float* target = packed + begin * matrix.depth;
    for (std::int64_t t = 0; t < size; ++t) {
      kernels_.widen(row_of(pair_at(begin + t), shared), matrix.depth, prepared_layout_.io, row);
      for (std::int64_t k = 0; k < matrix.depth; ++k) target[k * size + t] = row[k];
    }
  }
  const auto* weights = reinterpret_cast<const std::uint16_t*>(expert + matrix.weights);
  const auto* bias = reinterpret_cast<const float*>(expert + matrix.bias);
  const std::int64_t largest = (item.count + tiles - 1) / tiles;
  const auto& by_panels = kernels_.gemm[static_cast<int>(prepared_layout_.io)];
  int width = kMaxTilePanels;
  while (by_panels[largest - 1][width - 1] == nullptr) --width;
  for (std::int64_t panel = panel_begin; panel < panel_end; panel += width) {
    const std::int64_t panels = std::min<std::int64_t>(width, panel_end - panel);
    for (std::int64_t tile = 0; tile < tiles; ++tile) {
      const std::int64_t begin = share(item.count, tile, tiles), size = share(item.count, tile + 1, tiles) - begin;
      by_panels[size - 1][panels - 1](weights + panel * matrix.depth * kPanelRows, matrix.depth,
                                      packed + begin * matrix.depth, sums);
      for (std::int64_t i = 0; i < panels * size; ++i) {
        const std::int64_t at = panel + i / size;
        finish(pair_at(begin + i % size), shared, matrix, at, bias + at * kPanelRows, sums + i * kPanelRows);
      }
    }
  }
}

// sums [32] of one panel and token become up to 16 (gated) or 32 elements of h.
void Chunk::finish_up(const PackedMatrix& matrix, std::int64_t panel, const float* bias, float scale, float* sums,
                      std::uint16_t* h) const {
  for (int r = 0; r < kPanelRows; ++r) sums[r] = sums[r] * scale + bias[r];
  const int count = matrix.outputs_per_panel;
  float activated[kPanelRows];
  if (!kernels_.activate(activation_, sums, sums + kPanelRows / 2, count, activated)) {
    activate_scalar(activation_, sums, sums + kPanelRows / 2, count, activated);
  }
  const std::int64_t valid = std::min<std::int64_t>(count, matrix.outputs - panel * count);
  kernels_.narrow(activated, valid, prepared_layout_.io, h + panel * count);
}

void Chunk::multiply_up() {
  const float* weights = work<float>(layout_.weights);
  multiply(
      true, [&](std::int64_t pair, bool shared) { return x_row(shared ? pair : pair / config_.top_k); },
      [&](std::int64_t pair, bool shared, const PackedMatrix& matrix, std::int64_t panel, const float* bias,
          float* sums) {
        const float scale = config_.weights_on_input && !shared ? weights[pair] : 1.0f;
        finish_up(matrix, panel, bias, scale, sums,
                  work<std::uint16_t>(shared ? layout_.shared_h : layout_.h) + pair * matrix.outputs);
      });
}

void Chunk::multiply_down() {
  const float* weights = work<float>(layout_.weights);
  const float* gates = work<float>(layout_.gates);
  multiply(
      false,
      [&](std::int64_t pair, bool shared) {
        const std::int64_t size = shared ? config_.shared.intermediate : config_.intermediate;
        return work<std::uint16_t>(shared ? layout_.shared_h : layout_.h) + pair * size;
      },
      [&](std::int64_t pair, bool shared, const PackedMatrix& matrix, std::int64_t panel, const float* bias,
          const float* sums) {
        const float scale = shared ? gates[pair] : config_.weights_on_input ? 1.0f : weights[pair];
        float* y = work<float>(shared ? layout_.shared_y : layout_.y) + pair * matrix.outputs + panel * kPanelRows;
        const std::int64_t valid = std::min<std::int64_t>(kPanelRows, matrix.outputs - panel * kPanelRows);
        for (std::int64_t r = 0; r < valid; ++r) y[r] = (sums[r] + bias[r]) * scale;
      });
}

void Chunk::combine() {
  parallel_for((tokens_ + kTokensPerTask - 1) / kTokensPerTask, [&](std::int64_t task, int thread) {
    const std::int64_t end = std::min(tokens_, (task + 1) * kTokensPerTask);
    float* sum = scratch<float>(thread, scratch_.row);
    for (std::int64_t token = task * kTokensPerTask; token < end; ++token) combine_one(token, sum);
  });
}

void Chunk::combine_one(std::int64_t token, float* sum) {
  const std::int64_t hidden = config_.hidden;
  const std::int32_t* ids = work<std::int32_t>(layout_.ids) + token * config_.top_k;
  std::fill_n(sum, hidden, 0.0f);
  for (int slot = 0; slot < config_.top_k; ++slot) {
    if (ids[slot] < 0 || ids[slot] >= config_.num_experts) continue;
    const float* y = work<float>(layout_.y) + (token * config_.top_k + slot) * hidden;
    for (std::int64_t j = 0; j < hidden; ++j) sum[j] += y[j];
  }
  if (has_shared()) {
    const float* y = work<float>(layout_.shared_y) + token * hidden;
    for (std::int64_t j = 0; j < hidden; ++j) sum[j] += y[j];
  }
  if (run_.out.dtype == DType::kF32) {
    std::copy_n(sum, hidden, rows<float>(run_.out) + token * hidden);
  } else {
    kernels_.narrow(sum, hidden, prepared_layout_.io, rows<std::uint16_t>(run_.out) + token * hidden);
  }
}

void check_memory(const MoeConfig& config, const MoeRun& run) {
  const PreparedHeader header = prepared_header(config);
  const bool aligned = reinterpret_cast<std::uintptr_t>(run.prepared) % 64 == 0;
  if (run.prepared == nullptr || !aligned || std::memcmp(run.prepared, &header, sizeof(header)) != 0) {
    throw Error(ErrorKind::kInvalidArgument,
                "run on the CPU: prepared is null, not aligned to 256 bytes, or not what prepare wrote for this "
                "configuration");
  }
  const std::size_t wanted = workspace_layout(config, run.x.shape[0]).bytes;
  if (run.workspace == nullptr || reinterpret_cast<std::uintptr_t>(run.workspace) % 64 != 0 ||
      run.workspace_bytes < wanted) {
    throw Error(ErrorKind::kInvalidArgument,
                fmt::format("run on the CPU: workspace is {} of {} bytes, wanted {} bytes at a multiple of 256",
                            run.workspace == nullptr ? "null" : "memory", run.workspace_bytes, wanted));
  }
}

}  // namespace

std::size_t fast_workspace_bytes(const MoeConfig& config, std::int64_t tokens) {
  if (tokens < 0 || tokens > config.max_tokens) {
    throw Error(ErrorKind::kInvalidArgument,
                fmt::format("workspace_bytes: tokens is {}, wanted 0 to max_tokens = {}", tokens, config.max_tokens));
  }
  return workspace_layout(config, tokens).bytes;
}

void fast_run(const MoeConfig& config, const MoeRun& run) {
  const DType io = config.recipe == "fp16" ? DType::kF16 : DType::kBF16;
  const DType x_types[] = {io}, out_types[] = {io, DType::kF32};
  check_run("run on the CPU", config, run, x_types, out_types);
  const std::int64_t tokens = run.x.shape[0];
  if (tokens > config.max_tokens) {
    throw Error(
        ErrorKind::kInvalidArgument,
        fmt::format("run on the CPU: x has {} tokens, wanted at most max_tokens = {}", tokens, config.max_tokens));
  }
  if (tokens == 0) return;
  check_memory(config, run);
  for (std::int64_t first = 0; first < tokens; first += kChunkTokens) {
    Chunk(config, run, first, std::min(kChunkTokens, tokens - first)).execute();
  }
}

const char* fast_target() noexcept { return fast_kernels().name; }

}  // namespace moesaic::cpu
