// SPDX-License-Identifier: Apache-2.0
// A zip file under construction: whole under its name or not there, equal bytes for equal content.
#pragma once

#include <functional>
#include <string>
#include <string_view>

#include "base/temporary_file.h"

namespace moesaic::module {

/// Written beside `path`; there is none unless `finish` succeeds. Everything throws Error(kIo).
class ZipWriter {
 public:
  explicit ZipWriter(const std::string& path);
  ~ZipWriter();
  ZipWriter(const ZipWriter&) = delete;
  ZipWriter& operator=(const ZipWriter&) = delete;

  /// Adds a file as it is.
  void store(const std::string& name, std::string_view bytes);
  /// Adds a file, compressed.
  void deflate(const std::string& name, std::string_view bytes);
  /// Gives the file its name. `stop`, asked right before, discards it by returning true: the result is false then.
  bool finish(const std::function<bool()>& stop = {});

 private:
  void add(const std::string& name, std::string_view bytes, int method, int level);
  void require(bool ok) const;

  std::string path_;
  base::TemporaryFile temporary_;
  void* file_;  // minizip's zipFile
};

}  // namespace moesaic::module
