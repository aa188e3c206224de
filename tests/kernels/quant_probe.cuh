// SPDX-License-Identifier: Apache-2.0
// Test text over the kernels' own: codes of FP32 numbers by software (role 0) or by conversion instructions (role 1),
// values of all codes, and the fused kernels' activation alone.
#pragma once

#include "kernels/quant/read.cuh"

namespace moesaic::abi {

struct ProbeParams {
  const void* input;        // [count] of `source` type
  unsigned char* codes;     // [3][count]: e2m1, e4m3, e5m2
  float* values;            // [4][256]: e2m1, e4m3, e5m2, e8m0
  float* activated;         // [rows][cols], or nullptr: codes
  QuantizeParams quantize;  // x, source, rows, cols and the activation are read
  int count, source;
};

}  // namespace moesaic::abi

namespace moesaic::probe {

template <abi::KernelConfig kConfig>
__device__ void probe(const abi::ProbeParams& p) {
  constexpr bool kFp8 = kConfig.role == 1 && (kConfig.features & abi::kConvertFp8) != 0;
  constexpr bool kFp4 = kConfig.role == 1 && (kConfig.features & abi::kConvertFp4) != 0;
  const int index = blockIdx.x * blockDim.x + threadIdx.x;
  if (p.activated != nullptr) {
    const int units = (p.quantize.cols + abi::kUnit - 1) / abi::kUnit;
    const quant::Unit unit[1] = {quant::unit_at(p.quantize, index / units, index % units)};
    float v[1][abi::kUnit];
    quant::read_units<true, 1>(p.quantize, unit, v);
    for (int i = 0; i < abi::kUnit; ++i) {
      if (i < unit[0].count) {
        p.activated[static_cast<long long>(unit[0].row) * p.quantize.cols + unit[0].col + i] = v[0][i];
      }
    }
    return;
  }
  if (index < p.count) {
    const float x = load_source(p.input, p.source, index);
    const float number = x != x ? fabsf(x) : x;  // of NaNs the e2m1 codec takes positive ones alone
    const float eight[8] = {number, -number, 0.0f, number, 6.0f, -0.0f, -6.0f, number};
    const u32 e2m1 = codec::encode_e2m1x8<kFp4>(eight, 1.0f);
    // Neighbours must not disturb each other: all places of the number agree, the constants are theirs.
    const u32 at = e2m1 & 0xf;
    const bool together = (e2m1 >> 12 & 0xf) == at && e2m1 >> 28 == at && (e2m1 >> 8 & 0xf) == 0 &&
                          (e2m1 >> 16 & 0xfff) == 0xf87 &&
                          (!(fabsf(number) < 7.0f) || codec::round_e2m1x8<true>(eight, 1.0f) == e2m1);
    p.codes[index] = static_cast<unsigned char>(together ? at : 0xee);
    const u32 e4m3 = codec::encode_fp8x4<codec::E4m3, kFp8>(x, 0.0f, 0.0f, 0.0f);
    const u32 e5m2 = codec::encode_fp8x4<codec::E5m2, kFp8>(0.0f, 0.0f, 0.0f, x);
    p.codes[p.count + index] = static_cast<unsigned char>(e4m3 & 0xff);
    p.codes[2ll * p.count + index] = static_cast<unsigned char>(e5m2 >> 24);
  }
  if (index < 256) {
    p.values[index] = codec::decode<codec::E2m1>(index & 0xf);
    p.values[256 + index] = codec::decode<codec::E4m3>(index);
    p.values[512 + index] = codec::decode<codec::E5m2>(index);
    p.values[768 + index] = codec::decode_e8m0(index);
  }
}

}  // namespace moesaic::probe
