// SPDX-License-Identifier: Apache-2.0
// Quantisers over many rows: threads take blocks of rows, vector code finds maxima and codes.
#include <algorithm>
#include <atomic>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#include "backend_cpu/backend_cpu.h"
#include "backend_cpu/fast_activation.h"
#include "backend_cpu/fast_kernels.h"
#include "backend_cpu/fast_read.h"
#include "backend_cpu/fast_round.h"
#include "backend_cpu/fast_threads.h"
#include "tables/quant_table.h"

namespace moesaic::cpu {
namespace {

constexpr std::int64_t kElementsPerTask = 1 << 16;

// Codes one a byte, count even: the even ones become low nibbles. In place is fine.
void pack_nibbles(const std::uint8_t* codes, std::int64_t count, std::uint8_t* to) {
  std::int64_t i = 0;
  for (; i + 8 <= count; i += 8) {
    std::uint64_t word;
    std::memcpy(&word, codes + i, sizeof(word));
    word = (word | word >> 4) & 0x00ff00ff00ff00ffu;
    word = (word | word >> 8) & 0x0000ffff0000ffffu;
    const auto packed = static_cast<std::uint32_t>(word | word >> 16);
    std::memcpy(to + i / 2, &packed, sizeof(packed));
  }
  for (; i < count; i += 2) to[i / 2] = static_cast<std::uint8_t>(codes[i] | codes[i + 1] << 4);
}

// What one thread needs for a row.
struct RowScratch {
  std::vector<float> values, up, activated;
  std::vector<std::uint8_t> codes;
};

// Shapes, and where rows, codes and scales of a run lie.
class QuantizeTask {
 public:
  QuantizeTask(const QuantSpec& spec, const QuantizeRun& run, const Activation* activation)
      : spec_(spec),
        run_(run),
        kernels_(fast_kernels()),
        traits_(quant_traits(spec)),
        rows_(run.x.shape[0]),
        cols_(run.x.shape[1] / (activation == nullptr ? 1 : 2)),
        sizes_(quant_sizes(spec, rows_, cols_)),
        block_cols_(traits_.block_cols == 0 ? cols_ : traits_.block_cols),
        four_bits_(tables::code_bits(traits_.codes) == 4),
        has_activation_(activation != nullptr) {
    if (activation != nullptr) activation_ = fast_activation(*activation);
  }

  void quantize() {
    clear_padding();
    switch (spec_.format) {
      case QuantFormat::kFp8Tensor:
        quantize_tensor();
        return;
      case QuantFormat::kFp8Block128x128:
        quantize_square_blocks();
        return;
      case QuantFormat::kFp8Static:
        if (rows_ > 0) *scales<float>() = *data<float>(run_.global_scale);
        break;
      default:
        break;
    }
    for_rows(1, [&](std::int64_t begin, std::int64_t end) {
      RowScratch scratch;
      for (std::int64_t row = begin; row < end; ++row) quantize_row(row, load_row(row, scratch), scratch);
    });
  }

 private:
  template <typename T>
  static T* data(const TensorView& tensor) {
    return static_cast<T*>(tensor.data);
  }
  template <typename T>
  T* scales() const {
    return data<T>(run_.scales);
  }

  // body(begin, end) over all rows; begin is a multiple of `multiple`.
  template <typename Body>
  void for_rows(std::int64_t multiple, const Body& body) const {
    const std::int64_t wanted = std::max<std::int64_t>(1, kElementsPerTask / cols_);
    const std::int64_t rows = (wanted + multiple - 1) / multiple * multiple;
    parallel_for((rows_ + rows - 1) / rows,
                 [&](std::int64_t task, int) { body(task * rows, std::min(rows_, (task + 1) * rows)); });
  }

  // Scales of whole tiles: rows and columns past the end are 0. Grouped scales keep what lies between groups.
  void clear_padding() const {
    if (spec_.layout != ScaleLayout::kLinear && run_.group_offsets.empty()) {
      std::memset(run_.scales.data, 0, static_cast<std::size_t>(sizes_.scale_bytes));
    }
  }

  void widen(std::int64_t at, std::int64_t count, float* to) const {
    if (run_.x.dtype == DType::kF32) {
      std::copy_n(data<const float>(run_.x) + at, count, to);
    } else {
      kernels_.widen(data<const std::uint16_t>(run_.x) + at, count,
                     run_.x.dtype == DType::kBF16 ? Io::kBf16 : Io::kFp16, to);
    }
  }

