// SPDX-License-Identifier: Apache-2.0
// The driver's function that makes tensor maps, with the checks that its documentation lists (cuda.h). Tiles without
// interleaving, of types that are copied as they are.
#include "simulator/tensor_map.h"

#include <cuda.h>

#include <cstdio>
#include <cstring>

namespace {

using moesaic::sim::TensorMap;

CUresult refuse(CUresult result, const char* what) {
  std::fprintf(stderr, "simulator: cuTensorMapEncodeTiled: %s\n", what);
  return result;
}

// 0: converted on the way, or packed.
unsigned bytes_of(CUtensorMapDataType type) {
  switch (type) {
    case CU_TENSOR_MAP_DATA_TYPE_UINT8:
      return 1;
    case CU_TENSOR_MAP_DATA_TYPE_UINT16:
    case CU_TENSOR_MAP_DATA_TYPE_FLOAT16:
    case CU_TENSOR_MAP_DATA_TYPE_BFLOAT16:
      return 2;
    case CU_TENSOR_MAP_DATA_TYPE_UINT32:
    case CU_TENSOR_MAP_DATA_TYPE_INT32:
    case CU_TENSOR_MAP_DATA_TYPE_FLOAT32:
      return 4;
    default:
      return 0;
  }
}

// Null: all is well.
const char* wrong_sizes(const TensorMap& map, const cuuint32_t* box, const cuuint32_t* element_strides) {
  constexpr std::uint64_t kMostElements = std::uint64_t{1} << 32, kStrideLimit = std::uint64_t{1} << 40;
  for (unsigned i = 0; i < map.rank; ++i) {
    if (map.sizes[i] == 0 || map.sizes[i] > kMostElements) return "a dimension of the tensor is 0 or beyond 2^32";
    if (box[i] == 0 || box[i] > 256) return "a dimension of the box is 0 or beyond 256";
    if (element_strides[i] != 1) return "an element stride is not 1 (others are not simulated)";
    if (i > 0 && map.strides[i] % 16 != 0) return "a stride is no multiple of 16 bytes";
    if (i > 0 && map.strides[i] >= kStrideLimit) return "a stride is not below 2^40";
  }
  const unsigned row = box[0] * map.element_bytes;
  if (row % 16 != 0) return "rows of the box are no multiple of 16 bytes";
  if (map.swizzle_bytes != 0 && row > map.swizzle_bytes) return "rows of the box are wider than the swizzle";
  return nullptr;
}

}  // namespace

extern "C" CUresult cuTensorMapEncodeTiled(CUtensorMap* to, CUtensorMapDataType type, cuuint32_t rank, void* address,
                                           const cuuint64_t* sizes, const cuuint64_t* strides, const cuuint32_t* box,
                                           const cuuint32_t* element_strides, CUtensorMapInterleave interleave,
                                           CUtensorMapSwizzle swizzle, CUtensorMapL2promotion promotion,
                                           CUtensorMapFloatOOBfill fill) {
  static_assert(sizeof(TensorMap) == sizeof(CUtensorMap));
  const auto invalid = [](const char* what) { return refuse(CUDA_ERROR_INVALID_VALUE, what); };
  const auto not_simulated = [](const char* what) { return refuse(CUDA_ERROR_NOT_SUPPORTED, what); };
  if (to == nullptr || sizes == nullptr || box == nullptr || element_strides == nullptr)
    return invalid("a null pointer");
  if (reinterpret_cast<std::uintptr_t>(to) % 64 != 0) return invalid("the map is not aligned to 64 bytes");
  if (rank == 0 || rank > moesaic::sim::kTensorRanks) return invalid("the rank is not 1 to 5");
  if (rank > 1 && strides == nullptr) return invalid("a null pointer");
  if (reinterpret_cast<std::uintptr_t>(address) % 16 != 0) return invalid("the address is not aligned to 16 bytes");
  if (promotion > CU_TENSOR_MAP_L2_PROMOTION_L2_256B) return invalid("an unknown promotion");
  if (interleave != CU_TENSOR_MAP_INTERLEAVE_NONE) return not_simulated("interleaved tensors are not simulated");
  if (swizzle > CU_TENSOR_MAP_SWIZZLE_128B) return not_simulated("this swizzle is not simulated");
  if (fill != CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) return not_simulated("a fill by NaN is not simulated");

  TensorMap map{};
  map.address = reinterpret_cast<std::uintptr_t>(address);
  map.element_bytes = static_cast<std::uint16_t>(bytes_of(type));
  map.rank = static_cast<std::uint16_t>(rank);
  map.swizzle_bytes = static_cast<std::uint16_t>(swizzle == CU_TENSOR_MAP_SWIZZLE_NONE ? 0 : 16u << swizzle);
  if (map.element_bytes == 0) return not_simulated("this type is not simulated");
  map.sizes.fill(1), map.box.fill(1);
  for (unsigned i = 0; i < rank; ++i) {
    map.sizes[i] = sizes[i];
    if (i > 0) map.strides[i] = strides[i - 1];
  }
  if (const char* wrong = wrong_sizes(map, box, element_strides)) return invalid(wrong);
  for (unsigned i = 0; i < rank; ++i) map.box[i] = static_cast<std::uint16_t>(box[i]);
  std::memcpy(to, &map, sizeof(map));
  return CUDA_SUCCESS;
}
