// SPDX-License-Identifier: Apache-2.0
// Text from files as it may stand in a message.
#include "checkpoint/printable.h"

#include <fmt/format.h>

namespace moesaic::checkpoint {

std::string one_line(std::string_view text, std::size_t limit) {
  bool cut = text.size() > limit;
  if (cut) {
    while (limit > 0 && (static_cast<unsigned char>(text[limit]) & 0xC0) == 0x80) --limit;
    text = text.substr(0, limit);
  }
  std::string line;
  for (char c : text) {
    auto byte = static_cast<unsigned char>(c);
    if (byte < 0x20 || byte == 0x7F) {
      line += fmt::format("\\x{:02x}", byte);
    } else {
      line += c;
    }
  }
  if (cut) line += "...";
  return line;
}

std::string in_quotes(std::string_view text) { return fmt::format("'{}'", one_line(text, 120)); }

}  // namespace moesaic::checkpoint
