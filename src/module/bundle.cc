// SPDX-License-Identifier: Apache-2.0
// Reading and writing bundles with minizip.
#include "module/bundle.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <minizip/unzip.h>

#include <algorithm>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <set>
#include <string_view>

#include "base/env.h"
#include "base/hash.h"
#include "base/trust.h"
#include "module/json_integer.h"
#include "module/zip_writer.h"
#include "moesaic/error.h"

namespace moesaic::module {
namespace {

constexpr int kFormat = 1;
constexpr const char* kManifestName = "manifest.json";
constexpr const char* kSignatureName = "manifest.sig";
constexpr const char* kAlgorithm = "ed25519";
constexpr std::uint64_t kMaxSignature = 4096;
constexpr std::uint64_t kMaxManifest = 64u << 20;
constexpr std::uint64_t kMaxImage = 256u << 20;
constexpr std::uint64_t kMaxFiles = 100'000;

[[noreturn]] void throw_damaged(const std::string& path, const std::string& what) {
  throw Error(
      ErrorKind::kIo,
      fmt::format("bundle {} is damaged: {}; make it again (`moesaic compile`, `moesaic package`)", path, what));
}

std::string file_name(const KernelRecord& record) {
  return record.identity + (Target{record.target}.is_ptx() ? ".ptx" : ".cubin");
}

}  // namespace

const char* library_version() noexcept { return MOESAIC_VERSION; }

struct Bundle::Zip {
  unzFile file = nullptr;
  std::map<std::string, unz_file_pos> positions;  // minizip's own search by name is linear
  ~Zip() {
    if (file != nullptr) unzClose(file);
  }

  void scan(const std::string& path) {
    unz_global_info info{};
    if (unzGetGlobalInfo(file, &info) != UNZ_OK) throw_damaged(path, "no zip directory");
    if (info.number_entry > kMaxFiles) throw_damaged(path, fmt::format("{} files", info.number_entry));
    int status = info.number_entry == 0 ? UNZ_END_OF_LIST_OF_FILE : unzGoToFirstFile(file);
    while (status == UNZ_OK) {
      char name[256] = {};
      unz_file_pos position{};
      unz_file_info unused{};  // minizip 1.1 writes to it unasked
      if (unzGetCurrentFileInfo(file, &unused, name, sizeof(name) - 1, nullptr, 0, nullptr, 0) != UNZ_OK ||
          unzGetFilePos(file, &position) != UNZ_OK || !positions.emplace(name, position).second) {
        throw_damaged(path, "its zip directory is broken or names a file twice");
      }
      status = unzGoToNextFile(file);
    }
    if (status != UNZ_END_OF_LIST_OF_FILE) throw_damaged(path, "its zip directory is broken");
  }

