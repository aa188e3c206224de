// SPDX-License-Identifier: Apache-2.0
// archs, kernels, compile, bundle and cache as far as they go without a compiler.
#include <gtest/gtest.h>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "command.h"
#include "module/bundle.h"
#include "module/cache.h"
#include "tables/arch_table.h"
#include "tables/kernel_table.h"
#include "tests/module/fake_cubin.h"
#include "tests/support/key_pair.h"
#include "tests/support/temporary_folder.h"

namespace moesaic::testing {
namespace {

using nlohmann::json;

// Without NVRTC whatever the machine has.
constexpr const char* kNoNvrtc = "MOESAIC_NVRTC=/nowhere";

json facts(const std::string& arguments) {
  const CommandResult result = run_cli(arguments + " --json", kNoNvrtc);
  EXPECT_EQ(result.exit_code, 0) << result.err;
  return json::parse(result.out);
}

TEST(Archs, PrintsEveryRowAndSaysThatNothingCompiles) {
  const json rows = facts("archs");
  ASSERT_EQ(rows.size(), tables::kArchTable.size());
  for (std::size_t i = 0; i < rows.size(); ++i) {
    EXPECT_EQ(rows[i]["sm"], tables::kArchTable[i].sm);
    EXPECT_EQ(rows[i]["compiles"], "no NVRTC");
  }
}

TEST(Kernels, PrintsEveryRowAndFilters) {
  EXPECT_EQ(facts("kernels").size(), tables::kernel_table().size());
  const json rows = facts("kernels --op gemm --recipe fp16");
  ASSERT_FALSE(rows.empty());
  for (const json& row : rows) EXPECT_EQ(row["op"], "gemm");
  EXPECT_EQ(run_cli("kernels --op gemm3").exit_code, 2);
  EXPECT_EQ(run_cli("kernels --target 91", kNoNvrtc).exit_code, 2);
  EXPECT_EQ(run_cli("kernels --target all", kNoNvrtc).exit_code, 2);
  EXPECT_EQ(run_cli("kernels --target 90", kNoNvrtc).exit_code, 1);
}

TEST(Compile, ListNeedsNoCompiler) {
  const json rows = facts("compile --arch '90, 9.0a  12.0f' --list");
  ASSERT_FALSE(rows.empty());
  EXPECT_EQ(rows.size(), facts("compile --arch 90 --list").size() + facts("compile --arch 120 --list").size());
  for (const json& row : rows) EXPECT_EQ(row["identity"].get<std::string>().size(), 64u);
  // A recipe has the GEMMs of its own weights, and none of another's.
  bool has_gemm = false;
  for (const json& row : facts("compile --arch 90 --recipe fp8_int4 --list")) {
    if (row["op"] != "gemm") continue;
    has_gemm = true;
    EXPECT_NE(row["row"].get<std::string>().find("int4"), std::string::npos);
  }
  EXPECT_TRUE(has_gemm);
  EXPECT_LT(facts("compile --arch 90 --model mixtral-8x7b --recipe bf16 --list").size(), rows.size());
}

TEST(Compile, WrongUseIsExitCodeTwo) {
  for (const char* arguments :
       {"compile", "compile --arch 91", "compile --arch 90 --recipe bf17", "compile --arch 90 --op x",
        "compile --arch 90 --model x", "compile --arch 90 --jobs 0", "compile --arch 90 --compiler clang"}) {
    const CommandResult result = run_cli(arguments, kNoNvrtc);
    EXPECT_EQ(result.exit_code, 2) << arguments;
    EXPECT_NE(result.err, "") << arguments;
  }
  EXPECT_NE(run_cli("compile --arch 91").err.find("native"), std::string::npos);
}

TEST(Compile, OutIsCheckedBeforeTheCompilerIsLookedFor) {
  const TemporaryFolder folder;
  const CommandResult missing = run_cli("compile --arch 90 --out " + (folder / "none/k.zip"), kNoNvrtc);
  EXPECT_EQ(missing.exit_code, 1);
  EXPECT_NE(missing.err.find("there is no folder"), std::string::npos) << missing.err;
  EXPECT_EQ(run_cli("compile --arch 90 --out " + folder.path(), kNoNvrtc).exit_code, 1);
}

TEST(Compile, WithoutNvrtcSaysWhereItLooked) {
  const CommandResult result = run_cli("compile --arch 90", kNoNvrtc);
  EXPECT_EQ(result.exit_code, 1);
  EXPECT_NE(result.err.find("/nowhere"), std::string::npos) << result.err;
}

TEST(Bundle, FilesThatAreNoBundleFail) {
  const TemporaryFolder folder;
  std::ofstream(folder / "text.zip") << "no zip file";
  for (const char* verb : {"list", "verify"}) {
    const std::string command = std::string("bundle ") + verb + " ";
    EXPECT_EQ(run_cli(command + (folder / "text.zip")).exit_code, 1);
    EXPECT_EQ(run_cli(command + (folder / "none.zip")).exit_code, 1);
    EXPECT_EQ(run_cli(command).exit_code, 2);
  }
}

TEST(Bundle, SignedOnesAreVerifiedByTheirKey) {
  const TemporaryFolder folder;
  const KeyPair pair(folder / "key"), other(folder / "other");
  const std::string file = folder / "kernels.zip";
  const module::KernelInstance instance = small_instance();
  ASSERT_TRUE(module::write_bundle(file, {{instance, std::make_shared<module::Cubin>(fake_cubin(instance, "image"))}}));
  const std::string verify = "bundle verify " + file + " --key ";
  EXPECT_TRUE(facts("bundle list " + file)["signed_by"].is_null());
  EXPECT_EQ(run_cli("bundle verify " + file).exit_code, 0);
  const CommandResult none = run_cli(verify + pair.public_file);
  EXPECT_EQ(none.exit_code, 1);
  EXPECT_NE(none.out.find("is not signed"), std::string::npos) << none.out;

  EXPECT_EQ(run_cli("bundle sign " + file).exit_code, 2) << "without a key";
  EXPECT_EQ(run_cli("bundle sign " + file + " --key " + pair.public_file).exit_code, 1);
  const json signed_by = facts("bundle sign " + file + " --key " + pair.private_file)["signed_by"];
  EXPECT_EQ(facts("bundle list " + file)["signed_by"], signed_by);
  EXPECT_EQ(run_cli(verify + pair.public_file).exit_code, 0);
  EXPECT_EQ(run_cli("bundle verify " + file, "MOESAIC_BUNDLE_KEY=" + pair.public_file).exit_code, 0);
  for (const CommandResult& wrong : {run_cli(verify + other.public_file),
                                     run_cli("bundle verify " + file, "MOESAIC_BUNDLE_KEY=" + other.public_file)}) {
    EXPECT_EQ(wrong.exit_code, 1);
    EXPECT_NE(wrong.out.find("is signed by " + signed_by.get<std::string>()), std::string::npos) << wrong.out;
  }
  const std::string environment = "MOESAIC_BUNDLE=" + file + " MOESAIC_BUNDLE_KEY=" + other.public_file;
  EXPECT_NE(run_cli("doctor", environment).out.find("is signed by"), std::string::npos);
}

TEST(Package, KeySignsTheBundleInIt) {
  const TemporaryFolder folder;
  const KeyPair pair(folder / "key");
  const std::string file = folder / "kernels.zip";
  std::vector<module::BundleItem> items;
  const std::uint32_t op = 1u << static_cast<unsigned>(tables::Op::kWeightedSum);
  for (const module::KernelInstance& instance : module::instances_for(*tables::find_arch(90), ~0u, op)) {
    module::Cubin cubin = fake_cubin(instance, "image");
    cubin.facts.complaints.clear();
    items.push_back({instance, std::make_shared<module::Cubin>(cubin)});
  }
  ASSERT_TRUE(module::write_bundle(file, items));
  const std::string package =
      "package --arch 90 --op weighted_sum --format zip --bundle " + file + " --output " + folder.path() + " --key ";
  EXPECT_EQ(run_cli(package + pair.public_file).exit_code, 1);
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder.path()), {}), 3) << "keys and bundle alone";
  const std::string made = facts(package + pair.private_file)["packages"][0]["file"];
  EXPECT_EQ(run_cli("bundle verify " + made + " --key " + pair.public_file).exit_code, 0);
}

