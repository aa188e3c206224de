// SPDX-License-Identifier: Apache-2.0
// A library of the vendor's that benchmarks use where it is there: loaded by name, never needed.
#pragma once

#include <string>
#include <vector>

namespace moesaic::cli {

/// A shared library, or the reason why there is none. It stays loaded: such libraries do not expect to be taken away.
class BenchLibrary {
 public:
  /// The first of the files that can be loaded.
  explicit BenchLibrary(const std::vector<std::string>& files);

  /// Empty: loaded.
  const std::string& why_not() const noexcept { return why_not_; }
  /// Fills `function`; one that is not there is a reason not to use the library.
  template <typename Function>
  void find(const char* name, Function& function) {
    function = reinterpret_cast<Function>(symbol(name));
  }

 private:
  void* symbol(const char* name);

  void* library_ = nullptr;
  std::string why_not_;
};

}  // namespace moesaic::cli
