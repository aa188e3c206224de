// SPDX-License-Identifier: Apache-2.0
// The three formats of kernel packages.
#include "cli/package_writer.h"

#include <fmt/format.h>
#include <openssl/evp.h>
#include <zlib.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <filesystem>
#include <utility>

#include "base/env.h"
#include "base/fs.h"
#include "base/hash.h"
#include "base/process.h"
#include "base/temporary_folder.h"
#include "cli/package_texts.h"
#include "module/packages.h"
#include "module/zip_writer.h"
#include "moesaic/error.h"

namespace moesaic::cli {
namespace {

namespace fs = std::filesystem;

constexpr std::uint64_t kMaxBundle = 4ull << 30;

using base::TemporaryFolder;

std::string summary(const KernelPackage& package) {
  const module::BuildRequest whole = module::whole_package(package.name);
  if (!whole.ptx.empty()) return "GPU kernels of Moesaic as PTX, for GPUs newer than it";
  const int sm = whole.archs.rows.at(0)->sm;
  return fmt::format("GPU kernels of Moesaic for SM {}.{}", sm / 10, sm % 10);
}

void write_signed_bundle(const std::string& path, const KernelPackage& package) {
  module::write_bundle(path, package.kernels);
  if (!package.key.empty()) module::Bundle(path).sign(package.key);
}

// ---- Debian ----

std::string gzip(std::string_view text) {
  z_stream stream{};
  constexpr int kGzip = 15 + 16;  // largest window; a gzip header, without a time
  if (deflateInit2(&stream, Z_BEST_COMPRESSION, Z_DEFLATED, kGzip, MAX_MEM_LEVEL, Z_DEFAULT_STRATEGY) != Z_OK) {
    throw Error(ErrorKind::kInternal, "package: zlib does not start");
  }
  std::string out(deflateBound(&stream, text.size()), '\0');
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(text.data()));
  stream.avail_in = static_cast<uInt>(text.size());
  stream.next_out = reinterpret_cast<Bytef*>(out.data());
  stream.avail_out = static_cast<uInt>(out.size());
  const int status = deflate(&stream, Z_FINISH);
  out.resize(stream.total_out);
  deflateEnd(&stream);
  if (status != Z_STREAM_END) throw Error(ErrorKind::kInternal, "package: zlib does not end");
  return out;
}

/// Empty where libcrypto does not have this hash.
std::string digest_of(std::string_view bytes, const EVP_MD* hash) {
  std::string digest(EVP_MAX_MD_SIZE, '\0');
  unsigned size = 0;
  auto* out = reinterpret_cast<unsigned char*>(digest.data());
  if (EVP_Digest(bytes.data(), bytes.size(), out, &size, hash, nullptr) != 1) size = 0;
  digest.resize(size);
  return digest;
}

std::string md5_hex(std::string_view bytes) {
  const std::string digest = digest_of(bytes, EVP_md5());
  if (!digest.empty()) return base::to_hex(digest);
  throw Error(ErrorKind::kUnsupported, "package: libcrypto gives no MD5 here, which Debian packages list");
}

/// Builds `target` of the folder `root`; throws with what dpkg-deb printed unless it succeeds.
void run_dpkg_deb(const std::string& root, const std::string& target) {
  // One thread: xz divides the data by the number of threads, and other pieces are other bytes.
  const std::vector<std::string> settings = {"LC_ALL=C", "DPKG_DEB_THREADS_MAX=1",
                                             fmt::format("SOURCE_DATE_EPOCH={}", kReleaseTime),
                                             "PATH=" + base::env_value(base::Env::kPath).value_or("/usr/bin:/bin")};
  base::CommandOutcome outcome;
  try {
    outcome = base::run_command({"dpkg-deb", "--root-owner-group", "-Zxz", "--build", root, target}, ".",
                                std::chrono::seconds(0), settings);
  } catch (const Error& error) {
    throw Error(ErrorKind::kUnsupported,
                fmt::format("package: dpkg-deb cannot be run ({}): Debian packages are made on a system that has it "
                            "(dpkg); --format zip and wheel need nothing",
                            error.what()));
  }
  if (outcome.exit_code != 0) throw Error(ErrorKind::kIo, "package: dpkg-deb failed: " + outcome.output);
}

std::string control_file(const KernelPackage& package, const std::string& name, std::uint64_t bytes) {
  return fmt::format(
      "Package: {}\n"
      "Source: moesaic\n"
      "Version: {}\n"
      "Architecture: all\n"
      "Maintainer: {}\n"
      "Installed-Size: {}\n"
      "Enhances: libmoesaic1, moesaic\n"
      "Section: libs\n"
      "Priority: optional\n"
      "Description: {}\n"
      " Compiled for version {} of the library, which finds them by itself. With\n"
      " them a machine needs the NVIDIA driver and neither NVRTC nor a CUDA toolkit.\n"
      " {}\n",
      name, module::library_version(), kMaintainer, bytes / 1024 + 16, summary(package), module::library_version(),
      package.contents);
}

/// The tree that the package installs, with what Debian wants of every package.
void write_tree(const TemporaryFolder& staging, const KernelPackage& package, const std::string& name) {
  const std::string bundle = fmt::format("{}/{}.zip", module::kSystemPackageFolder.substr(1), package.name);
  const std::string doc = fmt::format("usr/share/doc/{}", name);
  for (const std::string& folder : {std::string("DEBIAN"), base::folder_of(bundle), doc}) {
    fs::create_directories(staging / ("root/" + folder));
  }
  write_signed_bundle(staging / ("root/" + bundle), package);
  base::write_file_synced(staging / ("root/" + doc + "/copyright"), kDebianCopyrightText);
  base::write_file_synced(staging / ("root/" + doc + "/changelog.gz"), gzip(kDebianChangelogText));
  std::string sums;
  std::uint64_t bytes = 0;
  for (const std::string& file : {doc + "/changelog.gz", doc + "/copyright", bundle}) {
    const std::string content = base::read_file(staging / ("root/" + file), kMaxBundle);
    sums += fmt::format("{}  {}\n", md5_hex(content), file);
    bytes += content.size();
  }
  base::write_file_synced(staging / "root/DEBIAN/md5sums", sums);
  base::write_file_synced(staging / "root/DEBIAN/control", control_file(package, name, bytes));
  // Whatever the caller's umask is.
  for (const auto& item : fs::recursive_directory_iterator(staging / "root")) {
    fs::permissions(item.path(), static_cast<fs::perms>(item.is_directory() ? 0755 : 0644));
  }
  fs::permissions(staging / "root", static_cast<fs::perms>(0755));
}

std::string write_deb(const KernelPackage& package, const std::string& folder) {
  const std::string name = module::package_name(package.name);
  std::string path = fmt::format("{}/{}_{}_all.deb", folder, name, module::library_version());
  const auto staging = TemporaryFolder::beside(path);
  write_tree(staging, package, name);
  const std::string made = staging / "package.deb";
  run_dpkg_deb(staging / "root", made);
  base::move_file_synced(made, path);
  return path;
}

// ---- Python ----

/// SHA-256 in base64 with the letters of URLs and without padding, as RECORD has it.
std::string record_hash(std::string_view bytes) {
  const std::string digest = digest_of(bytes, EVP_sha256());
  if (digest.empty()) throw Error(ErrorKind::kInternal, "package: libcrypto gives no SHA-256");
  std::array<unsigned char, 2 * EVP_MAX_MD_SIZE> letters{};
  EVP_EncodeBlock(letters.data(), reinterpret_cast<const unsigned char*>(digest.data()),
                  static_cast<int>(digest.size()));
  std::string text = reinterpret_cast<const char*>(letters.data());
  text.erase(text.find_last_not_of('=') + 1);
  std::replace(text.begin(), text.end(), '+', '-');
  std::replace(text.begin(), text.end(), '/', '_');
  return text;
}

std::string write_wheel(const KernelPackage& package, const std::string& folder) {
  const std::string name = module::package_python_name(package.name), version = module::library_version();
  std::string path = fmt::format("{}/{}-{}-py3-none-any.whl", folder, name, version);
  const std::string info = fmt::format("{}-{}.dist-info/", name, version);
  const auto staging = TemporaryFolder::beside(path);
  write_signed_bundle(staging / "bundle.zip", package);
  const std::string line = fmt::format("{}. {}", summary(package), package.contents);
  const std::vector<std::pair<std::string, std::string>> files = {
      {name + "/__init__.py", fmt::format("\"\"\"{}\"\"\"\n", line)},
      {fmt::format("{}/{}.zip", name, package.name), base::read_file(staging / "bundle.zip", kMaxBundle)},
      {info + "METADATA", fmt::format("Metadata-Version: 2.1\n"
                                      "Name: {}\n"
                                      "Version: {}\n"
                                      "Summary: {}\n"
                                      "License: Apache-2.0\n"
                                      "License-File: LICENSE\n"
                                      "Requires-Python: >=3\n",
                                      module::package_name(package.name), version, line)},
      {info + "WHEEL", fmt::format("Wheel-Version: 1.0\n"
                                   "Generator: moesaic {}\n"
                                   "Root-Is-Purelib: true\n"
                                   "Tag: py3-none-any\n",
                                   version)},
      {info + "LICENSE", kLicenseText},
  };
  module::ZipWriter wheel(path);
  std::string record;
  for (const auto& [file, bytes] : files) {
    wheel.deflate(file, bytes);
    record += fmt::format("{},sha256={},{}\n", file, record_hash(bytes), bytes.size());
  }
  wheel.deflate(info + "RECORD", record + info + "RECORD,,\n");
  wheel.finish();
  return path;
}

}  // namespace

std::string write_package(PackageFormat format, const KernelPackage& package, const std::string& folder) {
  try {
    if (format == PackageFormat::kDeb) return write_deb(package, folder);
    if (format == PackageFormat::kWheel) return write_wheel(package, folder);
    std::string path =
        fmt::format("{}/{}-{}.zip", folder, module::package_name(package.name), module::library_version());
    const auto staging = TemporaryFolder::beside(path);
    write_signed_bundle(staging / "bundle.zip", package);
    base::move_file_synced(staging / "bundle.zip", path);
    return path;
  } catch (const fs::filesystem_error& error) {
    throw Error(ErrorKind::kIo, fmt::format("package: {}", error.what()));
  }
}

}  // namespace moesaic::cli
