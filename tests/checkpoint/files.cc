// SPDX-License-Identifier: Apache-2.0
// Temporary checkpoint folders and safetensors files in parts.
#include "files.h"

#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <stdexcept>

namespace moesaic::testing {

namespace fs = std::filesystem;

TempFolder::TempFolder() {
  std::string pattern = (fs::temp_directory_path() / "moesaic_checkpoint_XXXXXX").string();
  if (mkdtemp(pattern.data()) == nullptr) throw std::runtime_error("mkdtemp failed");
  path_ = pattern;
}

TempFolder::~TempFolder() {
  std::error_code ignored;
  fs::remove_all(path_, ignored);
}

std::string checkpoint_folder(const std::string& name) { return MOESAIC_TEST_DATA "/checkpoints/" + name; }

void copy_checkpoint(const std::string& name, const TempFolder& to) {
  for (const auto& entry : fs::directory_iterator(checkpoint_folder(name))) {
    write_bytes(to.path(entry.path().filename().string()), read_bytes(entry.path().string()));
  }
}

std::string read_bytes(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw std::runtime_error("cannot read " + path);
  std::ostringstream bytes;
  bytes << file.rdbuf();
  return bytes.str();
}

void write_bytes(const std::string& path, const std::string& bytes) {
  fs::remove(path);  // a new file: truncating an old one makes some file systems flush it
  std::ofstream file(path, std::ios::binary | std::ios::trunc);
  file.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  if (!file) throw std::runtime_error("cannot write " + path);
}

Parts read_parts(const std::string& path) {
  std::string bytes = read_bytes(path);
  std::uint64_t length = 0;
  std::memcpy(&length, bytes.data(), 8);
  return {nlohmann::json::parse(bytes.substr(8, length)), bytes.substr(8 + length)};
}

std::string pack(const std::string& header, const std::string& data, int padding) {
  std::string padded = header;
  padded.resize((header.size() + 7) / 8 * 8 + static_cast<std::size_t>(padding), ' ');
  std::uint64_t length = padded.size();
  std::string bytes(8, '\0');
  std::memcpy(bytes.data(), &length, 8);
  return bytes + padded + data;
}

void append_tensor(Parts& parts, const std::string& name, const std::string& dtype,
                   const std::vector<std::int64_t>& shape, const std::string& bytes) {
  parts.header[name] = {
      {"dtype", dtype}, {"shape", shape}, {"data_offsets", {parts.data.size(), parts.data.size() + bytes.size()}}};
  parts.data += bytes;
}

std::string tensor_bytes(const Parts& parts, const std::string& name) {
  const auto& offsets = parts.header.at(name).at("data_offsets");
  std::size_t begin = offsets[0], end = offsets[1];
  return parts.data.substr(begin, end - begin);
}

void overwrite(Parts& parts, const std::string& name, std::size_t at, const std::string& bytes) {
  const auto begin = parts.header.at(name).at("data_offsets").at(0).get<std::size_t>();
  parts.data.replace(begin + at, bytes.size(), bytes);
}

void remove_tensor(Parts& parts, const std::string& name) {
  const auto begin = parts.header.at(name).at("data_offsets").at(0).get<std::size_t>();
  const std::size_t size = parts.header.at(name).at("data_offsets").at(1).get<std::size_t>() - begin;
  parts.data.erase(begin, size);
  parts.header.erase(name);
  for (auto& [key, entry] : parts.header.items()) {
    if (key == "__metadata__") continue;
    for (auto& offset : entry["data_offsets"]) {
      if (offset.get<std::size_t>() > begin) offset = offset.get<std::size_t>() - size;
    }
  }
}

}  // namespace moesaic::testing
