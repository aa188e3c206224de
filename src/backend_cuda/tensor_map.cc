// SPDX-License-Identifier: Apache-2.0
// CUtensorMap of a matrix of 16 bits.
#include "backend_cuda/tensor_map.h"

#include <bit>
#include <cstdint>

#include "backend_cuda/driver.h"
#include "moesaic/error.h"

namespace moesaic::cuda {

static_assert(sizeof(CUtensorMap) == sizeof(abi::TensorMap) && alignof(CUtensorMap) <= alignof(abi::TensorMap));

abi::TensorMap tensor_map(const void* matrix, int rows, int cols, int stride) {
  if (driver().tensor_map_encode == nullptr) {
    throw Error(
        ErrorKind::kCuda,
        "the CUDA driver (libcuda.so.1) has no cuTensorMapEncodeTiled, which kernels of SM90 need: a driver for "
        "CUDA 12 or later has it");
  }
  constexpr cuuint32_t kSwizzled = 128;  // bytes
  const cuuint64_t extents[] = {static_cast<cuuint64_t>(cols), static_cast<cuuint64_t>(rows)};
  const cuuint64_t strides[] = {static_cast<cuuint64_t>(stride) * 2};  // bytes, of all dimensions but the first
  const cuuint32_t box[] = {kSwizzled / 2, abi::kTensorRows}, steps[] = {1, 1};
  CUtensorMap map;
  // The address only: nothing is written through the map.
  void* address = const_cast<void*>(matrix);
  MOESAIC_CU(tensor_map_encode, &map, CU_TENSOR_MAP_DATA_TYPE_UINT16, 2, address, extents, strides, box, steps,
             CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
             CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  return std::bit_cast<abi::TensorMap>(map);
}

}  // namespace moesaic::cuda
