// SPDX-License-Identifier: Apache-2.0
// What Router delegates to, and the checks of its arguments. Arguments are checked before they get there.
#pragma once

#include <memory>

#include "moesaic/route.h"

namespace moesaic::ops {

class RouteImpl {
 public:
  virtual ~RouteImpl() = default;
  virtual std::size_t workspace_bytes(std::int64_t tokens) const = 0;
  virtual void run(const RouteRun& run, void* stream) const = 0;
  virtual std::vector<std::string> kernels(std::int64_t tokens) const = 0;
};

std::unique_ptr<const RouteImpl> make_cpu_router(const RouterConfig& config);
/// Plans, and loads the kernels. Throws Error.
std::unique_ptr<const RouteImpl> make_cuda_router(const RouterConfig& config, const ModuleOptions& modules);

/// Each throws Error(kInvalidArgument) that begins with "router: " and names the argument.
void check_router(const RouterConfig& config);
void check_route_run(const RouterConfig& config, const RouteRun& run);

/// Tokens of a run, from whichever input it has.
inline std::int64_t route_tokens(const RouteRun& run) noexcept {
  return run.given_ids.empty() ? run.logits.shape[0] : run.given_ids.shape[0];
}

}  // namespace moesaic::ops
