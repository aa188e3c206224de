// SPDX-License-Identifier: Apache-2.0
// Tensors as error messages name them.
#pragma once

#include <string>

#include "moesaic/tensor.h"

namespace moesaic::base {

/// "bf16 [7, 64]", "empty", or what is wrong with a view of no possible rank.
std::string tensor_text(const TensorView& tensor);

/// True when the address is a multiple of the element's size.
bool is_aligned_for(const void* data, DType dtype) noexcept;

}  // namespace moesaic::base