  // A row as fp32, after the activation where there is one.
  const float* load_row(std::int64_t row, RowScratch& scratch) const {
    const std::int64_t stored = run_.x.shape[1], padded = (cols_ + 15) / 16 * 16;  // activations work on 16 at a time
    if (!has_activation_ && run_.x.dtype == DType::kF32) return data<const float>(run_.x) + row * stored;
    scratch.values.resize(static_cast<std::size_t>(padded));
    widen(row * stored, cols_, scratch.values.data());
    if (!has_activation_) return scratch.values.data();
    scratch.up.resize(scratch.values.size());
    scratch.activated.resize(scratch.values.size());
    widen(row * stored + cols_, cols_, scratch.up.data());
    const int count = static_cast<int>(padded);
    if (!kernels_.activate(activation_, scratch.values.data(), scratch.up.data(), count, scratch.activated.data())) {
      activate_scalar(activation_, scratch.values.data(), scratch.up.data(), count, scratch.activated.data());
    }
    return scratch.activated.data();
  }

  void store_codes(std::int64_t row, std::int64_t col, const float* x, std::int64_t count, const BlockCode& block,
                   RowScratch& scratch) const {
    auto* codes = data<std::uint8_t>(run_.codes);
    const std::int64_t at = row * cols_ + col;
    if (block.empty) {
      std::fill_n(codes + (four_bits_ ? at / 2 : at), four_bits_ ? count / 2 : count, 0);
      return;
    }
    const CodeKernels::Encode encode = encoder(*kernels_.codes, traits_.codes);
    if (!four_bits_) {
      encode(x, count, block.factor, codes + at);
      return;
    }
    scratch.codes.resize(static_cast<std::size_t>(count));
    encode(x, count, block.factor, scratch.codes.data());
    pack_nibbles(scratch.codes.data(), count, codes + at / 2);
  }

  // The row whose place in the scales a row of x takes; -1: it is in no group, and its scales are not kept.
  std::int64_t scale_row(std::int64_t row) const {
    return run_.group_offsets.empty() ? row : scale_row_in_group(run_.group_offsets, row);
  }

  // Padding columns of a row; without groups the constructor cleared everything.
  void clear_padding(std::int64_t row) const {
    if (scale_row(row) < 0) return;
    for (std::int64_t col = sizes_.scale_cols; col % 4 != 0; ++col) {
      data<std::uint8_t>(run_.scales)[scale_index(spec_.layout, scale_row(row), col, sizes_.scale_cols)] = 0;
    }
  }

  void quantize_row(std::int64_t row, const float* x, RowScratch& scratch) const {
    if (spec_.format == QuantFormat::kInt4) return quantize_groups(row, x, scratch);
    if (!run_.group_offsets.empty()) clear_padding(row);
    float encode_scale = 1.0f;
    if (spec_.format == QuantFormat::kNvfp4) encode_scale = *data<const float>(run_.global_scale);
    if (spec_.format == QuantFormat::kNvfp4Row) {
      float& row_scale = data<float>(run_.row_scales)[row];
      row_scale = nvfp4_row_scale(kernels_.codes->amax_bits(x, cols_));
      encode_scale = nvfp4_row_encode_scale(row_scale);
    }
    const std::int64_t first_scale = scale_row(row);
    for (std::int64_t col = 0; col < cols_; col += block_cols_) {
      const std::int64_t count = std::min(block_cols_, cols_ - col);
      if (spec_.format == QuantFormat::kFp8Static) {
        store_codes(row, col, x + col, count, fp8_static_block(*data<const float>(run_.global_scale)), scratch);
        continue;
      }
      const std::uint32_t amax = kernels_.codes->amax_bits(x + col, count);
      const std::int64_t at = scale_index(spec_.layout, first_scale, col / block_cols_, sizes_.scale_cols);
      BlockCode block;
      if (traits_.scales == ScaleFormat::kF32) {
        block = fp8_block(amax);
        scales<std::uint32_t>()[at] = block.stored;
      } else {
        block = traits_.scales == ScaleFormat::kE4M3 ? nvfp4_block(encode_scale, amax)
                                                     : mx_block(spec_.format, spec_.e8m0, amax);
        if (first_scale >= 0) scales<std::uint8_t>()[at] = static_cast<std::uint8_t>(block.stored);
      }
      store_codes(row, col, x + col, count, block, scratch);
    }
  }

