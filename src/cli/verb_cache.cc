// SPDX-License-Identifier: Apache-2.0
// `moesaic cache list|verify|clear`: the kernel cache on disk.
#include <fmt/format.h>

#include <array>
#include <charconv>
#include <chrono>
#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>

#include "cli/cli.h"
#include "cli/text_table.h"
#include "module/cache.h"
#include "moesaic/error.h"

namespace moesaic::cli {
namespace {

module::Cache open_cache() {
  const std::string folder = module::cache_folder({});
  if (folder.empty()) {
    throw Error(ErrorKind::kIo, "cache: none of MOESAIC_CACHE_DIR, XDG_CACHE_HOME and HOME is set");
  }
  return module::Cache(folder);
}

int list_cache(bool json) {
  const module::Cache cache = open_cache();
  nlohmann::json entries = nlohmann::json::array();
  TextTable table({"kernel", "target", "bytes", "compiler", "key"});
  std::uint64_t bytes = 0;
  const auto all = cache.list();
  for (const module::CacheEntry& entry : all) {
    const module::KernelRecord& record = entry.record;
    const bool sound = entry.damage.empty();
    nlohmann::json row = sound ? module::to_json(record) : nlohmann::json{{"damage", entry.damage}};
    row["key"] = entry.key;
    entries.push_back(std::move(row));
    table.add(
        {sound ? record.entry : "(damaged)", record.target, std::to_string(record.size), record.compiler, entry.key});
    bytes += record.size;
  }
  if (json) {
    const nlohmann::json report = {{"folder", cache.folder()}, {"bytes", bytes}, {"entries", entries}};
    fmt::print("{}\n", report.dump(2));
  } else {
    fmt::print("{}{} kernels, {} bytes in {}\n", table.aligned(), all.size(), bytes, cache.folder());
  }
  return 0;
}

int verify_cache(bool json) {
  const module::Cache cache = open_cache();
  const std::string distrust = cache.distrust();
  nlohmann::json damaged = nlohmann::json::array();
  const auto all = cache.list();
  for (const module::CacheEntry& entry : all) {
    if (entry.damage.empty()) continue;
    damaged.push_back({{"key", entry.key}, {"damage", entry.damage}});
    if (!json) fmt::print("{}: {}\n", entry.key, entry.damage);
  }
  if (json) {
    const nlohmann::json report = {
        {"folder", cache.folder()}, {"kernels", all.size()}, {"damaged", damaged}, {"distrust", distrust}};
    fmt::print("{}\n", report.dump(2));
  } else {
    if (!distrust.empty()) fmt::print("{}\n", distrust);
    fmt::print("{} kernels in {}, {} damaged{}\n", all.size(), cache.folder(), damaged.size(),
               damaged.empty() ? "" : " (they are made again when needed)");
  }
  return damaged.empty() && distrust.empty() ? 0 : 1;
}

// "12h" or "30d" in seconds.
std::chrono::seconds parse_age(const std::string& text) {
  constexpr std::string_view kUnits = "smhdw";
  constexpr std::array<long long, 5> kSeconds = {1, 60, 3600, 86'400, 604'800};
  constexpr long long kMost = 1'000'000;  // of any unit
  const std::size_t unit = text.empty() ? std::string_view::npos : kUnits.find(text.back());
  long long number = -1;
  const char* end = text.data() + text.size() - (text.empty() ? 0 : 1);
  const auto [stop, error] = std::from_chars(text.data(), end, number);
  if (unit == std::string_view::npos || error != std::errc() || stop != end || number < 0 || number > kMost) {
    throw UsageError(
        fmt::format("cache clear --older-than '{}': accepted: a number up to {} and s, m, h, d or w, as in "
                    "12h or 30d",
                    text, kMost));
  }
  return std::chrono::seconds(number * kSeconds[unit]);
}

int clear_cache(const std::optional<std::string>& older_than, bool json) {
  const auto age = older_than ? parse_age(*older_than) : std::chrono::seconds(0);
  const module::Cache cache = open_cache();
  const module::Cache::Cleared cleared = older_than ? cache.clear_older(age) : cache.clear();
  if (json) {
    const nlohmann::json report = {{"folder", cache.folder()}, {"removed", cleared.entries}, {"bytes", cleared.bytes}};
    fmt::print("{}\n", report.dump(2));
  } else {
    fmt::print("removed {} kernels, {} bytes from {}\n", cleared.entries, cleared.bytes, cache.folder());
  }
  return 0;
}

CLI::App* add_cache_verb(CLI::App& parent, const char* name, const char* help, const std::function<int(bool)>& run,
                         Action& action) {
  CLI::App* verb = parent.add_subcommand(name, help);
  const auto json = std::make_shared<bool>(false);
  verb->add_flag("--json", *json, "Print JSON");
  verb->callback([&action, json, run] { action = [json, run] { return run(*json); }; });
  return verb;
}

}  // namespace

void add_cache(CLI::App& app, Action& action) {
  CLI::App* verb = app.add_subcommand("cache", "List, verify or clear the kernel cache");
  add_cache_verb(*verb, "list", "What the cache holds", list_cache, action);
  add_cache_verb(*verb, "verify", "Check every entry", verify_cache, action);
  const auto older_than = std::make_shared<std::optional<std::string>>();
  const auto clear = [older_than](bool json) { return clear_cache(*older_than, json); };
  add_cache_verb(*verb, "clear", "Remove every entry", clear, action)
      ->add_option("--older-than", *older_than,
                   "Only what nobody has used for that long (90m, 12h, 30d) and no process is using");
}

}  // namespace moesaic::cli
