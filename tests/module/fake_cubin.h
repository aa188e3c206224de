// SPDX-License-Identifier: Apache-2.0
// Kernels that no compiler made, for tests of what stores them.
#pragma once

#include <string>

#include "module/record.h"
#include "moesaic/module.h"

namespace moesaic::testing {

/// The smallest kernel of the table for SM 80: a short compilation.
inline module::KernelInstance small_instance(const char* target = "sm_80") {
  return {tables::find_kernel("warp_prepare_vector"), 0, {target}};
}

/// Kernels come from this cache, or by this NVRTC.
inline ModuleOptions compiling_options(const std::string& cache_dir, const std::string& nvrtc) {
  ModuleOptions options;
  options.cache_dir = cache_dir;
  options.nvrtc = nvrtc;
  options.jit = true;
  return options;
}

/// A kernel with `bytes` for image.
inline module::Cubin fake_cubin(const module::KernelInstance& instance, const std::string& bytes) {
  module::Cubin cubin;
  cubin.image.assign(bytes.begin(), bytes.end());
  cubin.entry = module::entry_name(instance);
  cubin.identity = module::identity(instance);
  cubin.target = instance.target.name;
  cubin.compiler = "nobody";
  cubin.cuda_version = 13000;
  cubin.flags = {"--flag"};
  cubin.facts.registers = 17;
  cubin.facts.complaints = {"one", "two"};
  return cubin;
}

inline std::string image_of(const module::Cubin& cubin) { return {cubin.image.begin(), cubin.image.end()}; }

}  // namespace moesaic::testing
