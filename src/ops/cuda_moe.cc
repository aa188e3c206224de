// SPDX-License-Identifier: Apache-2.0
// The layer on a GPU: plans once, loads every kernel that a plan can ask for, then only launches.
#include <fmt/format.h>

#include <algorithm>

#include "backend_cuda/device.h"
#include "backend_cuda/device_memory.h"
#include "backend_cuda/kernel.h"
#include "kernels/abi/params.h"
#include "ops/cuda_gemm_launch.h"
#include "ops/cuda_operand.h"
#include "ops/cuda_prepare.h"
#include "ops/cuda_serve.h"
#include "ops/moe_impl.h"
#include "plan/moe_plan.h"
#include "plan/prepare_plan.h"
#include "tables/quant_table.h"
#include "tables/recipe_table.h"

namespace moesaic::ops {
namespace {

using plan::Choice;

int code(ActivationKind kind) { return static_cast<int>(kind); }

void set_activation(const Activation& a, abi::GemmParams& p) {
  const ActivationParameters parameters = activation_parameters(a);
  p.activation = code(a.kind);
  p.gated = is_gated(a.kind) ? 1 : 0;
  p.alpha = parameters.alpha;
  p.beta = parameters.beta;
  p.limit = parameters.limit;
}

// The kernels' numbers (kernels/common/select_experts.cuh, activation.cuh) are those of moe.h.
static_assert(static_cast<int>(RoutingMethod::kSoftmaxTopK) == 0 &&
              static_cast<int>(RoutingMethod::kTopKSoftmax) == 2 && static_cast<int>(RoutingMethod::kDeepSeekV3) == 3 &&
              static_cast<int>(RoutingMethod::kDeepSeekV2) == 4 && static_cast<int>(RoutingMethod::kLlama4) == 5 &&
              static_cast<int>(RoutingMethod::kSigmoid) == 7 && static_cast<int>(RoutingMethod::kMiniMax2) == 8 &&
              static_cast<int>(RoutingMethod::kHash) == 9);
static_assert(static_cast<int>(ActivationKind::kSitu) == 10 && static_cast<int>(ActivationKind::kSwigluBias) == 5);

class Launches;

class CudaMoe final : public MoeImpl {
 public:
  CudaMoe(const MoeConfig& config, const ModuleOptions& modules)
      : config_(planned_config(config)),
        dispatched_config_(plan::dispatched_config(config_)),
        layout_(plan::prepared_layout(config)),
        quantised_(tables::quantises_activations(tables::get_recipe(config.recipe))),
        has_shared_gemms_(plan::has_shared_gemms(config)),
        shared_quantised_(has_shared_gemms_ &&
                          tables::quantises_activations(tables::get_recipe(tables::shared_recipe(config)))) {
    const cuda::DeviceInfo info = cuda::device_info(config.device.index);
    const Served served = serve(info.sm, modules);
    sm_count_ = info.sm_count;
    ranges_ = plan::plan_ranges(config_, served.arch, rates_of(info), served.force_kernel);
    prepare_plan_ = plan::plan_preparation(config, served.arch);
    dispatched_ = plan::plan_dispatched(config, served.arch, served.force_kernel);
    load_kernels(served, modules);
  }

  std::size_t prepared_bytes() const noexcept override { return layout_.total; }
  std::size_t workspace_bytes(std::int64_t tokens) const override { return plan::workspace_bytes(config_, tokens); }

  void prepare(const MoeWeights& weights, void* prepared, void* stream) const override {
    const cuda::DeviceGuard guard(config_.device.index);
    prepare_weights(config_, layout_, weights, prepare_kernels(), static_cast<char*>(prepared), stream);
  }
  void prepare_expert(int expert, const ExpertWeights& weights, void* prepared, void* stream) const override {
    check_prepared("fused_moe", prepared);
    const cuda::DeviceGuard guard(config_.device.index);
    prepare_expert_weights(config_, layout_, expert, weights, prepare_kernels(), static_cast<char*>(prepared), stream);
  }

