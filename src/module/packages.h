// SPDX-License-Identifier: Apache-2.0
// Kernel packages: bundles of one architecture each, or of PTX, that are installed on this machine and found without
// being named.
//
// A package is a bundle called "sm90.zip" or "moesaic-kernels-sm90-<version>.zip". Only those of the architectures that
// kernels are asked for are opened. One that cannot serve (another version, another kernel text, damage) is passed over
// with one warning a process, and is named in the error of a kernel that nothing else gives.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "module/aot.h"
#include "module/bundle.h"

namespace moesaic::module {

/// What packages are of: "sm90", an architecture; "ptx", what the driver compiles for a GPU that the table does not
/// list.
std::string package_of_arch(int sm);
inline constexpr std::string_view kPtxPackage = "ptx";
/// "moesaic-kernels-sm90", of zip files, Debian and Python packages; and "moesaic_kernels_sm90", the Python package's
/// folder and the first part of its wheel's name.
std::string package_name(std::string_view package);
std::string package_python_name(std::string_view package);
/// A request for all kernels of a package.
BuildRequest whole_package(std::string_view package);
/// Where all programs of a system look for packages.
inline constexpr std::string_view kSystemPackageFolder = "/usr/share/moesaic/kernels";
/// What a file's name says that it is of; "": it is not the name of a package.
std::string package_of_file(std::string_view file_name);

/// Where packages lie for a library or executable at `file`, existing folders only: share/moesaic/kernels of the prefix
/// whose bin or lib folder it is in, moesaic_kernels_* beside a Python package folder "moesaic", and those of the
/// prefix's Python folders.
std::vector<std::string> package_folders_of(const std::string& file);
/// Those of the file that holds this code, then kSystemPackageFolder; none where MOESAIC_PACKAGES is off.
std::vector<std::string> package_folders();
/// For tests: these folders and no others; nullopt: the real ones again.
void set_package_folders_for_test(std::optional<std::vector<std::string>> folders);

struct PackageFile {
  std::string path;
  std::string package;  // "": a zip file that is not named as packages are
};
/// The zip files of the folders, in the order of search.
std::vector<PackageFile> package_files(const std::vector<std::string>& folders);

/// What `moesaic doctor` tells of a package: every kernel is read.
struct PackageState {
  std::size_t kernels = 0, wanted = 0;  // that it has; that a whole one has
  std::uint64_t bytes = 0;
  std::string made_by;
  std::string why_not;  // why it, or a part of it, is not used; empty: it is
};
PackageState inspect_package(const PackageFile& file);

/// The packages as a store sees them. Thread-safe; nothing is searched or opened before a kernel is asked for.
class Packages {
 public:
  /// Throws Error(kInvalidArgument) on a wrong value of MOESAIC_PACKAGES.
  Packages();

  /// The kernel of an identity, or nullopt. Throws nothing for packages that cannot serve.
  std::optional<Cubin> find(const KernelInstance& instance, const std::string& identity);
  /// Why no package gave it, for messages: "; package FILE: REASON" for each one of the target.
  std::string why_not(const KernelInstance& instance, const std::string& identity);

 private:
  struct Opened {
    PackageFile file;
    std::unique_ptr<Bundle> bundle;
    std::string refusal;  // not empty: why it cannot serve
  };
  std::vector<Opened*> opened_for(const Target& target);
  static void refuse(Opened& package, const std::string& reason);

  bool on_;
  std::mutex mutex_;
  bool listed_ = false;
  std::vector<Opened> packages_;
};

}  // namespace moesaic::module
