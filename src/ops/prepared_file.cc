// SPDX-License-Identifier: Apache-2.0
// Writes and reads files of prepared weights; what is not exactly what was written is refused.
#include "ops/prepared_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <nlohmann/json.hpp>
#include <string_view>
#include <vector>

#include "base/fs.h"
#include "base/hash.h"
#include "tables/quant_table.h"

namespace moesaic::ops {
namespace {

constexpr std::string_view kMagic = "moesaic-prepared";
constexpr std::size_t kHashDigits = 64;
constexpr std::size_t kPreamble = kMagic.size() + sizeof(std::uint64_t) + kHashDigits;
constexpr std::uint64_t kLargestHeader = 1 << 16;
constexpr std::size_t kChunk = std::size_t{16} << 20;  // bytes on their way at a time

[[noreturn]] void io_error(const char* operation, const std::string& path, const std::string& what) {
  throw Error(ErrorKind::kIo, fmt::format("{}: {}: {}", operation, path, what));
}

/// All that the bytes depend on, beside the weights themselves.
nlohmann::json describe(const MoeConfig& c, const MoeImpl& impl) {
  return {{"layout", impl.prepared_layout()},
          {"bytes", impl.prepared_bytes()},
          {"recipe", c.recipe},
          {"shared_recipe", tables::shared_recipe(c)},
          {"int4_group_size", c.int4.size},
          {"int4_zero_points", c.int4.zero_points},
          {"int4_f32_scales", c.int4.f32_scales},
          {"hidden", c.hidden},
          {"intermediate", c.intermediate},
          {"num_experts", c.num_experts},
          {"experts_first", c.experts.first},
          {"experts_held", num_local_experts(c)},
          {"experts_slots", c.experts.slots},
          {"tp_rank", c.tp.rank},
          {"tp_size", c.tp.size},
          {"token_ids", c.routing.method == RoutingMethod::kHash ? c.routing.vocabulary : 0},
          {"shared_intermediate", c.shared.intermediate},
          {"shared_gated", c.shared.gated},
          {"gated", is_gated(c.activation.kind)},
          {"router", c.router},
          {"static_scales", c.static_scales}};
}

class File {
 public:
  File(const char* operation, std::string path, int flags)
      : operation_(operation), path_(std::move(path)), fd_(::open(path_.c_str(), flags | O_CLOEXEC, 0644)) {
    if (fd_ < 0) io_error(operation_, path_, std::strerror(errno));
  }
  File(const File&) = delete;
  File& operator=(const File&) = delete;
  ~File() {
    if (fd_ >= 0) ::close(fd_);
  }

  std::uint64_t size() const {
    struct stat status {};
    if (::fstat(fd_, &status) != 0) io_error(operation_, path_, std::strerror(errno));
    if (!S_ISREG(status.st_mode)) io_error(operation_, path_, "not a regular file");
    return static_cast<std::uint64_t>(status.st_size);
  }

  void write(std::string_view bytes) {
    while (!bytes.empty()) {
      const ssize_t done = ::write(fd_, bytes.data(), bytes.size());
      if (done < 0 && errno == EINTR) continue;
      if (done <= 0) io_error(operation_, path_, std::strerror(errno));
      bytes.remove_prefix(static_cast<std::size_t>(done));
    }
  }

  void read(void* to, std::size_t bytes) {
    auto* at = static_cast<char*>(to);
    while (bytes > 0) {
      const ssize_t done = ::read(fd_, at, bytes);
      if (done < 0 && errno == EINTR) continue;
      if (done < 0) io_error(operation_, path_, std::strerror(errno));
      if (done == 0) io_error(operation_, path_, "ends too early");
      at += done;
      bytes -= static_cast<std::size_t>(done);
    }
  }
  std::string read_text(std::size_t bytes) {
    std::string text(bytes, '\0');
    read(text.data(), bytes);
    return text;
  }

  /// An error can come as late as here, from a full disk.
  void sync_and_close() {
    const int fd = fd_;
    fd_ = -1;
    const bool synced = ::fsync(fd) == 0;
    if (::close(fd) != 0 || !synced) io_error(operation_, path_, std::strerror(errno));
  }

