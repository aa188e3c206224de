// SPDX-License-Identifier: Apache-2.0
// SHA-256, the one hash of the library.
#pragma once

#include <memory>
#include <string>
#include <string_view>

namespace moesaic::base {

/// Two lower-case hex digits for each byte.
std::string to_hex(std::string_view bytes);

/// Hashes parts; `add` also hashes the length, so that ("ab", "c") and ("a", "bc") differ. `add_raw` does not.
class Sha256 {
 public:
  Sha256();
  ~Sha256();
  Sha256(const Sha256&) = delete;
  Sha256& operator=(const Sha256&) = delete;

  Sha256& add_raw(std::string_view bytes);
  Sha256& add(std::string_view part);
  /// 64 lower-case hex digits. Call once.
  std::string hex();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

/// SHA-256 of bytes as 64 lower-case hex digits.
std::string sha256_hex(std::string_view bytes);

}  // namespace moesaic::base
