// SPDX-License-Identifier: Apache-2.0
// Building ahead of time: every row for every architecture, invalidation, violations, architectures that are skipped.
#include "module/aot.h"

#include <gtest/gtest.h>
#include <sys/resource.h>

#include <set>

#include "module/maker.h"
#include "module/store.h"
#include "tests/module/fake_cubin.h"
#include "tests/module/nvrtc_versions.h"
#include "tests/support/expect_error.h"
#include "tests/support/temporary_folder.h"

namespace moesaic::module {
namespace {

using testing::expect_error;
using testing::kNvrtc12;
using testing::kNvrtc13;
using testing::TemporaryFolder;

constexpr std::uint32_t kPrepareAndSum =
    1u << static_cast<unsigned>(tables::Op::kPrepare) | 1u << static_cast<unsigned>(tables::Op::kWeightedSum);

struct AotCompile : ::testing::Test {
  TemporaryFolder folder;

  ModuleOptions options(const std::string& nvrtc = kNvrtc13) const {
    ModuleOptions options;
    options.cache_dir = folder / "cache";
    options.nvrtc = nvrtc;
    return options;
  }
  static BuildRequest request(const std::string& archs, std::uint32_t ops = ~0u) {
    BuildRequest request;
    request.archs = tables::parse_arch_list(archs, {});
    request.ops = ops;
    return request;
  }
  static std::set<std::string> compiled_rows(const BuildResult& result) {
    std::set<std::string> rows;
    for (const BuiltKernel& kernel : result.kernels) {
      if (kernel.cubin->origin == Origin::kCompiled) rows.insert(kernel.planned.instance.row->name);
    }
    return rows;
  }
};

double cpu_seconds() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<double>(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
         1e-6 * static_cast<double>(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec);
}

void expect_clean(const BuildResult& result) {
  for (const std::string& line : result.violations()) ADD_FAILURE() << line;
  for (const BuiltKernel& kernel : result.kernels) {
    const KernelFacts& facts = kernel.cubin->facts;
    EXPECT_GT(facts.registers, 0) << kernel.cubin->entry;
    EXPECT_EQ(facts.stack_bytes, 0) << kernel.cubin->entry;
    EXPECT_EQ(facts.spill_bytes, 0) << kernel.cubin->entry;
    EXPECT_GT(facts.code_bytes, 0) << kernel.cubin->entry;
  }
}

// No include folder is given to the compiler: the kernels come as text.
TEST_F(AotCompile, EveryRowForEveryArchitectureIsClean) {
  MOESAIC_NEED_NVRTC();
  const double start = cpu_seconds();
  const BuildResult result = build_set(request("all"), options());
  expect_clean(result);
  EXPECT_LT((cpu_seconds() - start) / static_cast<double>(result.kernels.size()), 5.0);
  std::set<int> served, skipped, possible, unknown;  // by NVRTC 13.0
  for (const SkippedArch& one : result.skipped) skipped.insert(one.arch->sm);
  for (const tables::ArchRow& arch : tables::kArchTable) (arch.min_cuda <= 13000 ? possible : unknown).insert(arch.sm);
  for (const BuiltKernel& kernel : result.kernels) {
    for (const tables::ArchRow* arch : kernel.planned.archs) served.insert(arch->sm);
  }
  EXPECT_EQ(served, possible);
  EXPECT_EQ(skipped, unknown);
  EXPECT_FALSE(unknown.empty());

  const BuildResult again = build_set(request("all"), options());
  EXPECT_TRUE(compiled_rows(again).empty());
  EXPECT_LT(again.seconds, 5.0);

  // What dispatch may ask for on one architecture alone is in that architecture's own bundle, with nothing else there.
  for (const char* arch : {"90", "103", "121"}) {
    const BuildResult one = build_set(request(arch), options());
    ASSERT_TRUE(write_bundle(folder / "one.zip", bundle_items(one)));
    ModuleOptions only;
    only.bundles = {folder / "one.zip"};
    only.cache_dir = folder / "empty";
    only.nvrtc = "/nowhere";
    only.jit = false;
    Store store(only);
    const auto wanted = instances_for(tables::parse_arch(arch), ~0u, ~0u);
    EXPECT_EQ(store.get_all(wanted).size(), one.kernels.size());
  }
}

TEST_F(AotCompile, TheOlderCompilerIsCleanToo) {
  MOESAIC_NEED_NVRTC();
  expect_clean(build_set(request("90 121"), options(kNvrtc12)));
}

TEST_F(AotCompile, ChangedTextCompilesExactlyWhatIncludesIt) {
  MOESAIC_NEED_NVRTC();
  const std::string changed = "kernels/warp/prepare.cuh";
  EXPECT_FALSE(compiled_rows(build_set(request("90", kPrepareAndSum), options())).empty());
  std::string text;
  for (const SourceText& part : source_closure(changed)) {
    if (part.path == changed) text = part.text;
  }
  std::set<std::string> expected;
  for (const tables::KernelRow& row : tables::kernel_table()) {
    if (row.source == changed) expected.insert(row.name);
  }
  override_source_for_test(changed, text + "// changed\n");
  EXPECT_EQ(compiled_rows(build_set(request("90", kPrepareAndSum), options())), expected);
  override_source_for_test(changed, "");
  EXPECT_TRUE(compiled_rows(build_set(request("90", kPrepareAndSum), options())).empty());
}

TEST_F(AotCompile, ArchitectureThatIsNamedMustBePossible) {
  MOESAIC_NEED_NVRTC();
  expect_error(ErrorKind::kUnsupported, {"107", "CUDA 13.4", "13.0"}, [&] { build_set(request("90,107"), options()); });
  expect_error(ErrorKind::kUnsupported, {"110", "CUDA 13.0", "12.9"},
               [&] { build_set(request("all,110"), options(kNvrtc12)); });
  BuildRequest nothing = request("90");
  nothing.recipes = tables::recipe_bit("bf16");
  nothing.ops = 1u << static_cast<unsigned>(tables::Op::kOperand);
  expect_error(ErrorKind::kUnsupported, {"no kernel row"}, [&] { build_set(nothing, options()); });
  expect_error(ErrorKind::kUnsupported, {"NVRTC", "/nowhere"}, [&] { build_set(request("90"), options("/nowhere")); });
}

TEST_F(AotCompile, StopEndsItEarlyAndProgressCounts) {
  MOESAIC_NEED_NVRTC();
  std::size_t last = 0;
  const BuildResult result = build_set(
      request("90", kPrepareAndSum), options(),
      [&](const BuildProgress& progress) {
        EXPECT_EQ(progress.done, last + 1);
        last = progress.done;
      },
      [&] { return last >= 2; });
  EXPECT_TRUE(result.stopped);
  EXPECT_TRUE(result.kernels.empty());
  EXPECT_GE(last, 2u);
}

// A row whose kernel indexes a local array: a stack frame.
TEST_F(AotCompile, StackFrameIsAViolationAlsoFromTheCache) {
  MOESAIC_NEED_NVRTC();
  const std::string source = "kernels/test/stack.cuh";
  override_source_for_test(source,
                           "#pragma once\n#include \"kernels/abi/params.h\"\nnamespace moesaic {\n"
                           "template <abi::KernelConfig kConfig>\n"
                           "__device__ void stack(const abi::PrepareVectorParams& p) {\n"
                           "  float values[64];\n"
                           "  for (int i = 0; i < 64; ++i) values[i] = p.out[i * p.size];\n"
                           "  for (int i = 0; i < p.size; ++i) values[(i * p.padded) & 63] += values[i & 63];\n"
                           "  p.out[threadIdx.x] = values[p.size & 63];\n}\n}\n");
  tables::KernelRow row = *tables::find_kernel("warp_prepare_vector");
  row.name = "stack";
  row.source = source.c_str();
  row.body = "stack";
  const KernelInstance instance{&row, 0, {"sm_90"}};
  const Maker maker(options());
  for (const Origin origin : {Origin::kCompiled, Origin::kCache}) {
    const Cubin cubin = maker.make(instance, identity(instance));
    EXPECT_EQ(cubin.origin, origin);
    BuildResult result;
    BuiltKernel& built = result.kernels.emplace_back();
    built.planned.instance = instance;
    built.cubin = std::make_shared<Cubin>(cubin);
    ASSERT_EQ(result.violations().size(), 1u);
    EXPECT_NE(result.violations()[0].find("stack frame of 256 bytes"), std::string::npos) << result.violations()[0];
  }
  override_source_for_test(source, "");
}

}  // namespace
}  // namespace moesaic::module
