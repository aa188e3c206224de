// SPDX-License-Identifier: Apache-2.0
// Exit codes, help, and where complaints go.
#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <sstream>
#include <string>

#include "command.h"

namespace moesaic::testing {
namespace {

const char* const kVerbs[] = {"doctor",  "archs",  "recipes", "kernels", "models", "explain",
                              "compile", "bundle", "package", "cache",   "run",    "bench"};

int lines(const std::string& text) { return static_cast<int>(std::count(text.begin(), text.end(), '\n')); }

// Calls `look` with every verb below `above`, in the words that name it, as the helps list them.
void for_each_verb(const std::string& above, const std::function<void(const std::string&)>& look) {
  const std::string help = run_cli(above + " --help").out, title = "\nSubcommands:\n";
  const std::size_t begin = help.find(title);
  if (begin == std::string::npos) return;
  std::istringstream listed(help.substr(begin + title.size()));
  for (std::string line; std::getline(listed, line);) {
    // Neither a description that goes on nor what stands behind the list.
    if (line.rfind("  ", 0) != 0 || line[2] == ' ') continue;
    const std::string verb = above + " " + line.substr(2, line.find(' ', 2) - 2);
    look(verb);
    for_each_verb(verb, look);
  }
}

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

// The values of an option are the words that one writes.
TEST(CommandLine, NoHelpShowsTheNumberOfAnEnumerator) {
  const CommandResult package = run_cli("package --help");
  EXPECT_NE(package.out.find("--format TEXT:{zip,deb,wheel} REQUIRED\n"), std::string::npos) << package.out;
  EXPECT_EQ(run_cli("package --format 1").exit_code, 2);
  int helps = 0;
  for_each_verb("", [&](const std::string& verb) {
    const CommandResult help = run_cli(verb + " --help");
    EXPECT_EQ(help.out.find("ENUM"), std::string::npos) << help.out;
    EXPECT_EQ(help.out.find("->"), std::string::npos) << help.out;
    ++helps;
  });
  EXPECT_GT(helps, 15) << "verbs of verbs among them";
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
