// SPDX-License-Identifier: Apache-2.0
// Logs of ptxas, ELF files, limits of parallel building.
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "base/fs.h"
#include "module/announcer.h"
#include "module/build_id.h"
#include "module/jobs.h"
#include "module/ptxas_log.h"
#include "moesaic/log.h"
#include "tests/support/expect_error.h"
#include "tests/support/temporary_folder.h"

namespace moesaic::module {
namespace {

using testing::expect_error;
using testing::TemporaryFolder;

// As NVRTC 13.0 writes it.
constexpr const char* kClean =
    "ptxas info    : 0 bytes gmem\n"
    "ptxas info    : Compiling entry function 'k' for 'sm_90a'\n"
    "ptxas info    : Function properties for k\n"
    "ptxas         .     0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads\n"
    "ptxas info    : Used 40 registers, used 1 barriers, 2048 bytes smem, 400 bytes cmem[0]\n"
    "ptxas info    : Compile time = 1.557 ms\n";

TEST(PtxasLog, ReadsNumbers) {
  const KernelFacts facts = read_ptxas_log(kClean);
  EXPECT_EQ(facts.registers, 40);
  EXPECT_EQ(facts.stack_bytes, 0);
  EXPECT_EQ(facts.spill_bytes, 0);
  EXPECT_EQ(facts.static_smem_bytes, 2048);
  EXPECT_TRUE(facts.complaints.empty());
}

TEST(PtxasLog, NoLogMeansUnknown) {
  const KernelFacts facts = read_ptxas_log("");
  EXPECT_EQ(facts.registers, -1);
  EXPECT_EQ(facts.stack_bytes, -1);
  EXPECT_EQ(facts.spill_bytes, -1);
}

std::vector<std::string> complaints(const std::string& line) { return read_ptxas_log(kClean + line).complaints; }

TEST(PtxasLog, ComplainsOfWhatMustNotShip) {
  EXPECT_EQ(complaints("ptxas . 0 bytes stack frame, 8 bytes spill stores, 4 bytes spill loads\n"),
            std::vector<std::string>{"spills 12 bytes"});
  EXPECT_EQ(complaints("ptxas . 16 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads\n"),
            std::vector<std::string>{"stack frame of 16 bytes"});
  for (const char* line :
       {"ptxas info : (C7508) Potential Performance Loss: 'setmaxnreg' out of range",
        "ptxas info : (C7510) Potential Performance Loss: wgmma", "ptxas info : (C7511) something",
        "ptxas info : (C7517) something", "wgmma.mma_async instructions are serialized due to a function call",
        "ptxas warning : 'setmaxnreg' ignored to maintain minimum register requirements"}) {
    EXPECT_EQ(complaints(line), std::vector<std::string>{line});
  }
  EXPECT_TRUE(complaints("ptxas info : (C7600) harmless\n").empty());
}

TEST(PtxasLog, WorstFunctionCounts) {
  const KernelFacts facts = read_ptxas_log(std::string(kClean) +
                                           "ptxas . 8 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads\n"
                                           "ptxas info : Used 20 registers, used 0 barriers\n");
  EXPECT_EQ(facts.registers, 40);
  EXPECT_EQ(facts.stack_bytes, 8);
}

TEST(BuildId, OfThisExecutable) {
  const std::string id = elf_build_id("/proc/self/exe");
  EXPECT_GE(id.size(), 16u);
  EXPECT_EQ(id, elf_build_id("/proc/self/exe"));
}

TEST(BuildId, RefusesWhatIsNoLibrary) {
  const TemporaryFolder folder;
  base::write_file_atomic(folder / "text", std::string(5000, 'x'));
  base::write_file_atomic(folder / "short",
                          "\x7f"
                          "ELF");
  for (const char* name : {"text", "short", "missing"}) {
    expect_error(ErrorKind::kIo, {"shared library"}, [&] { elf_build_id(folder / name); });
  }
}

TEST(BuildId, HostileNotesEndInTheFileHash) {
  const TemporaryFolder folder;
  std::string elf = base::read_file("/proc/self/exe", 1ull << 32).substr(0, 4096);
  base::write_file_atomic(folder / "cut", elf);
  for (std::size_t i = 64; i < elf.size(); ++i) elf[i] = '\xff';
  base::write_file_atomic(folder / "wild", elf);
  EXPECT_EQ(elf_build_id(folder / "wild").rfind("sha256-", 0), 0u);
  EXPECT_FALSE(elf_build_id(folder / "cut").empty());
}

TEST(CodeBytes, OnlyOfSoundElf) {
  const std::string self = base::read_file("/proc/self/exe", 1ull << 32);
  EXPECT_GT(elf_code_bytes(self.data(), self.size()), 1000);
  EXPECT_EQ(elf_code_bytes(self.data(), 200), -1);
  EXPECT_EQ(elf_code_bytes("", 0), -1);
}

TEST(Jobs, CappedByCoresAndMemory) {
  EXPECT_EQ(jobs_for(8, -1), 8);
  EXPECT_EQ(jobs_for(8, 100 * kBytesPerJob), 8);
  EXPECT_EQ(jobs_for(8, 3 * kBytesPerJob), 3);
  EXPECT_EQ(jobs_for(8, kBytesPerJob / 2), 1);
  EXPECT_EQ(jobs_for(0, 0), 1);
  EXPECT_EQ(job_count(5), 5);
  EXPECT_GE(job_count(0), 1);
  EXPECT_GT(free_memory_bytes(), 0);
}

TEST(Jobs, EveryItemOnce) {
  std::vector<std::atomic<int>> seen(100);
  run_jobs(4, seen.size(), [&](std::size_t i) { ++seen[i]; });
  for (const auto& count : seen) EXPECT_EQ(count, 1);
}

TEST(Jobs, StopsAndPassesTheFirstErrorOn) {
  std::atomic<int> done{0};
  const auto third_fails = [&](std::size_t i) {
    if (i == 3) throw std::runtime_error("three");
    ++done;
  };
  EXPECT_THROW(run_jobs(2, 1000, third_fails), std::runtime_error);
  done = 0;
  EXPECT_THROW(run_jobs(1, 1000, third_fails), std::runtime_error);
  EXPECT_EQ(done, 3);
  done = 0;
  run_jobs(
      1, 1000, [&](std::size_t) { ++done; }, [&] { return done >= 5; });
  EXPECT_EQ(done, 5);
}

TEST(Announcer, SpeaksAfterASecondOnly) {
  std::vector<std::string> lines;
  std::atomic<bool> spoken{false};
  set_log_callback([&](LogLevel, std::string_view line) {
    lines.emplace_back(line);
    spoken = true;
  });
  { const Announcer quick("kernel quick"); }
  EXPECT_TRUE(lines.empty());
  {
    const Announcer slow("kernel slow");
    for (int i = 0; i < 30'000 && !spoken; ++i) std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
  Announcer::compiled("third", 0.5);
  Announcer::compiled("fourth", 2.5);
  set_log_callback({});
  ASSERT_EQ(lines.size(), 3u);
  EXPECT_NE(lines[0].find("compiling kernel slow"), std::string::npos);
  EXPECT_NE(lines[1].find("compiled kernel slow in "), std::string::npos);
  EXPECT_EQ(lines[2], "compiled kernel fourth in 2.5 s");
}

}  // namespace
}  // namespace moesaic::module
