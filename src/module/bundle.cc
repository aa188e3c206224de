// SPDX-License-Identifier: Apache-2.0
// Reading and writing bundles with minizip.
#include "module/bundle.h"

#include <fmt/format.h>
#include <minizip/unzip.h>
#include <unistd.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <set>

#include "module/zip_writer.h"
#include "moesaic/error.h"

namespace moesaic::module {
namespace {

constexpr int kFormat = 1;
constexpr const char* kManifestName = "manifest.json";
constexpr std::uint64_t kMaxManifest = 64u << 20;
constexpr std::uint64_t kMaxImage = 256u << 20;
constexpr std::uint64_t kMaxFiles = 100'000;

[[noreturn]] void throw_damaged(const std::string& path, const std::string& what) {
  throw Error(ErrorKind::kIo, fmt::format("bundle {} is damaged: {}", path, what));
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

Bundle::Bundle(const std::string& path) : path_(path), zip_(std::make_unique<Zip>()) {
  if (::access(path.c_str(), R_OK) != 0) {
    throw Error(ErrorKind::kIo, fmt::format("bundle {}: no such file, or not readable", path));
  }
  zip_->file = unzOpen(path.c_str());
  if (zip_->file == nullptr) throw_damaged(path, "it is not a zip file");
  zip_->scan(path);
  const nlohmann::json manifest = nlohmann::json::parse(zip_->read(path, kManifestName, kMaxManifest), nullptr, false);
  if (!manifest.is_object()) throw_damaged(path, "manifest.json is not JSON");
  try {
    const int format = manifest.at("format");
    if (format != kFormat) {
      throw Error(ErrorKind::kUnsupported,
                  fmt::format("bundle {} has format {}, this library reads format {}", path, format, kFormat));
    }
    manifest.at("moesaic").get_to(version_);
    manifest.at("module_abi").get_to(module_abi_);
    for (const nlohmann::json& entry : manifest.at("entries")) records_.push_back(record_from_json(entry));
  } catch (const nlohmann::json::exception& error) {
    throw_damaged(path, fmt::format("manifest.json: {}", error.what()));
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::kIo) throw;
    throw_damaged(path, error.what());
  }
  for (std::size_t i = 0; i < records_.size(); ++i) {
    if (!by_identity_.emplace(records_[i].identity, i).second) {
      throw_damaged(path, fmt::format("manifest.json lists {} twice", records_[i].identity));
    }
  }
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
  std::set<std::string> known = {kManifestName};
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
  const std::string text = manifest.dump(1);
  zip.store(kManifestName, text);
  for (const auto& [name, cubin] : files) zip.store(name, {cubin->image.data(), cubin->image.size()});
  return zip.finish(stop);
}

}  // namespace moesaic::module