TEST(Bundle, VerifyAndDoctorNameWhatOthersMayWrite) {
  const TemporaryFolder folder;
  const std::string file = folder / "kernels.zip", environment = "MOESAIC_CACHE_DIR=" + folder.path();
  ASSERT_TRUE(module::write_bundle(file, {}));
  EXPECT_EQ(run_cli("bundle verify " + file).exit_code, 0);
  EXPECT_EQ(run_cli("cache verify", environment).exit_code, 0);
  std::filesystem::permissions(file, std::filesystem::perms(0666));
  std::filesystem::permissions(folder.path(), std::filesystem::perms(0777));
  const CommandResult bundle = run_cli("bundle verify " + file), cache = run_cli("cache verify", environment);
  EXPECT_EQ(bundle.exit_code, 1);
  EXPECT_NE(bundle.out.find("chmod go-w"), std::string::npos) << bundle.out;
  EXPECT_EQ(cache.exit_code, 1);
  EXPECT_NE(cache.out.find("chmod -R go-w"), std::string::npos) << cache.out;
  EXPECT_NE(run_cli("doctor", environment).out.find("not used: kernel cache"), std::string::npos);
}

TEST(Compile, NvccIsAskedForByName) {
  const TemporaryFolder folder;
  std::filesystem::create_directories(folder / "bin");
  std::ofstream(folder / "bin/nvcc")
      << "#!/bin/sh\necho 'release 12.4, V12.4.1'; echo 'Build cuda_12.4.r12.4/compiler.1_0'\n";
  std::filesystem::permissions(folder / "bin/nvcc", std::filesystem::perms(0755));
  const std::string environment = "CUDA_HOME=" + folder.path() + " MOESAIC_NVRTC=/nowhere";
  const CommandResult result = run_cli("compile --arch 90 --compiler nvcc", environment);
  EXPECT_EQ(result.exit_code, 1);
  EXPECT_NE(result.err.find(folder / "bin/nvcc is nvcc 12.4, 12.8 or later"), std::string::npos) << result.err;
  const json nvcc = json::parse(run_cli("doctor --json", environment).out)["nvcc"];
  EXPECT_EQ(nvcc["version"], "12.4");
  EXPECT_EQ(nvcc["path"], folder / "bin/nvcc");
}

