// SPDX-License-Identifier: Apache-2.0
// The C interface's sized structs: their defaults, reading them from callers built with another header, and what they
// mean in C++.
#pragma once

#include <fmt/format.h>

#include <algorithm>
#include <cstddef>
#include <cstring>

#include "capi/status.h"
#include "moesaic/gemm.h"
#include "moesaic/module.h"
#include "moesaic/moe.h"
#include "moesaic/quantize.h"
#include "moesaic/route.h"

namespace moesaic::capi {

/// Defaults, struct_size set. The primary template has no definition: every struct has its own.
template <typename Struct>
Struct defaults();
template <>
moesaic_moe_config defaults();
template <>
moesaic_module_options defaults();
template <>
moesaic_matrix defaults();
template <>
moesaic_expert defaults();
template <>
moesaic_weight_views defaults();
template <>
moesaic_moe_run defaults();
template <>
moesaic_quant_spec defaults();
template <>
moesaic_quant_sizes defaults();
template <>
moesaic_quantize_run defaults();
template <>
moesaic_router_config defaults();
template <>
moesaic_route_run defaults();
template <>
moesaic_activation_spec defaults();
template <>
moesaic_activation_run defaults();
template <>
moesaic_gemm_config defaults();
template <>
moesaic_gemm_weights defaults();
template <>
moesaic_gemm_run defaults();

/// sizeof the struct in the first header that had it: callers cannot have less. LP64.
template <typename Struct>
inline constexpr std::size_t kFirstSize = 0;
template <>
inline constexpr std::size_t kFirstSize<moesaic_moe_config> = 120;
template <>
inline constexpr std::size_t kFirstSize<moesaic_module_options> = 64;
template <>
inline constexpr std::size_t kFirstSize<moesaic_matrix> = 136;
template <>
inline constexpr std::size_t kFirstSize<moesaic_expert> = 64;
template <>
inline constexpr std::size_t kFirstSize<moesaic_weight_views> = 112;
template <>
inline constexpr std::size_t kFirstSize<moesaic_moe_run> = 96;
template <>
inline constexpr std::size_t kFirstSize<moesaic_quant_spec> = 48;
template <>
inline constexpr std::size_t kFirstSize<moesaic_quant_sizes> = 48;
template <>
inline constexpr std::size_t kFirstSize<moesaic_quantize_run> = 64;
template <>
inline constexpr std::size_t kFirstSize<moesaic_router_config> = 88;
template <>
inline constexpr std::size_t kFirstSize<moesaic_route_run> = 120;
template <>
inline constexpr std::size_t kFirstSize<moesaic_activation_spec> = 32;
template <>
inline constexpr std::size_t kFirstSize<moesaic_activation_run> = 24;
template <>
inline constexpr std::size_t kFirstSize<moesaic_gemm_config> = 56;
template <>
inline constexpr std::size_t kFirstSize<moesaic_gemm_weights> = 24;
template <>
inline constexpr std::size_t kFirstSize<moesaic_gemm_run> = 96;

// What was added later lies behind the first struct, its padding at the end included: an older caller's is not read.
static_assert(offsetof(moesaic_moe_config, expert_slots) == kFirstSize<moesaic_moe_config>);
static_assert(offsetof(moesaic_weight_views, token_experts) == kFirstSize<moesaic_weight_views>);
static_assert(offsetof(moesaic_moe_run, token_ids) == kFirstSize<moesaic_moe_run>);

/// Refuses sizes that no header has had. Larger ones are of a newer header.
template <typename Struct>
void check_struct_size(const char* operation, const char* name, std::size_t size) {
  static_assert(sizeof(Struct) >= kFirstSize<Struct> && kFirstSize<Struct> > 0);
  if (size >= kFirstSize<Struct> && size <= 16 * sizeof(Struct)) return;
  refuse(operation, fmt::format("{}.struct_size", name), fmt::format("{}", size),
         fmt::format("{}, as its _init function sets it", sizeof(Struct)));
}

/// The caller's struct in today's form: what an older header lacks has its default; what a newer one adds must be 0.
template <typename Struct>
Struct read_struct(const char* operation, const char* name, const Struct* given) {
  check_given(operation, name, given, "a struct that its _init function filled");
  std::size_t size = 0;
  std::memcpy(&size, given, sizeof(size));  // no more than that is known to be there
  check_struct_size<Struct>(operation, name, size);
  Struct here = defaults<Struct>();
  std::memcpy(&here, given, std::min(size, sizeof(Struct)));
  const auto* bytes = reinterpret_cast<const char*>(given);
  for (std::size_t i = sizeof(Struct); i < size; ++i) {
    if (bytes[i] == 0) continue;
    refuse(operation, name, "a struct of a newer header that sets a field unknown to this library",
           fmt::format("the library of that header; this one is {}, ABI {}", MOESAIC_VERSION, MOESAIC_ABI_VERSION));
  }
  return here;
}

/// Writes as much of `value` as a struct of `size` bytes takes, and `size` itself.
template <typename Struct>
void write_struct(const Struct& value, Struct* out, std::size_t size) {
  std::memset(out, 0, size);
  std::memcpy(out, &value, std::min(size, sizeof(Struct)));
  std::memcpy(out, &size, sizeof(size));
}

/// An int of a struct as an enumerator 0..last.
template <typename Enum>
Enum enumerator(const char* operation, const char* field, std::int32_t value, Enum last) {
  if (value < 0 || value > static_cast<std::int32_t>(last)) {
    refuse(operation, field, fmt::format("{}", value), fmt::format("0 to {}", static_cast<int>(last)));
  }
  return static_cast<Enum>(value);
}

MoeConfig to_config(const char* operation, const moesaic_moe_config* config);
/// Writes into a struct that was initialised; texts are the recipe table's.
void from_config(const char* operation, const MoeConfig& config, moesaic_moe_config* out);
/// NULL: everything from the environment.
ModuleOptions to_modules(const char* operation, const moesaic_module_options* options);
/// The number of a DLPack device type. A C caller's may be none of the enumerators: loading it as one is undefined.
inline std::int32_t device_type_of(const DLDevice& device) {
  static_assert(sizeof(device.device_type) == sizeof(std::int32_t));
  std::int32_t number = 0;
  std::memcpy(&number, &device.device_type, sizeof(number));
  return number;
}
Device to_device(const char* operation, DLDevice device);

struct QuantizerSpec {
  QuantSpec spec;
  std::optional<Activation> activation;
};
QuantizerSpec to_quant_spec(const char* operation, const moesaic_quant_spec* spec);

RouterConfig to_router_config(const char* operation, const moesaic_router_config* config);

struct OrderedActivation {
  Activation activation;
  GateUpOrder order;
};
OrderedActivation to_activation_spec(const char* operation, const moesaic_activation_spec* spec);

GemmConfig to_gemm_config(const char* operation, const moesaic_gemm_config* config);

}  // namespace moesaic::capi
