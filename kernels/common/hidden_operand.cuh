// SPDX-License-Identifier: Apache-2.0
// GEMM 1's result quantised by a static scale and decoded at once, as kernels/quant/operand.cuh does it in a launch of
// its own: the same operations, the same bits. Here are the scales that need no more of a row than a tile has.
#pragma once

#include "kernels/common/code_scale.cuh"
#include "kernels/common/ptx.cuh"

namespace moesaic {

/// Largest of kLanes neighbouring lanes; a NaN wins. Requires: all of these call it together.
template <int kLanes>
__device__ __forceinline__ float lanes_max(float value) {
  const u32 mask = ((1u << kLanes) - 1) << (threadIdx.x & 31u & ~(kLanes - 1u));
#pragma unroll
  for (int delta = 1; delta < kLanes; delta *= 2) value = max_nan(value, __shfl_xor_sync(mask, value, delta));
  return value;
}

/// What the outputs of a GEMM 1 of this configuration become. e4m3 weights: codes of e4m3 (fp8_tensor); e2m1 weights:
/// codes of e2m1, each times the e4m3 scale of its 16 (nvfp4). Other weights have no static scales: nothing is
/// compiled.
template <abi::KernelConfig kConfig>
class HiddenOperand {
 public:
  static constexpr bool kExists = abi::quantises_hidden(kConfig, true);

  __device__ __forceinline__ explicit HiddenOperand(const abi::GemmParams& p) : p_(p), encode_{}, zero_(false) {
    if (!is_wanted()) return;
    const float scale = __ldg(p.hidden_scale);
    if constexpr (kByBlock) {
      encode_ = encode_scale(__frcp_rn(scale));
    } else {
      const FloatScale fp8 = fp8_static_scale(scale);
      encode_.sixth = fp8.multiplier, zero_ = fp8.zero;
    }
  }

  __device__ __forceinline__ bool is_wanted() const {
    if constexpr (!kExists) return false;
    return p_.hidden_scale != nullptr;
  }

  /// Two neighbours, the first at an even column. nvfp4: by the eight lanes that have a block's.
  __device__ __forceinline__ void store_pair(int row, int column, float low, float high) const {
    if constexpr (kExists) {
      const BlockScale scale = block_scale<8>(max_nan(fabsf(low), fabsf(high)));
      const u32 bits = pack<abi::kIoBf16>(number(column, low, scale), number(column + 1, high, scale));
      *reinterpret_cast<u32*>(static_cast<u16*>(p_.out) + index(row, column)) = bits;
      store_token_scale(row, column);
    }
  }
  /// One. nvfp4: by the sixteen lanes that have a block's.
  __device__ __forceinline__ void store(int row, int column, float value) const {
    if constexpr (kExists) {
      const BlockScale scale = block_scale<16>(fabsf(value));
      static_cast<u16*>(p_.out)[index(row, column)] = from_float<abi::kIoBf16>(number(column, value, scale));
      store_token_scale(row, column);
    }
  }

 private:
  static constexpr bool kByBlock = kConfig.weights == abi::kWeightsE2m1;
  static constexpr bool kConvert = (kConfig.features & abi::kConvertFp8) != 0;

  /// What values of a block are multiplied by, and what their codes are then worth.
  struct BlockScale {
    float multiplier, factor;
    bool zero;
  };

  template <int kLanes>
  __device__ __forceinline__ BlockScale block_scale(float amax) const {
    if constexpr (kByBlock) {
      const ByteScale scale = nvfp4_scale<kConvert>(lanes_max<kLanes>(amax), encode_);
      return {scale.multiplier, codec::decode<codec::E4m3>(scale.byte), scale.zero};
    } else {
      return {encode_.sixth, 1.0f, zero_};
    }
  }

  __device__ __forceinline__ float number(int column, float value, const BlockScale& scale) const {
    if (column >= p_.hidden_cols) return 0.0f;
    if constexpr (kByBlock) {
      const u32 code = scale.zero ? 0 : codec::round_e2m1(value, scale.multiplier);
      return __fmul_rn(codec::decode<codec::E2m1>(code), scale.factor);
    } else {
      const u32 code = scale.zero ? 0 : codec::encode_fp8<codec::E4m3, kConvert>(__fmul_rn(value, scale.multiplier));
      return codec::decode<codec::E4m3>(code);
    }
  }

  __device__ __forceinline__ long long index(int row, int column) const {
    return static_cast<long long>(row) * p_.out_stride + column;
  }
  /// A row's first column stores its scale.
  __device__ __forceinline__ void store_token_scale(int row, int column) const {
    if (column == 0) p_.hidden_token_scale[row] = __ldg(p_.hidden_scale);
  }

  const abi::GemmParams& p_;
  EncodeScale encode_;  // fp8: in its first member what values are multiplied by
  bool zero_;           // fp8: all codes are 0
};

}  // namespace moesaic