  std::string prepared_layout() const override {
    return fmt::format("cuda {} {} {} of module ABI {}{}", prepare_plan_.matrix.row->name,
                       prepare_plan_.vector.row->name, prepare_plan_.shared_matrix.row->name, abi::kModuleAbi,
                       plan::shared_is_expert(config_) ? ", the shared expert behind the others" : "");
  }
  void check_prepared(const char* operation, const void* prepared) const override {
    check_prepared_memory(operation, prepared);
  }
  void read_prepared(const void* prepared, std::size_t bytes, void* host, void* stream) const override {
    cuda::download(config_.device, host, prepared, bytes, stream);
  }
  void write_prepared(void* prepared, std::size_t bytes, const void* host, void* stream) const override {
    cuda::upload(config_.device, prepared, host, bytes, stream);
  }

  std::vector<std::string> kernels(std::int64_t tokens) const override {
    std::vector<std::string> names;
    for (const Choice& c : steps(tokens).all()) {
      names.push_back(fmt::format("{}/{}", c.row->name, tables::config_name(*c.row, c.config())));
    }
    return names;
  }

  std::size_t dispatched_workspace_bytes(std::int64_t rows) const override {
    return plan::workspace_bytes(dispatched_config_, rows);
  }

  void run(const MoeRun& run, void* stream) const override;
  void run_dispatched(const MoeRun& run, void* stream) const override;

 private:
  void run_gemms(const Launches& launches, const plan::MoeSteps& steps) const;

  void load_kernels(const Served& served, const ModuleOptions& modules) {
    std::vector<Choice> wanted = prepare_plan_.all();
    wanted.push_back(dispatched_);
    for (const plan::PlanRange& range : ranges_) {
      const std::vector<Choice> used = range.steps.all();
      wanted.insert(wanted.end(), used.begin(), used.end());
    }
    kernels_.load(wanted, served, config_.device, modules);
  }

  const cuda::Kernel& kernel(const Choice& c) const { return kernels_.at(c); }
  PrepareKernel with_threads(const Choice& c) const {
    return c.row == nullptr ? PrepareKernel{} : PrepareKernel{&kernel(c), abi::threads(c.config())};
  }
  PrepareKernels prepare_kernels() const {
    return {with_threads(prepare_plan_.matrix), with_threads(prepare_plan_.vector),
            with_threads(prepare_plan_.shared_matrix), with_threads(prepare_plan_.static_scales)};
  }

  const plan::MoeSteps& steps(std::int64_t tokens) const {
    const auto range = std::lower_bound(ranges_.begin(), ranges_.end(), tokens,
                                        [](const plan::PlanRange& r, std::int64_t t) { return r.last_tokens < t; });
    return range == ranges_.end() ? ranges_.back().steps : range->steps;
  }

  MoeConfig config_;
  MoeConfig dispatched_config_;  // made here, for `run` allocates nothing
  plan::PreparedLayout layout_;
  std::vector<plan::PlanRange> ranges_;
  plan::PreparePlan prepare_plan_;
  Choice dispatched_;
  int sm_count_ = 0;
  bool quantised_ = false;         // activations
  bool has_shared_gemms_ = false;  // launches of shared experts alone
  bool shared_quantised_ = false;  // activations of these
  LoadedKernels kernels_;
};

/// The launches of one run. Lives on the stack of `run`: pointers into workspace and prepared weights, nothing else.
class Launches {
 public:
  Launches(const MoeConfig& config, const plan::PreparedLayout& prepared, const plan::MoeSteps& steps,
           const MoeRun& run, int sm_count, void* stream)
      : c_(config),
        p_(prepared),
        steps_(steps),
        run_(run),
        chain_(stream),
        sm_count_(sm_count),
        tokens_(static_cast<int>(run.x.shape[0])),
        slots_(plan::slots_of(config)),
        tile_tokens_(steps.gemm1.config().tile_tokens),
        w_(plan::workspace_layout(config, tokens_, tile_tokens_)) {}

