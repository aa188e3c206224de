// SPDX-License-Identifier: Apache-2.0
// A thread can be waited for with a limit, not ended: whoever waits gives up, and the thread keeps what it uses alive.
#include "module/compile_limit.h"

#include <fmt/format.h>

#include <condition_variable>
#include <exception>
#include <list>
#include <mutex>
#include <optional>
#include <thread>

#include "base/env.h"
#include "moesaic/error.h"

namespace moesaic::module {
namespace {

constexpr int kDefaultSeconds = 300;  // kernels take seconds, on a busy machine a minute

// Kernels whose threads were left behind and have not ended. Never destroyed: such a thread outlives everything.
struct LeftBehind {
  std::mutex mutex;
  std::list<std::string> kernels;
};
LeftBehind& left_behind() {
  static auto& state = *new LeftBehind;
  return state;
}

struct Attempt {
  std::mutex mutex;
  std::condition_variable changed;
  bool done = false;
  NvrtcOutput output;
  std::exception_ptr failure;
  std::optional<std::list<std::string>::iterator> left;  // its place in LeftBehind
};

void refuse_beside_a_hanging_one(const std::string& kernel) {
  LeftBehind& state = left_behind();
  const std::lock_guard lock(state.mutex);
  if (state.kernels.empty()) return;
  throw Error(
      ErrorKind::kCompile,
      fmt::format("kernel {} is not compiled: NVRTC still hangs in this process over kernel {}; start the process "
                  "again, with another NVRTC (MOESAIC_NVRTC) or a bundle (`moesaic compile`)",
                  kernel, state.kernels.front()));
}

void run(Attempt& attempt, const Nvrtc& nvrtc, const KernelInstance& instance) {
  NvrtcOutput output;
  std::exception_ptr failure;
  try {
    output = nvrtc.compile(instance);
  } catch (...) {
    failure = std::current_exception();
  }
  const std::lock_guard lock(attempt.mutex);
  attempt.output = std::move(output);
  attempt.failure = failure;
  attempt.done = true;
  if (attempt.left) {
    const std::lock_guard state_lock(left_behind().mutex);
    left_behind().kernels.erase(*attempt.left);
  }
  attempt.changed.notify_all();
}

}  // namespace

std::chrono::seconds compile_limit() {
  return std::chrono::seconds(base::env_number(base::Env::kCompileTimeout, 0).value_or(kDefaultSeconds));
}

NvrtcOutput compile_within(std::chrono::seconds limit, const std::shared_ptr<const Nvrtc>& nvrtc,
                           const KernelInstance& instance) {
  const std::string kernel = fmt::format("{} for {}", entry_name(instance), instance.target.name);
  refuse_beside_a_hanging_one(kernel);
  if (limit.count() == 0) return nvrtc->compile(instance);
  const auto attempt = std::make_shared<Attempt>();
  std::thread([attempt, nvrtc, instance] { run(*attempt, *nvrtc, instance); }).detach();
  std::unique_lock lock(attempt->mutex);
  if (!attempt->changed.wait_for(lock, limit, [&] { return attempt->done; })) {
    const std::lock_guard state_lock(left_behind().mutex);
    auto& kernels = left_behind().kernels;
    attempt->left = kernels.insert(kernels.end(), kernel);
    throw Error(
        ErrorKind::kCompile,
        fmt::format("kernel {}: NVRTC {} hangs: not compiled within {} s (MOESAIC_COMPILE_TIMEOUT; 0: no limit); "
                    "start the process again, on a slow machine with a longer limit, else with another NVRTC "
                    "(MOESAIC_NVRTC) or a bundle (`moesaic compile`)",
                    kernel, tables::cuda_version_name(nvrtc->version()), limit.count()));
  }
  if (attempt->failure) std::rethrow_exception(attempt->failure);
  return std::move(attempt->output);
}

bool compiler_hangs() noexcept {
  const std::lock_guard lock(left_behind().mutex);
  return !left_behind().kernels.empty();
}

}  // namespace moesaic::module
