// SPDX-License-Identifier: Apache-2.0
// Workers that sleep between jobs; indices are handed out by a counter, so uneven tasks balance themselves.
#include "backend_cpu/fast_threads.h"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <mutex>
#include <thread>
#include <vector>

#include "base/env.h"

namespace moesaic::cpu {
namespace {

class Workers {
 public:
  explicit Workers(int threads) {
    for (int thread = 1; thread < threads; ++thread) threads_.emplace_back([this, thread] { work(thread); });
  }

  ~Workers() {
    {
      const std::lock_guard lock(mutex_);
      stop_ = true;
    }
    wake_.notify_all();
    for (std::thread& thread : threads_) thread.join();
  }

  int size() const { return static_cast<int>(threads_.size()) + 1; }

  // False, and nothing done, when another caller has the workers.
  bool run(std::int64_t count, int threads, const std::function<void(std::int64_t, int)>& body) {
    const std::unique_lock caller(caller_, std::try_to_lock);
    if (!caller.owns_lock()) return false;
    {
      const std::lock_guard lock(mutex_);
      body_ = &body;
      count_ = count;
      next_ = 0;
      invited_ = threads;
      busy_ = threads - 1;
      ++job_;
    }
    wake_.notify_all();
    take_indices(0);
    std::unique_lock lock(mutex_);
    done_.wait(lock, [this] { return busy_ == 0; });
    return true;
  }

 private:
  void work(int thread) {
    std::uint64_t seen = 0;
    for (;;) {
      {
        std::unique_lock lock(mutex_);
        wake_.wait(lock, [&] { return stop_ || job_ != seen; });
        if (stop_) return;
        seen = job_;
        if (thread >= invited_) continue;
      }
      take_indices(thread);
      const std::lock_guard lock(mutex_);
      if (--busy_ == 0) done_.notify_one();
    }
  }

  void take_indices(int thread) {
    for (std::int64_t i = next_++; i < count_; i = next_++) (*body_)(i, thread);
  }

  std::vector<std::thread> threads_;
  std::mutex caller_;  // held by the one caller whose job runs
  std::mutex mutex_;   // guards what follows; body_, count_ and invited_ do not change while a job runs
  std::condition_variable wake_, done_;
  const std::function<void(std::int64_t, int)>* body_ = nullptr;
  std::int64_t count_ = 0;
  std::atomic<std::int64_t> next_{0};
  int invited_ = 0;  // threads of the job, the caller included
  int busy_ = 0;     // invited workers that have not finished
  std::uint64_t job_ = 0;
  bool stop_ = false;
};

Workers& workers() {
  static Workers instance(base::env_number(base::Env::kThreads, 1)
                              .value_or(static_cast<int>(std::max(1u, std::thread::hardware_concurrency()))));
  return instance;
}

std::atomic<int> limit{0};

}  // namespace

int max_threads() { return workers().size(); }

void limit_threads(int threads) { limit = threads; }

void parallel_for(std::int64_t count, const std::function<void(std::int64_t, int)>& body) {
  const int allowed = limit > 0 ? std::min<int>(limit, max_threads()) : max_threads();
  const int threads = static_cast<int>(std::min<std::int64_t>(allowed, count));
  if (threads > 1 && workers().run(count, threads, body)) return;
  for (std::int64_t i = 0; i < count; ++i) body(i, 0);
}

}  // namespace moesaic::cpu
