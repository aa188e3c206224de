// SPDX-License-Identifier: Apache-2.0
// The three formats of kernel packages.
#include "cli/package_writer.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <openssl/evp.h>
#include <spawn.h>
#include <sys/wait.h>
#include <zlib.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <utility>

#include "base/env.h"
#include "base/fs.h"
#include "base/hash.h"
#include "cli/package_texts.h"
#include "module/packages.h"
#include "module/zip_writer.h"
#include "moesaic/error.h"

namespace moesaic::cli {
namespace {

namespace fs = std::filesystem;

constexpr std::uint64_t kMaxBundle = 4ull << 30;

/// A folder that is removed with all it holds.
class Staging {
 public:
  explicit Staging(std::string path) : path_(std::move(path)) { fs::create_directory(path_); }
  ~Staging() {
    std::error_code ignored;
    fs::remove_all(path_, ignored);
  }
  Staging(const Staging&) = delete;
  Staging& operator=(const Staging&) = delete;
  std::string operator/(const std::string& name) const { return path_ + "/" + name; }

 private:
  std::string path_;
};

std::string summary(const KernelPackage& package) {
  return fmt::format("GPU kernels of Moesaic for SM {}.{}", package.sm / 10, package.sm % 10);
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

std::string md5_hex(std::string_view bytes) {
  std::array<unsigned char, EVP_MAX_MD_SIZE> digest{};
  unsigned size = 0;
  if (EVP_Digest(bytes.data(), bytes.size(), digest.data(), &size, EVP_md5(), nullptr) != 1) {
    throw Error(ErrorKind::kUnsupported, "package: libcrypto gives no MD5 here, which Debian packages list");
  }
  std::string hex;
  for (unsigned i = 0; i < size; ++i) hex += fmt::format("{:02x}", digest[i]);
  return hex;
}

/// Runs dpkg-deb; throws with what it printed unless it succeeds.
void run_dpkg_deb(std::vector<std::string> arguments, const std::string& log) {
  arguments.insert(arguments.begin(), "dpkg-deb");
  // One thread: xz divides the data by the number of threads, and other pieces are other bytes.
  std::vector<std::string> environment = {"LC_ALL=C", "DPKG_DEB_THREADS_MAX=1",
                                          fmt::format("SOURCE_DATE_EPOCH={}", kReleaseTime)};
  environment.push_back("PATH=" + base::env_value(base::Env::kPath).value_or("/usr/bin:/bin"));
  const auto pointers = [](std::vector<std::string>& words) {
    std::vector<char*> list;
    for (std::string& word : words) list.push_back(word.data());
    list.push_back(nullptr);
    return list;
  };
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_addopen(&actions, 1, log.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
  posix_spawn_file_actions_adddup2(&actions, 1, 2);
  pid_t child = 0;
  const int failure =
      posix_spawnp(&child, "dpkg-deb", &actions, nullptr, pointers(arguments).data(), pointers(environment).data());
  posix_spawn_file_actions_destroy(&actions);
  if (failure != 0) {
    throw Error(ErrorKind::kUnsupported,
                fmt::format("package: dpkg-deb cannot be run ({}): Debian packages are made on a system that has it "
                            "(dpkg); --format zip and wheel need nothing",
                            std::strerror(failure)));
  }
  int status = 0;
  while (waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return;
  throw Error(ErrorKind::kIo, fmt::format("package: dpkg-deb failed: {}", base::read_file(log, 1 << 20)));
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
void write_tree(const Staging& staging, const KernelPackage& package, const std::string& name) {
  const std::string bundle = fmt::format("usr/share/moesaic/kernels/{}.zip", module::package_arch_name(package.sm));
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
  const std::string name = "moesaic-kernels-" + module::package_arch_name(package.sm);
  std::string path = fmt::format("{}/{}_{}_all.deb", folder, name, module::library_version());
  const Staging staging(base::temporary_beside(path));
  write_tree(staging, package, name);
  const std::string made = staging / "package.deb";
  run_dpkg_deb({"--root-owner-group", "-Zxz", "--build", staging / "root", made}, staging / "log");
  base::move_file_synced(made, path);
  return path;
}

// ---- Python ----

/// Base64 with the letters of URLs and without padding, as RECORD has it.
std::string base64(std::string_view hex) {
  constexpr std::string_view kLetters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
  const auto value = [](char digit) { return static_cast<unsigned>(digit <= '9' ? digit - '0' : digit - 'a' + 10); };
  std::string text;
  unsigned bits = 0, count = 0;
  for (const char digit : hex) {
    bits = bits << 4 | value(digit);
    count += 4;
    if (count < 6) continue;
    count -= 6;
    text += kLetters[bits >> count & 63u];
  }
  if (count > 0) text += kLetters[bits << (6 - count) & 63u];
  return text;
}

std::string write_wheel(const KernelPackage& package, const std::string& folder) {
  const std::string arch = module::package_arch_name(package.sm);
  const std::string name = "moesaic_kernels_" + arch, version = module::library_version();
  std::string path = fmt::format("{}/{}-{}-py3-none-any.whl", folder, name, version);
  const std::string info = fmt::format("{}-{}.dist-info/", name, version);
  const Staging staging(base::temporary_beside(path));
  write_signed_bundle(staging / "bundle.zip", package);
  const std::string line = fmt::format("{}. {}", summary(package), package.contents);
  const std::vector<std::pair<std::string, std::string>> files = {
      {name + "/__init__.py", fmt::format("\"\"\"{}\"\"\"\n", line)},
      {fmt::format("{}/{}.zip", name, arch), base::read_file(staging / "bundle.zip", kMaxBundle)},
      {info + "METADATA", fmt::format("Metadata-Version: 2.1\n"
                                      "Name: moesaic-kernels-{}\n"
                                      "Version: {}\n"
                                      "Summary: {}\n"
                                      "License: Apache-2.0\n"
                                      "License-File: LICENSE\n"
                                      "Requires-Python: >=3\n",
                                      arch, version, line)},
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
    record += fmt::format("{},sha256={},{}\n", file, base64(base::sha256_hex(bytes)), bytes.size());
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
    std::string path = fmt::format("{}/moesaic-kernels-{}-{}.zip", folder, module::package_arch_name(package.sm),
                                   module::library_version());
    const Staging staging(base::temporary_beside(path));
    write_signed_bundle(staging / "bundle.zip", package);
    base::move_file_synced(staging / "bundle.zip", path);
    return path;
  } catch (const fs::filesystem_error& error) {
    throw Error(ErrorKind::kIo, fmt::format("package: {}", error.what()));
  }
}

}  // namespace moesaic::cli
