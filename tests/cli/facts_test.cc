// SPDX-License-Identifier: Apache-2.0
// The verbs that print facts: doctor, recipes, models, explain.
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include "base/env.h"
#include "command.h"
#include "tables/arch_table.h"
#include "tables/kernel_table.h"
#include "tables/model_table.h"
#include "tables/recipe_table.h"

namespace moesaic::testing {
namespace {

using nlohmann::json;

json facts(const std::string& arguments, const std::string& environment = "") {
  const CommandResult result = run_cli(arguments + " --json", environment);
  EXPECT_EQ(result.exit_code, 0) << result.err;
  return json::parse(result.out);
}

std::string read_source_file(const std::string& path) {
  std::ifstream file(std::string(MOESAIC_SOURCE_ROOT "/") + path);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

TEST(Recipes, PrintsEveryRowOfTheTable) {
  const json rows = facts("recipes");
  ASSERT_EQ(rows.size(), tables::kRecipeTable.size());
  const std::string text = run_cli("recipes").out;
  for (std::size_t i = 0; i < rows.size(); ++i) {
    EXPECT_EQ(rows[i]["name"], tables::kRecipeTable[i].name);
    EXPECT_EQ(rows[i]["tolerance"]["exact_row_l2"], tables::kRecipeTable[i].tolerance.exact_row_l2);
    EXPECT_NE(text.find(tables::kRecipeTable[i].name), std::string::npos);
  }
  EXPECT_TRUE(rows[0]["gpu_kernels"].get<bool>()) << "bf16 has kernels";
}

TEST(Models, PrintsEveryRowOfTheTable) {
  const json rows = facts("models");
  const auto table = tables::model_table();
  ASSERT_EQ(rows.size(), table.size());
  for (std::size_t i = 0; i < rows.size(); ++i) {
    EXPECT_EQ(rows[i]["name"], table[i].name);
    EXPECT_EQ(rows[i]["hidden"], table[i].hidden);
    EXPECT_EQ(rows[i]["top_k"], table[i].top_k);
  }
}

TEST(Explain, EveryCellIsTheTablesAnswer) {
  const json cells = facts("explain");
  ASSERT_EQ(cells.size(), tables::kArchTable.size() * tables::kRecipeTable.size() * tables::kAllOps.size());
  for (const json& cell : cells) {
    const tables::ArchRow* arch = tables::find_arch(cell["sm"]);
    ASSERT_NE(arch, nullptr);
    const int recipe = tables::recipe_index(cell["recipe"].get<std::string>());
    bool served = false;
    for (const json& candidate : cell["candidates"]) {
      const tables::KernelRow* row = tables::find_kernel(candidate["row"].get<std::string>());
      ASSERT_NE(row, nullptr) << candidate;
      const std::string reason = tables::why_not(*row, *arch, recipe);
      EXPECT_EQ(candidate["serves"].get<bool>(), reason.empty()) << candidate;
      if (reason.empty()) {
        served = true;
        EXPECT_FALSE(candidate["identities"].empty()) << cell["sm"] << " " << cell["recipe"] << " " << candidate;
      } else {
        EXPECT_EQ(candidate["why_not"], reason);
      }
    }
    EXPECT_EQ(served, !cell["served_by"].is_null()) << cell;
    EXPECT_EQ(served, cell["mark"] != "-") << cell;
  }
}

// A row that serves and has no record must not hide behind one that ran.
TEST(Explain, MarksAreTheLeastOfTheRowsThatServe) {
  std::map<std::string, std::string> best;
  for (const json& record : json::parse(read_source_file("docs/recorded_results.json"))) {
    std::string& status =
        best[record["sm"].dump() + record["recipe"].dump() + record["op"].dump() + record["row"].dump()];
    if (status != "run") status = record["status"];
  }
  const std::vector<std::string> order = {"", "compiled", "run"};
  for (const json& cell : facts("explain")) {
    std::size_t least = order.size();
    for (const json& candidate : cell["candidates"]) {
      if (!candidate["serves"].get<bool>()) continue;
      const std::string key = cell["sm"].dump() + cell["recipe"].dump() + cell["op"].dump() + candidate["row"].dump();
      const auto rank = std::find(order.begin(), order.end(), best[key]) - order.begin();
      least = std::min(least, static_cast<std::size_t>(rank));
    }
    const std::string wanted = least == order.size() ? "-" : least == 0 ? "listed" : order[least];
    EXPECT_EQ(cell["mark"], wanted) << cell["sm"] << cell["recipe"] << cell["op"];
  }
}

TEST(Explain, FiltersByArchitectureRecipeAndOp) {
  const json one = facts("explain --arch 9.0 --recipe bf16 --op gemm");
  ASSERT_EQ(one.size(), 1u);
  EXPECT_EQ(one[0]["sm"], 90);
  EXPECT_EQ(one[0]["op"], "gemm");
  EXPECT_NE(run_cli("explain --arch sm_90a --recipe bf16 --op gemm").out.find(one[0]["served_by"]), std::string::npos);
  EXPECT_EQ(run_cli("explain --recipe nvfp4").out.find("no kernel for the layer"), std::string::npos);
}

TEST(Explain, RecordsNameRowsAndArchitecturesThatExist) {
  const json records = json::parse(read_source_file("docs/recorded_results.json"));
  std::set<std::string> seen;
  for (const json& record : records) {
    EXPECT_NE(tables::find_arch(record["sm"]), nullptr) << record;
    EXPECT_GE(tables::recipe_index(record["recipe"].get<std::string>()), 0) << record;
    const std::string key =
        record["sm"].dump() + record["recipe"].dump() + record["row"].dump() + record["status"].dump();
    EXPECT_TRUE(seen.insert(key).second) << "twice: " << record;
    EXPECT_FALSE(record["by"].get<std::string>().empty()) << record;
  }
}

TEST(Doctor, SaysWhatIsInForce) {
  const std::string folder = ::testing::TempDir() + "moesaic_doctor_cache";
  const json report = facts("doctor", "MOESAIC_CACHE_DIR=" + folder + " MOESAIC_JIT=off");
  EXPECT_FALSE(report["version"].get<std::string>().empty());
  EXPECT_EQ(report["cache"]["folder"], folder);
  EXPECT_EQ(report["cache"]["entries"], 0);
  EXPECT_EQ(report["environment"]["MOESAIC_JIT"], "off");
  EXPECT_EQ(report["environment"]["MOESAIC_CACHE_DIR"], folder);
  EXPECT_FALSE(std::filesystem::exists(folder)) << "doctor only looks";
}

TEST(Doctor, HelpListsEveryVariable) {
  const std::string text = run_cli("doctor --help").out;
  for (const base::EnvVariable& variable : base::env_variables()) {
    EXPECT_NE(text.find(variable.name), std::string::npos) << variable.name;
    EXPECT_NE(text.find(variable.meaning), std::string::npos) << variable.name;
  }
  EXPECT_EQ(text.find("Exit codes"), std::string::npos) << "that is said once, by moesaic --help";
}

TEST(Doctor, ReportsABundleThatIsMissing) {
  const json report = facts("doctor", "MOESAIC_BUNDLE=/nonexistent/kernels.zip");
  ASSERT_EQ(report["bundles"].size(), 1u);
  EXPECT_EQ(report["bundles"][0]["file"], "/nonexistent/kernels.zip");
  EXPECT_FALSE(report["bundles"][0]["error"].get<std::string>().empty());
}

}  // namespace
}  // namespace moesaic::testing
