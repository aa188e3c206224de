// SPDX-License-Identifier: Apache-2.0
// One run of the fast path: project and route, round x, sort pairs by expert, GEMM 1 with activation, round h, GEMM 2,
// weighted sum. Rounded activations are fp32 numbers that hold what the recipe's activation format is worth.
//
// Each result element is summed in an order that depends on nothing but its own K: a token's output is bit for bit the
// same whatever other tokens are in the batch and however many threads run (within one instruction set).
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <string>

#include "backend_cpu/arguments.h"
#include "backend_cpu/backend_cpu.h"
#include "backend_cpu/fast_activation.h"
#include "backend_cpu/fast_kernels.h"
#include "backend_cpu/fast_layout.h"
#include "backend_cpu/fast_round.h"
#include "backend_cpu/fast_routing.h"
#include "backend_cpu/fast_threads.h"
#include "plan/moe_plan.h"
#include "tables/recipe_table.h"

namespace moesaic::cpu {
namespace {

constexpr int kProjectTaskRows = 32;
constexpr std::int64_t kTokensPerTask = 8;
constexpr std::int64_t kRowsPerTask = 10;

// Where tile `tile` of `tiles` begins when `count` rows are dealt out evenly.
std::int64_t share(std::int64_t count, std::int64_t tile, std::int64_t tiles) { return count * tile / tiles; }

// One packed matrix in memory.
struct Operand {
  const PanelFormat& format;
  const PackedMatrix& matrix;
  const std::byte* expert;

  // Panels from `index` on.
  PanelView panels(std::int64_t index) const {
    const auto at = static_cast<std::size_t>(index);
    PanelView view;
    view.codes = expert + matrix.codes + at * matrix.panel_codes;
    view.scales = expert + matrix.scales + at * matrix.panel_scales;
    if (format.zeros) {
      view.zeros = reinterpret_cast<const std::int8_t*>(expert + matrix.zeros + at * matrix.panel_zeros);
    }
    view.depth = matrix.stored_depth;
    view.block = format.block == 0 ? matrix.stored_depth : format.block;
    view.code_stride = static_cast<std::int64_t>(matrix.panel_codes);
    view.blocks = matrix.blocks;
    view.scale = format.scale;
    return view;
  }
};

// [32] numbers of one panel's rows.
struct PanelRows {
  const float *multipliers, *bias;
};

// How one set of experts rounds its activations; no spec: to the 16-bit type of x.
struct Rounding {
  std::optional<QuantSpec> spec;
  float input_scale = 0.0f, down_input_scale = 0.0f;  // static, 0: none

  Rounding(const std::string& recipe, float input, float down_input)
      : spec(activation_spec(recipe, input != 0.0f && down_input != 0.0f)),
        input_scale(input),
        down_input_scale(down_input) {}

  // Whether x comes out the same.
  bool same_input(const Rounding& other) const {
    if (!spec || !other.spec) return spec.has_value() == other.spec.has_value();
    return spec->format == other.spec->format && input_scale == other.input_scale;
  }
};

// A run on tokens [first, first + tokens) of the batch.
class Chunk {
 public:
  // `stored`: the configuration that the weights were prepared for; `config` can be its form for dispatched rows.
  Chunk(const MoeConfig& config, const MoeConfig& stored, const MoeRun& run, std::int64_t first, std::int64_t tokens)
      : config_(config),
        run_(run),
        kernels_(fast_kernels()),
        prepared_layout_(prepared_layout(stored)),
        layout_(workspace_layout(config, run.x.shape[0])),
        scratch_(thread_scratch(config)),
        static_scales_(*prepared<StaticScales>(prepared_layout_.static_scales)),
        rounding_(config.recipe, static_scales_.input, static_scales_.down_input),
        shared_rounding_(shared_recipe(config), static_scales_.shared_input, static_scales_.shared_down_input),
        activation_(fast_activation(config.activation)),
        gated_(is_gated(config.activation.kind)),
        held_(num_local_experts(config)),
        first_(first),
        tokens_(tokens) {}

