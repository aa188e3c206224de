// SPDX-License-Identifier: Apache-2.0
// Typed reads of a model's config.json, with ranges; a null counts as absent, as it does in the hub's files.
#pragma once

#include <initializer_list>
#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <vector>

namespace moesaic::checkpoint {

/// An object of config.json: what describes the language model, or its quantisation. Reads throw Error(kIo) naming
/// file, key, got, wanted.
class ConfigView {
 public:
  ConfigView(nlohmann::json object, std::string file) : object_(std::move(object)), file_(std::move(file)) {}

  bool has(const char* key) const { return find(key) != nullptr; }
  /// nullptr when the key is absent or null.
  const nlohmann::json* find(const char* key) const;
  /// The object at `key`, an empty one when it is absent.
  ConfigView object_or_empty(const char* key) const;
  /// The first of `keys` that is there, in [low, high].
  int integer(std::span<const char* const> keys, int low, int high) const;
  int integer(const char* key, int low, int high) const { return integer(std::span(&key, 1), low, high); }
  int integer_or(const char* key, int fallback, int low, int high) const;
  float number_or(const char* key, float fallback) const;
  bool flag_or(const char* key, bool fallback) const;
  std::string text_or(const char* key, const std::string& fallback) const;
  /// Whether an array of integers holds `value`; false when the key is absent.
  bool list_holds(const char* key, int value) const;

  /// Throws Error(kUnsupported) when `key` is there and its text is none of `supported`.
  void demand(const char* key, std::initializer_list<const char*> supported) const;
  /// What messages call this object.
  const std::string& name() const noexcept { return file_; }
  [[noreturn]] void fail(const std::string& why) const;
  /// Throws Error(kUnsupported).
  [[noreturn]] void refuse(const std::string& why) const;

 private:
  int checked(const char* key, const nlohmann::json& value, int low, int high) const;

  nlohmann::json object_;
  std::string file_;
};

}  // namespace moesaic::checkpoint
