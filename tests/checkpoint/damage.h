// SPDX-License-Identifier: Apache-2.0
// Changes to copies of good folders, and what opening and loading must say of them.
#pragma once

#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "files.h"
#include "moesaic/checkpoint.h"
#include "moesaic/error.h"

namespace moesaic::testing {

using Json = nlohmann::json;

// One change to a good folder and what opening and loading must say of it.
struct Damage {
  const char* name;
  const char* folder;
  std::function<void(const TempFolder&)> change;
  ErrorKind kind;
  const char* culprit;
};

inline auto edit_config(std::function<void(Json&)> change) {
  return [change](const TempFolder& folder) { edit_json(folder.path("config.json"), change); };
}

inline auto set_config(const char* key, Json value) {
  return edit_config([key, value](Json& root) { root[key] = value; });
}

inline auto edit_model(std::function<void(Parts&)> change) {
  return [change](const TempFolder& folder) {
    Parts parts = read_parts(folder.path("model.safetensors"));
    change(parts);
    write_bytes(folder.path("model.safetensors"), pack(parts));
  };
}

inline auto drop_tensor(std::string name) {
  // The bytes stay, under a name outside the layer: a file must not have holes.
  return edit_model([name](Parts& parts) {
    parts.header["elsewhere"] = parts.header.at(name);
    parts.header.erase(name);
  });
}

inline auto reshape(std::string name, std::vector<std::int64_t> shape, const char* dtype = "BF16") {
  return edit_model([=](Parts& parts) {
    parts.header[name]["shape"] = shape;
    parts.header[name]["dtype"] = dtype;
  });
}

inline auto edit_index(std::function<void(Json&)> change) {
  return [change](const TempFolder& folder) { edit_json(folder.path("model.safetensors.index.json"), change); };
}

inline auto replace_file(const char* name, std::string bytes) {
  return [name, bytes](const TempFolder& folder) { write_bytes(folder.path(name), bytes); };
}

inline auto remove_file(const char* name) {
  return [name](const TempFolder& folder) { std::filesystem::remove(folder.path(name)); };
}

constexpr ErrorKind kIo = ErrorKind::kIo, kUnsupported = ErrorKind::kUnsupported;

/// Opening and loading the changed folder must be an Error of the right kind that names the culprit.
inline void expect_refused(const Damage& damage) {
  SCOPED_TRACE(damage.name);
  TempFolder folder;
  copy_checkpoint(damage.folder, folder);
  damage.change(folder);
  try {
    Checkpoint::open(folder.path()).load();
    ADD_FAILURE() << "loaded";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), damage.kind) << error.what();
    EXPECT_NE(std::string(error.what()).find(damage.culprit), std::string::npos) << error.what();
    EXPECT_LT(std::strlen(error.what()), 1500u);
  }
}

}  // namespace moesaic::testing
