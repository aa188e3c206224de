// SPDX-License-Identifier: Apache-2.0
// Compiled kernels on disk: <folder>/<key[0:2]>/<key>/{kernel.cubin, meta.json}.
//
// An entry is written to "<key>.tmp.<pid>.<n>", fsynced and renamed, so it is whole or not there. Its lock is the file
// "<key>.lock" beside it. The record in meta.json has a SHA-256 of its own: no flipped byte is believed. The time of
// meta.json is that of the last use, for the order of eviction alone: whether an entry serves never depends on times. A
// process that uses an entry holds its meta.json (base::hold_file). Nothing throws for a cache that cannot be written.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "base/fs.h"
#include "module/record.h"

namespace moesaic::module {

/// The folder in use: `given`, else MOESAIC_CACHE_DIR, else $XDG_CACHE_HOME/moesaic, else ~/.cache/moesaic; "" where
/// none of these is known.
std::string cache_folder(const std::optional<std::string>& given);

/// SHA-256 over identity, the compiler's build-id, the flags and the format of entries: libraries that write another
/// format do not replace each other's entries.
std::string cache_key(const std::string& identity, const std::string& build_id, const std::vector<std::string>& flags);

/// An entry as listings show it.
struct CacheEntry {
  std::string key;
  KernelRecord record;
  std::string damage;  // why it cannot be used; empty: sound
};

class Cache {
 public:
  explicit Cache(std::string folder) : folder_(std::move(folder)) {}
  const std::string& folder() const noexcept { return folder_; }

  /// The kernel of a key; nullopt where it is missing, also since another process just removed it, or damaged, then
  /// `damage` (if not null) says how.
  std::optional<Cubin> lookup(const std::string& key, const std::string& identity, std::string* damage) const;
  /// Why its folder is not used: others may write to it (base/trust.h), with what to do; "": it is.
  std::string distrust() const;
  /// Waits for the lock of a key, asking `give_up` meanwhile (base::FileLock); nullopt where that said yes or the cache
  /// cannot be written. It keeps nobody out on a file system without locks: several may then store the same entry, and
  /// one of them wins.
  std::optional<base::FileLock> lock(const std::string& key, const std::function<bool()>& give_up = {}) const;
  /// Who holds the lock of a key right now, and its file; for messages.
  std::string lock_holder(const std::string& key) const;
  /// Writes an entry, replacing what is there, with what `lock` gave for the key. Returns why it failed, or "".
  std::string store(const std::string& key, const KernelInstance& instance, const Cubin& cubin,
                    const base::FileLock& lock) const;

  /// All entries, checked, by key. A missing folder has none.
  std::vector<CacheEntry> list() const;
  struct Cleared {
    int entries = 0;
    long long bytes = 0;
  };
  /// Removes every entry and what killed processes left; touches nothing else in the folder. Throws Error(kIo).
  Cleared clear() const;
  /// Removes entries, and what killed processes left, that nobody has used for `age`, but none that a living process
  /// holds (on a file system without locks: none). Throws Error(kIo).
  Cleared clear_older(std::chrono::seconds age) const;
  /// Removes the least recently used entries until the rest has `limit` bytes; never that of `keep`, nor one that a
  /// living process holds. Throws Error(kIo).
  Cleared trim(std::uint64_t limit, const std::string& keep) const;
  /// Tells every process, until this one ends, that the entry is in use.
  void hold(const std::string& key) const;

 private:
  std::string shelf(const std::string& key) const { return folder_ + "/" + key.substr(0, 2); }
  std::string path(const std::string& key) const { return shelf(key) + "/" + key; }

  std::string folder_;
};

}  // namespace moesaic::module
