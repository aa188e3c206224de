// SPDX-License-Identifier: Apache-2.0
// Products alone in the C interface.
#include <fmt/format.h>

#include <vector>

#include "capi/handles.h"
#include "capi/structs.h"
#include "capi/tensors.h"

namespace moesaic::capi {
namespace {

static_assert(MOESAIC_SCALES_K_MAJOR == int(ScaleMajor::kK) && MOESAIC_SCALES_MN_MAJOR == int(ScaleMajor::kMn));

std::vector<GemmWeights> read_weights(const char* operation, const moesaic_gemm_weights* const* weights,
                                      std::size_t count, const GemmConfig& config) {
  check_given(operation, "weights", weights, "one pointer a group");
  // Before any is read: a wrong number is more likely than weights of another op.
  if (count != static_cast<std::size_t>(config.groups)) {
    refuse(operation, "count", fmt::format("{}", count), fmt::format("{}: one a group", config.groups));
  }
  TensorReader reader(operation, config.device);
  std::vector<GemmWeights> to;
  for (std::size_t g = 0; g < count; ++g) {
    const std::string name = fmt::format("weights[{}]", g);
    const moesaic_gemm_weights w = read_struct(operation, name.c_str(), weights[g]);
    to.push_back({reader.matrix(name + ".w", w.w), reader.vector(name + ".bias", w.bias)});
  }
  return to;
}

GemmRun read_run(const char* operation, const moesaic_gemm_run* run, const GemmConfig& config) {
  const moesaic_gemm_run r = read_struct(operation, "run", run);
  // Rows and columns do not matter: x is looked at when the op is called.
  const auto codes = tables::given_codes(config.recipe, 0, 0, config.e5m2);
  TensorReader reader(operation, config.device);
  GemmRun to;
  check_given(operation, "run.x", r.x, "a tensor");
  check_given(operation, "run.out", r.out, "a tensor");
  to.x = reader.activations("run.x", r.x, codes);
  to.x_scale = reader.activation_scales("run.x_scale", r.x_scale, codes);
  to.x_row_scale = reader.compact("run.x_row_scale", r.x_row_scale);
  to.scale_major = enumerator(operation, "run.scale_major", r.scale_major, ScaleMajor::kMn);
  to.input_scale = reader.compact("run.input_scale", r.input_scale);
  to.group_offsets = reader.compact("run.group_offsets", r.group_offsets);
  to.group_counts = reader.compact("run.group_counts", r.group_counts);
  to.out = reader.compact("run.out", r.out);
  to.alpha = r.alpha;
  to.prepared = r.prepared;
  to.workspace = r.workspace;
  to.workspace_bytes = r.workspace_bytes;
  return to;
}

}  // namespace
}  // namespace moesaic::capi

// The functions of the C interface.
using namespace moesaic;        // NOLINT(google-build-using-namespace): C names outside of every namespace
using namespace moesaic::capi;  // NOLINT(google-build-using-namespace)

moesaic_status moesaic_gemm_create(const moesaic_gemm_config* config, const moesaic_module_options* modules,
                                   moesaic_gemm** gemm) {
  constexpr const char* kOperation = "gemm_create";
  return guarded(kOperation, [&] {
    check_given(kOperation, "gemm", gemm, "where the handle goes");
    *gemm = nullptr;
    *gemm = new moesaic_gemm{Gemm::create(to_gemm_config(kOperation, config), to_modules(kOperation, modules))};
  });
}

void moesaic_gemm_destroy(moesaic_gemm* gemm) { delete gemm; }

moesaic_status moesaic_gemm_prepared_bytes(const moesaic_gemm* gemm, size_t* bytes) {
  constexpr const char* kOperation = "gemm_prepared_bytes";
  return guarded(kOperation, [&] {
    check_given(kOperation, "gemm", gemm, "a handle");
    check_given(kOperation, "bytes", bytes, "where the size goes");
    *bytes = gemm->gemm.prepared_bytes();
  });
}

moesaic_status moesaic_gemm_prepare(const moesaic_gemm* gemm, const moesaic_gemm_weights* const* weights, size_t count,
                                    void* prepared, void* stream) {
  constexpr const char* kOperation = "gemm_prepare";
  return guarded(kOperation, [&] {
    check_given(kOperation, "gemm", gemm, "a handle");
    gemm->gemm.prepare(read_weights(kOperation, weights, count, gemm->gemm.config()), prepared, stream);
  });
}

moesaic_status moesaic_gemm_workspace_bytes(const moesaic_gemm* gemm, int64_t rows, size_t* bytes) {
  constexpr const char* kOperation = "gemm_workspace_bytes";
  return guarded(kOperation, [&] {
    check_given(kOperation, "gemm", gemm, "a handle");
    check_given(kOperation, "bytes", bytes, "where the size goes");
    *bytes = gemm->gemm.workspace_bytes(rows);
  });
}

moesaic_status moesaic_gemm_multiply(const moesaic_gemm* gemm, const moesaic_gemm_run* run, void* stream) {
  constexpr const char* kOperation = "gemm_multiply";
  return guarded(kOperation, [&] {
    check_given(kOperation, "gemm", gemm, "a handle");
    gemm->gemm.run(read_run(kOperation, run, gemm->gemm.config()), stream);
  });
}

moesaic_status moesaic_gemm_kernels(const moesaic_gemm* gemm, int64_t rows, char* text, size_t capacity,
                                    size_t* needed) {
  constexpr const char* kOperation = "gemm_kernels";
  return guarded(kOperation, [&] {
    check_given(kOperation, "gemm", gemm, "a handle");
    std::string names;
    for (const std::string& name : gemm->gemm.kernels(rows)) names += name + "\n";
    write_text(kOperation, names, text, capacity, needed);
  });
}
