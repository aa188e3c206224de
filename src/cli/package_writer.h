// SPDX-License-Identifier: Apache-2.0
// Kernel packages: the bundle of one architecture, or of PTX, as a zip file, a Debian package or a Python wheel, in the
// places where module/packages.h looks for them. Each is written whole or not at all; equal kernels give equal bytes.
#pragma once

#include <string>
#include <vector>

#include "module/bundle.h"

namespace moesaic::cli {

enum class PackageFormat { kZip, kDeb, kWheel };

struct KernelPackage {
  std::string name;  // what it is of, as module/packages.h has it
  std::vector<module::BundleItem> kernels;
  std::string contents;  // a sentence about the kernels, for the description
  std::string key;       // file of the private key that signs the bundle; empty: it is not signed
};

/// Writes the package into a folder, replacing one of the same name; returns its path. Throws Error: kIo, kUnsupported
/// (no dpkg-deb on this machine).
std::string write_package(PackageFormat format, const KernelPackage& package, const std::string& folder);

}  // namespace moesaic::cli
