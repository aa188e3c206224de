// SPDX-License-Identifier: Apache-2.0
// Prepared weights in a file:
//   "moesaic-prepared"            16 bytes
//   header size                   u64, little endian
//   SHA-256 of the header         64 hex digits
//   header                        JSON: layout, recipe, shapes, size of the weights
//   weights                       as they lie in memory
//   SHA-256 of the weights        64 hex digits
#pragma once

#include <string>

#include "ops/moe_impl.h"

namespace moesaic::ops {

/// See FusedMoe::save_prepared.
void save_prepared(const MoeConfig& config, const MoeImpl& impl, const void* prepared, const std::string& path,
                   void* stream);
/// See FusedMoe::load_prepared.
void load_prepared(const MoeConfig& config, const MoeImpl& impl, const std::string& path, void* prepared, void* stream);

}  // namespace moesaic::ops
