// SPDX-License-Identifier: Apache-2.0
// Who a shared library is, without loading it.
#pragma once

#include <cstddef>
#include <string>

namespace moesaic::module {

/// The GNU build-id (hex) of an ELF file, read from its notes; the SHA-256 of the whole file ("sha256-...") where it
/// has none. Throws Error(kIo): unreadable, or no 64-bit little-endian ELF file.
std::string elf_build_id(const std::string& path);

/// Bytes of the code sections (".text*") of an ELF image in memory; -1 where the image is not sound.
int elf_code_bytes(const char* image, std::size_t size) noexcept;

}  // namespace moesaic::module
