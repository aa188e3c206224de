// SPDX-License-Identifier: Apache-2.0
// Writes a safetensors file piece by piece.
#include "checkpoint/safetensors_writer.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <nlohmann/json.hpp>

#include "checkpoint/printable.h"
#include "checkpoint/safetensors.h"
#include "moesaic/error.h"

namespace moesaic::checkpoint {

std::uint64_t planned_bytes(const PlannedTensor& tensor) {
  std::uint64_t elements = 1;
  for (const std::int64_t size : tensor.shape) elements *= static_cast<std::uint64_t>(size);
  return elements * static_cast<std::uint64_t>(dtype_bits(tensor.dtype)) / 8;
}

SafetensorsWriter::SafetensorsWriter(std::string path, const std::vector<PlannedTensor>& tensors)
    : path_(std::move(path)) {
  std::vector<PlannedTensor> ordered = tensors;
  std::stable_sort(ordered.begin(), ordered.end(), [](const PlannedTensor& a, const PlannedTensor& b) {
    return dtype_bits(a.dtype) > dtype_bits(b.dtype);
  });
  nlohmann::ordered_json header = nlohmann::ordered_json::object();
  header["__metadata__"] = {{"format", "pt"}};
  std::uint64_t end = 0;
  for (const PlannedTensor& tensor : ordered) {
    const std::uint64_t size = planned_bytes(tensor);
    if (!places_.emplace(tensor.name, Place{end, size, 0}).second) {
      throw Error(ErrorKind::kInvalidArgument,
                  fmt::format("{}: tensor {} stands twice", path_, in_quotes(tensor.name)));
    }
    header[tensor.name] = {{"dtype", tensor.dtype}, {"shape", tensor.shape}, {"data_offsets", {end, end + size}}};
    end += size;
  }
  std::string json = header.dump();
  json.resize((json.size() + 7) / 8 * 8, ' ');
  const std::uint64_t length = json.size();
  file_ = ::open(path_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
  if (file_ < 0) throw Error(ErrorKind::kIo, fmt::format("cannot create {}: {}", path_, std::strerror(errno)));
  data_begin_ = 8 + length;
  std::string start(8, '\0');
  std::memcpy(start.data(), &length, 8);
  start += json;
  write_at(0, start.data(), start.size());
}

SafetensorsWriter::~SafetensorsWriter() {
  if (file_ < 0) return;
  ::close(file_);
  ::unlink(path_.c_str());
}

void SafetensorsWriter::write_at(std::uint64_t position, const void* data, std::uint64_t size) {
  const auto* bytes = static_cast<const char*>(data);
  while (size > 0) {
    const ssize_t done = ::pwrite(file_, bytes, size, static_cast<off_t>(position));
    if (done < 0 && errno == EINTR) continue;
    if (done <= 0) throw Error(ErrorKind::kIo, fmt::format("cannot write {}: {}", path_, std::strerror(errno)));
    bytes += done;
    position += static_cast<std::uint64_t>(done);
    size -= static_cast<std::uint64_t>(done);
  }
}

void SafetensorsWriter::write(const std::string& name, std::uint64_t offset, const void* data, std::uint64_t size) {
  const auto at = places_.find(name);
  if (at == places_.end() || offset > at->second.size || size > at->second.size - offset) {
    throw Error(ErrorKind::kInternal,
                fmt::format("{}: {} bytes at {} of tensor {} were not planned", path_, size, offset, in_quotes(name)));
  }
  write_at(data_begin_ + at->second.begin + offset, data, size);
  at->second.written += size;
}

void SafetensorsWriter::finish() {
  for (const auto& [name, place] : places_) {
    if (place.written != place.size) {
      throw Error(ErrorKind::kInternal, fmt::format("{}: {} of {} bytes of tensor {} were written", path_,
                                                    place.written, place.size, in_quotes(name)));
    }
  }
  // An error can come as late as here, from a full disk.
  if (::fsync(file_) != 0 || ::close(file_) != 0) {
    const int error = errno;
    ::unlink(path_.c_str());
    file_ = -1;
    throw Error(ErrorKind::kIo, fmt::format("cannot write {}: {}", path_, std::strerror(error)));
  }
  file_ = -1;
}

}  // namespace moesaic::checkpoint
