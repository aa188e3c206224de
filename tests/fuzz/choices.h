// SPDX-License-Identifier: Apache-2.0
// What the fuzzers of the ops' arguments share: choices made of the fuzzer's bytes, numbers, and spoilt views.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <initializer_list>
#include <limits>
#include <vector>

#include "moesaic/error.h"
#include "moesaic/tensor.h"

namespace moesaic::testing {

/// Ends the process, which is what a fuzzer looks for.
inline void demand(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "fuzz: %s\n", what);
  std::abort();
}

/// What arguments may end in: they are wrong, or nothing serves them.
inline void demand_refusal(const Error& error) {
  demand(error.kind() == ErrorKind::kInvalidArgument || error.kind() == ErrorKind::kUnsupported,
         "an error of another kind");
}

/// What the fuzzer's bytes decide; 0 when they are used up.
class Choices {
 public:
  Choices(const std::uint8_t* data, std::size_t size) : data_(data), size_(size) {}
  int next() { return at_ < size_ ? data_[at_++] : 0; }
  /// 0 .. n - 1.
  int below(int n) { return next() % n; }
  bool flag() { return below(2) == 1; }
  /// Mostly false.
  bool rarely() { return below(16) == 15; }
  template <typename T>
  T of(std::initializer_list<T> values) {
    return values.begin()[static_cast<std::size_t>(below(static_cast<int>(values.size())))];
  }

 private:
  const std::uint8_t* data_;
  std::size_t size_, at_ = 0;
};

/// Bytes that are moderate numbers in every type and alignment; views of weights and inputs lie in the middle, so that
/// the strides below stay inside either way.
class Numbers {
 public:
  Numbers() : bytes_(kBytes) {
    std::uint32_t state = 1;
    for (unsigned char& byte : bytes_) {
      state = state * 1664525u + 1013904223u;
      byte = static_cast<unsigned char>(0x38 | (state >> 24 & 0x87));
    }
  }
  const char* middle() const { return reinterpret_cast<const char*>(bytes_.data()) + kBytes / 2; }

 private:
  static constexpr std::size_t kBytes = 1 << 20;
  std::vector<unsigned char> bytes_;
};

inline const Numbers& numbers() {
  static const Numbers shared;
  return shared;
}

/// Spoils a view in one way; memory stays what it is.
inline void spoil(Choices& c, TensorView& t) {
  switch (c.below(5)) {
    case 0:
      t.data = nullptr;
      break;
    case 1:
      t.data = t.data != nullptr && dtype_size(t.dtype) > 1 ? static_cast<char*>(t.data) + 1
                                                            : nullptr;  // bytes have no alignment
      break;
    case 2:
      t.dtype = static_cast<DType>(c.below(9));
      break;
    case 3:
      t.rank = c.of({-1, 0, 1, 2, 3, 4, 5, 100});
      break;
    default:
      t.shape[static_cast<std::size_t>(c.below(4))] =
          c.of<std::int64_t>({-1, 0, 1, std::int64_t{1} << 40, std::numeric_limits<std::int64_t>::max()});
  }
}

}  // namespace moesaic::testing
