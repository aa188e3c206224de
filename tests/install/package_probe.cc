// SPDX-License-Identifier: Apache-2.0
// Asks for kernels as a layer does: from packages alone, compiling off, without NVRTC and with an empty cache. An
// executable and a module that Python loads, since a package is found by where the library itself lies.
#include <fmt/format.h>

#include <cstdio>
#include <cstdlib>
#include <exception>
#include <string>

#include "module/bundle.h"
#include "module/kernel_instance.h"
#include "module/store.h"
#include "tables/arch_table.h"

namespace {

using namespace moesaic;  // NOLINT(google-build-using-namespace): a program of one file

// The smallest op: a package of few kernels.
constexpr tables::Op kOp = tables::Op::kWeightedSum;

std::vector<module::KernelInstance> kernels_for(int sm) {
  return module::instances_for(*tables::find_arch(sm), ~0u, 1u << static_cast<unsigned>(kOp));
}

/// A bundle of these kernels that no compiler made.
void write_bundle(const std::string& path, int sm) {
  std::vector<module::BundleItem> items;
  for (const module::KernelInstance& instance : kernels_for(sm)) {
    auto cubin = std::make_shared<module::Cubin>();
    const std::string image = "image of " + module::entry_name(instance);
    cubin->image.assign(image.begin(), image.end());
    cubin->entry = module::entry_name(instance);
    cubin->identity = module::identity(instance);
    cubin->target = instance.target.name;
    cubin->compiler = "nobody";
    items.push_back({instance, cubin});
  }
  module::write_bundle(path, items);
}

std::string ask(int sm) {
  ModuleOptions options;
  options.jit = false;
  options.nvrtc = "/nowhere";
  options.cache_dir = "/nowhere";
  module::Store store(options);
  try {
    const auto cubins = store.get_all(kernels_for(sm));
    for (const auto& cubin : cubins) {
      if (cubin->origin != module::Origin::kBundle) return fmt::format("{} is {}", cubin->entry, "not from a package");
    }
    return fmt::format("{} kernels", cubins.size());
  } catch (const std::exception& error) {
    return error.what();
  }
}

}  // namespace

/// What a store says of the kernels for an SM.
extern "C" __attribute__((visibility("default"))) const char* moesaic_package_probe(int sm) {
  static std::string answer;
  answer = ask(sm);
  return answer.c_str();
}

int main(int argc, char** argv) {
  if (argc == 3) write_bundle(argv[2], std::atoi(argv[1]));  // SM FILE
  if (argc == 2) std::puts(moesaic_package_probe(std::atoi(argv[1])));
  return 0;
}
