// SPDX-License-Identifier: Apache-2.0
// Gemm on a GPU: plans once, loads every kernel that a plan can ask for, then only launches.
#include <fmt/format.h>

#include <algorithm>

#include "backend_cuda/device.h"
#include "backend_cuda/kernel.h"
#include "kernels/abi/params.h"
#include "kernels/abi/quant_params.h"
#include "ops/cuda_gemm_launch.h"
#include "ops/cuda_operand.h"
#include "ops/cuda_prepare.h"
#include "ops/cuda_serve.h"
#include "ops/gemm_impl.h"
#include "plan/gemm_plan.h"
#include "tables/quant_table.h"

namespace moesaic::ops {
namespace {

using plan::Choice;

/// The launches of one run.
class Launches {
 public:
  Launches(const GemmConfig& config, const plan::GemmLayout& layout, const abi::KernelConfig& gemm, const GemmRun& run,
           int sm_count, void* stream)
      : c_(config),
        p_(layout),
        gemm_(gemm),
        run_(run),
        chain_(stream),
        sm_count_(sm_count),
        rows_(static_cast<int>(run.x.shape[0])),
        w_(plan::gemm_space(config, rows_, gemm.tile_tokens)) {}

  /// Tiles of the groups' rows.
  void dispatch(const cuda::Kernel& kernel, const abi::KernelConfig& config) const {
    abi::RouteParams p{};
    p.expert_offsets = static_cast<const int*>(run_.group_offsets.data);
    p.expert_counts = static_cast<const int*>(run_.group_counts.data);
    p.rows_per_expert = rows_ / c_.groups;
    p.tiles = work<abi::Tile>(w_.tiles);
    p.num_tiles = work<int>(w_.num_tiles);
    p.tokens = rows_;
    p.num_experts = c_.groups;
    p.held_experts = c_.groups;
    p.top_k = 1;
    p.tile_tokens = gemm_.tile_tokens;
    p.tile_slack = gemm_.tile_slack;
    p.narrow_rows = abi::narrow_rows(gemm_);
    chain_.launch(kernel, {1}, abi::threads(config), p);
  }

  /// x, numbers or codes, as the operand of the product.
  void make_operand(const cuda::Kernel& kernel, const abi::KernelConfig& config) const {
    abi::OperandParams p = gives_codes(run_) ? given_rows() : numbers();
    p.operand = work<void>(w_.operand.values);
    p.token_scale = by_block() ? nullptr : work<float>(w_.operand.token_scale);
    p.token_block_scale = by_block() ? work<float>(w_.operand.token_block_scale) : nullptr;
    p.stride = stride();
    if (has_groups(run_)) {
      p.tiles = work<abi::Tile>(w_.tiles);
      p.num_tiles = work<int>(w_.num_tiles);
    }
    chain_.launch(kernel, {static_cast<unsigned>(rows_)}, abi::threads(config), p);
  }

  void multiply(const cuda::Kernel& kernel, bool quantised) const {
    abi::GemmParams p{};
    set_weights(p_.form, p_.matrix, run_.prepared, c_.k, p);
    p.row_blocks = abi::gate_up_blocks(c_.n, false);
    p.activations = quantised ? work<void>(w_.operand.values) : run_.x.data;
    p.token_scale = quantised && !by_block() ? work<float>(w_.operand.token_scale) : nullptr;
    p.token_block_scale = quantised && by_block() ? work<float>(w_.operand.token_block_scale) : nullptr;
    p.k = quantised ? stride() : c_.k;
    p.activation_stride = p.k;
    p.activation_rows = rows_;
    if (has_groups(run_)) {
      p.tiles = work<abi::Tile>(w_.tiles);
      p.num_tiles = work<int>(w_.num_tiles);
      p.claimed = work<int>(w_.num_tiles) + abi::claimed_at(1);
    }
    p.rows = rows_;
    p.epilogue = abi::kEpilogueRows;
    p.out_alpha = run_.alpha;
    p.out = run_.out.data;
    p.out_type = source_type(run_.out.dtype);
    p.out_cols = c_.n;
    p.out_stride = c_.n;
    launch_gemm(chain_, kernel, gemm_, p, {rows_ / c_.groups, w_.max_tiles}, sm_count_);
  }

 private:
  template <typename T>
  T* work(std::size_t offset) const {
    return reinterpret_cast<T*>(static_cast<char*>(run_.workspace) + offset);
  }
  bool by_block() const { return p_.form.block_scale == abi::kScaleFloat; }
  /// Elements between rows of the operand, zero beyond k.
  int stride() const { return abi::round_up(c_.k, 8); }