 private:
  const char* operation_;
  std::string path_;
  int fd_;
};

void write_all(File& file, const std::string& header, const MoeImpl& impl, const void* prepared, void* stream) {
  std::string start(kMagic);
  const std::uint64_t size = header.size();
  for (int i = 0; i < 8; ++i) start.push_back(static_cast<char>(size >> (8 * i) & 0xff));
  file.write(start + base::sha256_hex(header) + header);
  base::Sha256 hash;
  std::vector<char> chunk(std::min(kChunk, impl.prepared_bytes()));
  for (std::size_t done = 0; done < impl.prepared_bytes();) {
    const std::size_t bytes = std::min(chunk.size(), impl.prepared_bytes() - done);
    impl.read_prepared(static_cast<const char*>(prepared) + done, bytes, chunk.data(), stream);
    hash.add_raw({chunk.data(), bytes});
    file.write({chunk.data(), bytes});
    done += bytes;
  }
  file.write(hash.hex());
  file.sync_and_close();
}

/// The header of a file that is whole by its size and its header's hash.
nlohmann::json read_header(const char* operation, const std::string& path, File& file) {
  const std::uint64_t file_size = file.size();
  if (file_size < kPreamble) io_error(operation, path, "too short for a file of prepared weights");
  const std::string preamble = file.read_text(kPreamble);
  if (preamble.compare(0, kMagic.size(), kMagic) != 0) io_error(operation, path, "not a file of prepared weights");
  std::uint64_t size = 0;
  for (int i = 7; i >= 0; --i) size = size << 8 | static_cast<unsigned char>(preamble[kMagic.size() + i]);
  if (size > kLargestHeader || size > file_size - kPreamble) io_error(operation, path, "damaged: size of its header");
  const std::string text = file.read_text(size);
  if (base::sha256_hex(text) != preamble.substr(kPreamble - kHashDigits)) {
    io_error(operation, path, "damaged: hash of its header");
  }
  nlohmann::json header = nlohmann::json::parse(text, nullptr, false);
  const bool complete = header.is_object() && header.contains("bytes") && header["bytes"].is_number_unsigned();
  if (!complete) io_error(operation, path, "its header is not one of prepared weights");
  if (header["bytes"].get<std::uint64_t>() != file_size - kPreamble - size - kHashDigits) {
    io_error(operation, path,
             fmt::format("truncated or damaged: {} bytes, wanted {} of weights behind a header of {}", file_size,
                         header["bytes"].get<std::uint64_t>(), size));
  }
  return header;
}

/// Throws Error(kInvalidArgument) that says every field in which the file differs from the layer.
void check_same(const char* operation, const std::string& path, const nlohmann::json& header,
                const nlohmann::json& wanted) {
  std::string differences;
  for (const auto& [name, value] : wanted.items()) {
    const nlohmann::json got = header.contains(name) ? header[name] : nlohmann::json("missing");
    if (got != value) differences += fmt::format("; {} is {}, wanted {}", name, got.dump(), value.dump());
  }
  for (const auto& [name, value] : header.items()) {
    if (!wanted.contains(name)) differences += fmt::format("; {} is {}, wanted no such field", name, value.dump());
  }
  if (differences.empty()) return;
  throw Error(ErrorKind::kInvalidArgument,
              fmt::format("{}: {} was written for another layer{}; prepare the weights again and save them", operation,
                          path, differences));
}

void read_weights(const char* operation, const std::string& path, File& file, const MoeImpl& impl, void* prepared,
                  void* stream) {
  base::Sha256 hash;
  std::vector<char> chunk(std::min(kChunk, impl.prepared_bytes()));
  for (std::size_t done = 0; done < impl.prepared_bytes();) {
    const std::size_t bytes = std::min(chunk.size(), impl.prepared_bytes() - done);
    file.read(chunk.data(), bytes);
    hash.add_raw({chunk.data(), bytes});
    impl.write_prepared(static_cast<char*>(prepared) + done, bytes, chunk.data(), stream);
    done += bytes;
  }
  if (file.read_text(kHashDigits) != hash.hex()) io_error(operation, path, "damaged: hash of its weights");
}

}  // namespace

void save_prepared(const MoeConfig& config, const MoeImpl& impl, const void* prepared, const std::string& path,
                   void* stream) {
  constexpr const char* kOperation = "save_prepared";
  impl.check_prepared(kOperation, prepared);
  const std::string temporary = base::temporary_beside(path);
  File file(kOperation, temporary, O_WRONLY | O_CREAT | O_EXCL);
  try {
    write_all(file, describe(config, impl).dump(), impl, prepared, stream);
    if (std::rename(temporary.c_str(), path.c_str()) != 0) io_error(kOperation, path, std::strerror(errno));
  } catch (...) {
    ::unlink(temporary.c_str());
    throw;
  }
  base::sync_folder(base::folder_of(path));
}

void load_prepared(const MoeConfig& config, const MoeImpl& impl, const std::string& path, void* prepared,
                   void* stream) {
  constexpr const char* kOperation = "load_prepared";
  if (prepared == nullptr || reinterpret_cast<std::uintptr_t>(prepared) % 256 != 0) {
    throw Error(ErrorKind::kInvalidArgument, fmt::format("{}: prepared is at {}, wanted {} bytes at a multiple of 256",
                                                         kOperation, prepared, impl.prepared_bytes()));
  }
  File file(kOperation, path, O_RDONLY);
  check_same(kOperation, path, read_header(kOperation, path, file), describe(config, impl));
  try {
    read_weights(kOperation, path, file, impl, prepared, stream);
  } catch (...) {
    // So that the CPU's check of prepared memory refuses what is left of it.
    const std::string zeros(std::min<std::size_t>(256, impl.prepared_bytes()), '\0');
    impl.write_prepared(prepared, zeros.size(), zeros.data(), stream);
    throw;
  }
}

}  // namespace moesaic::ops
