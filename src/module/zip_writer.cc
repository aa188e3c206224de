// SPDX-License-Identifier: Apache-2.0
// minizip behind module/zip_writer.h.
#include "module/zip_writer.h"

#include <fmt/format.h>
#include <minizip/zip.h>

#include "moesaic/error.h"

namespace moesaic::module {

ZipWriter::ZipWriter(const std::string& path)
    : path_(path), temporary_(path), file_(zipOpen(temporary_.name().c_str(), APPEND_STATUS_CREATE)) {
  require(file_ != nullptr);
}

ZipWriter::~ZipWriter() {
  if (file_ != nullptr) zipClose(file_, nullptr);
}

void ZipWriter::store(const std::string& name, std::string_view bytes) { add(name, bytes, 0, 0); }

void ZipWriter::deflate(const std::string& name, std::string_view bytes) {
  add(name, bytes, Z_DEFLATED, Z_BEST_COMPRESSION);
}

void ZipWriter::add(const std::string& name, std::string_view bytes, int method, int level) {
  zip_fileinfo info{};
  info.dosDate = 1u << 21 | 1u << 16;  // 1980-01-01, the oldest there is: equal content gives equal bytes
  require(zipOpenNewFileInZip(file_, name.c_str(), &info, nullptr, 0, nullptr, 0, nullptr, method, level) == ZIP_OK);
  require(zipWriteInFileInZip(file_, bytes.data(), static_cast<unsigned>(bytes.size())) == ZIP_OK);
  require(zipCloseFileInZip(file_) == ZIP_OK);
}

bool ZipWriter::finish(const std::function<bool()>& stop) {
  const int status = zipClose(file_, nullptr);
  file_ = nullptr;
  require(status == ZIP_OK);
  if (stop && stop()) return false;
  temporary_.publish();
  return true;
}

void ZipWriter::require(bool ok) const {
  if (!ok)
    throw Error(ErrorKind::kIo, fmt::format("write {}: failed (disk full?); free space, or name another place", path_));
}

}  // namespace moesaic::module
