// SPDX-License-Identifier: Apache-2.0
// Gemm on the CPU: the oracle's loops over views of the caller's weights.
#include <cstring>
#include <type_traits>

#include "backend_cpu/backend_cpu.h"
#include "ops/argument_check.h"
#include "ops/gemm_impl.h"

namespace moesaic::ops {
namespace {

/// What stands before the views in prepared memory.
struct PreparedHeader {
  std::uint64_t magic;
  std::int32_t n, k, groups, unused;
  bool operator==(const PreparedHeader&) const = default;
};
constexpr std::uint64_t kMagic = 0x77656976'6d6d6567;  // "gemmview"

static_assert(std::is_trivially_copyable_v<GemmWeights> && sizeof(PreparedHeader) % alignof(GemmWeights) == 0);

class CpuGemm final : public GemmImpl {
 public:
  explicit CpuGemm(const GemmConfig& config) : config_(config) {}

  std::size_t prepared_bytes() const noexcept override {
    return sizeof(PreparedHeader) + static_cast<std::size_t>(config_.groups) * sizeof(GemmWeights);
  }
  std::size_t workspace_bytes(std::int64_t) const override { return 0; }

  void prepare(std::span<const GemmWeights> weights, void* prepared, void*) const override {
    const PreparedHeader header = this->header();
    std::memcpy(prepared, &header, sizeof(header));
    std::memcpy(static_cast<char*>(prepared) + sizeof(header), weights.data(), weights.size_bytes());
  }

  void run(const GemmRun& run, void*) const override {
    const std::int64_t rows = run.x.shape[0];
    PreparedHeader header;
    std::memcpy(&header, run.prepared, sizeof(header));
    if (header != this->header()) {
      ArgumentCheck{"gemm"}.refuse("prepared", "memory of something else",
                                   "what `prepare` of an op with this n, k and groups wrote");
    }
    check_group_values(config_, run, rows);
    const auto* views = reinterpret_cast<const GemmWeights*>(static_cast<const char*>(run.prepared) + sizeof(header));
    cpu::reference_gemm(config_, {views, static_cast<std::size_t>(config_.groups)}, ReferenceMode::kOracle, rows, run);
  }

  std::vector<std::string> kernels(std::int64_t) const override { return {"cpu_oracle"}; }

 private:
  PreparedHeader header() const { return {kMagic, config_.n, config_.k, config_.groups, 0}; }

  GemmConfig config_;
};

}  // namespace

std::unique_ptr<GemmImpl> make_cpu_gemm(const GemmConfig& config) { return std::make_unique<CpuGemm>(config); }

}  // namespace moesaic::ops
