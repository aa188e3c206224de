// SPDX-License-Identifier: Apache-2.0
// Single tensors in and out of safetensors files: inputs, expected outputs, results.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cstring>
#include <limits>
#include <nlohmann/json.hpp>

#include "base/fs.h"
#include "checkpoint/printable.h"
#include "checkpoint/safetensors.h"
#include "checkpoint/tensor_argument.h"
#include "moesaic/checkpoint.h"

namespace moesaic {
namespace checkpoint {
namespace {

const char* safetensors_dtype(DType dtype) {
  switch (dtype) {
    case DType::kF64:
      return "F64";
    case DType::kF32:
      return "F32";
    case DType::kBF16:
      return "BF16";
    case DType::kF16:
      return "F16";
    case DType::kI64:
      return "I64";
    case DType::kI32:
      return "I32";
    case DType::kU8:
      return "U8";
  }
  throw Error(ErrorKind::kInternal, "write_tensors: unknown dtype");
}

std::string names_in(const SafetensorsFile& file) {
  std::vector<std::string> names;
  for (const TensorEntry* entry : file.below("")) {
    if (names.size() == 20) {
      names.push_back("...");
      break;
    }
    names.push_back(in_quotes(entry->name));
  }
  return fmt::format("{}", fmt::join(names, ", "));
}

// Owns a copy of a tensor that the file stores off its natural alignment.
std::shared_ptr<const void> aligned_copy(const std::byte* data, std::size_t bytes, const void** copy) {
  auto owned = std::make_shared<std::vector<std::byte>>(data, data + bytes);
  *copy = owned->data();
  return owned;
}

}  // namespace

TensorArgument split_tensor_argument(const std::string& file_and_name) {
  // A file of that very name wins, so that paths with a colon work; else the last colon separates.
  std::size_t colon = file_and_name.rfind(':');
  if (colon == std::string::npos || path_exists(file_and_name)) return {file_and_name, ""};
  return {file_and_name.substr(0, colon), file_and_name.substr(colon + 1)};
}

StoredTensor tensor_view(const std::shared_ptr<const SafetensorsFile>& file, const TensorEntry& entry) {
  StoredTensor stored;
  stored.name = entry.name;
  if (!find_dtype(entry.dtype, &stored.view.dtype)) {
    throw Error(ErrorKind::kUnsupported,
                fmt::format("{}: tensor {} has dtype {}, which this library does not compute with", file->path(),
                            in_quotes(entry.name), entry.dtype));
  }
  if (entry.shape.size() > stored.view.shape.size()) {
    throw Error(ErrorKind::kUnsupported,
                fmt::format("{}: tensor {} has {} dimensions; at most {} are read", file->path(), in_quotes(entry.name),
                            entry.shape.size(), stored.view.shape.size()));
  }
  // A scalar is read as one element: rank 0 marks an empty view.
  stored.view.rank = std::max(1, static_cast<int>(entry.shape.size()));
  stored.view.shape[0] = 1;
  std::copy(entry.shape.begin(), entry.shape.end(), stored.view.shape.begin());
  const std::byte* data = file->data(entry);
  const void* used = data;
  stored.storage = file;
  if (reinterpret_cast<std::uintptr_t>(data) % dtype_size(stored.view.dtype) != 0) {
    stored.storage = aligned_copy(data, entry.end - entry.begin, &used);
  }
  stored.view.data = const_cast<void*>(used);
  return stored;
}

}  // namespace checkpoint

using namespace checkpoint;  // NOLINT(google-build-using-namespace): this file is that folder's public face

StoredTensor read_tensor(const std::string& file_and_name, const std::string& default_name) {
  TensorArgument argument = split_tensor_argument(file_and_name);
  std::shared_ptr<const SafetensorsFile> file = SafetensorsFile::open(argument.file);
  if (argument.name.empty()) {
    if (file->tensors().size() == 1) return tensor_view(file, file->tensors().front());
    argument.name = default_name;
  }
  const TensorEntry* entry = file->find(argument.name);
  if (entry == nullptr) {
    throw Error(ErrorKind::kIo, fmt::format("{} has no tensor {}; it has: {}", argument.file, in_quotes(argument.name),
                                            names_in(*file)));
  }
  return tensor_view(file, *entry);
}

void write_tensors(const std::string& path, const std::vector<std::pair<std::string, TensorView>>& tensors) {
  nlohmann::json header = nlohmann::json::object();
  std::string data;
  // Widest types first keep every tensor on its natural alignment.
  std::vector<std::pair<std::string, TensorView>> ordered = tensors;
  std::stable_sort(ordered.begin(), ordered.end(), [](const auto& a, const auto& b) {
    return dtype_size(a.second.dtype) > dtype_size(b.second.dtype);
  });
  for (const auto& [name, view] : ordered) {
    if (name == "__metadata__" || header.contains(name)) {
      throw Error(ErrorKind::kInvalidArgument,
                  fmt::format("write_tensors: tensor name {} is reserved or stands twice", in_quotes(name)));
    }
    std::size_t begin = data.size();
    std::size_t bytes = static_cast<std::size_t>(view.num_elements()) * dtype_size(view.dtype);
    if (bytes > 0) data.append(static_cast<const char*>(view.data), bytes);
    header[name] = {{"dtype", safetensors_dtype(view.dtype)},
                    {"shape", std::vector<std::int64_t>(view.shape.begin(), view.shape.begin() + view.rank)},
                    {"data_offsets", {begin, data.size()}}};
  }
  std::string json = header.dump();
  json.resize((json.size() + 7) / 8 * 8, ' ');
  std::uint64_t length = json.size();
  std::string file(8, '\0');
  std::memcpy(file.data(), &length, 8);
  base::write_file_atomic(path, file + json + data);
}

}  // namespace moesaic
