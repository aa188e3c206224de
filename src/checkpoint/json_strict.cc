// SPDX-License-Identifier: Apache-2.0
// Strict JSON over nlohmann's iterative SAX parser: its depth costs no stack, so only `start` has to say stop.
#include "checkpoint/json_strict.h"

#include <fmt/format.h>

#include "checkpoint/printable.h"
#include "moesaic/error.h"

namespace moesaic::checkpoint {

void StrictJson::fail(const std::string& why) const { throw Error(ErrorKind::kIo, what_ + ": " + why); }

void StrictJson::parse(std::string_view text) {
  // The parser takes NUL as the end of the text and skips a byte order mark; here both are damage.
  if (text.find('\0') != std::string_view::npos) fail("NUL byte in the JSON text");
  if (text.empty() || text.front() != '{') fail("the JSON text does not begin with '{'");
  nlohmann::json_sax<nlohmann::json>* events = this;
  nlohmann::json::sax_parse(text.begin(), text.end(), events);
}

bool StrictJson::start(bool is_object) {
  if (depth() == max_depth_) fail(fmt::format("JSON nested deeper than {} levels", max_depth_));
  on_start(is_object);
  open_.push_back({is_object, {}});
  return true;
}

bool StrictJson::end() {
  open_.pop_back();
  on_end();
  return true;
}

bool StrictJson::scalar(nlohmann::json value) {
  on_scalar(std::move(value));
  return true;
}

bool StrictJson::key(string_t& key) {
  if (!open_.back().keys.insert(key).second) fail(fmt::format("key {} stands twice", in_quotes(key)));
  on_key(key);
  return true;
}

bool StrictJson::parse_error(std::size_t position, const std::string&, const nlohmann::detail::exception& error) {
  fail(fmt::format("not valid JSON at byte {}: {}", position, one_line(error.what(), 200)));
}

namespace {

class TreeBuilder final : public StrictJson {
 public:
  using StrictJson::StrictJson;
  nlohmann::json take() { return std::move(root_); }

 private:
  void on_key(const std::string& key) override { key_ = key; }
  void on_scalar(nlohmann::json value) override { add(std::move(value)); }
  void on_start(bool is_object) override {
    path_.push_back(add(is_object ? nlohmann::json::object() : nlohmann::json::array()));
  }
  void on_end() override { path_.pop_back(); }

  nlohmann::json* add(nlohmann::json value) {
    if (path_.empty()) {
      root_ = std::move(value);
      return &root_;
    }
    nlohmann::json& parent = *path_.back();
    if (parent.is_object()) return &(parent[key_] = std::move(value));
    parent.push_back(std::move(value));
    return &parent.back();
  }

  nlohmann::json root_;
  std::string key_;
  std::vector<nlohmann::json*> path_;  // stays valid: only the innermost container grows
};

}  // namespace

nlohmann::json parse_strict(std::string_view text, const std::string& what, int max_depth) {
  TreeBuilder builder(what, max_depth);
  builder.parse(text);
  return builder.take();
}

}  // namespace moesaic::checkpoint