TEST(Compile, CompilerThatHangsEndsWithAMessage) {
  const TemporaryFolder folder;
  const CommandResult result =
      run_cli("compile --arch 80 --op prepare --recipe bf16 --jobs 2", "MOESAIC_NVRTC=" MOESAIC_FAKE_NVRTC
                                                                       " MOESAIC_FAKE_NVRTC=hang "
                                                                       "MOESAIC_COMPILE_TIMEOUT=1 MOESAIC_CACHE_DIR=" +
                                                                           (folder / "cache"));
  EXPECT_EQ(result.exit_code, 1);
  EXPECT_NE(result.err.find("hangs: not compiled within 1 s"), std::string::npos) << result.err;
}

TEST(Cache, EmptyOneIsSound) {
  const TemporaryFolder folder;
  const std::string environment = "MOESAIC_CACHE_DIR=" + (folder / "cache");
  EXPECT_EQ(json::parse(run_cli("cache list --json", environment).out)["entries"].size(), 0u);
  EXPECT_EQ(run_cli("cache verify", environment).exit_code, 0);
  EXPECT_EQ(json::parse(run_cli("cache clear --json", environment).out)["removed"], 0);
  EXPECT_EQ(run_cli("cache").exit_code, 2);
}

TEST(Cache, OlderThanRemovesWhatIsUnusedForAsLong) {
  const TemporaryFolder folder;
  const module::Cache cache(folder / "cache");
  const module::KernelInstance instance{&tables::kernel_table()[0], 0, module::Target{"sm_90"}};
  std::vector<std::string> entries;
  for (const char* build : {"new", "old"}) {
    const std::string key = module::cache_key(module::identity(instance), build, {});
    const auto lock = cache.lock(key);
    ASSERT_EQ(cache.store(key, instance, fake_cubin(instance, "image"), *lock), "");
    entries.push_back(cache.folder() + "/" + key.substr(0, 2) + "/" + key);
  }
  const auto two_days_ago = std::filesystem::file_time_type::clock::now() - std::chrono::hours(48);
  std::filesystem::last_write_time(entries[1] + "/meta.json", two_days_ago);
  const std::string environment = "MOESAIC_CACHE_DIR=" + (folder / "cache");
  const json cleared = json::parse(run_cli("cache clear --json --older-than 1d", environment).out);
  EXPECT_EQ(cleared["removed"], 1);
  EXPECT_TRUE(std::filesystem::exists(entries[0]));
  EXPECT_FALSE(std::filesystem::exists(entries[1]));
}

TEST(Cache, OlderThanTakesDurationsAlone) {
  const TemporaryFolder folder;
  const std::string environment = "MOESAIC_CACHE_DIR=" + (folder / "cache");
  for (const char* age : {"0s", "90m", "12h", "30d", "4w"}) {
    const CommandResult result = run_cli(std::string("cache clear --json --older-than ") + age, environment);
    EXPECT_EQ(result.exit_code, 0) << age << result.err;
    EXPECT_EQ(json::parse(result.out)["removed"], 0);
  }
  for (const char* age : {"''", "12", "h", "-1d", "1.5h", "12 h", "12y", "99999999999d"}) {
    const CommandResult result = run_cli(std::string("cache clear '--older-than=") + age + "'", environment);
    EXPECT_EQ(result.exit_code, 2) << age;
    EXPECT_NE(result.err.find("--older-than"), std::string::npos) << result.err;
  }
}

TEST(Cache, LimitIsShownAndChecked) {
  const TemporaryFolder folder;
  const std::string environment = "MOESAIC_CACHE_DIR=" + (folder / "cache") + " MOESAIC_CACHE_LIMIT=";
  EXPECT_EQ(json::parse(run_cli("doctor --json", environment + "2G").out)["cache"]["limit"], 2ull << 30);
  EXPECT_NE(run_cli("doctor", environment + "2G").out.find("limit 2147.5 MB"), std::string::npos);
  EXPECT_NE(run_cli("doctor", environment).out.find("no limit"), std::string::npos);
  const CommandResult wrong = run_cli("doctor", environment + "2GB");
  EXPECT_EQ(wrong.exit_code, 1);
  EXPECT_NE(wrong.err.find("MOESAIC_CACHE_LIMIT"), std::string::npos) << wrong.err;
}

}  // namespace
}  // namespace moesaic::testing
