// SPDX-License-Identifier: Apache-2.0
// Checks of views that ops have in common: every refusal names operation, argument, what was got and what is wanted.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <span>
#include <string>

#include "moesaic/tensor.h"

namespace moesaic::ops {

/// Each throws Error(kInvalidArgument) that begins with `operation`.
struct ArgumentCheck {
  const char* operation;

  [[noreturn]] void refuse(const std::string& argument, const std::string& got, const std::string& wanted) const;

  void aligned(const std::string& name, const void* data, std::size_t bytes) const;
  /// One of `dtypes`, of that shape, in memory on a boundary of an element.
  void tensor(const std::string& name, const TensorView& tensor, std::span<const std::int64_t> shape,
              std::span<const DType> dtypes) const;
  /// bf16, f16 or f32, or codes that can be read at all.
  void matrix(const std::string& name, const MatrixView& matrix, std::int64_t rows, std::int64_t cols) const;
  /// bf16, f16 or f32, or empty.
  void vector(const std::string& name, const VectorView& vector, std::int64_t size) const;
  /// Values of checked tensors in host memory: offsets [groups + 1] ascend from 0 to at most `rows`, counts [groups]
  /// are 0 to `most`.
  void offset_values(const char* name, const TensorView& offsets, std::int64_t rows) const;
  void count_values(const char* name, const TensorView& counts, std::int64_t most) const;
  /// Memory of at least `needed` bytes at a multiple of kMemoryAlignment.
  void memory(const char* name, const void* memory, std::size_t given, std::size_t needed) const;
};

/// Of prepared weights and workspaces; what the public headers promise to kernels.
inline constexpr std::size_t kMemoryAlignment = 256;

}  // namespace moesaic::ops
