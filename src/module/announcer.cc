// SPDX-License-Identifier: Apache-2.0
// A thread that sleeps for a second and speaks up if the work is not done by then.
#include "module/announcer.h"

#include <fmt/format.h>

#include <utility>

#include "base/log.h"

namespace moesaic::module {
namespace {
constexpr std::chrono::seconds kPatience{1};
}  // namespace

Announcer::Announcer(std::string what)
    : what_(std::move(what)), start_(std::chrono::steady_clock::now()), thread_([this] { wait_and_tell(); }) {}

void Announcer::wait_and_tell() {
  std::unique_lock lock(mutex_);
  if (done_changed_.wait_for(lock, kPatience, [this] { return done_; })) return;
  told_ = true;
  base::log_notice(fmt::format("compiling {} (ahead of time: `moesaic compile`)", what_));
}

Announcer::~Announcer() {
  {
    const std::lock_guard lock(mutex_);
    done_ = true;
  }
  done_changed_.notify_all();
  thread_.join();
  if (!told_) return;
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start_;
  base::log_notice(fmt::format("compiled {} in {:.1f} s", what_, took.count()));
}

void Announcer::compiled(const std::string& kernel, double seconds) {
  if (seconds > 1) base::log_notice(fmt::format("compiled kernel {} in {:.1f} s", kernel, seconds));
}

}  // namespace moesaic::module
