// SPDX-License-Identifier: Apache-2.0
// A small safetensors reader for tests: independent of src/checkpoint, whole file in memory, trusts its input.
#pragma once

#include <cstdint>
#include <cstring>
#include <fstream>
#include <iterator>
#include <map>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>
#include <vector>

namespace moesaic::testing {

struct StoredArray {
  std::string dtype;  // "F32", "I32", ...
  std::vector<std::int64_t> shape;
  std::string bytes;

  template <typename T>
  std::vector<T> values() const {
    std::vector<T> result(bytes.size() / sizeof(T));
    std::memcpy(result.data(), bytes.data(), result.size() * sizeof(T));
    return result;
  }
};

struct StoredFile {
  std::map<std::string, StoredArray> arrays;
  std::map<std::string, std::string> metadata;

  const StoredArray& at(const std::string& name) const {
    const auto found = arrays.find(name);
    if (found == arrays.end()) throw std::runtime_error("no tensor named " + name);
    return found->second;
  }
};

inline StoredFile read_safetensors(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw std::runtime_error("cannot open " + path);
  const std::string content{std::istreambuf_iterator<char>(file), {}};
  std::uint64_t header_size = 0;
  std::memcpy(&header_size, content.data(), sizeof(header_size));
  const auto header = nlohmann::json::parse(content.substr(8, header_size));
  StoredFile result;
  for (const auto& [name, value] : header.items()) {
    if (name == "__metadata__") {
      for (const auto& [key, text] : value.items()) result.metadata[key] = text.get<std::string>();
      continue;
    }
    StoredArray& array = result.arrays[name];
    array.dtype = value.at("dtype").get<std::string>();
    array.shape = value.at("shape").get<std::vector<std::int64_t>>();
    const auto begin = value.at("data_offsets").at(0).get<std::uint64_t>();
    const auto end = value.at("data_offsets").at(1).get<std::uint64_t>();
    array.bytes = content.substr(8 + header_size + begin, end - begin);
  }
  return result;
}

}  // namespace moesaic::testing
