// SPDX-License-Identifier: Apache-2.0
// Router: checks, then the implementation of the device.
#include <fmt/format.h>

#include "backend_cpu/backend_cpu.h"
#include "moesaic/route.h"
#include "ops/argument_check.h"
#include "ops/route_impl.h"

namespace moesaic {
namespace ops {
namespace {

class CpuRouter final : public RouteImpl {
 public:
  explicit CpuRouter(const RouterConfig& config) : config_(config) {}
  std::size_t workspace_bytes(std::int64_t) const override { return 0; }
  void run(const RouteRun& run, void*) const override { cpu::fast_route(config_, run, route_tokens(run)); }
  std::vector<std::string> kernels(std::int64_t) const override { return {"cpu_route"}; }

 private:
  RouterConfig config_;
};

}  // namespace

std::unique_ptr<const RouteImpl> make_cpu_router(const RouterConfig& config) {
  return std::make_unique<CpuRouter>(config);
}

}  // namespace ops

struct Router::Impl {
  RouterConfig config;
  std::unique_ptr<const ops::RouteImpl> device;
};

Router Router::create(const RouterConfig& config, const ModuleOptions& modules) {
  ops::check_router(config);
  auto impl = std::make_unique<Impl>();
  impl->config = config;
  impl->device =
      config.device.type == DeviceType::kCpu ? ops::make_cpu_router(config) : ops::make_cuda_router(config, modules);
  return Router(std::move(impl));
}

Router::Router(std::unique_ptr<const Impl> impl) : impl_(std::move(impl)) {}
Router::Router(Router&&) noexcept = default;
Router& Router::operator=(Router&&) noexcept = default;
Router::~Router() = default;

std::size_t Router::workspace_bytes(std::int64_t tokens) const {
  if (tokens < 0 || tokens > impl_->config.max_tokens) {
    throw Error(ErrorKind::kInvalidArgument, fmt::format("router: workspace for {} tokens, wanted 0 to max_tokens {}",
                                                         tokens, impl_->config.max_tokens));
  }
  return impl_->device->workspace_bytes(tokens);
}

void Router::run(const RouteRun& run, void* stream) const {
  ops::check_route_run(impl_->config, run);
  const std::int64_t tokens = ops::route_tokens(run);
  const std::size_t needed = run.row_offsets.empty() ? 0 : impl_->device->workspace_bytes(tokens);
  if (needed > 0 && (run.workspace == nullptr || run.workspace_bytes < needed)) {
    throw Error(ErrorKind::kInvalidArgument,
                fmt::format("router: workspace is {} bytes{}, wanted {} for {} tokens", run.workspace_bytes,
                            run.workspace == nullptr ? " at a null pointer" : "", needed, tokens));
  }
  if (needed > 0 && reinterpret_cast<std::uintptr_t>(run.workspace) % ops::kMemoryAlignment != 0) {
    throw Error(ErrorKind::kInvalidArgument, fmt::format("router: workspace is at {}, wanted a multiple of {} bytes",
                                                         run.workspace, ops::kMemoryAlignment));
  }
  impl_->device->run(run, stream);
}

std::vector<std::string> Router::kernels(std::int64_t tokens) const { return impl_->device->kernels(tokens); }

}  // namespace moesaic