  // The bytes of a file; nothing is allocated that the directory and `max` do not allow.
  std::string read(const std::string& path, const std::string& name, std::uint64_t max) {
    const auto found = positions.find(name);
    if (found == positions.end()) throw_damaged(path, fmt::format("{} is missing", name));
    unz_file_info info{};
    if (unzGoToFilePos(file, &found->second) != UNZ_OK ||
        unzGetCurrentFileInfo(file, &info, nullptr, 0, nullptr, 0, nullptr, 0) != UNZ_OK) {
      throw_damaged(path, fmt::format("{} cannot be found", name));
    }
    if (info.uncompressed_size > max) {
      throw_damaged(path, fmt::format("{} has {} bytes, expected at most {}", name, info.uncompressed_size, max));
    }
    if (unzOpenCurrentFile(file) != UNZ_OK) throw_damaged(path, fmt::format("{} cannot be opened", name));
    std::string bytes(info.uncompressed_size, '\0');
    const int got = unzReadCurrentFile(file, bytes.data(), static_cast<unsigned>(bytes.size()));
    const int closed = unzCloseCurrentFile(file);
    if (got != static_cast<int>(bytes.size()) || closed != UNZ_OK) {
      throw_damaged(path, fmt::format("{} cannot be read, or its checksum is wrong", name));
    }
    return bytes;
  }
};

namespace {

// minizip reads the file that was opened and looked at, whatever has its name by then.
unzFile unzip_open_file(std::FILE* file) {
  zlib_filefunc64_def functions{};
  fill_fopen64_filefunc(&functions);
  functions.opaque = file;
  functions.zopen64_file = [](voidpf opaque, const void*, int) { return opaque; };
  return unzOpen2_64("", &functions);
}

}  // namespace

Bundle::Bundle(const std::string& path) : path_(path), zip_(std::make_unique<Zip>()) {
  // Without O_NONBLOCK a named pipe would wait for a writer for ever.
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  std::FILE* file = fd < 0 ? nullptr : ::fdopen(fd, "rb");
  if (file == nullptr) throw Error(ErrorKind::kIo, fmt::format("bundle {}: no such file, or not readable", path));
  owner_distrust_ = base::why_untrusted(fd, path);
  if (owner_distrust_.empty()) owner_distrust_ = base::why_folders_untrusted(path);
  zip_->file = unzip_open_file(file);
  if (zip_->file == nullptr) throw_damaged(path, "it is not a zip file");
  zip_->scan(path);
  read_manifest();
  read_signature();
}

void Bundle::read_manifest() {
  const std::string text = zip_->read(path_, kManifestName, kMaxManifest);
  manifest_sha256_ = base::sha256_hex(text);
  const nlohmann::json manifest = nlohmann::json::parse(text, nullptr, false);
  if (!manifest.is_object()) throw_damaged(path_, "manifest.json is not JSON");
  try {
    const int format = integer_at<int>(manifest, "format");
    if (format != kFormat) {
      throw Error(ErrorKind::kUnsupported,
                  fmt::format("bundle {} has format {}, this library reads format {}", path_, format, kFormat));
    }
    manifest.at("moesaic").get_to(version_);
    module_abi_ = integer_at<int>(manifest, "module_abi");
    for (const nlohmann::json& entry : manifest.at("entries")) records_.push_back(record_from_json(entry));
  } catch (const nlohmann::json::exception& error) {
    throw_damaged(path_, fmt::format("manifest.json: {}", error.what()));
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::kIo) throw;
    throw_damaged(path_, error.what());
  }
  for (std::size_t i = 0; i < records_.size(); ++i) {
    if (!by_identity_.emplace(records_[i].identity, i).second) {
      throw_damaged(path_, fmt::format("manifest.json lists {} twice", records_[i].identity));
    }
  }
}

void Bundle::read_signature() {
  if (zip_->positions.count(kSignatureName) == 0) return;
  try {
    const nlohmann::json json = nlohmann::json::parse(zip_->read(path_, kSignatureName, kMaxSignature));
    if (json.at("algorithm") != kAlgorithm) throw_damaged(path_, "manifest.sig is not of Ed25519");
    signature_ = base::Signature{json.at("key"), json.at("signature")};
  } catch (const nlohmann::json::exception& error) {
    throw_damaged(path_, fmt::format("manifest.sig: {}", error.what()));
  }
}

// What is signed; the first words keep a signature from meaning anything elsewhere.
std::string Bundle::signed_text() const { return "moesaic bundle, manifest SHA-256 " + manifest_sha256_; }

std::string Bundle::distrust(const std::optional<std::string>& key_file) const {
  if (!owner_distrust_.empty()) return fmt::format("bundle {} is not trusted: {}", path_, owner_distrust_);
  if (!key_file) return {};
  const std::string key = base::ed25519_public_key(*key_file);
  const auto refuse = [&](const std::string& what) {
    return fmt::format(
        "bundle {} {}, and {} wants a signature of {} ({}): get a signed bundle, or sign it with `moesaic "
        "bundle sign --key PRIVATE.pem {}`",
        path_, what, base::env_name(base::Env::kBundleKey), key, *key_file, path_);
  };
  if (!signature_) return refuse("is not signed");
  if (signature_->public_key != key) return refuse("is signed by " + signature_->public_key);
  if (!base::ed25519_verifies(key, signature_->bytes, signed_text())) {
    return refuse("has a signature that does not fit its manifest (it was altered)");
  }
  return {};
}