  abi::OperandParams numbers() const {
    const OperandRows rows{run_.x.data, run_.x.dtype, c_.k, rows_, c_.k};
    abi::OperandParams p = operand_params(c_.recipe, rows, static_cast<const float*>(run_.input_scale.data));
    if (c_.e5m2) p.format = abi::kQuantMxfp8E5m2;
    return p;
  }
  abi::OperandParams given_rows() const {
    const tables::GivenCodes form = tables::given_codes(c_.recipe, rows_, c_.k, c_.e5m2).value();
    abi::OperandParams p = given_operand_params(form, run_.x, run_.x_scale, run_.x_row_scale, c_.k);
    if (run_.scale_major == ScaleMajor::kMn) {
      p.given_row_stride = 1;
      p.given_col_stride = rows_;
    }
    return p;
  }

  const GemmConfig& c_;
  const plan::GemmLayout& p_;
  const abi::KernelConfig& gemm_;
  const GemmRun& run_;
  mutable cuda::LaunchChain chain_;
  int sm_count_, rows_;
  plan::GemmSpace w_;
};

class CudaGemm final : public GemmImpl {
 public:
  CudaGemm(const GemmConfig& config, const ModuleOptions& modules)
      : config_(config), layout_(plan::gemm_layout(config)) {
    const cuda::DeviceInfo info = cuda::device_info(config.device.index);
    const Served served = serve(info.sm, modules);
    sm_count_ = info.sm_count;
    ranges_ = plan::gemm_ranges(config, served.arch, rates_of(info), served.force_kernel);
    preparation_ = plan::plan_gemm_preparation(config, served.arch);
    std::vector<Choice> wanted = {preparation_.matrix, preparation_.vector};
    for (const plan::GemmRange& range : ranges_) {
      const std::vector<Choice> used = range.steps.all();
      wanted.insert(wanted.end(), used.begin(), used.end());
    }
    kernels_.load(wanted, served, config.device, modules);
  }

  std::size_t prepared_bytes() const noexcept override { return layout_.total; }
  std::size_t workspace_bytes(std::int64_t rows) const override { return plan::gemm_workspace_bytes(config_, rows); }

  void prepare(std::span<const GemmWeights> weights, void* prepared, void* stream) const override {
    const cuda::DeviceGuard guard(config_.device.index);
    for (std::size_t g = 0; g < weights.size(); ++g) {
      check_group_scales("gemm", config_.int4, fmt::format("weights[{}].w", g), weights[g].w);
    }
    for (std::size_t g = 0; g < weights.size(); ++g) {
      const plan::MatrixParts parts = layout_.matrix.share(g, weights.size());
      char* memory = static_cast<char*>(prepared);
      prepare_matrix(layout_.form, parts, weights[g].w, {}, prepare_kernel(preparation_.matrix), memory, stream);
      prepare_bias(parts, weights[g].bias, {}, false, prepare_kernel(preparation_.vector), memory, stream);
    }
  }

  void run(const GemmRun& run, void* stream) const override {
    const plan::GemmSteps& s = steps(run.x.shape[0]);
    const cuda::DeviceGuard guard(config_.device.index);
    const Launches launches(config_, layout_, s.gemm.config(), run, sm_count_, stream);
    if (has_groups(run)) launches.dispatch(kernels_.at(s.dispatch), s.dispatch.config());
    const bool quantised = s.operand.row != nullptr;
    if (quantised) launches.make_operand(kernels_.at(s.operand), s.operand.config());
    launches.multiply(kernels_.at(s.gemm), quantised);
  }

  std::vector<std::string> kernels(std::int64_t rows) const override {
    std::vector<std::string> names;
    for (const Choice& c : steps(rows).all()) {
      if (config_.groups == 1 && c.row->op == tables::Op::kRouting) continue;
      names.push_back(fmt::format("{}/{}", c.row->name, tables::config_name(*c.row, c.config())));
    }
    return names;
  }

 private:
  PrepareKernel prepare_kernel(const Choice& c) const { return {&kernels_.at(c), abi::threads(c.config())}; }

  const plan::GemmSteps& steps(std::int64_t rows) const {
    const auto range = std::lower_bound(ranges_.begin(), ranges_.end(), rows,
                                        [](const plan::GemmRange& r, std::int64_t n) { return r.last_rows < n; });
    return range == ranges_.end() ? ranges_.back().steps : range->steps;
  }

  GemmConfig config_;
  plan::GemmLayout layout_;
  std::vector<plan::GemmRange> ranges_;
  plan::GemmPreparation preparation_;
  int sm_count_ = 0;
  LoadedKernels kernels_;
};

}  // namespace

std::unique_ptr<GemmImpl> make_cuda_gemm(const GemmConfig& config, const ModuleOptions& modules) {
  return std::make_unique<CudaGemm>(config, modules);
}

}  // namespace moesaic::ops
