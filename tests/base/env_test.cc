// SPDX-License-Identifier: Apache-2.0
// Environment variables: unset, empty, switches, numbers, and refusals that name the variable.
#include "base/env.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <set>
#include <sstream>

#include "tests/support/expect_error.h"
#include "tests/support/temporary_folder.h"

namespace moesaic::base {
namespace {

using testing::expect_error;
using testing::ScopedEnv;

TEST(Env, EmptyCountsAsNotSet) {
  const ScopedEnv set("MOESAIC_JIT", "");
  EXPECT_FALSE(env_value(Env::kJit).has_value());
  EXPECT_FALSE(env_switch(Env::kJit).has_value());
}

TEST(Env, SwitchReadsItsWords) {
  for (const char* on : {"on", "1", "true", "yes"}) {
    const ScopedEnv set("MOESAIC_JIT", on);
    EXPECT_EQ(env_switch(Env::kJit), true) << on;
  }
  for (const char* off : {"off", "0", "false", "no"}) {
    const ScopedEnv set("MOESAIC_JIT", off);
    EXPECT_EQ(env_switch(Env::kJit), false) << off;
  }
}

TEST(Env, WrongValuesNameTheVariable) {
  const ScopedEnv jit("MOESAIC_JIT", "maybe");
  const ScopedEnv threads("MOESAIC_THREADS", "4x");
  expect_error(ErrorKind::kInvalidArgument, {"MOESAIC_JIT", "maybe", "off"}, [] { env_switch(Env::kJit); });
  expect_error(ErrorKind::kInvalidArgument, {"MOESAIC_THREADS", "4x"}, [] { env_number(Env::kThreads, 1); });
}

TEST(Env, NumberHasALowerBound) {
  const ScopedEnv threads("MOESAIC_THREADS", "3");
  EXPECT_EQ(env_number(Env::kThreads, 1), 3);
  expect_error(ErrorKind::kInvalidArgument, {"from 4"}, [] { env_number(Env::kThreads, 4); });
}

TEST(Env, BytesHaveUnits) {
  const std::pair<const char*, std::uint64_t> sizes[] = {
      {"1", 1}, {"500000", 500'000}, {"200K", 200u << 10}, {"512M", 512u << 20}, {"3G", 3ull << 30}};
  for (const auto& [text, bytes] : sizes) {
    const ScopedEnv limit("MOESAIC_CACHE_LIMIT", text);
    EXPECT_EQ(env_bytes(Env::kCacheLimit), bytes) << text;
  }
  for (const char* text : {"0", "-1", "K", "2X", "2GB", "1.5G", " 1", "17179869185G", "99999999999999999999"}) {
    const ScopedEnv limit("MOESAIC_CACHE_LIMIT", text);
    expect_error(ErrorKind::kInvalidArgument, {"MOESAIC_CACHE_LIMIT", text, "512M"},
                 [] { env_bytes(Env::kCacheLimit); });
  }
}

TEST(Env, NamesAreUniqueAndExplained) {
  std::set<std::string> names;
  for (const EnvVariable& variable : env_variables()) {
    EXPECT_TRUE(names.insert(variable.name).second) << variable.name;
    EXPECT_STRNE(variable.meaning, "");
  }
}

TEST(Env, NothingElseReadsTheEnvironment) {
  const std::filesystem::path root = std::string(MOESAIC_SOURCE_ROOT) + "/src";
  for (const auto& file : std::filesystem::recursive_directory_iterator(root)) {
    if (!file.is_regular_file() || file.path() == root / "base/env.cc" || file.path() == root / "base/env.h") continue;
    std::ifstream in(file.path());
    std::stringstream text;
    text << in.rdbuf();
    EXPECT_EQ(text.str().find("getenv"), std::string::npos) << file.path();
  }
}

}  // namespace
}  // namespace moesaic::base
