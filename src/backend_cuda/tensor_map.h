// SPDX-License-Identifier: Apache-2.0
// Descriptions of matrices for the copy engine of SM90 and later.
#pragma once

#include "kernels/abi/params.h"

namespace moesaic::cuda {

/// [rows][cols] of 16 bits in device memory, rows `stride` elements apart: a multiple of 8, as the address is one of 16
/// bytes. The copy engine then brings boxes of abi::kTensorRows x 64, swizzled over 128 bytes, zero outside. Throws
/// Error(kCuda) where the driver cannot.
abi::TensorMap tensor_map(const void* matrix, int rows, int cols, int stride);

}  // namespace moesaic::cuda
