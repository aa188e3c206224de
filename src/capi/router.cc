// SPDX-License-Identifier: Apache-2.0
// Routing alone in the C interface.
#include "capi/handles.h"
#include "capi/structs.h"
#include "capi/tensors.h"

namespace moesaic::capi {
namespace {

RouteRun read_run(const char* operation, const moesaic_router& router, const moesaic_route_run* run) {
  const moesaic_route_run r = read_struct(operation, "run", run);
  TensorReader reader(operation, router.device);
  RouteRun to;
  check_given(operation, "run.ids", r.ids, "a tensor");
  check_given(operation, "run.weights", r.weights, "a tensor");
  to.logits = reader.compact("run.logits", r.logits);
  to.selection_bias = reader.compact("run.selection_bias", r.selection_bias);
  to.token_ids = reader.compact("run.token_ids", r.token_ids);
  to.token_experts = reader.compact("run.token_experts", r.token_experts);
  to.given_ids = reader.compact("run.given_ids", r.given_ids);
  to.given_weights = reader.compact("run.given_weights", r.given_weights);
  to.ids = reader.compact("run.ids", r.ids);
  to.weights = reader.compact("run.weights", r.weights);
  to.row_offsets = reader.compact("run.row_offsets", r.row_offsets);
  to.row_token = reader.compact("run.row_token", r.row_token);
  to.row_weight = reader.compact("run.row_weight", r.row_weight);
  to.slot_row = reader.compact("run.slot_row", r.slot_row);
  to.workspace = r.workspace;
  to.workspace_bytes = r.workspace_bytes;
  return to;
}

}  // namespace
}  // namespace moesaic::capi

// The functions of the C interface.
using namespace moesaic;        // NOLINT(google-build-using-namespace): C names outside of every namespace
using namespace moesaic::capi;  // NOLINT(google-build-using-namespace)

moesaic_status moesaic_router_create(const moesaic_router_config* config, const moesaic_module_options* modules,
                                     moesaic_router** router) {
  constexpr const char* kOperation = "router_create";
  return guarded(kOperation, [&] {
    check_given(kOperation, "router", router, "where the handle goes");
    *router = nullptr;
    const RouterConfig c = to_router_config(kOperation, config);
    *router = new moesaic_router{Router::create(c, to_modules(kOperation, modules)), c.device};
  });
}

void moesaic_router_destroy(moesaic_router* router) { delete router; }

moesaic_status moesaic_router_workspace_bytes(const moesaic_router* router, int64_t tokens, size_t* bytes) {
  constexpr const char* kOperation = "router_workspace_bytes";
  return guarded(kOperation, [&] {
    check_given(kOperation, "router", router, "a handle");
    check_given(kOperation, "bytes", bytes, "where the size goes");
    *bytes = router->router.workspace_bytes(tokens);
  });
}

moesaic_status moesaic_router_route(const moesaic_router* router, const moesaic_route_run* run, void* stream) {
  constexpr const char* kOperation = "router_route";
  return guarded(kOperation, [&] {
    check_given(kOperation, "router", router, "a handle");
    router->router.run(read_run(kOperation, *router, run), stream);
  });
}

moesaic_status moesaic_router_kernels(const moesaic_router* router, int64_t tokens, char* text, size_t capacity,
                                      size_t* needed) {
  constexpr const char* kOperation = "router_kernels";
  return guarded(kOperation, [&] {
    check_given(kOperation, "router", router, "a handle");
    std::string names;
    for (const std::string& name : router->router.kernels(tokens)) names += name + "\n";
    write_text(kOperation, names, text, capacity, needed);
  });
}