  void execute() {
    project_tokens();
    route_tokens();
    round_input();
    sort_pairs();
    multiply_up();
    round_hidden();
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
  // Index among the experts held, -1: not one of them.
  std::int32_t local_slot(std::int32_t id) const {
    if (id < 0 || id >= config_.num_experts) return -1;
    if (!config_.experts.slots.empty()) return config_.experts.slots[static_cast<std::size_t>(id)];
    const std::int32_t slot = id - config_.experts.first;
    return slot >= 0 && slot < held_ ? slot : -1;
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
  std::int32_t dispatched_expert(std::int64_t row) const;
  void choose(std::int64_t token, const float* logits, int thread, std::int32_t* ids, float* weights) const;
  void round_input();
  void round_hidden();
  void round_in_place(const Rounding& rounding, float scale, float* row, std::int64_t size, int thread) const;
  const float* input_rows(bool shared) const {
    return work<float>(shared && shared_input_apart() ? layout_.shared_x : layout_.x);
  }
  // Codes are worth the same to all experts.
  bool shared_input_apart() const {
    return has_shared() && !gives_codes(run_) && !rounding_.same_input(shared_rounding_);
  }
  void sort_pairs();
  void multiply_up();
  void multiply_down();
  void combine();
  void combine_one(std::int64_t token, float* sum);

  template <typename RowOf, typename Finish>
  void multiply(bool up, const RowOf& row_of, const Finish& finish);
  template <typename RowOf, typename Finish>
  void multiply_group(const WorkItem& item, const Operand& weights, std::int64_t panel_begin, std::int64_t panel_end,
                      int thread, const RowOf& row_of, const Finish& finish);
  void finish_up(const PackedMatrix& matrix, std::int64_t panel, const PanelRows& rows, float scale, float* sums,
                 float* h) const;

  const MoeConfig& config_;
  const MoeRun& run_;
  const FastKernels& kernels_;
  const PreparedLayout prepared_layout_;
  const WorkspaceLayout layout_;
  const ThreadScratch scratch_;
  const StaticScales static_scales_;
  const Rounding rounding_, shared_rounding_;
  const FastActivation activation_;
  const bool gated_;
  const std::int32_t held_;
  const std::int64_t first_, tokens_;
  std::int64_t num_items_ = 0;
};

void Chunk::project_tokens() {
  const bool router = !is_dispatched(run_) && needs_logits(run_) && run_.router_logits.empty();
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
  if (is_dispatched(run_)) {
    ids[0] = dispatched_expert(first_ + token);
    weights[0] = 1.0f;
    return;
  }
  choose(token, logits, thread, ids, weights);
  float gate = 1.0f;
  if (config_.shared.gated) gate = static_cast<float>(1.0 / (1.0 + std::exp(-static_cast<double>(projected[experts]))));
  work<float>(layout_.gates)[token] = gate;
  if (!run_.logits_out.empty()) std::copy_n(logits, experts, rows<float>(run_.logits_out) + token * experts);
  if (!run_.topk_ids_out.empty()) std::copy_n(ids, k, rows<std::int32_t>(run_.topk_ids_out) + token * k);
  if (!run_.topk_weights_out.empty()) std::copy_n(weights, k, rows<float>(run_.topk_weights_out) + token * k);
  for (int slot = 0; slot < k; ++slot) ids[slot] = local_slot(ids[slot]);
}

std::int32_t Chunk::dispatched_expert(std::int64_t row) const {
  if (!run_.expert_counts.empty()) {
    const std::int64_t rows_per_expert = run_.x.shape[0] / held_;
    const auto* counts = static_cast<const std::int32_t*>(run_.expert_counts.data);
    const std::int64_t expert = row / rows_per_expert;
    return row % rows_per_expert < counts[expert] ? static_cast<std::int32_t>(expert) : -1;
  }
  const auto* offsets = static_cast<const std::int32_t*>(run_.expert_offsets.data);
  if (row >= offsets[held_]) return -1;
  return static_cast<std::int32_t>(std::upper_bound(offsets, offsets + held_, row) - offsets) - 1;
}

void Chunk::choose(std::int64_t token, const float* logits, int thread, std::int32_t* ids, float* weights) const {
  const int k = config_.top_k, experts = config_.num_experts;
  if (!run_.topk_ids.empty()) {
    std::copy_n(rows<std::int32_t>(run_.topk_ids) + token * k, k, ids);
    std::copy_n(rows<float>(run_.topk_weights) + token * k, k, weights);
    return;
  }
  if (config_.routing.method != RoutingMethod::kHash) {
    fast_route_token(config_.routing, logits, prepared<float>(prepared_layout_.selection_bias), experts, k,
                     scratch<std::byte>(thread, scratch_.route), ids, weights);
    return;
  }
  const std::int64_t index = first_ + token;
  const std::int64_t id = run_.token_ids.dtype == DType::kI64
                              ? static_cast<const std::int64_t*>(run_.token_ids.data)[index]
                              : static_cast<const std::int32_t*>(run_.token_ids.data)[index];
  const bool known = id >= 0 && id < config_.routing.vocabulary;
  const std::int32_t* listed = known ? prepared<std::int32_t>(prepared_layout_.token_experts) + id * k : nullptr;
  fast_route_listed(config_.routing, logits, listed, experts, k, ids, weights);
}

void Chunk::round_in_place(const Rounding& rounding, float scale, float* row, std::int64_t size, int thread) const {
  if (rounding.spec) {
    round_row(kernels_, *rounding.spec, scale, row, size, scratch<std::uint8_t>(thread, scratch_.codes));
    return;
  }
  auto* bits = scratch<std::uint16_t>(thread, scratch_.codes);
  kernels_.narrow(row, size, prepared_layout_.io, bits);
  kernels_.widen(bits, size, prepared_layout_.io, row);
}

// Once a token, not once for every expert that reads it.
void Chunk::round_input() {
  const std::int64_t hidden = config_.hidden;
  const bool apart = shared_input_apart();
  parallel_for(tokens_, [&](std::int64_t token, int thread) {
    if (gives_codes(run_)) {
      decode_given_row(config_.recipe, run_, first_ + token, hidden, work<float>(layout_.x) + token * hidden);
      return;
    }
    for (const bool shared : {false, true}) {
      if (shared && !apart) continue;
      float* row = work<float>(shared ? layout_.shared_x : layout_.x) + token * hidden;
      const Rounding& rounding = shared ? shared_rounding_ : rounding_;
      kernels_.widen(x_row(token), hidden, prepared_layout_.io, row);
      if (rounding.spec) round_in_place(rounding, rounding.input_scale, row, hidden, thread);
    }
  });
}

void Chunk::round_hidden() {
  const std::int64_t pairs = tokens_ * config_.top_k;
  const std::int32_t* ids = work<std::int32_t>(layout_.ids);
  const auto round_one = [&](std::int64_t index, int thread) {
    const bool shared = index >= pairs;
    if (!shared && ids[index] < 0) return;  // nothing was written
    const Rounding& rounding = shared ? shared_rounding_ : rounding_;
    const std::int64_t size = shared ? config_.shared.intermediate : config_.intermediate;
    float* row = work<float>(shared ? layout_.shared_h : layout_.h) + (shared ? index - pairs : index) * size;
    round_in_place(rounding, rounding.down_input_scale, row, size, thread);
  };
  // Tasks of several rows: one row is less work than waking a thread.
  const std::int64_t count = pairs + (has_shared() ? tokens_ : 0);
  parallel_for((count + kRowsPerTask - 1) / kRowsPerTask, [&](std::int64_t task, int thread) {
    const std::int64_t end = std::min(count, (task + 1) * kRowsPerTask);
    for (std::int64_t index = task * kRowsPerTask; index < end; ++index) round_one(index, thread);
  });
}

// Counting sort of pairs by expert, then blocks of at most kBlockPairs.
void Chunk::sort_pairs() {
  const std::int32_t experts = held_;
  const std::int32_t pairs = static_cast<std::int32_t>(tokens_ * config_.top_k);
  const std::int32_t* ids = work<std::int32_t>(layout_.ids);
  std::int32_t* starts = work<std::int32_t>(layout_.starts);
  std::int32_t* order = work<std::int32_t>(layout_.order);
  std::fill_n(starts, experts + 2, 0);
  for (std::int32_t pair = 0; pair < pairs; ++pair) {
    if (ids[pair] >= 0) ++starts[ids[pair] + 2];
  }
  for (std::int32_t e = 2; e <= experts + 1; ++e) starts[e] += starts[e - 1];
  // starts[e + 1] is where expert e begins, and moves to its end here, which is where expert e + 1 begins.
  for (std::int32_t pair = 0; pair < pairs; ++pair) {
    if (ids[pair] >= 0) order[starts[ids[pair] + 1]++] = pair;
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

// row_of(pair, is_shared): input row; finish(pair, is_shared, matrix, panel, rows of the panel, sums [32]).
template <typename RowOf, typename Finish>
void Chunk::multiply(bool up, const RowOf& row_of, const Finish& finish) {
  const WorkItem* items = work<WorkItem>(layout_.items);
  // Few items (small batches) are split along the weight rows so that every thread has a share of the weights to read.
  const std::int64_t groups = num_items_ == 0 ? 0 : (8 * max_threads() + num_items_ - 1) / num_items_;
  parallel_for(num_items_ * groups, [&](std::int64_t task, int thread) {
    const WorkItem& item = items[task / groups];
    const bool shared = item.expert == held_;
    const PackedExpert& packed = shared ? prepared_layout_.shared_expert : prepared_layout_.expert;
    const std::size_t offset = shared ? prepared_layout_.shared
                                      : prepared_layout_.experts + static_cast<std::size_t>(item.expert) * packed.bytes;
    const Operand weights{packed.format, up ? packed.up : packed.down, prepared<std::byte>(offset)};
    const std::int64_t group = task % groups, panels = weights.matrix.panels;
    const std::int64_t begin = share(panels, group, groups), end = share(panels, group + 1, groups);
    if (begin == end) return;
    multiply_group(item, weights, begin, end, thread, row_of, finish);
  });
}

template <typename RowOf, typename Finish>
void Chunk::multiply_group(const WorkItem& item, const Operand& weights, std::int64_t panel_begin,
                           std::int64_t panel_end, int thread, const RowOf& row_of, const Finish& finish) {
  const PackedMatrix& matrix = weights.matrix;
  const bool shared = item.expert == held_;
  const std::int32_t* order = work<std::int32_t>(layout_.order);
  const auto pair_at = [&](std::int64_t i) { return shared ? item.first + i : order[item.first + i]; };
  const std::int64_t tiles = (item.count + kernels_.max_tokens - 1) / kernels_.max_tokens;
  float* packed = scratch<float>(thread, scratch_.tile);
  float* sums = scratch<float>(thread, scratch_.sums);
  for (std::int64_t tile = 0; tile < tiles; ++tile) {
    const std::int64_t begin = share(item.count, tile, tiles), size = share(item.count, tile + 1, tiles) - begin;
    float* target = packed + begin * matrix.stored_depth;
    for (std::int64_t t = 0; t < size; ++t) {
      const float* row = row_of(pair_at(begin + t), shared);
      for (std::int64_t k = 0; k < matrix.depth; ++k) target[k * size + t] = row[k];
    }
    std::fill(target + matrix.depth * size, target + matrix.stored_depth * size, 0.0f);
  }
  const auto* multipliers = reinterpret_cast<const float*>(weights.expert + matrix.multipliers);
  const auto* bias = reinterpret_cast<const float*>(weights.expert + matrix.bias);
  const std::int64_t largest = (item.count + tiles - 1) / tiles;
  const auto& by_panels = kernels_.gemm[static_cast<int>(weights.format.codes)]->tile;
  int width = kMaxTilePanels;
  while (by_panels[largest - 1][width - 1] == nullptr) --width;
  for (std::int64_t panel = panel_begin; panel < panel_end; panel += width) {
    const std::int64_t panels = std::min<std::int64_t>(width, panel_end - panel);
    const PanelView view = weights.panels(panel);
    for (std::int64_t tile = 0; tile < tiles; ++tile) {
      const std::int64_t begin = share(item.count, tile, tiles), size = share(item.count, tile + 1, tiles) - begin;
      by_panels[size - 1][panels - 1](view, packed + begin * matrix.stored_depth, sums);
      for (std::int64_t i = 0; i < panels * size; ++i) {
        const std::int64_t at = panel + i / size;
        const PanelRows rows{multipliers + at * kPanelRows, bias + at * kPanelRows};
        finish(pair_at(begin + i % size), shared, matrix, at, rows, sums + i * kPanelRows);
      }
    }
  }
}

// sums [32] of one panel and token become up to 16 (gated) or 32 elements of h.
void Chunk::finish_up(const PackedMatrix& matrix, std::int64_t panel, const PanelRows& rows, float scale, float* sums,
                      float* h) const {
  for (int r = 0; r < kPanelRows; ++r) sums[r] = sums[r] * rows.multipliers[r] * scale + rows.bias[r];
  const int count = matrix.outputs_per_panel;
  float activated[kPanelRows];
  if (!kernels_.activate(activation_, sums, sums + kPanelRows / 2, count, activated)) {
    activate_scalar(activation_, sums, sums + kPanelRows / 2, count, activated);
  }
  const std::int64_t valid = std::min<std::int64_t>(count, matrix.outputs - panel * count);
  std::copy_n(activated, valid, h + panel * count);
}

void Chunk::multiply_up() {
  const float* weights = work<float>(layout_.weights);
  const float *x = input_rows(false), *shared_x = input_rows(true);
  multiply(
      true,
      [&](std::int64_t pair, bool shared) {
        return shared ? shared_x + pair * config_.hidden : x + pair / config_.top_k * config_.hidden;
      },
      [&](std::int64_t pair, bool shared, const PackedMatrix& matrix, std::int64_t panel, const PanelRows& rows,
          float* sums) {
        const float scale = config_.weights_on_input && !shared ? weights[pair] : 1.0f;
        finish_up(matrix, panel, rows, scale, sums,
                  work<float>(shared ? layout_.shared_h : layout_.h) + pair * matrix.outputs);
      });
}

void Chunk::multiply_down() {
  const float* weights = work<float>(layout_.weights);
  const float* gates = work<float>(layout_.gates);
  multiply(
      false,
      [&](std::int64_t pair, bool shared) -> const float* {
        const std::int64_t size = shared ? config_.shared.intermediate : config_.intermediate;
        return work<float>(shared ? layout_.shared_h : layout_.h) + pair * size;
      },
      [&](std::int64_t pair, bool shared, const PackedMatrix& matrix, std::int64_t panel, const PanelRows& rows,
          const float* sums) {
        const float scale = shared ? gates[pair] : config_.weights_on_input ? 1.0f : weights[pair];
        float* y = work<float>(shared ? layout_.shared_y : layout_.y) + pair * matrix.outputs + panel * kPanelRows;
        const std::int64_t valid = std::min<std::int64_t>(kPanelRows, matrix.outputs - panel * kPanelRows);
        for (std::int64_t r = 0; r < valid; ++r) y[r] = (sums[r] * rows.multipliers[r] + rows.bias[r]) * scale;
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
    if (ids[slot] < 0) continue;
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

void check_memory(const MoeConfig& config, const MoeConfig& prepared, const MoeRun& run) {
  fast_check_prepared("run on the CPU", prepared, run.prepared);
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
  const DType io = tables::get_recipe(config.recipe).io;
  const DType x_types[] = {io}, out_types[] = {io, DType::kF32};
  check_run("run on the CPU", config, run, x_types, out_types);
  const std::int64_t tokens = run.x.shape[0];
  if (tokens > config.max_tokens) {
    throw Error(
        ErrorKind::kInvalidArgument,
        fmt::format("run on the CPU: x has {} tokens, wanted at most max_tokens = {}", tokens, config.max_tokens));
  }
  if (tokens == 0) return;
  check_memory(config, config, run);
  for (std::int64_t first = 0; first < tokens; first += kChunkTokens) {
    Chunk(config, config, run, first, std::min(kChunkTokens, tokens - first)).execute();
  }
}

void fast_run_dispatched(const MoeConfig& config, const MoeRun& run) {
  const MoeConfig rows = plan::dispatched_config(config);
  const std::int64_t count = run.x.shape[0];
  check_memory(rows, config, run);
  for (std::int64_t first = 0; first < count; first += kChunkTokens) {
    Chunk(rows, config, run, first, std::min(kChunkTokens, count - first)).execute();
  }
}

const char* fast_target() noexcept { return fast_kernels().name; }

}  // namespace moesaic::cpu
