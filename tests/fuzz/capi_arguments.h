// SPDX-License-Identifier: Apache-2.0
// What the fuzzers of the C interface share: statuses looked at, tensors and structs that are right or spoilt.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <deque>
#include <initializer_list>
#include <limits>
#include <string>

#include "fuzz/choices.h"
#include "moesaic/moesaic.h"
#include "support/guarded_memory.h"

namespace moesaic::testing {

inline constexpr std::size_t kOutBytes = 64 << 10;

/// A status, looked at.
inline bool ok(moesaic_status status) {
  if (status == MOESAIC_OK) return true;
  demand(status > MOESAIC_OK && status < MOESAIC_INTERNAL, "an internal error, or no status at all");
  demand(*moesaic_last_error() != '\0' && std::strlen(moesaic_last_error()) < 4096, "a failure without a text");
  demand(std::string(moesaic_status_name(status)) != "unknown status", "a status without a name");
  return false;
}

/// Tensors of one call, and the structs that hold them.
class Arguments {
 public:
  explicit Arguments(Choices& c) : c_(c), workspace_(1 << 20) {}

  DLTensor* input(DLDataType type, std::initializer_list<std::int64_t> shape) {
    // Never written: the oracle and the fast path take them as const.
    return tensor(const_cast<char*>(numbers().middle()), type, shape);
  }
  DLTensor* output(DLDataType type, std::initializer_list<std::int64_t> shape) {
    outs_.emplace_back(kOutBytes);
    return tensor(outs_.back().data(), type, shape);
  }
  GuardedMemory& workspace() { return workspace_; }
  bool intact() const {
    return workspace_.intact() &&
           std::all_of(outs_.begin(), outs_.end(), [](const GuardedMemory& memory) { return memory.intact(); });
  }

 private:
  struct Owned {
    DLTensor tensor{};
    std::array<std::int64_t, 8> shape{}, strides{};
  };

  DLTensor* tensor(void* data, DLDataType type, std::initializer_list<std::int64_t> shape) {
    owned_.emplace_back();
    Owned& o = owned_.back();
    o.tensor.data = data;
    o.tensor.device = {kDLCPU, 0};
    o.tensor.dtype = type;
    o.tensor.ndim = static_cast<int>(shape.size());
    std::copy(shape.begin(), shape.end(), o.shape.begin());
    o.tensor.shape = o.shape.data();
    if (c_.rarely()) compact_strides(o);
    if (c_.below(8) == 7) spoil_one(o);
    return c_.rarely() ? nullptr : &o.tensor;
  }
  static void compact_strides(Owned& o) {
    std::int64_t stride = 1;
    for (int i = o.tensor.ndim - 1; i >= 0; --i) {
      o.strides[static_cast<std::size_t>(i)] = stride;
      stride *= o.shape[static_cast<std::size_t>(i)];
    }
    o.tensor.strides = o.strides.data();
  }
  void spoil_one(Owned& o) {
    switch (c_.below(9)) {
      case 0:
        o.tensor.data = nullptr;
        break;
      case 1:
        o.tensor.byte_offset = c_.of<std::uint64_t>({1, 2, 64, 0});
        break;
      case 2:
        o.tensor.ndim = c_.of({-1, 0, 1, 2, 3, 4, 5, 100});
        if (o.tensor.ndim > 8) o.tensor.shape = nullptr;
        break;
      case 3:
        o.tensor.shape = nullptr;
        break;
      case 4:
        o.tensor.device = {static_cast<DLDeviceType>(c_.of({2, 0, 3, 99, 1})), c_.of({0, 1, -1})};
        break;
      case 5:
        o.tensor.dtype = {static_cast<std::uint8_t>(c_.below(20)), c_.of<std::uint8_t>({8, 4, 16, 32, 64, 0, 1}),
                          c_.of<std::uint16_t>({1, 2, 0, 65535})};
        break;
      case 6:
        compact_strides(o);
        o.strides[static_cast<std::size_t>(c_.below(3))] = c_.of<std::int64_t>({0, -1, 2, INT64_MAX, INT64_MIN});
        break;
      default:
        o.shape[static_cast<std::size_t>(c_.below(3))] =
            c_.of<std::int64_t>({-1, 0, 1, std::int64_t{1} << 40, INT64_MAX, INT64_MIN});
    }
  }

  Choices& c_;
  std::deque<Owned> owned_;  // addresses stay
  std::deque<GuardedMemory> outs_;
  GuardedMemory workspace_;
};

inline constexpr DLDataType kF32 = {kDLFloat, 32, 1}, kBf16 = {kDLBfloat, 16, 1}, kI32 = {kDLInt, 32, 1},
                            kI64 = {kDLInt, 64, 1}, kU8 = {kDLUInt, 8, 1};

/// A struct as its _init function fills it, or of a size that no header has; never of more than is there.
template <typename Struct>
Struct filled(Choices& c, moesaic_status (*init)(Struct*, std::size_t)) {
  Struct value;
  std::memset(&value, 0x5a, sizeof(value));
  demand(ok(init(&value, sizeof(value))), "defaults are refused");
  if (c.rarely()) value.struct_size = c.of<std::size_t>({0, 8, sizeof(Struct) - 8, SIZE_MAX});
  return value;
}

/// One field of a struct's integers, rarely, to a number that is none of its values.
inline void spoil_field(Choices& c, std::initializer_list<std::int32_t*> fields) {
  if (!c.rarely()) return;
  *fields.begin()[c.below(static_cast<int>(fields.size()))] =
      c.of({std::numeric_limits<std::int32_t>::max(), std::numeric_limits<std::int32_t>::min(), -1, 0, 200, 1 << 20});
}

inline DLDevice choose_device(Choices& c) {
  if (!c.rarely()) return {kDLCPU, 0};
  return {static_cast<DLDeviceType>(c.of({0, 3, 99, 1})), c.of({0, -1, 64})};
}

inline const char* choose_recipe(Choices& c) {
  return c.rarely() ? c.of<const char*>({nullptr, "", "none", "bf16 "})
                    : c.of<const char*>({"bf16", "fp16", "mxfp8", "fp8_tensor"});
}

/// A matrix of numbers; rarely, with fields of codes.
inline moesaic_matrix choose_matrix(Choices& c, Arguments& a, std::int64_t rows, std::int64_t cols) {
  auto m = filled(c, moesaic_matrix_init);
  m.values = a.input(kBf16, {rows, cols});
  if (c.rarely()) m.scales = a.input(c.of({kF32, kU8}), {1, 1});
  if (c.rarely()) m.rows = c.of<std::int64_t>({-1, 1, INT64_MAX}), m.cols = c.of<std::int64_t>({0, 1, INT64_MAX});
  if (c.rarely()) m.block_rows = c.of<std::int64_t>({0, -1, 32, INT64_MAX});
  if (c.rarely()) m.multiplier = c.of({0.5, 0.0, std::nan("")});
  if (c.rarely()) m.row_stride = c.of<std::int64_t>({-1, 1, INT64_MAX}), m.col_stride = c.of<std::int64_t>({0, 1, -1});
  spoil_field(c, {&m.codes, &m.nibble_order, &m.scale_format, &m.zero_order, &m.zero_offset});
  return m;
}

}  // namespace moesaic::testing
