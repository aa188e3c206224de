// SPDX-License-Identifier: Apache-2.0
// JSON from files that nobody vouches for: nesting is limited before anything is built, a key that stands twice is an
// error, and readers of large files (headers, indices) take values as they come, without a tree in memory.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <unordered_set>
#include <vector>

namespace moesaic::checkpoint {

/// Receives a document value by value. Throws Error(kIo) "<what>: ..." on anything illegal; so may the hooks, by
/// `fail`.
class StrictJson : public nlohmann::json_sax<nlohmann::json> {
 public:
  /// `what` names the document in messages. `max_depth`: objects and arrays within each other, the outermost is 1.
  StrictJson(std::string what, int max_depth) : what_(std::move(what)), max_depth_(max_depth) {}

  /// Reads the whole text: one JSON object in valid UTF-8, nothing behind it.
  void parse(std::string_view text);

 protected:
  virtual void on_key(const std::string& key) = 0;
  virtual void on_scalar(nlohmann::json value) = 0;
  virtual void on_start(bool is_object) = 0;
  virtual void on_end() = 0;

  /// Objects and arrays that are open now.
  int depth() const { return static_cast<int>(open_.size()); }
  [[noreturn]] void fail(const std::string& why) const;

 private:
  struct Level {
    bool is_object;
    std::unordered_set<std::string> keys;
  };

  bool start(bool is_object);
  bool end();
  bool scalar(nlohmann::json value);

  bool null() final { return scalar(nullptr); }
  bool boolean(bool value) final { return scalar(value); }
  bool number_integer(number_integer_t value) final { return scalar(value); }
  bool number_unsigned(number_unsigned_t value) final { return scalar(value); }
  bool number_float(number_float_t value, const string_t&) final { return scalar(value); }
  bool string(string_t& value) final { return scalar(std::move(value)); }
  bool binary(binary_t&) final { return false; }
  bool start_object(std::size_t) final { return start(true); }
  bool start_array(std::size_t) final { return start(false); }
  bool end_object() final { return end(); }
  bool end_array() final { return end(); }
  bool key(string_t& key) final;
  bool parse_error(std::size_t position, const std::string& last_token, const nlohmann::detail::exception& error) final;

  std::string what_;
  int max_depth_;
  std::vector<Level> open_;
};

/// A whole document as a tree, for small files; limits as above.
nlohmann::json parse_strict(std::string_view text, const std::string& what, int max_depth);

}  // namespace moesaic::checkpoint
