// SPDX-License-Identifier: Apache-2.0
// Uploads, runs and downloads one quantisation.
#include "support/device_quantizer.h"

#include <gtest/gtest.h>

namespace moesaic::testing {
namespace {

constexpr Device kGpu{DeviceType::kCuda, 0};
constexpr std::size_t kGuard = 512;
constexpr unsigned char kPoison = 0xFF;

/// Device memory that begins `skip` bytes behind an aligned address, poisoned, with a guard behind it.
class Guarded {
 public:
  explicit Guarded(std::size_t bytes, std::size_t skip = 0)
      : bytes_(bytes), skip_(skip), buffer_(kGpu, bytes + skip + kGuard) {
    buffer_.fill(kPoison);
  }
  template <typename T>
  explicit Guarded(const std::vector<T>& values, std::size_t skip = 0) : Guarded(values.size() * sizeof(T), skip) {
    if (bytes_ > 0) buffer_.upload(values.data(), bytes_, skip_);
  }

  void* data() const { return static_cast<char*>(buffer_.data()) + skip_; }
  template <typename T>
  std::vector<T> values() const {
    std::vector<T> values(bytes_ / sizeof(T));
    if (bytes_ > 0) buffer_.download(values.data(), bytes_, skip_);
    return values;
  }
  void expect_guard_intact(const char* name) const {
    std::vector<unsigned char> around(skip_ + kGuard);
    if (skip_ > 0) buffer_.download(around.data(), skip_);
    buffer_.download(around.data() + skip_, kGuard, skip_ + bytes_);
    for (const unsigned char byte : around) {
      if (byte != kPoison) {
        ADD_FAILURE() << name << ": bytes around the buffer were written";
        return;
      }
    }
  }

 private:
  std::size_t bytes_, skip_;
  cuda::DeviceBuffer buffer_;
};

}  // namespace

DeviceQuantizer::DeviceQuantizer(const QuantSpec& spec, const Activation* activation, const ModuleOptions& modules)
    : spec_(spec), quantizer_(Quantizer::create(spec, kGpu, modules, activation)) {}

QuantBuffers DeviceQuantizer::quantize(const QuantCase& c, const HostArray& x, float global_scale) const {
  const QuantBuffers empty = quant_buffers(c, global_scale);
  const Guarded dx(x.bytes, c.misalign * dtype_size(c.dtype)), codes(empty.codes, c.misalign), scales(empty.scales),
      zeros(empty.zeros), global(empty.global_scale), rows(empty.row_scales), groups(c.group_offsets);
  const QuantizeRun run = quant_run(c, QuantAddresses{dx.data(), codes.data(), scales.data(), zeros.data(),
                                                      global.data(), rows.data(), groups.data()});
  const auto results = [&] {
    return QuantBuffers{codes.values<unsigned char>(), scales.values<unsigned char>(), zeros.values<unsigned char>(),
                        empty.global_scale, rows.values<float>()};
  };
  if (c.rows == 0 && c.spec.format != QuantFormat::kFp8Tensor) {  // nothing is enqueued: no graph either
    quantizer_.quantize(run);
    return results();
  }
  const cuda::Stream stream(kGpu);
  const cuda::Graph graph(kGpu, stream, [&](void* s) { quantizer_.quantize(run, s); });
  graph.launch(stream);
  stream.synchronize();
  const QuantBuffers first = results();
  graph.launch(stream);
  stream.synchronize();
  QuantBuffers second = results();
  EXPECT_EQ(first.codes, second.codes) << c.name() << ": two replays differ";
  EXPECT_EQ(first.scales, second.scales) << c.name() << ": two replays differ";
  codes.expect_guard_intact("codes"), scales.expect_guard_intact("scales"), zeros.expect_guard_intact("zeros");
  rows.expect_guard_intact("row_scales"), dx.expect_guard_intact("x");
  return second;
}

HostArray DeviceQuantizer::dequantize(const QuantCase& c, const QuantBuffers& b) const {
  const Guarded codes(b.codes, c.misalign), scales(b.scales), zeros(b.zeros), global(b.global_scale),
      rows(b.row_scales), groups(c.group_offsets);
  const Guarded x(static_cast<std::size_t>(c.rows * c.cols) * dtype_size(c.dtype), c.misalign * dtype_size(c.dtype));
  quantizer_.dequantize(quant_run(c, QuantAddresses{x.data(), codes.data(), scales.data(), zeros.data(), global.data(),
                                                    rows.data(), groups.data()}));
  cuda::synchronize(kGpu);
  x.expect_guard_intact("x");
  return {c.dtype, x.values<unsigned char>()};
}

std::vector<unsigned char> DeviceQuantizer::swizzle(const std::vector<unsigned char>& linear, std::int64_t rows,
                                                    std::int64_t cols) const {
  const std::int64_t bytes = scale_layout_bytes(spec_.layout, rows, cols);
  const Guarded from(linear), to(static_cast<std::size_t>(bytes));
  quantizer_.swizzle_scales(TensorView(from.data(), DType::kU8, {rows, cols}),
                            TensorView(to.data(), DType::kU8, {bytes}));
  cuda::synchronize(kGpu);
  to.expect_guard_intact("layout scales");
  return to.values<unsigned char>();
}

std::vector<unsigned char> DeviceQuantizer::unswizzle(const std::vector<unsigned char>& tiles, std::int64_t rows,
                                                      std::int64_t cols) const {
  const Guarded from(tiles), to(static_cast<std::size_t>(rows * cols));
  quantizer_.unswizzle_scales(TensorView(from.data(), DType::kU8, {static_cast<std::int64_t>(tiles.size())}),
                              TensorView(to.data(), DType::kU8, {rows, cols}));
  cuda::synchronize(kGpu);
  to.expect_guard_intact("linear scales");
  return to.values<unsigned char>();
}

}  // namespace moesaic::testing
