// SPDX-License-Identifier: Apache-2.0
// Typed reads of a model's config.json.
#include "checkpoint/config_view.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>

#include "checkpoint/printable.h"
#include "moesaic/error.h"

namespace moesaic::checkpoint {
namespace {

std::string shown(const nlohmann::json& value) {
  if (value.is_structured()) return value.is_array() ? "an array" : "an object";
  return one_line(value.dump(), 60);
}

}  // namespace

void ConfigView::fail(const std::string& why) const { throw Error(ErrorKind::kIo, file_ + ": " + why); }

void ConfigView::refuse(const std::string& why) const { throw Error(ErrorKind::kUnsupported, file_ + ": " + why); }

const nlohmann::json* ConfigView::find(const char* key) const {
  auto at = object_.find(key);
  return at == object_.end() || at->is_null() ? nullptr : &*at;
}

ConfigView ConfigView::object_or_empty(const char* key) const {
  const nlohmann::json* value = find(key);
  if (value != nullptr && !value->is_object()) fail(fmt::format("{} is {}; wanted an object", key, shown(*value)));
  return {value == nullptr ? nlohmann::json::object() : *value, fmt::format("{}: {}", file_, key)};
}

int ConfigView::checked(const char* key, const nlohmann::json& value, int low, int high) const {
  bool fits = value.is_number_unsigned() ? value.get<std::uint64_t>() <= INT32_MAX
                                         : value.is_number_integer() && value.get<std::int64_t>() >= INT32_MIN;
  if (!fits || value.get<int>() < low || value.get<int>() > high) {
    fail(fmt::format("{} is {}; wanted an integer from {} to {}", key, shown(value), low, high));
  }
  return value.get<int>();
}

int ConfigView::integer(std::span<const char* const> keys, int low, int high) const {
  for (const char* key : keys) {
    if (const nlohmann::json* value = find(key)) return checked(key, *value, low, high);
  }
  fail(fmt::format("no {}; wanted an integer from {} to {}", fmt::join(keys, " or "), low, high));
}

int ConfigView::integer_or(const char* key, int fallback, int low, int high) const {
  const nlohmann::json* value = find(key);
  return value == nullptr ? fallback : checked(key, *value, low, high);
}

float ConfigView::number_or(const char* key, float fallback) const {
  const nlohmann::json* value = find(key);
  if (value == nullptr) return fallback;
  if (!value->is_number() || !std::isfinite(value->get<float>())) {
    fail(fmt::format("{} is {}; wanted a finite number", key, shown(*value)));
  }
  return value->get<float>();
}

bool ConfigView::flag_or(const char* key, bool fallback) const {
  const nlohmann::json* value = find(key);
  if (value == nullptr) return fallback;
  if (!value->is_boolean()) fail(fmt::format("{} is {}; wanted true or false", key, shown(*value)));
  return value->get<bool>();
}

std::string ConfigView::text_or(const char* key, const std::string& fallback) const {
  const nlohmann::json* value = find(key);
  if (value == nullptr) return fallback;
  if (!value->is_string()) fail(fmt::format("{} is {}; wanted a string", key, shown(*value)));
  return value->get<std::string>();
}

bool ConfigView::list_holds(const char* key, int wanted) const {
  const nlohmann::json* list = find(key);
  if (list == nullptr) return false;
  if (!list->is_array()) fail(fmt::format("{} is {}; wanted an array of integers", key, shown(*list)));
  return std::any_of(list->begin(), list->end(),
                     [&](const nlohmann::json& item) { return checked(key, item, INT32_MIN, INT32_MAX) == wanted; });
}

void ConfigView::demand(const char* key, std::initializer_list<const char*> supported) const {
  if (!has(key)) return;
  std::string text = text_or(key, "");
  for (const char* name : supported) {
    if (text == name) return;
  }
  refuse(fmt::format("{} is {}; supported is {}", key, in_quotes(text), fmt::join(supported, " or ")));
}

}  // namespace moesaic::checkpoint
