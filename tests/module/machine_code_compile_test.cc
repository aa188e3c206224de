// SPDX-License-Identifier: Apache-2.0
// What ptxas made of the 16-bit GEMMs: products of the shapes meant, under way together, and little beside them; and of
// the weighted sum: rows under way together.
#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "module/store.h"
#include "tests/module/fake_cubin.h"
#include "tests/module/nvrtc_versions.h"
#include "tests/support/machine_code.h"
#include "tests/support/temporary_folder.h"

namespace moesaic::module {
namespace {

using testing::count;
using testing::Instruction;
using testing::Instructions;
using testing::MachineCode;

struct Kernel {
  abi::KernelConfig config;
  std::shared_ptr<const Cubin> cubin;
  MachineCode code;
};

struct MachineCodeCompile : ::testing::TestWithParam<const char*> {
  testing::TemporaryFolder folder;

  Kernel compile_one(const tables::KernelRow& row, int config, const char* target) const {
    const auto cubin =
        Store(testing::compiling_options(folder / "cache", testing::kNvrtc13)).get({&row, config, {target}});
    return {row.configs[static_cast<std::size_t>(config)], cubin, testing::disassemble(cubin->image)};
  }
  // Every configuration of a row.
  std::vector<Kernel> compile(const char* row_name, const char* target) const {
    const tables::KernelRow& row = *tables::find_kernel(row_name);
    std::vector<Kernel> kernels;
    for (std::size_t i = 0; i < row.configs.size(); ++i) {
      kernels.push_back(compile_one(row, static_cast<int>(i), target));
    }
    return kernels;
  }
};

void expect_no_local_memory(const MachineCode& code) {
  EXPECT_GT(code.all().size(), 500u);
  EXPECT_EQ(count(code.all(), "LDL"), 0u);
  EXPECT_EQ(count(code.all(), "STL"), 0u);
}

// ---- wgmma ----------------------------------------------------------------------------------------------------------

// What is on the other side of 64 rows, weights or tokens, and how many rows a warpgroup has.
struct Form {
  int columns, rows;
};

// Those that are compiled: every number of tokens that is multiplied beside weight rows, and 256 weight rows beside 64
// tokens.
std::vector<Form> forms(const abi::KernelConfig& config) {
  std::set<int> tokens;
  for (int i = 1; i <= abi::most_block_tokens(config); ++i) tokens.insert(abi::multiplied_tokens(config, i));
  std::vector<Form> all;
  for (const int columns : tokens) all.push_back({columns, config.tile_rows / (config.warps_rows / 4)});
  if (config.tile_rows == 256) all.push_back({256, 64});
  return all;
}

// Those of half a stage: the largest of each kind does for all.
std::vector<Form> forms_of_half_a_stage(const abi::KernelConfig& config) {
  std::vector<Form> all = {{abi::most_block_tokens(config), config.tile_rows / (config.warps_rows / 4)}};
  if (config.tile_rows == 256) all.push_back({256, 64});
  return all;
}

std::string product(const abi::KernelConfig& config, const Form& form) {
  return "HGMMA.64x" + std::to_string(form.columns) + "x16.F32" + (config.io == abi::kIoBf16 ? ".BF16" : "");
}

// Of a stage, each with 16 of K.
std::size_t products_of_stage(const abi::KernelConfig& config, const Form& form) {
  return static_cast<std::size_t>(config.tile_k / 16) * static_cast<std::size_t>(form.rows / 64);
}

// What a warpgroup does in one form: a stage, or half a one, with the one before still under way; the wait for all.
// Where ptxas serialises, every product is a group of its own with a wait behind it.
std::string meant(const abi::KernelConfig& config, const Form& form, std::size_t products) {
  std::string steps = "arrive\n";
  for (std::size_t i = 0; i < products; ++i) {
    steps += product(config, form) + (i + 1 == products ? " ends group\n" : "\n");
  }
  return steps + "wait 1\nwait 0\n";
}

// The same of the machine code, cut behind each wait for all; in alphabetical order.
std::vector<std::string> done(const MachineCode& code) {
  std::vector<std::string> parts(1);
  for (const Instruction& one : code.all()) {
    if (one.is("WARPGROUP.ARRIVE")) parts.back() += "arrive\n";
    if (one.is("HGMMA")) {
      parts.back() += one.opcode + (one.text.find("gsb0") != std::string::npos ? " ends group\n" : "\n");
    }
    if (!one.is("WARPGROUP.DEPBAR")) continue;
    parts.back() += "wait " + std::to_string(one.last_number()) + "\n";
    if (one.last_number() == 0) parts.emplace_back();
  }
  EXPECT_EQ(parts.back(), "") << "products that nobody waits for";
  parts.pop_back();
  std::sort(parts.begin(), parts.end());
  return parts;
}

std::vector<std::string> all_meant(const abi::KernelConfig& config) {
  std::vector<std::string> parts;
  for (const Form& form : forms(config)) parts.push_back(meant(config, form, products_of_stage(config, form)));
  for (const Form& form : forms_of_half_a_stage(config)) {
    parts.push_back(meant(config, form, products_of_stage(config, form) / 2));
  }
  std::sort(parts.begin(), parts.end());
  return parts;
}

// No fence of the whole GPU among them: that of an arrival with .release.cluster took two thirds of the time.
void expect_one_stage_a_turn(const Kernel& kernel) {
  for (const Form& form : forms(kernel.config)) {
    SCOPED_TRACE(product(kernel.config, form));
    const Instructions loop = kernel.code.main_loop(product(kernel.config, form));
    EXPECT_EQ(count(loop, "HGMMA"), products_of_stage(kernel.config, form));
    EXPECT_EQ(count(loop, "MEMBAR"), count(loop, "MEMBAR.ALL.CTA"));
  }
}

// Those that load give registers, those that multiply take them, and nobody has more than there are.
void expect_registers_handed_over(const Kernel& kernel) {
  unsigned long taken = 0, kept = 0;
  for (const Instruction& one : kernel.code.all()) {
    if (one.is("USETMAXREG.TRY_ALLOC")) taken += one.last_number();
    if (one.is("USETMAXREG.DEALLOC")) kept += one.last_number();
  }
  EXPECT_EQ(count(kernel.code.all(), "USETMAXREG"), 2u);
  const auto at_first = static_cast<unsigned long>(kernel.cubin->facts.registers);
  EXPECT_GT(taken, at_first);
  EXPECT_LT(kept, at_first);
  EXPECT_GT(kept, 0u);
  const auto& c = kernel.config;
  EXPECT_LE(static_cast<unsigned long>(c.warps_rows) * taken + static_cast<unsigned long>(c.warps_load) * kept,
            static_cast<unsigned long>(abi::threads(c)) / 32 * at_first);
}

// Copies from global memory: to all blocks of a cluster, which has those of a block alone, too, for experts of few
// rows.
void expect_weights_shared_by_clusters_alone(const Kernel& kernel) {
  std::size_t shared = 0;
  for (const Instruction& one : kernel.code.all()) {
    shared += one.is("UBLKCP.S.G") && one.opcode.find(".MULTICAST") != std::string::npos ? 1 : 0;
  }
  EXPECT_EQ(shared > 0, kernel.config.cluster > 1);
  EXPECT_GT(count(kernel.code.all(), "UBLKCP.S.G"), shared);
}

struct WgmmaCompile : MachineCodeCompile {};

TEST_P(WgmmaCompile, EveryConfigurationMultipliesAsMeant) {
  MOESAIC_NEED_NVRTC();
  MOESAIC_NEED_DISASSEMBLER();
  for (const Kernel& kernel : compile(GetParam(), "sm_90a")) {
    SCOPED_TRACE(kernel.cubin->entry);
    EXPECT_EQ(done(kernel.code), all_meant(kernel.config));
    expect_no_local_memory(kernel.code);
    expect_one_stage_a_turn(kernel);
    expect_registers_handed_over(kernel);
    expect_weights_shared_by_clusters_alone(kernel);
  }
}

INSTANTIATE_TEST_SUITE_P(Rows, WgmmaCompile, ::testing::Values("sm90_wgmma_bf16", "sm90_wgmma_fp16"),
                         [](const auto& info) { return std::string(info.param); });

// Who touches a sum while its products are under way makes ptxas end each of them before the next. That must show.
TEST_F(WgmmaCompile, SerialisedProductsAreSeen) {
  MOESAIC_NEED_NVRTC();
  MOESAIC_NEED_DISASSEMBLER();
  const std::string source = "kernels/sm90/products.cuh", commit = "  ptx::wgmma_commit();\n";
  std::string text;
  for (const SourceText& part : source_closure("kernels/sm90/gemm_wgmma.cuh")) {
    if (part.path == source) text = part.text;
  }
  const std::size_t at = text.find(commit);
  ASSERT_NE(at, std::string::npos);
  override_source_for_test(source, text.insert(at, "  sums[0] += 1.0f;\n"));
  const Kernel kernel = compile_one(*tables::find_kernel("sm90_wgmma_bf16"), 0, "sm_90a");
  override_source_for_test(source, "");
  EXPECT_NE(done(kernel.code), all_meant(kernel.config));
  EXPECT_GT(count(kernel.code.all(), "WARPGROUP.ARRIVE"), all_meant(kernel.config).size());
}

// ---- mma.sync, tiled ------------------------------------------------------------------------------------------------

// Instructions beside products in the loop, as they were when it was last measured (docs/performance-log.md), and a few
// more: addresses that land in no register pairs, or operands in no runs of registers, take dozens.
std::size_t most_beside_products(const abi::KernelConfig& config) {
  constexpr std::size_t kFew = 4;
  switch (config.tile_tokens) {
    case 32:
      return 94 + kFew;
    case 64:
      return 109 + kFew;
    case 128:
      return 87 + kFew;
    default:
      ADD_FAILURE() << "no limit for tiles of " << config.tile_tokens << " tokens";
      return 0;
  }
}
constexpr std::size_t kMostMoves = 2;  // there is at most one

struct TiledCompile : MachineCodeCompile {};

TEST_P(TiledCompile, LoopOf16BitWeightsHasLittleBesideProducts) {
  MOESAIC_NEED_NVRTC();
  MOESAIC_NEED_DISASSEMBLER();
  for (const Kernel& kernel : compile(GetParam(), "sm_80")) {
    SCOPED_TRACE(kernel.cubin->entry);
    const auto& c = kernel.config;
    const int products =
        c.tile_tokens / 8 * (c.tile_rows / 16) * (c.tile_k / 16) / (c.warps_tokens * c.warps_rows * c.warps_k);
    const Instructions loop = kernel.code.main_loop("HMMA");
    EXPECT_EQ(count(loop, "HMMA.16816.F32"), static_cast<std::size_t>(products));
    EXPECT_EQ(count(kernel.code.all(), "HMMA"), static_cast<std::size_t>(products)) << "all of them are in the loop";
    EXPECT_LE(loop.size() - count(loop, "HMMA"), most_beside_products(c));
    EXPECT_LE(count(loop, "MOV") + count(loop, "IMAD.MOV"), kMostMoves);
    expect_no_local_memory(kernel.code);
  }
}

INSTANTIATE_TEST_SUITE_P(Rows, TiledCompile, ::testing::Values("warp_tiled_bf16", "warp_tiled_fp16"),
                         [](const auto& info) { return std::string(info.param); });

// ---- weighted sum ---------------------------------------------------------------------------------------------------

// Times that eight loads of 16 bytes, which L2 need not keep, stand before the first sum or branch behind them.
std::size_t eights_of_loads(const MachineCode& code) {
  std::size_t eights = 0, loads = 0;
  for (const Instruction& one : code.all()) {
    if (one.is("FFMA") || one.is("BRA")) loads = 0;
    if (one.is("LDG.E.EF.128") && ++loads == 8) ++eights;
  }
  return eights;
}

struct SumCompile : MachineCodeCompile {};

TEST_P(SumCompile, EightSlotsAreUnderWayTogether) {
  MOESAIC_NEED_NVRTC();
  MOESAIC_NEED_DISASSEMBLER();
  const Kernel both = compile_one(*tables::find_kernel("warp_sum_bf16"), 0, GetParam()),
               wide = compile_one(*tables::find_kernel("warp_sum_fp16"), 0, GetParam());
  EXPECT_EQ(eights_of_loads(both.code), 2u) << "of bf16 rows and of FP32 rows";
  EXPECT_EQ(eights_of_loads(wide.code), 1u) << "of FP32 rows alone";
  for (const Kernel* kernel : {&both, &wide}) {
    EXPECT_EQ(count(kernel->code.all(), "LDL") + count(kernel->code.all(), "STL"), 0u);
  }
}

INSTANTIATE_TEST_SUITE_P(Targets, SumCompile, ::testing::Values("sm_80", "sm_90"),
                         [](const auto& info) { return std::string(info.param); });

}  // namespace
}  // namespace moesaic::module