  const float* logits() const {
    if (!run_.router_logits.empty()) return static_cast<const float*>(run_.router_logits.data);
    return !run_.logits_out.empty() ? static_cast<float*>(run_.logits_out.data) : work<float>(w_.logits);
  }

  void project(const cuda::Kernel& kernel, std::size_t weight, std::size_t bias, int rows, float* out) const {
    const abi::KernelConfig& c = steps_.project.config();
    abi::ProjectParams p{};
    p.x = run_.x.data;
    p.weight = weights<void>(weight);
    p.bias = bias == kNone ? nullptr : weights<float>(bias);
    p.out = out;
    p.weight_type = abi::kSourceF32;
    p.tokens = tokens_;
    p.rows = rows;
    p.k = c_.hidden;
    const cuda::Grid grid{static_cast<unsigned>(abi::div_up(rows, c.tile_rows)),
                          static_cast<unsigned>(abi::div_up(tokens_, c.tile_tokens))};
    chain_.launch(kernel, grid, abi::threads(c), p);
  }

  void project_router(const cuda::Kernel& kernel) const {
    project(kernel, p_.router, p_.router_bias, c_.num_experts, const_cast<float*>(logits()));
  }
  void project_shared_gate(const cuda::Kernel& kernel) const {
    project(kernel, p_.shared_gate, kNone, 1, work<float>(w_.shared_gate));
  }

  abi::RouteParams route_params() const {
    abi::RouteParams p{};
    p.given_ids = static_cast<const int*>(run_.topk_ids.data);
    p.given_weights = static_cast<const float*>(run_.topk_weights.data);
    p.logits = p.given_ids != nullptr ? nullptr : logits();
    p.selection_bias = weights<float>(p_.selection_bias);
    p.ids = ids();
    p.weights = slot_weights();
    p.segment_counts = work<unsigned short>(w_.segment_counts);
    p.row_token = work<int>(w_.row_token);
    p.row_weight = work<float>(w_.row_weight);
    p.slot_row = work<int>(w_.slot_row);
    p.tiles = work<abi::Tile>(w_.tiles);
    p.num_tiles = work<int>(w_.num_tiles);
    p.tokens = tokens_;
    p.num_experts = c_.num_experts;
    p.top_k = c_.top_k;
    p.first_expert = c_.experts.first;
    p.held_experts = num_local_experts(c_);
    p.shared_slots = slots_ - c_.top_k;
    p.shared_weight = 1.0f;
    p.listed_slots = c_.top_k;
    p.listed_ids = listed_ids();
    p.listed_weights = listed_weights();
    p.expert_slots = c_.experts.slots.empty() ? nullptr : weights<int>(p_.expert_slots);
    p.token_ids = run_.token_ids.data;
    p.wide_token_ids = run_.token_ids.dtype == DType::kI64 ? 1 : 0;
    p.token_experts = weights<int>(p_.token_experts);
    p.vocabulary = c_.routing.vocabulary;
    p.method = static_cast<int>(c_.routing.method);
    p.n_group = c_.routing.n_group;
    p.topk_group = c_.routing.topk_group;
    p.renormalize = c_.routing.renormalize ? 1 : 0;
    p.scaling = c_.routing.scaling;
    p.tile_tokens = tile_tokens_;
    p.tile_slack = steps_.gemm1.config().tile_slack;
    p.narrow_rows = abi::narrow_rows(steps_.gemm1.config());
    p.segment_tokens = w_.segment_tokens;
    return p;
  }

