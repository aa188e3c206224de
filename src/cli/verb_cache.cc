// SPDX-License-Identifier: Apache-2.0
// `moesaic cache list|verify|clear`: the kernel cache on disk.
#include <fmt/format.h>

#include <memory>
#include <nlohmann/json.hpp>
#include <string>

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
  nlohmann::json damaged = nlohmann::json::array();
  const auto all = cache.list();
  for (const module::CacheEntry& entry : all) {
    if (entry.damage.empty()) continue;
    damaged.push_back({{"key", entry.key}, {"damage", entry.damage}});
    if (!json) fmt::print("{}: {}\n", entry.key, entry.damage);
  }
  if (json) {
    const nlohmann::json report = {{"folder", cache.folder()}, {"kernels", all.size()}, {"damaged", damaged}};
    fmt::print("{}\n", report.dump(2));
  } else {
    fmt::print("{} kernels in {}, {} damaged{}\n", all.size(), cache.folder(), damaged.size(),
               damaged.empty() ? "" : " (they are made again when needed)");
  }
  return damaged.empty() ? 0 : 1;
}

int clear_cache(bool json) {
  const module::Cache cache = open_cache();
  const module::Cache::Cleared cleared = cache.clear();
  if (json) {
    const nlohmann::json report = {{"folder", cache.folder()}, {"removed", cleared.entries}, {"bytes", cleared.bytes}};
    fmt::print("{}\n", report.dump(2));
  } else {
    fmt::print("removed {} kernels, {} bytes from {}\n", cleared.entries, cleared.bytes, cache.folder());
  }
  return 0;
}

void add_cache_verb(CLI::App& parent, const char* name, const char* help, int (*run)(bool), Action& action) {
  CLI::App* verb = parent.add_subcommand(name, help);
  const auto json = std::make_shared<bool>(false);
  verb->add_flag("--json", *json, "Print JSON");
  verb->callback([&action, json, run] { action = [json, run] { return run(*json); }; });
}

}  // namespace

void add_cache(CLI::App& app, Action& action) {
  CLI::App* verb = app.add_subcommand("cache", "List, verify or clear the kernel cache");
  add_cache_verb(*verb, "list", "What the cache holds", list_cache, action);
  add_cache_verb(*verb, "verify", "Check every entry", verify_cache, action);
  add_cache_verb(*verb, "clear", "Remove every entry", clear_cache, action);
}

}  // namespace moesaic::cli
