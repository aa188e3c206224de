// SPDX-License-Identifier: Apache-2.0
// Text from files as it may stand in a message: quoted, short, one line, valid UTF-8.
#pragma once

#include <string>
#include <string_view>

namespace moesaic::checkpoint {

/// `text` in single quotes; control bytes as \xNN, cut at a character boundary after about 120 bytes.
std::string in_quotes(std::string_view text);

/// A message of at most about `limit` bytes, cut at a character boundary; control bytes as \xNN.
std::string one_line(std::string_view text, std::size_t limit);

}  // namespace moesaic::checkpoint
