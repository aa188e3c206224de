// SPDX-License-Identifier: Apache-2.0
// The nvcc of a toolkit, where there is one, over a sample of kernels.
#include <gtest/gtest.h>

#include <string_view>

#include "module/maker.h"
#include "module/nvcc.h"
#include "tests/module/fake_cubin.h"
#include "tests/support/temporary_folder.h"

namespace moesaic::module {
namespace {

using testing::TemporaryFolder;

TEST(NvccCompile, CompilesASampleWithLineNumbersAndWithoutSpills) {
  const auto nvcc = find_nvcc();
  if (!nvcc || nvcc->version < kMinNvrtcVersion) {
    GTEST_SKIP() << "no nvcc of 12.8 or later in CUDA_HOME, PATH or /usr/local/cuda";
  }
  const TemporaryFolder folder;
  const Maker maker(testing::compiling_options(folder / "cache", "/nowhere"), nvcc);
  struct Sample {
    const char* row;
    const char* target;
  };
  for (const auto& [row, target] : {Sample{"warp_prepare_vector", "sm_80"}, Sample{"warp_stream_bf16", "sm_90"},
                                    Sample{"warp_stream_e2m1", "sm_120"}, Sample{"warp_sum_bf16", "compute_80"}}) {
    SCOPED_TRACE(std::string(row) + " for " + target);
    const KernelInstance instance{tables::find_kernel(row), 0, {target}};
    ASSERT_NE(instance.row, nullptr);
    const Cubin cubin = maker.make(instance, identity(instance));
    EXPECT_EQ(cubin.compiler.rfind("nvcc ", 0), 0u) << cubin.compiler;
    EXPECT_TRUE(cubin.facts.complaints.empty());
    const std::string_view image(cubin.image.data(), cubin.image.size());
    const bool ptx = instance.target.is_ptx();
    EXPECT_NE(image.find(ptx ? "\t.loc\t" : ".debug_line"), std::string_view::npos) << "no line numbers";
    EXPECT_NE(image.find("kernels/"), std::string_view::npos) << "no file names";
    EXPECT_EQ(maker.make(instance, identity(instance)).origin, Origin::kCache);
    if (!ptx) {
      EXPECT_GT(cubin.facts.registers, 0);
    }
  }
}

}  // namespace
}  // namespace moesaic::module
