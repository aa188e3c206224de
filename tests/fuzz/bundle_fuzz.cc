// SPDX-License-Identifier: Apache-2.0
// Any bytes as a bundle, and as the manifest, the signature or the kernel of one: an Error, or kernels that have their
// SHA-256.
#include <minizip/zip.h>

#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "base/hash.h"
#include "fuzz/choices.h"
#include "fuzz/memory_file.h"
#include "module/build_id.h"
#include "module/bundle.h"

namespace {

using namespace moesaic;
using module::Bundle;
using module::KernelRecord;

const testing::MemoryFile& file() {
  static const testing::MemoryFile memory;
  return memory;
}

// What a damaged or foreign bundle may end in.
void demand_refusal(const Error& error) {
  testing::demand(error.kind() == ErrorKind::kIo || error.kind() == ErrorKind::kUnsupported,
                  "an error of another kind");
}

void read_kernel(const Bundle& bundle, const KernelRecord& record) {
  try {
    const auto cubin = bundle.get(record.identity);
    testing::demand(cubin.has_value(), "a record without a kernel");
    const std::string_view image(cubin->image.data(), cubin->image.size());
    testing::demand(base::sha256_hex(image) == record.sha256 && image.size() == record.size, "unchecked bytes");
    testing::demand(module::elf_code_bytes(image.data(), image.size()) <= static_cast<int>(image.size()), "code bytes");
  } catch (const Error& error) {
    demand_refusal(error);
  }
}

void read_bundle(const std::string& path) {
  try {
    const Bundle bundle(path);
    for (const KernelRecord& record : bundle.records()) read_kernel(bundle, record);
    bundle.damage();
    bundle.refusal();
    testing::demand(bundle.distrust({}).empty(), "this process' own file is not trusted");
  } catch (const Error& error) {
    demand_refusal(error);
  }
}

void read_as_files(const std::vector<std::pair<std::string, std::string>>& files) {
  const zipFile zip = zipOpen(file().path().c_str(), APPEND_STATUS_CREATE);
  testing::demand(zip != nullptr, "no zip file");
  for (const auto& [name, bytes] : files) {
    zipOpenNewFileInZip(zip, name.c_str(), nullptr, nullptr, 0, nullptr, 0, nullptr, 0, 0);
    zipWriteInFileInZip(zip, bytes.data(), static_cast<unsigned>(bytes.size()));
    zipCloseFileInZip(zip);
  }
  zipClose(zip, nullptr);
  read_bundle(file().path());
}

// A manifest with one kernel, whose hash is right: its bytes are believed.
std::string manifest_of(const std::string& image) {
  return R"({"format": 1, "moesaic": "0", "module_abi": 1, "entries": [{"identity": "k", "row": "r", "config": "c",
    "op": "o", "target": "t", "entry": "e", "size": )" +
         std::to_string(image.size()) + R"(, "sha256": ")" + base::sha256_hex(image) +
         R"(", "compiler": "", "cuda_version": 1, "flags": [], "facts": {"registers": 1, "stack_bytes": 0,
    "spill_bytes": 0, "static_smem_bytes": 0, "code_bytes": 1, "compile_seconds": 0, "complaints": []}}]})";
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string bytes(reinterpret_cast<const char*>(data), size);
  if (bytes.empty()) return 0;
  const std::string rest = bytes.substr(1);
  switch (bytes.front()) {
    case 'm':
      read_as_files({{"manifest.json", rest}, {"k.cubin", "image"}});
      break;
    case 's':
      read_as_files({{"manifest.json", manifest_of("image")}, {"manifest.sig", rest}, {"k.cubin", "image"}});
      break;
    case 'k':
      read_as_files({{"manifest.json", manifest_of(rest)}, {"k.cubin", rest}});
      break;
    default:  // a zip file begins with 'P'
      read_bundle(file().hold(bytes));
  }
  return 0;
}
