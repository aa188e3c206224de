// SPDX-License-Identifier: Apache-2.0
// Any bytes as a safetensors file: an Error, or a file whose every tensor can be found, viewed and read to its end.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <string>

#include "checkpoint/safetensors.h"
#include "checkpoint/tensor_argument.h"
#include "fuzz/memory_file.h"
#include "moesaic/error.h"

namespace {

using moesaic::Error;
using moesaic::checkpoint::SafetensorsFile;

std::string memory_file(const std::uint8_t* data, std::size_t size) {
  static const moesaic::testing::MemoryFile file;
  return file.hold({reinterpret_cast<const char*>(data), size});
}

void demand(bool holds) {
  if (!holds) std::abort();
}

void open_and_read(const std::uint8_t* data, std::size_t size) {
  try {
    auto file = SafetensorsFile::open(memory_file(data, size));
    std::uint64_t sum = 0, bytes = 0;
    for (const auto& entry : file->tensors()) {
      demand(file->find(entry.name) == &entry);
      demand(!file->below(entry.name).empty());
      for (std::uint64_t i = 0; i < entry.end - entry.begin; ++i) {
        sum += static_cast<std::uint64_t>(file->data(entry)[i]);
      }
      bytes += entry.end - entry.begin;
      try {
        demand(moesaic::checkpoint::tensor_view(file, entry).view.num_elements() >= 0);
      } catch (const Error&) {
      }
    }
    demand(bytes <= size && sum <= 255 * bytes);
  } catch (const Error&) {
  }
}

// What follows the first eight bytes, up to a NUL, as the header, with the length that it has: a fuzzer seldom keeps
// length and header in step.
void open_with_right_length(const std::uint8_t* data, std::size_t size) {
  const std::string text(reinterpret_cast<const char*>(data), size);
  const std::uint64_t length = std::min(text.find('\0', 8), size) - 8;
  std::string file(8, '\0');
  std::memcpy(file.data(), &length, 8);
  file += text.substr(8);
  open_and_read(reinterpret_cast<const std::uint8_t*>(file.data()), file.size());
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  open_and_read(data, size);
  if (size > 8) open_with_right_length(data, size);
  return 0;
}