  void mark_dispatched(const cuda::Kernel& kernel, const abi::KernelConfig& config) const {
    abi::RouteParams p = route_params();
    p.expert_offsets = static_cast<const int*>(run_.expert_offsets.data);
    p.expert_counts = static_cast<const int*>(run_.expert_counts.data);
    p.rows_per_expert = tokens_ / p.held_experts;
    const int blocks = std::min(abi::div_up(tokens_, abi::threads(config)), 64);
    chain_.launch(kernel, {static_cast<unsigned>(blocks)}, abi::threads(config), p);
  }

  void route(const cuda::Kernel& kernel, const abi::KernelConfig& config) const {
    const abi::RouteParams p = route_params();
    if (config.role == 0) return launch_fused_route(chain_, kernel, config, p);
    chain_.launch(kernel, {static_cast<unsigned>(w_.segments)}, abi::threads(config), p);
  }

  abi::GemmParams routed_gemm(int role) const {
    abi::GemmParams p = gemm(role, routed());
    if (role == 1 && steps_.hidden_is_operand) give_operand(routed(), 1, p);
    const bool by_token = role == 1 && !is_dispatched(run_) && !gathers();
    p.row_token = by_token ? work<int>(w_.row_token) : nullptr;
    p.activation_rows = by_token || is_dispatched(run_) ? tokens_ : tokens_ * slots_;
    if (role == 1 && gathers()) p.activations = gathered();
    p.row_weight = role == 1 && c_.weights_on_input && !is_dispatched(run_) ? work<float>(w_.row_weight) : nullptr;
    p.tiles = work<abi::Tile>(w_.tiles);
    p.num_tiles = work<int>(w_.num_tiles);
    p.claimed = work<int>(w_.num_tiles) + abi::claimed_at(role);
    p.weights_early = role == 2 ? 1 : 0;  // GEMM 1 has waited for the list of tiles
    return p;
  }

  bool gathers() const { return steps_.gather.row != nullptr && !is_dispatched(run_); }
  void gather(const cuda::Kernel& kernel, const abi::KernelConfig& config) const {
    abi::GatherParams p{};
    p.x = run_.x.data;
    p.slot_row = work<int>(w_.slot_row);
    p.out = gathered();
    p.tokens = tokens_;
    p.slots = slots_;
    p.row_pieces = c_.hidden / 8;
    const int blocks = abi::div_up(tokens_, config.warps_tokens);
    chain_.launch(kernel, {static_cast<unsigned>(blocks)}, abi::threads(config), p);
  }

  abi::GemmParams shared_gemm(int role) const {
    abi::GemmParams p = gemm(role, shared());
    if (role == 1 && steps_.shared_hidden_is_operand) give_operand(shared(), 3, p);
    p.rows = tokens_;
    p.activation_rows = tokens_;
    p.weights_early = 1;
    return p;
  }

  /// x as the operand of GEMM 1: of the routed experts, then of the shared ones where theirs is another.
  void quantise_input(const cuda::Kernel& kernel, const abi::KernelConfig& config) const {
    if (routed().quantised) quantise_input(kernel, config, routed(), 0);
    if (plan::has_shared_gemms(c_) && shared().quantised && !plan::shares_input_operand(c_)) {
      quantise_input(kernel, config, shared(), 2);
    }
  }
  /// GEMM 1's result as the operand of GEMM 2.
  void quantise_routed_hidden(const cuda::Kernel& kernel, const abi::KernelConfig& config) const {
    abi::OperandParams p = hidden_operand(routed(), tokens_ * slots_, 1);
    p.tiles = work<abi::Tile>(w_.tiles);
    p.num_tiles = work<int>(w_.num_tiles);
    launch_operand(kernel, config, p);
  }
  void quantise_shared_hidden(const cuda::Kernel& kernel, const abi::KernelConfig& config) const {
    launch_operand(kernel, config, hidden_operand(shared(), tokens_, 3));
  }

  void launch_gemm(const cuda::Kernel& kernel, const abi::KernelConfig& config, const abi::GemmParams& p) const {
    // Rows that were dispatched before are held experts' alone, each one slot.
    const int experts = is_dispatched(run_) ? num_local_experts(c_) : c_.num_experts;
    ops::launch_gemm(chain_, kernel, config, p, {tokens_ * c_.top_k / experts, w_.max_tiles}, sm_count_);
  }

