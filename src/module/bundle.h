// SPDX-License-Identifier: Apache-2.0
// A bundle: one zip file with manifest.json and the kernels, stored, as <identity>.cubin (or .ptx).
//
// manifest.json = {"format": 1, "moesaic": version, "module_abi": n, "entries": [record of module/record.h, ...]}.
// A signed one also has manifest.sig = {"algorithm": "ed25519", "key": hex, "signature": hex}, of the manifest's
// SHA-256. A bundle may come from anywhere: sizes are limited, names are made from identities only, bytes must have
// their hash.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "base/ed25519.h"
#include "module/record.h"

namespace moesaic::module {

/// The version of this library, as bundles record it.
const char* library_version() noexcept;

/// An open bundle. Thread-safe.
class Bundle {
 public:
  /// Reads the manifest. Throws Error(kIo): missing, no zip file, damaged manifest or directory.
  explicit Bundle(const std::string& path);
  ~Bundle();
  Bundle(const Bundle&) = delete;
  Bundle& operator=(const Bundle&) = delete;

  const std::string& path() const noexcept { return path_; }
  const std::string& made_by() const noexcept { return version_; }
  int module_abi() const noexcept { return module_abi_; }
  const std::vector<KernelRecord>& records() const noexcept { return records_; }

  /// Why this library does not use it: made by another version or for another module ABI; "": it does.
  std::string refusal() const;
  /// Why its kernels must not be run: another user could have written the file, or put it there (base/trust.h), or the
  /// signature is not that of the public key in `key_file` (nullopt: none is wanted); "": they may. Throws Error of the
  /// key file.
  std::string distrust(const std::optional<std::string>& key_file) const;
  /// Who signed it, or says so: nothing is checked. nullopt: nobody.
  const std::optional<base::Signature>& signature() const noexcept { return signature_; }
  /// Writes the file again with a signature by a private key. Throws Error: kIo (damaged, not writable), of the key
  /// file.
  void sign(const std::string& private_key_file) const;
  /// The kernel of an identity, its bytes checked, or nullopt. Throws Error(kIo) on damaged bytes.
  std::optional<Cubin> get(const std::string& identity) const;
  /// The record of the same kernel made from another text: same entry and target, other identity. For messages.
  const KernelRecord* other_text(const KernelInstance& instance, const std::string& identity) const;
  /// Everything wrong with the file, one line each: damaged or missing kernels, files that are not in the manifest.
  std::vector<std::string> damage() const;

 private:
  struct Zip;
  std::string read(const KernelRecord& record) const;
  void read_manifest();
  void read_signature();
  std::string signed_text() const;

  std::string path_;
  std::unique_ptr<Zip> zip_;
  mutable std::mutex mutex_;
  std::string version_;
  int module_abi_ = 0;
  std::string owner_distrust_, manifest_sha256_;
  std::optional<base::Signature> signature_;
  std::vector<KernelRecord> records_;
  std::map<std::string, std::size_t> by_identity_;
};

/// A bundle whose kernels are to be run. Throws Error: kIo (missing, damaged), kUnsupported (made by another version,
/// writable by others, not signed as MOESAIC_BUNDLE_KEY wants).
std::unique_ptr<Bundle> open_bundle(const std::string& path);

/// A kernel to be written, with what it was made from.
struct BundleItem {
  KernelInstance instance;
  std::shared_ptr<const Cubin> cubin;
};

/// Writes a bundle, whole or not at all. `stop`, asked right before the file gets its name, discards it by returning
/// true: the result is false then. Throws Error(kIo).
bool write_bundle(const std::string& path, const std::vector<BundleItem>& items,
                  const std::function<bool()>& stop = {});

}  // namespace moesaic::module
