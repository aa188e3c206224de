// SPDX-License-Identifier: Apache-2.0
// Architectures as users write them, and what is refused.
#include "tables/arch_list.h"

#include <gtest/gtest.h>

#include "tests/support/expect_error.h"

namespace moesaic::tables {
namespace {

using testing::expect_error;

std::vector<int> sms(const std::vector<const ArchRow*>& rows) {
  std::vector<int> numbers;
  for (const ArchRow* row : rows) numbers.push_back(row->sm);
  return numbers;
}

std::vector<int> parse(const std::string& text) { return sms(parse_arch_list(text, {}).rows); }

TEST(ArchList, TakesEverySpelling) {
  for (const char* text : {"90", "9.0", "sm_90", "sm_90a", "90a", "9.0a"}) {
    EXPECT_EQ(parse(text), std::vector<int>{90}) << text;
  }
  for (const char* text : {"120", "12.0", "12.0f", "12.0a", "sm_120f", "120f"}) {
    EXPECT_EQ(parse(text), std::vector<int>{120}) << text;
  }
}

TEST(ArchList, SplitsAtCommasAndBlanksAndSorts) {
  EXPECT_EQ(parse("  120,90   80,, 90 \t"), (std::vector<int>{80, 90, 120}));
}

TEST(ArchList, AllIsTheTable) {
  const ArchList list = parse_arch_list("all", {});
  EXPECT_EQ(list.rows.size(), kArchTable.size());
  EXPECT_TRUE(list.named.empty());
  EXPECT_EQ(sms(parse_arch_list("all 107", {}).named), std::vector<int>{107});
  EXPECT_EQ(parse_arch_list("all 107", {}).rows.size(), kArchTable.size());
}

TEST(ArchList, NativeAsksTheMachine) {
  EXPECT_EQ(sms(parse_arch_list("native", [] { return std::vector<int>{90, 90}; }).rows), std::vector<int>{90});
  expect_error(ErrorKind::kUnsupported, {"no GPU"},
               [] { parse_arch_list("native", [] { return std::vector<int>{}; }); });
  expect_error(ErrorKind::kUnsupported, {"SM 999"},
               [] { parse_arch_list("native", [] { return std::vector<int>{999}; }); });
}

TEST(ArchList, AnythingElseListsWhatIsAccepted) {
  for (const char* wrong : {"", " , ", "91", "9", "sm90", "sm_9.0", "SM_90", "90f", "80a", "9.0b", "90aa", "0090",
                            "9.00", "compute_90", "90;80", "sm_", "a", "-90", "all,9"}) {
    expect_error(ErrorKind::kInvalidArgument, {"80 86 87 89 90", "90a", "native", "all", "commas"},
                 [&] { parse(wrong); });
  }
}

TEST(ArchTable, VersionsByTheIssue) {
  EXPECT_EQ(find_arch(90)->min_cuda, 12030);
  EXPECT_EQ(find_arch(100)->min_cuda, 12080);
  EXPECT_EQ(find_arch(100)->min_cuda_family, 12090);
  EXPECT_EQ(find_arch(107)->min_cuda, 13040);
  EXPECT_EQ(find_arch(110)->min_cuda, 13000);
  EXPECT_EQ(find_arch(88), nullptr);
  EXPECT_EQ(cuda_version_name(12080), "12.8");
  EXPECT_EQ(cuda_version_name(13000), "13.0");
}

TEST(ArchTable, CapabilityNamesAreComplete) {
  EXPECT_EQ(capability_names(0), "");
  for (unsigned bit = 0; bit < 7; ++bit) EXPECT_NE(capability_names(1u << bit), "") << bit;
  EXPECT_EQ(capability_names(kMmaSync | kWgmma), "mma_sync wgmma");
}

}  // namespace
}  // namespace moesaic::tables
