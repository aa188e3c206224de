// SPDX-License-Identifier: Apache-2.0
// Owner, group and mode, by stat; of open files, so that nothing can be exchanged between check and use.
#include "base/trust.h"

#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/env.h"
#include "base/fs.h"
#include "moesaic/error.h"

namespace moesaic::base {
namespace {

Ownership ownership_of(const struct stat& status) {
  Ownership ownership;
  ownership.owner = status.st_uid;
  ownership.group = status.st_gid;
  ownership.mode = status.st_mode;
  ownership.user = ::geteuid();
  ownership.user_group = ::getegid();
  struct stat home {};
  // Whose it is counts for root alone.
  const auto folder = ownership.user == 0 ? env_value(Env::kHome) : std::nullopt;
  if (folder && ::stat(folder->c_str(), &home) == 0) ownership.home_owner = home.st_uid;
  return ownership;
}

}  // namespace

std::string why_untrusted(const Ownership& it, const std::string& path) {
  const bool home_of_root = it.user == 0 && it.owner == it.home_owner;
  if (it.owner != 0 && it.owner != it.user && !home_of_root) {
    return fmt::format(
        "{} belongs to user {}, and this process is user {}: run as that user, `chown` it, or name "
        "another place",
        path, it.owner, it.user);
  }
  const char* flags = S_ISDIR(it.mode) ? "-R " : "";
  if ((it.mode & S_IWOTH) != 0) {
    if (S_ISDIR(it.mode) && (it.mode & S_ISVTX) != 0) {  // as /tmp, whose mode is not for this process to change
      return fmt::format("everybody may write to {} (mode {:04o}): use a folder of your own", path, it.mode & 07777u);
    }
    return fmt::format("everybody may write to {} (mode {:04o}): `chmod {}go-w {}`", path, it.mode & 07777u, flags,
                       path);
  }
  if ((it.mode & S_IWGRP) != 0 && it.group != it.user_group && it.group != 0) {
    return fmt::format("group {} may write to {} (mode {:04o}): `chmod {}g-w {}`", it.group, path, it.mode & 07777u,
                       flags, path);
  }
  return {};
}

std::string why_untrusted(const std::string& path) {
  struct stat status {};
  return ::stat(path.c_str(), &status) == 0 ? why_untrusted(ownership_of(status), path) : std::string();
}

std::string why_folders_untrusted(const std::string& file) {
  const std::string named = real_path(folder_of(file)), real = folder_of(real_path(file));
  std::string why = why_untrusted(named);
  return why.empty() && named != real ? why_untrusted(real) : why;
}

std::string why_untrusted(int fd, const std::string& path) {
  struct stat status {};
  if (::fstat(fd, &status) != 0) return fmt::format("{}: its owner cannot be told", path);
  return why_untrusted(ownership_of(status), path);
}

}  // namespace moesaic::base
