// SPDX-License-Identifier: Apache-2.0
// What FusedMoe delegates to: one implementation per device type. Arguments are checked before they get here.
#pragma once

#include "moesaic/moe.h"

namespace moesaic::ops {

class MoeImpl {
 public:
  virtual ~MoeImpl() = default;
  virtual std::size_t prepared_bytes() const noexcept = 0;
  virtual void prepare(const MoeWeights& weights, void* prepared, void* stream) const = 0;
  /// One expert of prepared memory.
  virtual void prepare_expert(int expert, const ExpertWeights& weights, void* prepared, void* stream) const = 0;
  /// Names the byte layout of prepared memory, version included.
  virtual std::string prepared_layout() const = 0;
  /// Throws Error(kInvalidArgument) on memory that cannot be what `prepare` wrote.
  virtual void check_prepared(const char* operation, const void* prepared) const = 0;
  /// Prepared memory to and from the host. Done on return; what `stream` was given before is waited for.
  virtual void read_prepared(const void* prepared, std::size_t bytes, void* host, void* stream) const = 0;
  virtual void write_prepared(void* prepared, std::size_t bytes, const void* host, void* stream) const = 0;
  virtual std::size_t workspace_bytes(std::int64_t tokens) const = 0;
  virtual std::size_t dispatched_workspace_bytes(std::int64_t rows) const = 0;
  virtual void run(const MoeRun& run, void* stream) const = 0;
  /// The same for dispatched rows: x and out are [R, H] whichever form they were given in.
  virtual void run_dispatched(const MoeRun& run, void* stream) const = 0;
  virtual std::vector<std::string> kernels(std::int64_t tokens) const = 0;
};

std::unique_ptr<MoeImpl> make_cpu_moe(const MoeConfig& config);
std::unique_ptr<MoeImpl> make_cuda_moe(const MoeConfig& config, const ModuleOptions& modules);

/// The configuration as a plan for a GPU takes it: without what MOESAIC_QUANTISE_HIDDEN switches off.
MoeConfig planned_config(const MoeConfig& config);

/// Whether expert weights must be in the formats of the configuration's recipes.
enum class WeightFormats { kOfRecipe, kAny };

/// Throws Error(kInvalidArgument) on weights whose number, shapes or formats do not fit the configuration.
void check_weights(const MoeConfig& config, const MoeWeights& weights, WeightFormats formats);

/// The same for expert number `expert`. Its formats are those of the recipe.
void check_expert_weights(const MoeConfig& config, int expert, const ExpertWeights& weights);

/// Throws Error(kInvalidArgument) on memory that is null, smaller than `needed` bytes, or not aligned.
void check_memory(const char* name, const void* memory, std::size_t given, std::size_t needed);

/// Which types `x` and `out` may have.
enum class Precision { kIo, kReference };

/// A run of dispatched rows in its flat form: x and out [R, ...], scales of codes likewise.
MoeRun matrices_of_rows(const MoeConfig& config, const MoeRun& run);

/// Throws Error(kInvalidArgument) on tensors that do not fit the configuration or each other.
void check_run(const MoeConfig& config, const MoeRun& run, Precision precision);

}  // namespace moesaic::ops
