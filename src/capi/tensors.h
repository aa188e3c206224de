// SPDX-License-Identifier: Apache-2.0
// DLTensor -> views of the C++ interface: types, strides, offsets and devices, checked.
#pragma once

#include <array>
#include <optional>
#include <string>

#include "capi/status.h"
#include "moesaic/moe.h"
#include "tables/given_codes.h"

namespace moesaic::capi {

/// A DLTensor that passed the checks: at most four dimensions, a known type, 4-bit elements counted as bytes.
struct StridedView {
  void* data = nullptr;
  DType dtype = DType::kF32;
  const char* type_name = "";         // as DLPack has it: "f8_e4m3", ...
  std::optional<CodeFormat> codes;    // what the type says that codes are
  std::optional<ScaleFormat> scales;  // what the type says that scales are
  int rank = 0;
  std::array<std::int64_t, 4> shape{}, strides{};
};

/// What the tensors of one call have in common.
class TensorReader {
 public:
  /// `device`: where tensors must lie; std::nullopt: all on one device, the first one's.
  TensorReader(const char* operation, std::optional<Device> device) : operation_(operation), device_(device) {}

  /// Throws Error(kInvalidArgument) naming `name`.
  StridedView read(const std::string& name, const DLTensor& tensor);
  /// NULL gives an empty view. Compact only; `codes` and `scales`: what a typed tensor (fp8, fp4) may be.
  TensorView compact(const std::string& name, const DLTensor* tensor, std::optional<CodeFormat> codes = std::nullopt,
                     std::optional<ScaleFormat> scales = std::nullopt);
  /// Rows of activations: numbers, or codes that are u8 or `given.format`'s own type.
  TensorView activations(const std::string& name, const DLTensor* tensor,
                         const std::optional<tables::GivenCodes>& given);
  /// Their scales, or NULL.
  TensorView activation_scales(const std::string& name, const DLTensor* tensor,
                               const std::optional<tables::GivenCodes>& given);
  /// A matrix of numbers, or NULL.
  MatrixView numbers(const std::string& name, const DLTensor* tensor);
  /// A vector of numbers, or NULL.
  VectorView vector(const std::string& name, const DLTensor* tensor);
  /// A matrix of numbers or codes, or NULL.
  MatrixView matrix(const std::string& name, const moesaic_matrix* matrix);

  /// An expert; NULL is refused.
  ExpertWeights expert(const std::string& name, const moesaic_expert* expert);

  /// The device of the tensors; the CPU when there was none.
  Device device() const { return device_.value_or(Device{}); }

 private:
  [[noreturn]] void refuse(const std::string& name, const std::string& got, const std::string& wanted) const;
  void check_device(const std::string& name, DLDevice device);
  void check_compact(const std::string& name, const StridedView& view) const;
  void check_rank(const std::string& name, const StridedView& view, int rank, const char* wanted) const;
  void read_codes(const std::string& name, const moesaic_matrix& from, MatrixView& to);
  void read_scales(const std::string& name, const moesaic_matrix& from, MatrixView& to);
  void read_zeros(const std::string& name, const moesaic_matrix& from, MatrixView& to);

  const char* operation_;
  std::optional<Device> device_;
};

}  // namespace moesaic::capi