Bundle::~Bundle() = default;

std::string Bundle::refusal() const {
  if (version_ == library_version() && module_abi_ == abi::kModuleAbi) return {};
  return fmt::format(
      "bundle {} was made by moesaic {} with module ABI {}; this is {} with module ABI {}: make it again "
      "with `moesaic compile`, or install the package of this version",
      path_, version_, module_abi_, library_version(), abi::kModuleAbi);
}

std::string Bundle::read(const KernelRecord& record) const {
  const std::lock_guard lock(mutex_);
  return zip_->read(path_, file_name(record), std::min<std::uint64_t>(record.size, kMaxImage));
}

std::optional<Cubin> Bundle::get(const std::string& identity) const {
  const auto found = by_identity_.find(identity);
  if (found == by_identity_.end()) return std::nullopt;
  const KernelRecord& record = records_[found->second];
  try {
    return restore(record, read(record), Origin::kBundle);
  } catch (const Error& error) {
    const std::string message = error.what();
    if (message.rfind("bundle ", 0) == 0) throw;
    throw_damaged(path_, message);
  }
}

const KernelRecord* Bundle::other_text(const KernelInstance& instance, const std::string& identity) const {
  const std::string entry = entry_name(instance);
  for (const KernelRecord& record : records_) {
    if (record.entry == entry && record.target == instance.target.name && record.identity != identity) return &record;
  }
  return nullptr;
}

std::vector<std::string> Bundle::damage() const {
  std::vector<std::string> lines;
  std::set<std::string> known = {kManifestName, kSignatureName};
  for (const KernelRecord& record : records_) {
    known.insert(file_name(record));
    try {
      restore(record, read(record), Origin::kBundle);
    } catch (const Error& error) {
      lines.emplace_back(error.what());
    }
  }
  for (const auto& [name, position] : zip_->positions) {
    if (known.count(name) == 0) lines.push_back(fmt::format("{} is not in the manifest", name));
  }
  return lines;
}

bool write_bundle(const std::string& path, const std::vector<BundleItem>& items, const std::function<bool()>& stop) {
  nlohmann::json manifest = {{"format", kFormat}, {"moesaic", library_version()}, {"module_abi", abi::kModuleAbi}};
  nlohmann::json& entries = manifest["entries"] = nlohmann::json::array();
  std::map<std::string, const Cubin*> files;
  for (const BundleItem& item : items) {
    const KernelRecord record = make_record(item.instance, *item.cubin);
    if (files.emplace(file_name(record), item.cubin.get()).second) entries.push_back(to_json(record));
  }
  ZipWriter zip(path);
  zip.store(kManifestName, manifest.dump(1));
  for (const auto& [name, cubin] : files) zip.store(name, {cubin->image.data(), cubin->image.size()});
  return zip.finish(stop);
}

void Bundle::sign(const std::string& private_key_file) const {
  const std::vector<std::string> lines = damage();
  if (!lines.empty()) throw_damaged(path_, lines.front());
  const base::Signature signature = base::ed25519_sign(private_key_file, signed_text());
  const nlohmann::json json = {
      {"algorithm", kAlgorithm}, {"key", signature.public_key}, {"signature", signature.bytes}};
  ZipWriter zip(path_);
  const std::lock_guard lock(mutex_);
  zip.store(kManifestName, zip_->read(path_, kManifestName, kMaxManifest));
  zip.store(kSignatureName, json.dump(1));
  std::set<std::string> names;
  for (const KernelRecord& record : records_) names.insert(file_name(record));
  for (const std::string& name : names) zip.store(name, zip_->read(path_, name, kMaxImage));
  zip.finish();
}

std::unique_ptr<Bundle> open_bundle(const std::string& path) {
  auto bundle = std::make_unique<Bundle>(path);
  std::string refusal = bundle->distrust(base::env_value(base::Env::kBundleKey));
  if (refusal.empty()) refusal = bundle->refusal();
  if (!refusal.empty()) throw Error(ErrorKind::kUnsupported, refusal);
  return bundle;
}

}  // namespace moesaic::module
