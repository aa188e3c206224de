// SPDX-License-Identifier: Apache-2.0
// Records to and from JSON, and the check of bytes against a record.
#include "module/record.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>
#include <string_view>

#include "base/hash.h"
#include "module/json_integer.h"
#include "moesaic/error.h"

namespace moesaic::module {
namespace {

nlohmann::json to_json(const KernelFacts& facts) {
  return {{"registers", facts.registers},     {"stack_bytes", facts.stack_bytes},
          {"spill_bytes", facts.spill_bytes}, {"static_smem_bytes", facts.static_smem_bytes},
          {"code_bytes", facts.code_bytes},   {"compile_seconds", facts.compile_seconds},
          {"complaints", facts.complaints}};
}

KernelFacts facts_from_json(const nlohmann::json& json) {
  KernelFacts facts;
  facts.registers = integer_at<int>(json, "registers");
  facts.stack_bytes = integer_at<int>(json, "stack_bytes");
  facts.spill_bytes = integer_at<int>(json, "spill_bytes");
  facts.static_smem_bytes = integer_at<int>(json, "static_smem_bytes");
  facts.code_bytes = integer_at<int>(json, "code_bytes");
  json.at("compile_seconds").get_to(facts.compile_seconds);
  json.at("complaints").get_to(facts.complaints);
  return facts;
}

}  // namespace

const char* origin_name(Origin origin) noexcept {
  switch (origin) {
    case Origin::kBundle:
      return "bundle";
    case Origin::kCache:
      return "cache";
    case Origin::kCompiled:
      return "compiled";
  }
  return "unknown";
}

std::string violation_of(const Cubin& cubin) {
  if (cubin.facts.complaints.empty()) return {};
  return fmt::format("{} for {}: {}", cubin.entry, cubin.target, fmt::join(cubin.facts.complaints, "; "));
}

KernelRecord make_record(const KernelInstance& instance, const Cubin& cubin) {
  KernelRecord record;
  record.identity = cubin.identity;
  record.row = instance.row->name;
  record.config = tables::config_name(*instance.row, instance.config());
  record.op = tables::op_name(instance.row->op);
  record.target = cubin.target;
  record.entry = cubin.entry;
  record.size = cubin.image.size();
  record.sha256 = base::sha256_hex({cubin.image.data(), cubin.image.size()});
  record.compiler = cubin.compiler;
  record.cuda_version = cubin.cuda_version;
  record.flags = cubin.flags;
  record.facts = cubin.facts;
  return record;
}

nlohmann::json to_json(const KernelRecord& record) {
  return {{"identity", record.identity}, {"row", record.row},
          {"config", record.config},     {"op", record.op},
          {"target", record.target},     {"entry", record.entry},
          {"size", record.size},         {"sha256", record.sha256},
          {"compiler", record.compiler}, {"cuda_version", record.cuda_version},
          {"flags", record.flags},       {"facts", to_json(record.facts)}};
}

KernelRecord record_from_json(const nlohmann::json& json) {
  KernelRecord record;
  try {
    json.at("identity").get_to(record.identity);
    json.at("row").get_to(record.row);
    json.at("config").get_to(record.config);
    json.at("op").get_to(record.op);
    json.at("target").get_to(record.target);
    json.at("entry").get_to(record.entry);
    record.size = integer_at<std::uint64_t>(json, "size");
    json.at("sha256").get_to(record.sha256);
    json.at("compiler").get_to(record.compiler);
    record.cuda_version = integer_at<int>(json, "cuda_version");
    json.at("flags").get_to(record.flags);
    record.facts = facts_from_json(json.at("facts"));
  } catch (const nlohmann::json::exception& error) {
    throw Error(ErrorKind::kIo, fmt::format("record of a kernel: {}", error.what()));
  }
  return record;
}

Cubin restore(const KernelRecord& record, std::string bytes, Origin origin) {
  if (bytes.size() != record.size) {
    throw Error(ErrorKind::kIo, fmt::format("kernel {} for {} has {} bytes, its record says {}", record.entry,
                                            record.target, bytes.size(), record.size));
  }
  if (base::sha256_hex(bytes) != record.sha256) {
    throw Error(ErrorKind::kIo, fmt::format("kernel {} for {}: its bytes do not have the SHA-256 of its record",
                                            record.entry, record.target));
  }
  Cubin cubin;
  cubin.image.assign(bytes.begin(), bytes.end());
  cubin.entry = record.entry;
  cubin.identity = record.identity;
  cubin.target = record.target;
  cubin.compiler = record.compiler;
  cubin.cuda_version = record.cuda_version;
  cubin.flags = record.flags;
  cubin.facts = record.facts;
  cubin.origin = origin;
  return cubin;
}

}  // namespace moesaic::module
