// SPDX-License-Identifier: Apache-2.0
// Program text, source closure, identity, and the ahead-of-time set against what the planner asks for.
#include "module/kernel_instance.h"

#include <gtest/gtest.h>

#include <set>

#include "module/aot.h"
#include "module/embedded.h"
#include "tests/module/fake_cubin.h"

namespace moesaic::module {
namespace {

using testing::small_instance;

struct Override {
  std::string path;
  Override(std::string path_, const std::string& text) : path(std::move(path_)) {
    override_source_for_test(path, text);
  }
  ~Override() { override_source_for_test(path, ""); }
};

std::string text_of(const std::string& path) {
  for (const SourceText& source : source_closure(path)) {
    if (source.path == path) return source.text;
  }
  return {};
}

std::vector<KernelInstance> all_instances() {
  std::vector<KernelInstance> instances;
  for (const tables::ArchRow& arch : tables::kArchTable) {
    for (KernelInstance& instance : instances_for(arch, ~0u, ~0u)) instances.push_back(std::move(instance));
  }
  return instances;
}

TEST(Target, FollowsTheCodeKind) {
  tables::KernelRow row = *tables::find_kernel("warp_prepare_vector");
  const tables::ArchRow& arch = *tables::find_arch(103);
  row.code_kind = tables::CodeKind::kBaseline;
  EXPECT_EQ(target_for(row, arch).name, "sm_103");
  row.code_kind = tables::CodeKind::kFamily;
  EXPECT_EQ(target_for(row, arch).name, "sm_100f");
  EXPECT_EQ(cuda_needed(row, *tables::find_arch(100)), 12090);
  row.code_kind = tables::CodeKind::kExact;
  EXPECT_EQ(target_for(row, arch).name, "sm_103a");
  EXPECT_EQ(cuda_needed(row, *tables::find_arch(100)), 12080);
  EXPECT_EQ(portable_ptx_target().name, "compute_80");
}

TEST(Target, DecidesWhichFeaturesTheTextMayUse) {
  constexpr int kFp8 = abi::kConvertFp8, kFp4 = abi::kConvertFp4, kHopper = abi::kDependentLaunch | abi::kClusters;
  const std::pair<const char*, int> wanted[] = {
      {"sm_80", 0},
      {"compute_80", 0},
      {"sm_89", kFp8},
      {"compute_89", kFp8},
      {"sm_90", kFp8 | kHopper},
      {"sm_100", kFp8 | kHopper},  // the plain target has no e2m1 conversion
      {"sm_103a", kFp8 | kFp4 | kHopper},
      {"sm_110f", kFp8 | kFp4 | kHopper},
      {"sm_120a", kFp8 | kHopper},  // e2m1 conversion is not trusted there
  };
  for (const auto& [target, features] : wanted) {
    EXPECT_EQ(features_of({target}), features) << target;
    const std::string text = config_text({tables::find_kernel("quant_fp4"), 0, {target}});
    const std::string last = text.substr(text.rfind(',') + 2);
    EXPECT_EQ(last.substr(0, last.find('}')), std::to_string(features)) << target;
  }
}

TEST(Target, KernelsWaitForTheOneBeforeWhereBlocksMayComeUpEarly) {
  for (const KernelInstance& instance : all_instances()) {
    const bool waits = main_text(instance).find("griddepcontrol.wait") != std::string::npos;
    EXPECT_EQ(waits, (features_of(instance.target) & abi::kDependentLaunch) != 0) << instance.target.name;
  }
}

// Persistent and streaming ones do it where they are ready to, by what their text calls.
TEST(Target, SomeKernelsWaitByThemselves) {
  int persistent = 0, streaming = 0;
  for (const KernelInstance& instance : all_instances()) {
    if ((features_of(instance.target) & abi::kDependentLaunch) == 0) continue;
    const bool at_once = main_text(instance).find("\"griddepcontrol.wait;") != std::string::npos;
    EXPECT_EQ(at_once, !abi::waits_itself(instance.config())) << entry_name(instance);
    if (at_once) continue;
    ++(abi::is_persistent(instance.config()) ? persistent : streaming);
    bool calls = false;
    for (const SourceText& source : source_closure(instance.row->source)) {
      calls = calls || (source.path == instance.row->source &&
                        source.text.find("ptx::wait_for_kernel_before<kConfig>()") != std::string::npos);
    }
    EXPECT_TRUE(calls) << instance.row->source;
  }
  EXPECT_GT(persistent, 0);
  EXPECT_GT(streaming, 0);
}

TEST(SourceClosure, HasEveryIncludeOnceSorted) {
  for (const KernelInstance& instance : all_instances()) {
    std::set<std::string> paths;
    std::string last;
    for (const SourceText& source : source_closure(instance.row->source)) {
      EXPECT_LT(last, source.path);
      last = source.path;
      paths.insert(source.path);
    }
    EXPECT_EQ(paths.count(instance.row->source), 1u);
    EXPECT_EQ(paths.count("kernels/abi/config.h"), 1u) << instance.row->source;
  }
}

TEST(SourceClosure, FollowsIncludesInAnySpelling) {
  const Override b("kernels/test/b.cuh", "// b\n");
  const Override a("kernels/test/a.cuh",
                   "  # include   \"kernels/test/b.cuh\" // why\n#include \"kernels/test/a.cuh\"\n");
  const auto closure = source_closure("kernels/test/a.cuh");
  ASSERT_EQ(closure.size(), 2u);
  EXPECT_EQ(closure[1].path, "kernels/test/b.cuh");
}

TEST(SourceClosure, KernelsIncludeNothingFromOutside) {
  for (const EmbeddedText* text = kEmbeddedTexts; text->path != nullptr; ++text) {
    EXPECT_EQ(std::string(text->text).find("#include <"), std::string::npos) << text->path;
  }
}

TEST(Identity, UniqueOverTheWholeSet) {
  std::set<std::string> identities;
  std::set<std::string> names;
  for (const KernelInstance& instance : all_instances()) {
    names.insert(entry_name(instance) + " " + instance.target.name);
    identities.insert(identity(instance));
  }
  EXPECT_EQ(identities.size(), names.size());
  for (const std::string& id : identities) EXPECT_EQ(id.size(), 64u);
}

TEST(Identity, DependsOnTargetAndConfig) {
  EXPECT_NE(identity(small_instance("sm_80")), identity(small_instance("sm_86")));
  EXPECT_EQ(identity(small_instance()), identity(small_instance()));
  KernelInstance first{tables::find_kernel("warp_route"), 0, {"sm_80"}}, second{first.row, 1, {"sm_80"}};
  EXPECT_NE(identity(first), identity(second));
}

TEST(Identity, ChangedTextChangesExactlyWhatIncludesIt) {
  const std::string changed = "kernels/common/epilogue.cuh";
  std::vector<std::string> before;
  for (const KernelInstance& instance : all_instances()) before.push_back(identity(instance));
  const Override edit(changed, text_of(changed) + "// one more line\n");
  std::size_t i = 0, changes = 0;
  for (const KernelInstance& instance : all_instances()) {
    bool includes = false;
    for (const SourceText& source : source_closure(instance.row->source)) includes |= source.path == changed;
    EXPECT_EQ(identity(instance) != before[i++], includes) << instance.row->name;
    changes += includes ? 1 : 0;
  }
  EXPECT_GT(changes, 0u);
  EXPECT_LT(changes, before.size());
}

TEST(MainText, NamesEntryBodyAndParameters) {
  const std::string text = main_text(small_instance());
  for (const char* part :
       {"#include \"moesaic_config.h\"", "#include \"kernels/warp/prepare.cuh\"", "extern \"C\"",
        "moesaic_warp_prepare_vector_w8(const __grid_constant__ moesaic::abi::PrepareVectorParams p)",
        "moesaic::warp::prepare_vector<moesaic::kConfig>(p);"}) {
    EXPECT_NE(text.find(part), std::string::npos) << part << " in\n" << text;
  }
}

TEST(AotSet, HasEveryRowThatServes) {
  for (const tables::ArchRow& arch : tables::kArchTable) {
    std::set<std::string> rows;
    for (const KernelInstance& instance : instances_for(arch, ~0u, ~0u)) rows.insert(instance.row->name);
    for (const tables::KernelRow& row : tables::kernel_table()) {
      EXPECT_EQ(rows.count(row.name) == 1, serves_any(row, arch, ~0u)) << row.name << " on " << arch.sm;
    }
    EXPECT_LE(instances_for(arch, ~0u, ~0u).size(), 64u) << arch.sm;
  }
}

TEST(AotSet, MasksAndProblemsNarrowIt) {
  const tables::ArchRow& arch = *tables::find_arch(90);
  const auto all = instances_for(arch, ~0u, ~0u);
  const std::uint32_t gemms = 1u << static_cast<unsigned>(tables::Op::kGemm);
  EXPECT_FALSE(instances_for(arch, tables::recipe_bit("bf16"), gemms).empty());
  for (const KernelInstance& instance : instances_for(arch, tables::recipe_bit("bf16"), gemms)) {
    EXPECT_EQ(instance.row->op, tables::Op::kGemm);
    EXPECT_NE(instance.row->recipes & tables::recipe_bit("bf16"), 0u);
  }
  EXPECT_LT(instances_for(arch, tables::recipe_bit("bf16"), ~0u).size(), all.size());
  const std::uint32_t operands = 1u << static_cast<unsigned>(tables::Op::kOperand);
  EXPECT_TRUE(instances_for(arch, tables::recipe_bit("bf16"), operands).empty());
  tables::Problem odd;
  odd.hidden = 4095;  // rows of 8190 bytes: no 16-byte pieces
  EXPECT_LT(instances_of(arch, ~0u, ~0u, odd).size(), all.size());
}

TEST(AotSet, SharedTargetsStandOnceInAPlan) {
  BuildRequest request;
  request.archs = tables::parse_arch_list("100 103", {});
  std::set<std::string> identities;
  for (const PlannedKernel& planned : plan_set(request)) {
    EXPECT_TRUE(identities.insert(planned.identity).second);
    EXPECT_FALSE(planned.archs.empty());
  }
  request.ptx.push_back(portable_ptx_target());
  EXPECT_GT(plan_set(request).size(), identities.size());
}

}  // namespace
}  // namespace moesaic::module
