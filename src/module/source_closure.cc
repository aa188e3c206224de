// SPDX-License-Identifier: Apache-2.0
// The embedded kernel texts: lookup, what a text includes, and the digest of both.
#include <fmt/format.h>

#include <map>
#include <mutex>
#include <string_view>

#include "base/hash.h"
#include "module/embedded.h"
#include "module/kernel_instance.h"
#include "moesaic/error.h"

namespace moesaic::module {
namespace {

struct Texts {
  std::mutex mutex;
  std::map<std::string, std::string> overrides;
  std::map<std::string, std::string> digests;  // by path; emptied when an override changes
};

Texts& texts() {
  static Texts& instance = *new Texts;  // never destroyed: used until the last thread ends
  return instance;
}

// Requires: the mutex held.
std::string text_of(const std::string& path) {
  const auto replaced = texts().overrides.find(path);
  if (replaced != texts().overrides.end()) return replaced->second;
  for (const EmbeddedText* embedded = kEmbeddedTexts; embedded->path != nullptr; ++embedded) {
    if (path == embedded->path) return embedded->text;
  }
  throw Error(ErrorKind::kInternal, fmt::format("kernel text {} is not in this library", path));
}

// Paths of `#include "..."` lines. Kernel texts have no other includes and none under #if: a test says so.
std::vector<std::string> includes_of(std::string_view text) {
  std::vector<std::string> paths;
  while (!text.empty()) {
    const std::size_t end = text.find('\n');
    std::string_view line = text.substr(0, end);
    text.remove_prefix(end == std::string_view::npos ? text.size() : end + 1);
    const auto skip_blanks = [&line] {
      while (!line.empty() && (line.front() == ' ' || line.front() == '\t')) line.remove_prefix(1);
    };
    const auto take = [&line](std::string_view word) {
      if (line.substr(0, word.size()) != word) return false;
      line.remove_prefix(word.size());
      return true;
    };
    skip_blanks();
    if (!take("#")) continue;
    skip_blanks();
    if (!take("include")) continue;
    skip_blanks();
    if (!take("\"")) continue;
    paths.emplace_back(line.substr(0, line.find('"')));
  }
  return paths;
}

// Requires: the mutex held.
void collect(const std::string& path, std::map<std::string, std::string>& found) {
  if (found.count(path) != 0) return;
  const std::string& text = found[path] = text_of(path);
  for (const std::string& included : includes_of(text)) collect(included, found);
}

}  // namespace

std::vector<SourceText> source_closure(const std::string& path) {
  const std::lock_guard lock(texts().mutex);
  std::map<std::string, std::string> found;
  collect(path, found);
  std::vector<SourceText> closure;
  for (auto& [name, text] : found) closure.push_back({name, text});
  return closure;
}

std::string closure_digest(const std::string& path) {
  {
    const std::lock_guard lock(texts().mutex);
    const auto known = texts().digests.find(path);
    if (known != texts().digests.end()) return known->second;
  }
  base::Sha256 hash;
  for (const SourceText& source : source_closure(path)) hash.add(source.path).add(source.text);
  const std::string digest = hash.hex();
  const std::lock_guard lock(texts().mutex);
  return texts().digests[path] = digest;
}

void override_source_for_test(const std::string& path, const std::string& text) {
  const std::lock_guard lock(texts().mutex);
  texts().digests.clear();
  if (text.empty()) {
    texts().overrides.erase(path);
  } else {
    texts().overrides[path] = text;
  }
}

}  // namespace moesaic::module
