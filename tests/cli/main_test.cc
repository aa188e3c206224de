// SPDX-License-Identifier: Apache-2.0
// Exit codes, help, and where complaints go.
#include <gtest/gtest.h>

#include <algorithm>
#include <string>

#include "command.h"

namespace moesaic::testing {
namespace {

const char* const kVerbs[] = {"doctor",  "archs",  "recipes", "kernels", "models", "explain",
                              "compile", "bundle", "package", "cache",   "run",    "bench"};

int lines(const std::string& text) { return static_cast<int>(std::count(text.begin(), text.end(), '\n')); }

TEST(CommandLine, HelpNamesEveryVerb) {
  const CommandResult help = run_cli("--help");
  EXPECT_EQ(help.exit_code, 0);
  for (const char* verb : kVerbs) EXPECT_NE(help.out.find(verb), std::string::npos) << verb;
  EXPECT_TRUE(help.err.empty()) << help.err;
}

TEST(CommandLine, EveryVerbHasHelp) {
  for (const char* verb : kVerbs) {
    const CommandResult help = run_cli(std::string(verb) + " --help");
    EXPECT_EQ(help.exit_code, 0) << verb;
    EXPECT_NE(help.out.find("--help"), std::string::npos) << verb;
  }
}

TEST(CommandLine, VersionIsOneLine) {
  const CommandResult version = run_cli("--version");
  EXPECT_EQ(version.exit_code, 0);
  EXPECT_EQ(version.out.rfind("moesaic ", 0), 0u) << version.out;
  EXPECT_EQ(lines(version.out), 1);
}

TEST(CommandLine, NoVerbPrintsHelpAndIsWrongUse) {
  const CommandResult none = run_cli("");
  EXPECT_EQ(none.exit_code, 2);
  EXPECT_NE(none.err.find("doctor"), std::string::npos);
  EXPECT_TRUE(none.out.empty());
}

TEST(CommandLine, WrongUseIsOneLineOnStderrAndExitCodeTwo) {
  for (const char* arguments :
       {"frobnicate", "doctor --no-such-flag", "explain --arch", "explain --arch 91", "explain --recipe bf17",
        "explain --op gemm3", "bench quantize --format int3", "bench quantize --cols 50 --format mxfp4",
        "bench route --method hash", "bench route --experts 4 --top-k 5", "bench route --groups 2",
        "bench gemm --recipe bf17", "bench gemm --recipe nvfp4 --k 40", "bench gemm --device tpu"}) {
    const CommandResult wrong = run_cli(arguments);
    EXPECT_EQ(wrong.exit_code, 2) << arguments;
    EXPECT_EQ(wrong.err.rfind("moesaic: error: ", 0), 0u) << wrong.err;
    EXPECT_EQ(lines(wrong.err), 1) << wrong.err;
    EXPECT_TRUE(wrong.out.empty()) << wrong.out;
  }
}

TEST(CommandLine, BadEnvironmentIsAFailureThatNamesTheVariable) {
  const CommandResult bad = run_cli("doctor", "MOESAIC_JIT=perhaps");
  EXPECT_EQ(bad.exit_code, 1);
  EXPECT_NE(bad.err.find("MOESAIC_JIT"), std::string::npos) << bad.err;
  EXPECT_NE(bad.err.find("perhaps"), std::string::npos) << bad.err;
}

}  // namespace
}  // namespace moesaic::testing
