// SPDX-License-Identifier: Apache-2.0
// A compiled kernel and what is written down about it: one description for the cache's meta.json, a bundle's
// manifest.json and the listings of the command line.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "module/kernel_instance.h"

namespace moesaic::module {

/// What the compiler said of a kernel; -1: unknown (PTX).
struct KernelFacts {
  int registers = -1, stack_bytes = -1, spill_bytes = -1, static_smem_bytes = -1;
  int code_bytes = -1;
  double compile_seconds = 0;
  std::vector<std::string> complaints;  // why it must not ship; empty: nothing
};

enum class Origin { kBundle, kCache, kCompiled };
const char* origin_name(Origin origin) noexcept;

/// A compiled kernel. `image` is an ELF cubin, or PTX text with a final NUL.
struct Cubin {
  std::vector<char> image;
  std::string entry;     // function to look up in the image
  std::string identity;  // of the instance
  std::string target;
  std::string compiler;  // "nvrtc 13.0 build-id ..." : who made it
  int cuda_version = 0;  // 1000 * major + 10 * minor of the toolkit that made it
  std::vector<std::string> flags;
  KernelFacts facts;
  Origin origin = Origin::kCompiled;
};

/// "ENTRY for TARGET: REASONS" of a kernel that must not ship; "" of one that may.
std::string violation_of(const Cubin& cubin);

/// Everything about a kernel but its bytes.
struct KernelRecord {
  std::string identity, row, config, op, target, entry;
  std::uint64_t size = 0;
  std::string sha256;
  std::string compiler;
  int cuda_version = 0;
  std::vector<std::string> flags;
  KernelFacts facts;
};

KernelRecord make_record(const KernelInstance& instance, const Cubin& cubin);
nlohmann::json to_json(const KernelRecord& record);
/// Throws Error(kIo) naming the field that is missing or of the wrong type.
KernelRecord record_from_json(const nlohmann::json& json);
/// The kernel of a record. Throws Error(kIo) where the bytes are not those that the record tells of.
Cubin restore(const KernelRecord& record, std::string bytes, Origin origin);

}  // namespace moesaic::module