  void quantize_groups(std::int64_t row, const float* x, RowScratch& scratch) const {
    scratch.codes.resize(static_cast<std::size_t>(block_cols_));
    for (std::int64_t col = 0; col < cols_; col += block_cols_) {
      const std::int64_t at = row * sizes_.scale_cols + col / block_cols_;
      const std::uint32_t amax = kernels_.codes->amax_bits(x + col, block_cols_);
      std::uint16_t stored = 0x7fc0;
      float zero = 8.0f;
      if (amax > 0x7f800000u) {
        std::fill(scratch.codes.begin(), scratch.codes.end(), 0);
      } else {
        float low = 0.0f, high = 0.0f;
        if (spec_.int4.zero_points) kernels_.codes->range(x + col, block_cols_, &low, &high);
        stored = float_to_bf16(spec_.int4.zero_points ? (high - low) / 15.0f : std::bit_cast<float>(amax) / 7.5f);
        const float step = bf16_to_float(stored);
        if (spec_.int4.zero_points && step != 0.0f) {
          const float shift = std::nearbyint(-low / step);
          zero = shift > 0.0f ? std::min(shift, 15.0f) : 0.0f;  // 0 for the quotient of infinities, too
        }
        if (step == 0.0f) {
          std::fill(scratch.codes.begin(), scratch.codes.end(), 8);
        } else {
          kernels_.codes->int4(x + col, block_cols_, step, zero, scratch.codes.data());
        }
      }
      scales<std::uint16_t>()[at] = stored;
      if (spec_.int4.zero_points) data<std::uint8_t>(run_.zeros)[at] = static_cast<std::uint8_t>(zero);
      pack_nibbles(scratch.codes.data(), block_cols_, data<std::uint8_t>(run_.codes) + (row * cols_ + col) / 2);
    }
  }

  // Two passes: the maximum of everything, then the codes.
  void quantize_tensor() {
    std::atomic<std::uint32_t> largest{0};
    for_rows(1, [&](std::int64_t begin, std::int64_t end) {
      RowScratch scratch;
      std::uint32_t amax = 0;
      for (std::int64_t row = begin; row < end; ++row) {
        amax = std::max(amax, kernels_.codes->amax_bits(load_row(row, scratch), cols_));
      }
      std::uint32_t seen = largest;
      while (amax > seen && !largest.compare_exchange_weak(seen, amax)) {
      }
    });
    const BlockCode block = fp8_block(largest);
    *scales<std::uint32_t>() = block.stored;
    for_rows(1, [&](std::int64_t begin, std::int64_t end) {
      RowScratch scratch;
      for (std::int64_t row = begin; row < end; ++row) {
        store_codes(row, 0, load_row(row, scratch), cols_, block, scratch);
      }
    });
  }

  void quantize_square_blocks() {
    for_rows(traits_.block_rows, [&](std::int64_t begin, std::int64_t end) {
      RowScratch scratch;
      std::vector<std::uint32_t> amax;
      for (std::int64_t first = begin; first < end; first += traits_.block_rows) {
        const std::int64_t last = std::min(end, first + traits_.block_rows);
        amax.assign(static_cast<std::size_t>(sizes_.scale_cols), 0);
        for (std::int64_t row = first; row < last; ++row) {
          const float* x = load_row(row, scratch);
          for (std::int64_t b = 0; b < sizes_.scale_cols; ++b) {
            amax[b] = std::max(amax[b], kernels_.codes->amax_bits(x + b * block_cols_, block_size(b)));
          }
        }
        for (std::int64_t row = first; row < last; ++row) {
          const float* x = load_row(row, scratch);
          for (std::int64_t b = 0; b < sizes_.scale_cols; ++b) {
            const BlockCode block = fp8_block(amax[b]);
            scales<std::uint32_t>()[first / traits_.block_rows * sizes_.scale_cols + b] = block.stored;
            store_codes(row, b * block_cols_, x + b * block_cols_, block_size(b), block, scratch);
          }
        }
      }
    });
  }
  std::int64_t block_size(std::int64_t block) const { return std::min(block_cols_, cols_ - block * block_cols_); }

  const QuantSpec& spec_;
  const QuantizeRun& run_;
  const FastKernels& kernels_;
  const QuantTraits traits_;
  const std::int64_t rows_, cols_;
  const QuantSizes sizes_;
  const std::int64_t block_cols_;
  const bool four_bits_, has_activation_;
  FastActivation activation_{};
};

}  // namespace

void fast_quantize(const QuantSpec& spec, const QuantizeRun& run, const Activation* activation) {
  QuantizeTask(spec, run, activation).quantize();
}

}  // namespace moesaic::cpu