  void sum(const cuda::Kernel& kernel, const abi::KernelConfig& config) const {
    abi::WeightedSumParams p{};
    p.rows = work<void>(w_.routed.y);
    p.slot_row = work<int>(w_.slot_row);
    p.weights = c_.weights_on_input || is_dispatched(run_) ? nullptr : slot_weights();
    if (c_.shared.intermediate > 0) p.shared = work<void>(plan::has_shared_gemms(c_) ? w_.shared.y : w_.routed.y);
    p.shared_gate = c_.shared.gated ? work<float>(w_.shared_gate) : nullptr;
    p.out = run_.out.data;
    p.tokens = tokens_;
    p.cols = c_.hidden;
    p.top_k = c_.top_k;
    p.slots = slots_;
    p.out_f32 = run_.out.dtype == DType::kF32 ? 1 : 0;
    p.bf16_rows = rows_type() == abi::kSourceBf16 ? 1 : 0;
    const int columns = abi::div_up(c_.hidden, abi::sum_columns(p.bf16_rows != 0) * abi::threads(config));
    chain_.launch(kernel, {static_cast<unsigned>(tokens_), static_cast<unsigned>(columns)}, abi::threads(config), p);
  }

  bool needs_router() const { return run_.router_logits.empty() && run_.topk_ids.empty(); }

 private:
  static constexpr std::size_t kNone = ~std::size_t{0};

  template <typename T>
  T* work(std::size_t offset) const {
    return reinterpret_cast<T*>(static_cast<char*>(run_.workspace) + offset);
  }
  template <typename T>
  const T* weights(std::size_t offset) const {
    return reinterpret_cast<const T*>(static_cast<const char*>(run_.prepared) + offset);
  }
  /// x in expert order. GEMM 2 writes its rows to the same place, when GEMM 1 has read these.
  void* gathered() const { return work<void>(w_.routed.y); }
  /// Of all slots: what the run lists, unless that is not all.
  int* ids() const { return run_.topk_ids_out.empty() || slots_ > c_.top_k ? work<int>(w_.ids) : listed_ids(); }
  float* slot_weights() const {
    return run_.topk_weights_out.empty() || slots_ > c_.top_k ? work<float>(w_.weights) : listed_weights();
  }
  int* listed_ids() const { return static_cast<int*>(run_.topk_ids_out.data); }
  float* listed_weights() const { return static_cast<float*>(run_.topk_weights_out.data); }

  /// One set of experts: weights, memory, and how its activations go into GEMMs.
  struct Experts {
    const std::string& recipe;
    const plan::WeightForm& form;
    const plan::MatrixParts &w13, &w2;
    const plan::ExpertSpace& space;
    int intermediate;
    bool quantised;
  };
  Experts routed() const {
    return {c_.recipe,
            p_.form,
            p_.w13,
            p_.w2,
            w_.routed,
            c_.intermediate,
            tables::quantises_activations(tables::get_recipe(c_.recipe))};
  }
  Experts shared() const {
    const std::string& recipe = tables::shared_recipe(c_);
    return {recipe,
            p_.shared_form,
            p_.shared_w13,
            p_.shared_w2,
            w_.shared,
            c_.shared.intermediate,
            tables::quantises_activations(tables::get_recipe(recipe))};
  }

  /// SourceType of the rows that GEMM 2 gives, routed and shared, which the weighted sum reads: bf16 for an output of
  /// bf16, whatever T, so that a token's bits do not depend on the batch. Never fp16: a row may leave its range where
  /// the weighted sum does not.
  int rows_type() const { return source_type(run_.out.dtype == DType::kBF16 ? DType::kBF16 : DType::kF32); }

