// SPDX-License-Identifier: Apache-2.0
// The kernel cache on disk.
#include "module/cache.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <filesystem>
#include <map>
#include <memory>
#include <mutex>
#include <nlohmann/json.hpp>
#include <system_error>

#include "base/env.h"
#include "base/hash.h"
#include "base/trust.h"
#include "module/json_integer.h"
#include "moesaic/error.h"

namespace moesaic::module {
namespace {

namespace fs = std::filesystem;

constexpr int kFormat = 2;
constexpr std::uint64_t kMaxMeta = 1u << 20;
constexpr std::uint64_t kMaxImage = 256u << 20;
constexpr const char* kImageName = "/kernel.cubin";
constexpr const char* kMetaName = "/meta.json";

KernelRecord read_record(const std::string& entry) {
  const nlohmann::json meta =
      nlohmann::json::parse(base::read_trusted_file(entry + kMetaName, kMaxMeta), nullptr, false);
  if (!meta.is_object() || integer_at<int>(meta, "format") != kFormat) {
    throw Error(ErrorKind::kIo, "meta.json is not that of a cache entry");
  }
  const nlohmann::json& record = meta.at("record");
  if (base::sha256_hex(record.dump()) != meta.at("sha256").get<std::string>()) {
    throw Error(ErrorKind::kIo, "meta.json does not have its own SHA-256");
  }
  return record_from_json(record);
}

Cubin read_entry(const std::string& entry, KernelRecord& record) {
  record = read_record(entry);
  return restore(record, base::read_trusted_file(entry + kImageName, kMaxImage), Origin::kCache);
}

bool is_hex(const std::string& text, std::size_t size) {
  return text.size() == size && std::all_of(text.begin(), text.end(), [](unsigned char c) {
           return std::isdigit(c) != 0 || (c >= 'a' && c <= 'f');
         });
}

// The key that a name on a shelf belongs to: that of an entry, its lock or a temporary; "" for foreign files.
std::string key_in(const std::string& name) {
  const std::string key = name.substr(0, 64);
  const std::string rest = name.substr(key.size());
  const bool ours = rest.empty() || rest == ".lock" || rest.rfind(".tmp.", 0) == 0;
  return is_hex(key, 64) && ours ? key : std::string();
}

// Calls visit(path, name) for everything of ours in one folder "<key[0:2]>", in order of names.
template <typename Visit>
void for_each_on_shelf(const fs::path& shelf, const Visit& visit) {
  std::error_code error;
  std::vector<fs::path> items;
  for (fs::directory_iterator item(shelf, error), end; !error && item != end; item.increment(error)) {
    if (!key_in(item->path().filename().string()).empty()) items.push_back(item->path());
  }
  std::sort(items.begin(), items.end());
  for (const fs::path& item : items) visit(item.string(), item.filename().string());
}

std::vector<fs::path> shelves_of(const std::string& folder) {
  std::error_code error;
  std::vector<fs::path> shelves;
  for (fs::directory_iterator shelf(folder, error), end; !error && shelf != end; shelf.increment(error)) {
    if (is_hex(shelf->path().filename().string(), 2)) shelves.push_back(shelf->path());
  }
  std::sort(shelves.begin(), shelves.end());
  return shelves;
}

long long bytes_below(const std::string& path) {
  std::error_code error;
  if (!fs::is_directory(path, error)) {
    const auto size = fs::file_size(path, error);
    return error ? 0 : static_cast<long long>(size);
  }
  long long bytes = 0;
  for (fs::directory_iterator item(path, error), end; !error && item != end; item.increment(error)) {
    std::error_code inner;
    const auto size = item->file_size(inner);
    if (!inner) bytes += static_cast<long long>(size);
  }
  return bytes;
}

}  // namespace

std::string cache_folder(const std::optional<std::string>& given) {
  using base::Env;
  if (given) return *given;
  if (const auto folder = base::env_value(Env::kCacheDir)) return *folder;
  if (const auto xdg = base::env_value(Env::kXdgCacheHome)) return *xdg + "/moesaic";
  if (const auto home = base::env_value(Env::kHome)) return *home + "/.cache/moesaic";
  return {};
}

std::string cache_key(const std::string& identity, const std::string& build_id, const std::vector<std::string>& flags) {
  base::Sha256 hash;
  hash.add(identity).add(build_id).add(fmt::format("entry format {}", kFormat));
  for (const std::string& flag : flags) hash.add(flag);
  return hash.hex();
}

std::optional<Cubin> Cache::lookup(const std::string& key, const std::string& identity, std::string* damage) const {
  if (folder_.empty()) return std::nullopt;
  std::error_code error;
  std::string found;
  // Twice: another process may have made room while the first part of the entry was read, and another one stored it
  // again.
  for (int attempt = 0; attempt < 2; ++attempt) {
    if (!fs::exists(path(key), error)) return std::nullopt;
    try {
      KernelRecord record;
      Cubin cubin = read_entry(path(key), record);
      if (cubin.identity == identity) {
        base::touch_file(path(key) + kMetaName);
        return cubin;
      }
      found = "it holds another kernel";
    } catch (const std::exception& failure) {
      found = failure.what();
    }
  }
  if (damage != nullptr && fs::exists(path(key), error)) *damage = found;
  return std::nullopt;
}

std::string Cache::distrust() const {
  const std::string why = base::why_untrusted(folder_);
  return why.empty() ? why : fmt::format("kernel cache '{}' is not trusted: {}", folder_, why);
}

std::optional<base::FileLock> Cache::lock(const std::string& key, const std::function<bool()>& give_up) const {
  if (folder_.empty()) return std::nullopt;
  // Twice: `clear` in another process may remove the empty folder in between.
  for (int attempt = 0; attempt < 2; ++attempt) {
    base::make_folders(shelf(key));
    if (auto lock = base::FileLock::acquire(path(key) + ".lock", give_up)) return lock;
  }
  return std::nullopt;
}

std::string Cache::lock_holder(const std::string& key) const {
  const std::string file = path(key) + ".lock";
  return fmt::format("{} holds {}", base::FileLock::holder(file), file);
}

std::string Cache::store(const std::string& key, const KernelInstance& instance, const Cubin& cubin,
                         const base::FileLock& lock) const {
  const std::string final_path = path(key);
  const std::string temporary = base::temporary_beside(final_path);
  std::error_code error;
  try {
    // Where the lock is ours alone, temporaries of this key are those of killed processes.
    for_each_on_shelf(shelf(key), [&](const std::string& item, const std::string& name) {
      if (lock.keeps_others_out() && name.rfind(key + ".tmp.", 0) == 0) fs::remove_all(item, error);
    });
    base::make_folders(temporary);
    const nlohmann::json record = to_json(make_record(instance, cubin));
    const nlohmann::json meta = {{"format", kFormat}, {"sha256", base::sha256_hex(record.dump())}, {"record", record}};
    base::write_file_synced(temporary + kImageName, {cubin.image.data(), cubin.image.size()});
    base::write_file_synced(temporary + kMetaName, meta.dump(1));
    base::sync_folder(temporary);
    const bool alone = lock.keeps_others_out();
    if (!alone && lookup(key, cubin.identity, nullptr)) {  // another process was first
      fs::remove_all(temporary, error);
      return {};
    }
    if (fs::exists(fs::symlink_status(final_path, error))) {  // also a link to nothing
      // rename does not replace a folder that holds something, nor a file: what is damaged or foreign steps aside
      // first.
      const std::string aside = base::temporary_beside(final_path);
      fs::rename(final_path, aside, error);  // fails where a cleared cache no longer has it
      fs::remove_all(aside, error);
    }
    fs::rename(temporary, final_path, error);
    if (error && (alone || !lookup(key, cubin.identity, nullptr))) {
      throw fs::filesystem_error("rename", temporary, final_path, error);
    }
    fs::remove_all(temporary, error);  // still there where another process was first after all
    base::sync_folder(shelf(key));
    return {};
  } catch (const std::exception& failure) {
    fs::remove_all(temporary, error);
    return failure.what();
  }
}

std::vector<CacheEntry> Cache::list() const {
  std::vector<CacheEntry> entries;
  const auto add = [&entries](const std::string& item, const std::string& name) {
    if (name.size() != 64) return;
    CacheEntry entry;
    entry.key = name;
    try {
      const Cubin cubin = read_entry(item, entry.record);
    } catch (const std::exception& failure) {
      entry.damage = failure.what();
    }
    entries.push_back(std::move(entry));
  };
  for (const fs::path& shelf : shelves_of(folder_)) for_each_on_shelf(shelf, add);
  return entries;
}

Cache::Cleared Cache::clear() const {
  Cleared cleared;
  const auto remove = [&cleared](const std::string& item, const std::string& name) {
    const bool lock = name.size() > 5 && name.compare(name.size() - 5, 5, ".lock") == 0;
    // A lock file may be held right now; its holder removes it.
    if (lock) return;
    const long long bytes = bytes_below(item);
    std::error_code error;
    fs::remove_all(item, error);
    if (error) throw Error(ErrorKind::kIo, fmt::format("cache clear: {}: {}", item, error.message()));
    cleared.bytes += bytes;
    if (name.size() == 64) ++cleared.entries;
  };
  for (const fs::path& shelf : shelves_of(folder_)) {
    for_each_on_shelf(shelf, remove);
    std::error_code error;
    fs::remove(shelf, error);  // only where it is empty
  }
  return cleared;
}

namespace {

struct Usage {
  std::string path, name;
  fs::file_time_type last_use;
  std::uint64_t bytes = 0;
  bool is_entry() const { return name.size() == 64; }  // else a temporary
};

// Entries and temporaries, those unused for longest first.
std::vector<Usage> by_last_use(const std::string& folder) {
  std::vector<Usage> items;
  const auto add = [&items](const std::string& item, const std::string& name) {
    if (name.size() > 64 && name.find(".tmp.") == std::string::npos) return;  // a lock file
    std::error_code error;
    Usage usage{item, name, fs::last_write_time(item + kMetaName, error), 0};
    if (error) usage.last_use = fs::last_write_time(item, error);
    if (error) return;  // removed meanwhile
    usage.bytes = static_cast<std::uint64_t>(bytes_below(item));
    items.push_back(std::move(usage));
  };
  for (const fs::path& shelf : shelves_of(folder)) for_each_on_shelf(shelf, add);
  std::sort(items.begin(), items.end(), [](const Usage& a, const Usage& b) { return a.last_use < b.last_use; });
  return items;
}

// Removes an item unless a living process holds it. It steps aside first: an entry is never there in part.
bool evict(const Usage& item) {
  std::error_code error;
  const std::string meta = item.path + kMetaName;
  const auto claim = base::claim_file(meta);
  if (!claim && fs::exists(meta, error)) return false;
  const std::string key = item.name.substr(0, 64);
  const std::string aside = base::temporary_beside(base::folder_of(item.path) + "/" + key);
  fs::rename(item.path, aside, error);
  if (error == std::errc::no_such_file_or_directory) return false;  // another process was first
  if (!error) fs::remove_all(aside, error);
  if (error) throw Error(ErrorKind::kIo, fmt::format("kernel cache: remove {}: {}", item.path, error.message()));
  return true;
}

void count(const Usage& item, Cache::Cleared& cleared) {
  cleared.bytes += static_cast<long long>(item.bytes);
  if (item.is_entry()) ++cleared.entries;
}

}  // namespace

Cache::Cleared Cache::clear_older(std::chrono::seconds age) const {
  Cleared cleared;
  const auto now = fs::file_time_type::clock::now();
  for (const Usage& item : by_last_use(folder_)) {
    const auto unused = std::chrono::duration_cast<std::chrono::seconds>(now - item.last_use);
    if (unused >= age && evict(item)) count(item, cleared);
  }
  return cleared;
}

Cache::Cleared Cache::trim(std::uint64_t limit, const std::string& keep) const {
  Cleared cleared;
  const std::vector<Usage> items = by_last_use(folder_);
  std::uint64_t bytes = 0;
  for (const Usage& item : items) bytes += item.bytes;
  for (const Usage& item : items) {
    if (bytes <= limit) break;
    // A temporary may be one that a living process is writing.
    if (!item.is_entry() || item.name == keep || !evict(item)) continue;
    bytes -= item.bytes;
    count(item, cleared);
  }
  return cleared;
}

void Cache::hold(const std::string& key) const {
  static std::mutex& mutex = *new std::mutex;
  static auto& held = *new std::map<std::string, std::shared_ptr<const void>>;
  if (folder_.empty()) return;
  const std::string meta = path(key) + kMetaName;
  auto hold = base::hold_file(meta);
  const std::lock_guard lock(mutex);
  held[meta] = std::move(hold);  // a former one may be of an entry that was replaced
}

}  // namespace moesaic::module
