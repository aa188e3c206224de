// SPDX-License-Identifier: Apache-2.0
// Views against shapes, types and alignment.
#include "ops/argument_check.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <vector>

#include "base/tensor_text.h"
#include "moesaic/error.h"
#include "tables/quant_table.h"

namespace moesaic::ops {
namespace {

void check_float_type(const ArgumentCheck& check, const std::string& name, DType dtype) {
  if (dtype != DType::kBF16 && dtype != DType::kF16 && dtype != DType::kF32) {
    check.refuse(name, dtype_name(dtype), "bf16, f16 or f32");
  }
}

// Codes, scales and zero points that can be read at all.
void check_quantization(const ArgumentCheck& check, const std::string& name, const MatrixView& m) {
  const Quantization& q = m.quantization;
  if (q.codes > CodeFormat::kInt4 || q.order > NibbleOrder::kAwq || q.zero_order > NibbleOrder::kAwq ||
      q.scale_format > ScaleFormat::kE8M0) {
    check.refuse(
        name + ".quantization",
        fmt::format("codes {}, order {}, zero order {}, scale format {}", static_cast<int>(q.codes),
                    static_cast<int>(q.order), static_cast<int>(q.zero_order), static_cast<int>(q.scale_format)),
        "enumerators");
  }
  if (m.dtype != DType::kU8) check.refuse(name, fmt::format("codes of type {}", dtype_name(m.dtype)), "u8");
  if (tables::code_bits(q.codes) == 8 && q.order != NibbleOrder::kLinear) {
    check.refuse(name + ".order", "one of 4-bit codes", "linear: the codes have 8 bits");
  }
  if (q.block_rows < 1 || q.block_cols < 1) {
    check.refuse(name, fmt::format("scaled by blocks of {} x {}", q.block_rows, q.block_cols), "1 x 1 or more");
  }
  if (q.scales != nullptr) {
    check.aligned(name + ".scales", q.scales, static_cast<std::size_t>(tables::scale_size(q.scale_format)));
  }
  if (q.zeros != nullptr && q.codes != CodeFormat::kInt4) {
    check.refuse(name + ".zeros", "given", "none: only int4 has them");
  }
}

}  // namespace

void ArgumentCheck::refuse(const std::string& argument, const std::string& got, const std::string& wanted) const {
  throw Error(ErrorKind::kInvalidArgument, fmt::format("{}: {} is {}, wanted {}", operation, argument, got, wanted));
}

void ArgumentCheck::aligned(const std::string& name, const void* data, std::size_t bytes) const {
  if (reinterpret_cast<std::uintptr_t>(data) % bytes == 0) return;
  refuse(name, fmt::format("at {}", data), fmt::format("a multiple of {} bytes", bytes));
}

void ArgumentCheck::tensor(const std::string& name, const TensorView& t, std::span<const std::int64_t> shape,
                           std::span<const DType> dtypes) const {
  std::vector<std::string> accepted;
  for (const DType dtype : dtypes) accepted.emplace_back(dtype_name(dtype));
  const bool dtype_fits = std::find(dtypes.begin(), dtypes.end(), t.dtype) != dtypes.end();
  const bool shape_fits =
      t.rank == static_cast<int>(shape.size()) && std::equal(shape.begin(), shape.end(), t.shape.begin());
  const std::string wanted = fmt::format("{} [{}]", fmt::join(accepted, " or "), fmt::join(shape, ", "));
  if (!dtype_fits || !shape_fits) refuse(name, base::tensor_text(t), wanted);
  if (t.num_elements() == 0) return;
  if (t.data == nullptr) refuse(name, "a null pointer", wanted);
  aligned(name, t.data, dtype_size(t.dtype));
}

void ArgumentCheck::matrix(const std::string& name, const MatrixView& m, std::int64_t rows, std::int64_t cols) const {
  if (m.empty()) refuse(name, "empty", fmt::format("a matrix [{}, {}]", rows, cols));
  if (m.rows != rows || m.cols != cols) {
    refuse(name, fmt::format("[{}, {}]", m.rows, m.cols), fmt::format("[{}, {}]", rows, cols));
  }
  if (m.quantized()) return check_quantization(*this, name, m);
  const Quantization& q = m.quantization;
  if (q.scales != nullptr || q.zeros != nullptr || q.multiplier != 1.0) {
    refuse(name, "numbers with scales, zero points or a multiplier", "none of them, or quantization.codes");
  }
  check_float_type(*this, name, m.dtype);
  aligned(name, m.data, dtype_size(m.dtype));
}

void ArgumentCheck::vector(const std::string& name, const VectorView& v, std::int64_t size) const {
  if (v.empty()) return;
  if (v.size != size) refuse(name, fmt::format("[{}]", v.size), fmt::format("[{}] or empty", size));
  check_float_type(*this, name, v.dtype);
  aligned(name, v.data, dtype_size(v.dtype));
}

namespace {

void check_value(const ArgumentCheck& check, const char* name, std::int64_t index, std::int64_t got, std::int64_t least,
                 std::int64_t most) {
  if (got >= least && got <= most) return;
  check.refuse(fmt::format("{}[{}]", name, index), fmt::format("{}", got), fmt::format("{} to {}", least, most));
}

}  // namespace

void ArgumentCheck::offset_values(const char* name, const TensorView& offsets, std::int64_t rows) const {
  const auto* values = static_cast<const std::int32_t*>(offsets.data);
  check_value(*this, name, 0, values[0], 0, 0);
  for (std::int64_t g = 1; g < offsets.shape[0]; ++g) check_value(*this, name, g, values[g], values[g - 1], rows);
}

void ArgumentCheck::count_values(const char* name, const TensorView& counts, std::int64_t most) const {
  const auto* values = static_cast<const std::int32_t*>(counts.data);
  for (std::int64_t g = 0; g < counts.shape[0]; ++g) check_value(*this, name, g, values[g], 0, most);
}

void ArgumentCheck::memory(const char* name, const void* memory, std::size_t given, std::size_t needed) const {
  if (needed == 0) return;
  if (memory == nullptr || given < needed) {
    refuse(name, memory == nullptr ? std::string("a null pointer") : fmt::format("{} bytes", given),
           fmt::format("{} bytes at a multiple of {}", needed, kMemoryAlignment));
  }
  aligned(name, memory, kMemoryAlignment);
}

}  // namespace moesaic::ops
