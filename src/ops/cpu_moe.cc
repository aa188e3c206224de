// SPDX-License-Identifier: Apache-2.0
// The layer on the CPU: the fast path of backend_cpu.
#include <fmt/format.h>

#include <cstring>

#include "backend_cpu/backend_cpu.h"
#include "ops/moe_impl.h"
#include "plan/moe_plan.h"

namespace moesaic::ops {
namespace {

class CpuMoe final : public MoeImpl {
 public:
  explicit CpuMoe(const MoeConfig& config) : config_(config), prepared_bytes_(cpu::fast_prepared_bytes(config)) {}

  std::size_t prepared_bytes() const noexcept override { return prepared_bytes_; }
  void prepare(const MoeWeights& weights, void* prepared, void*) const override {
    cpu::fast_prepare(config_, weights, prepared);
  }
  void prepare_expert(int expert, const ExpertWeights& weights, void* prepared, void*) const override {
    cpu::fast_prepare_expert(config_, expert, weights, prepared);
  }
  std::string prepared_layout() const override { return cpu::fast_prepared_layout(); }
  void check_prepared(const char* operation, const void* prepared) const override {
    cpu::fast_check_prepared(operation, config_, prepared);
  }
  void read_prepared(const void* prepared, std::size_t bytes, void* host, void*) const override {
    std::memcpy(host, prepared, bytes);
  }
  void write_prepared(void* prepared, std::size_t bytes, const void* host, void*) const override {
    std::memcpy(prepared, host, bytes);
  }
  std::size_t workspace_bytes(std::int64_t tokens) const override { return cpu::fast_workspace_bytes(config_, tokens); }
  std::size_t dispatched_workspace_bytes(std::int64_t rows) const override {
    return cpu::fast_workspace_bytes(plan::dispatched_config(config_), rows);
  }
  void run(const MoeRun& run, void*) const override { cpu::fast_run(config_, run); }
  void run_dispatched(const MoeRun& run, void*) const override { cpu::fast_run_dispatched(config_, run); }
  std::vector<std::string> kernels(std::int64_t) const override {
    return {fmt::format("cpu_fast_{}", cpu::fast_target())};
  }

 private:
  MoeConfig config_;
  std::size_t prepared_bytes_;  // asked for at once: a configuration that cannot be served is refused by `create`
};

}  // namespace

std::unique_ptr<MoeImpl> make_cpu_moe(const MoeConfig& config) { return std::make_unique<CpuMoe>(config); }

}  // namespace moesaic::ops
