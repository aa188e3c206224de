// SPDX-License-Identifier: Apache-2.0
// Who could have written a file: kernels are code, so those that another user could change are not run (SECURITY.md).
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <string>

namespace moesaic::base {

/// What decides: the owner of a file, its mode, and who this process is.
struct Ownership {
  uid_t owner = 0;
  gid_t group = 0;
  mode_t mode = 0;
  uid_t user = 0;        // of the process
  gid_t user_group = 0;  // of the process
  uid_t home_owner = 0;  // of the folder HOME
};

/// Why such a file or folder is not trusted, with what to do, `path` being its name; "": it is. Trusted are those that
/// belong to the user of the process or to root and that nobody else may write to: not everybody, and no group but the
/// user's own and root's. A process of root also trusts the owner of HOME, which in a container may be a user's folder.
std::string why_untrusted(const Ownership& ownership, const std::string& path);
/// The same of what `path` leads to; "" also where nothing is there.
std::string why_untrusted(const std::string& path);
/// The same of an open file.
std::string why_untrusted(int fd, const std::string& path);

/// The same of the folders that hold a file, that of its name and, where that is a link, that of what it leads to:
/// whoever may write to them can put another file in its place.
std::string why_folders_untrusted(const std::string& file);

/// `read_file` that also throws Error(kIo) for a file that is not trusted.
std::string read_trusted_file(const std::string& path, std::uint64_t max_bytes);

}  // namespace moesaic::base