  /// GEMM 1 (hidden -> intermediate) or GEMM 2 (back).
  abi::GemmParams gemm(int role, const Experts& e) const {
    abi::GemmParams p{};
    set_activation(c_.activation, p);
    set_weights(e.form, role == 1 ? e.w13 : e.w2, run_.prepared, role == 1 ? c_.hidden : e.intermediate, p);
    const int stride = abi::round_up(e.intermediate, 8);
    p.k = role == 1 ? c_.hidden : stride;
    p.activation_stride = p.k;
    p.row_blocks =
        role == 1 ? abi::gate_up_blocks(e.intermediate, p.gated != 0) : abi::div_up(c_.hidden, abi::kBlockRows);
    p.epilogue = role == 1 ? abi::kEpilogueHidden : abi::kEpilogueRows;
    p.out_alpha = 1.0f;
    p.out = work<void>(role == 1 ? e.space.h : e.space.y);
    const int hidden_type = e.quantised ? int{abi::kSourceF32} : source_type(tables::get_recipe(e.recipe).io);
    p.out_type = role == 1 ? hidden_type : rows_type();
    p.out_cols = role == 1 ? stride : c_.hidden;
    p.out_stride = p.out_cols;
    if (!e.quantised) {
      p.activations = role == 1 ? run_.x.data : work<void>(e.space.h);
    } else {
      set_operand(role == 1 ? e.space.x_operand : e.space.h_operand, e.recipe, p);
    }
    return p;
  }

  /// GEMM 1 quantises its result by static scale number `scale`.
  void give_operand(const Experts& e, int scale, abi::GemmParams& p) const {
    p.out = work<void>(e.space.h_operand.values);
    p.hidden_scale = static_scale(scale);
    p.hidden_token_scale = work<float>(e.space.h_operand.token_scale);
    p.hidden_cols = e.intermediate;
  }

  static bool by_block(const std::string& recipe) {
    return tables::get_recipe(recipe).activation.scale == tables::Scale::kBlock1x128;
  }
  void set_operand(const plan::OperandSpace& space, const std::string& recipe, abi::GemmParams& p) const {
    p.activations = work<void>(space.values);
    p.token_scale = by_block(recipe) ? nullptr : work<float>(space.token_scale);
    p.token_block_scale = by_block(recipe) ? work<float>(space.token_block_scale) : nullptr;
  }
  void set_operand(const plan::OperandSpace& space, const std::string& recipe, int cols, abi::OperandParams& p) const {
    p.operand = work<void>(space.values);
    p.token_scale = by_block(recipe) ? nullptr : work<float>(space.token_scale);
    p.token_block_scale = by_block(recipe) ? work<float>(space.token_block_scale) : nullptr;
    p.stride = abi::round_up(cols, 8);
  }

  /// Static scale number `index` of those that all experts share, or nullptr.
  const float* static_scale(int index) const {
    return p_.common_scales.bytes == 0 ? nullptr : weights<float>(p_.common_scales.at) + index;
  }

  void quantise_input(const cuda::Kernel& kernel, const abi::KernelConfig& config, const Experts& e, int scale) const {
    abi::OperandParams p = input_operand_params(e.recipe, c_, run_, static_scale(scale));
    set_operand(e.space.x_operand, e.recipe, c_.hidden, p);
    p.rows = tokens_;
    launch_operand(kernel, config, p);
  }
  abi::OperandParams hidden_operand(const Experts& e, int rows, int scale) const {
    const std::int64_t stride = abi::round_up(e.intermediate, 8);
    const OperandRows h{work<void>(e.space.h), DType::kF32, stride, rows, e.intermediate};
    abi::OperandParams p = operand_params(e.recipe, h, static_scale(scale));
    set_operand(e.space.h_operand, e.recipe, e.intermediate, p);
    return p;
  }
  void launch_operand(const cuda::Kernel& kernel, const abi::KernelConfig& config, const abi::OperandParams& p) const {
    chain_.launch(kernel, {static_cast<unsigned>(p.rows)}, abi::threads(config), p);
  }

