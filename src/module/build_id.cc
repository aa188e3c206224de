// SPDX-License-Identifier: Apache-2.0
// ELF notes and sections by <elf.h>. Every offset is checked: the file may be anything.
#include "module/build_id.h"

#include <elf.h>
#include <fmt/format.h>

#include <cstring>
#include <fstream>
#include <string_view>

#include "base/fs.h"
#include "base/hash.h"
#include "moesaic/error.h"

namespace moesaic::module {
namespace {

constexpr std::uint64_t kMaxNotes = 1u << 20;
constexpr std::uint64_t kMaxLibrary = 2ull << 30;

bool is_elf64(const Elf64_Ehdr& header) {
  return std::memcmp(header.e_ident, ELFMAG, SELFMAG) == 0 && header.e_ident[EI_CLASS] == ELFCLASS64 &&
         header.e_ident[EI_DATA] == ELFDATA2LSB;
}

bool read_at(std::ifstream& file, std::uint64_t offset, void* out, std::size_t size) {
  file.clear();
  file.seekg(static_cast<std::streamoff>(offset));
  file.read(static_cast<char*>(out), static_cast<std::streamsize>(size));
  return file.gcount() == static_cast<std::streamsize>(size);
}

constexpr std::size_t aligned4(std::size_t size) { return (size + 3) & ~std::size_t{3}; }

// The build-id among ELF notes, or "".
std::string id_in_notes(std::string_view notes) {
  while (notes.size() >= sizeof(Elf64_Nhdr)) {
    Elf64_Nhdr note;
    std::memcpy(&note, notes.data(), sizeof(note));
    notes.remove_prefix(sizeof(note));
    const std::size_t name_size = aligned4(note.n_namesz), id_size = aligned4(note.n_descsz);
    if (name_size > notes.size() || id_size > notes.size() - name_size) return {};
    if (note.n_type == NT_GNU_BUILD_ID && notes.substr(0, note.n_namesz) == std::string_view("GNU\0", 4)) {
      std::string hex;
      for (const char byte : notes.substr(name_size, note.n_descsz)) {
        hex += fmt::format("{:02x}", static_cast<unsigned char>(byte));
      }
      return hex;
    }
    notes.remove_prefix(name_size + id_size);
  }
  return {};
}

}  // namespace

std::string elf_build_id(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  Elf64_Ehdr header;
  if (!file || !read_at(file, 0, &header, sizeof(header)) || !is_elf64(header)) {
    throw Error(ErrorKind::kIo, fmt::format("{} is not a readable 64-bit shared library", path));
  }
  for (unsigned i = 0; i < header.e_phnum && header.e_phentsize == sizeof(Elf64_Phdr); ++i) {
    Elf64_Phdr segment;
    if (!read_at(file, header.e_phoff + i * sizeof(segment), &segment, sizeof(segment))) break;
    if (segment.p_type != PT_NOTE || segment.p_filesz > kMaxNotes) continue;
    std::string notes(segment.p_filesz, '\0');
    if (!read_at(file, segment.p_offset, notes.data(), notes.size())) continue;
    std::string id = id_in_notes(notes);
    if (!id.empty()) return id;
  }
  return "sha256-" + base::sha256_hex(base::read_file(path, kMaxLibrary));
}

int elf_code_bytes(const char* image, std::size_t size) noexcept {
  Elf64_Ehdr header;
  if (size < sizeof(header)) return -1;
  std::memcpy(&header, image, sizeof(header));
  if (!is_elf64(header) || header.e_shentsize != sizeof(Elf64_Shdr) || header.e_shoff > size ||
      header.e_shnum > (size - header.e_shoff) / sizeof(Elf64_Shdr)) {
    return -1;
  }
  std::uint64_t bytes = 0;
  for (unsigned i = 0; i < header.e_shnum; ++i) {
    Elf64_Shdr section;
    std::memcpy(&section, image + header.e_shoff + i * sizeof(section), sizeof(section));
    if (section.sh_type == SHT_PROGBITS && (section.sh_flags & SHF_EXECINSTR) != 0) bytes += section.sh_size;
  }
  return bytes > size ? -1 : static_cast<int>(bytes);
}

}  // namespace moesaic::module
