// SPDX-License-Identifier: Apache-2.0
// Integers of JSON that may come from anywhere: nlohmann casts fractions and what is too large, which may be undefined.
#pragma once

#include <fmt/format.h>

#include <cstdint>
#include <limits>
#include <nlohmann/json.hpp>
#include <utility>

#include "moesaic/error.h"

namespace moesaic::module {

/// A field that is an integer and fits. Throws Error(kIo) where it is not, nlohmann's exception where it is missing.
template <typename Int>
Int integer_at(const nlohmann::json& json, const char* name) {
  const nlohmann::json& value = json.at(name);
  if (value.is_number_unsigned() && std::in_range<Int>(value.get<std::uint64_t>())) {
    return static_cast<Int>(value.get<std::uint64_t>());
  }
  if (value.is_number_integer() && !value.is_number_unsigned() && std::in_range<Int>(value.get<std::int64_t>())) {
    return static_cast<Int>(value.get<std::int64_t>());
  }
  throw Error(ErrorKind::kIo, fmt::format("'{}' is not an integer of {} to {}", name, std::numeric_limits<Int>::min(),
                                          std::numeric_limits<Int>::max()));
}

}  // namespace moesaic::module
