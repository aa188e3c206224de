// SPDX-License-Identifier: Apache-2.0
// Temporary checkpoint folders and safetensors files taken apart and put together again, with no help from the library.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>

namespace moesaic::testing {

/// A folder that is gone when the object is.
class TempFolder {
 public:
  TempFolder();
  ~TempFolder();
  TempFolder(const TempFolder&) = delete;
  TempFolder& operator=(const TempFolder&) = delete;

  std::string path(const std::string& name = "") const { return name.empty() ? path_ : path_ + "/" + name; }

 private:
  std::string path_;
};

/// "tests/data/checkpoints/<name>".
std::string checkpoint_folder(const std::string& name);
/// A writable copy of that folder's files.
void copy_checkpoint(const std::string& name, const TempFolder& to);

std::string read_bytes(const std::string& path);
void write_bytes(const std::string& path, const std::string& bytes);

/// A safetensors file in its parts.
struct Parts {
  nlohmann::json header;
  std::string data;
};
Parts read_parts(const std::string& path);
/// `padding` blanks are put behind the header: odd counts move every tensor off its natural alignment.
std::string pack(const std::string& header, const std::string& data, int padding = 0);
inline std::string pack(const Parts& parts, int padding = 0) { return pack(parts.header.dump(), parts.data, padding); }

/// Adds a tensor's bytes at the end of the data.
void append_tensor(Parts& parts, const std::string& name, const std::string& dtype,
                   const std::vector<std::int64_t>& shape, const std::string& bytes);
/// The bytes of a tensor.
std::string tensor_bytes(const Parts& parts, const std::string& name);

/// Overwrites bytes of a tensor from byte `at`.
void overwrite(Parts& parts, const std::string& name, std::size_t at, const std::string& bytes);
/// Takes a tensor out, bytes and all.
void remove_tensor(Parts& parts, const std::string& name);

/// Parses config.json, lets `change` edit it, writes it back.
template <class Change>
void edit_json(const std::string& path, Change change) {
  nlohmann::json root = nlohmann::json::parse(read_bytes(path));
  change(root);
  write_bytes(path, root.dump());
}

}  // namespace moesaic::testing