  const MoeConfig& c_;
  const plan::PreparedLayout& p_;
  const plan::MoeSteps& steps_;
  const MoeRun& run_;
  mutable cuda::LaunchChain chain_;
  int sm_count_, tokens_, slots_, tile_tokens_;
  plan::WorkspaceLayout w_;
};

void CudaMoe::run(const MoeRun& run, void* stream) const {
  check_alignment(run);
  const plan::MoeSteps& s = steps(run.x.shape[0]);
  const cuda::DeviceGuard guard(config_.device.index);
  const Launches launches(config_, layout_, s, run, sm_count_, stream);
  if (launches.needs_router()) launches.project_router(kernel(s.project));
  if (config_.shared.gated) launches.project_shared_gate(kernel(s.project));
  launches.route(kernel(s.route), s.route.config());
  if (s.scatter.row != nullptr) launches.route(kernel(s.scatter), s.scatter.config());
  if (quantised_ || shared_quantised_) launches.quantise_input(kernel(s.operand), s.operand.config());
  if (launches.gathers()) launches.gather(kernel(s.gather), s.gather.config());
  run_gemms(launches, s);
  if (has_shared_gemms_) {
    launches.launch_gemm(kernel(s.shared_gemm1), s.shared_gemm1.config(), launches.shared_gemm(1));
    if (shared_quantised_ && !s.shared_hidden_is_operand)
      launches.quantise_shared_hidden(kernel(s.operand), s.operand.config());
    launches.launch_gemm(kernel(s.shared_gemm2), s.shared_gemm2.config(), launches.shared_gemm(2));
  }
  launches.sum(kernel(s.sum), s.sum.config());
}

void CudaMoe::run_gemms(const Launches& launches, const plan::MoeSteps& s) const {
  launches.launch_gemm(kernel(s.gemm1), s.gemm1.config(), launches.routed_gemm(1));
  if (quantised_ && !s.hidden_is_operand) launches.quantise_routed_hidden(kernel(s.operand), s.operand.config());
  launches.launch_gemm(kernel(s.gemm2), s.gemm2.config(), launches.routed_gemm(2));
}

void CudaMoe::run_dispatched(const MoeRun& run, void* stream) const {
  check_alignment(run);
  // As many tokens as give every held expert that many rows on average.
  const double per_token = static_cast<double>(config_.top_k) * num_local_experts(config_) / config_.num_experts;
  const auto tokens = static_cast<std::int64_t>(static_cast<double>(run.x.shape[0]) / per_token);
  const plan::MoeSteps& s = steps(std::clamp<std::int64_t>(tokens, 1, config_.max_tokens));
  const cuda::DeviceGuard guard(config_.device.index);
  const Launches launches(dispatched_config_, layout_, s, run, sm_count_, stream);
  launches.mark_dispatched(kernel(dispatched_), dispatched_.config());
  if (quantised_) launches.quantise_input(kernel(s.operand), s.operand.config());
  run_gemms(launches, s);
  launches.sum(kernel(s.sum), s.sum.config());
}

}  // namespace

std::unique_ptr<MoeImpl> make_cuda_moe(const MoeConfig& config, const ModuleOptions& modules) {
  const std::string& shared = tables::shared_recipe(config);
  if (tables::get_recipe(shared).io != tables::get_recipe(config.recipe).io) {
    throw Error(ErrorKind::kUnsupported,
                fmt::format("fused_moe({}): shared experts in recipe {}, but on a GPU x must have one type for both: "
                            "convert_weights to a recipe whose x is {}",
                            config.recipe, shared, dtype_name(tables::get_recipe(config.recipe).io)));
  }
  plan::check_depths(config);
  plan::check_grids(config);
  return std::make_unique<CudaMoe>(config, modules);
}

}  // namespace moesaic::ops
