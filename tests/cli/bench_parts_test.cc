// SPDX-License-Identifier: Apache-2.0
// What `moesaic bench` needs no GPU for: libraries that are not there, cuBLASLt's layouts, NVML's numbers, repeats in
// turns, names and times of launches, faults.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "cli/bench_conditions.h"
#include "cli/bench_cublas.h"
#include "cli/bench_report.h"
#include "cli/bench_shares.h"
#include "cli/bench_turns.h"
#include "module/kernel_instance.h"
#include "tests/support/temporary_folder.h"

namespace moesaic::cli {
namespace {

using moesaic::testing::ScopedEnv;

const std::vector<std::string> kNowhere = {"libmoesaic_no_such.so.1", "/nowhere/libmoesaic_no_such.so.2"};
constexpr const char* kBus = "0000:3b:00.0";

std::uint16_t bf16(float value) {
  std::uint32_t bits;
  std::memcpy(&bits, &value, 4);
  return static_cast<std::uint16_t>(bits >> 16);
}

TEST(BenchLibrary, AbsentOnesSayWhatWasLookedFor) {
  for (const std::string& why : {CublasLt(kNowhere).why_not(), Nvml(kNowhere, kBus).why_not()}) {
    for (const std::string& name : kNowhere) EXPECT_NE(why.find(name), std::string::npos) << why;
    EXPECT_NE(why.find("LD_LIBRARY_PATH"), std::string::npos);
  }
}

TEST(BenchLibrary, OneThatLacksAFunctionIsNotUsed) {
  EXPECT_NE(CublasLt({MOESAIC_FAKE_NVML_FILE}).why_not().find("no cublasLtCreate"), std::string::npos);
  EXPECT_NE(Nvml({MOESAIC_FAKE_CUBLAS_FILE}, kBus).why_not().find("no nvmlInit_v2"), std::string::npos);
}

TEST(BenchCublas, IsLookedForByNameFirst) {
  const std::vector<std::string> files = CublasLt::files();
  ASSERT_GE(files.size(), 4u);
  EXPECT_EQ(files[0], "libcublasLt.so.13");
  EXPECT_EQ(files[1], "libcublasLt.so.12");
  EXPECT_EQ(files.back(), "/usr/local/cuda/lib64/libcublasLt.so.12");
}

TEST(BenchCublas, MultipliesRowsByRows) {
  const CublasLt lt({kNowhere[0], MOESAIC_FAKE_CUBLAS_FILE});
  ASSERT_EQ(lt.why_not(), "");
  EXPECT_EQ(lt.name(), "cuBLASLt 12.8.4");
  constexpr int kM = 3, kN = 5, kK = 4;
  std::vector<std::uint16_t> x(kM * kK), w(kN * kK), out(kM * kN);
  for (int i = 0; i < kM * kK; ++i) x[static_cast<std::size_t>(i)] = bf16(static_cast<float>(i % 7));
  for (int i = 0; i < kN * kK; ++i) w[static_cast<std::size_t>(i)] = bf16(static_cast<float>(i % 5 - 2));
  const CublasProduct product(lt, DType::kBF16, kM, kN, kK);
  ASSERT_EQ(product.algorithms(), 2);  // the third one cannot be used
  for (int algorithm = 0; algorithm < 2; ++algorithm) {
    std::fill(out.begin(), out.end(), std::uint16_t{0xffff});
    product.enqueue(algorithm, x.data(), w.data(), out.data(), nullptr, nullptr);
    for (int row = 0; row < kM; ++row) {
      for (int col = 0; col < kN; ++col) {
        float want = 0;
        for (int i = 0; i < kK; ++i) {
          want += static_cast<float>((row * kK + i) % 7) * static_cast<float>((col * kK + i) % 5 - 2);
        }
        EXPECT_EQ(out[static_cast<std::size_t>(row * kN + col)], bf16(want)) << row << ", " << col;
      }
    }
  }
}

TEST(BenchCublas, OneThatDoesNotStartIsNotUsed) {
  const ScopedEnv status("MOESAIC_FAKE_CUBLAS", "1");
  EXPECT_NE(CublasLt({MOESAIC_FAKE_CUBLAS_FILE}).why_not().find("cublasLtCreate answers status 1"), std::string::npos);
}

TEST(BenchConditions, PowerIsEnergyOverTime) {
  const Nvml nvml({MOESAIC_FAKE_NVML_FILE}, kBus);
  ASSERT_EQ(nvml.why_not(), "");
  ConditionMeter meter(nvml);
  for (int i = 0; i < 4; ++i) meter.sample();
  const Conditions c = meter.finish();
  ASSERT_TRUE(c.watts && c.sm_mhz && c.least_sm_mhz && c.memory_mhz);
  EXPECT_GT(*c.watts, 25.0);  // 25 J in less than a second
  EXPECT_EQ(*c.sm_mhz, 1600);
  EXPECT_EQ(*c.least_sm_mhz, 1500);
  EXPECT_EQ(*c.memory_mhz, 3200);
}

TEST(BenchConditions, WhatIsNotKnownIsEmpty) {
  EXPECT_NE(Nvml({MOESAIC_FAKE_NVML_FILE}, "0000:00:00.0").why_not().find("0000:00:00.0"), std::string::npos);
  nlohmann::json point;
  add_conditions(ConditionMeter(Nvml(kNowhere, kBus)).finish(), point);
  for (const char* name : {"power_w", "sm_mhz", "least_sm_mhz", "memory_mhz"}) EXPECT_TRUE(point[name].is_null());
  EXPECT_EQ(number_text(std::nullopt), "-");
  const ScopedEnv energy("MOESAIC_FAKE_NVML", "no_energy");
  const Nvml nvml({MOESAIC_FAKE_NVML_FILE}, kBus);
  ConditionMeter meter(nvml);
  meter.sample();
  EXPECT_FALSE(meter.finish().watts);
  EXPECT_TRUE(meter.finish().sm_mhz);
}

TEST(BenchTurns, RepeatsInTurnsUntilEachHasTakenLongEnough) {
  const Nvml nvml(kNowhere, kBus);
  std::string order;
  int count = 0;
  const Repeated fast{10, [&] { return order += 'a', 100.0 + 10 * (count++ % 3); }};
  const Repeated slow{1, [&] { return order += 'b', 2000.0; }};
  const TurnTimes result = measure_in_turns({fast, slow}, 2000, nvml);
  ASSERT_EQ(result.times.size(), 2u);
  EXPECT_EQ(result.times[0].us, 11);  // of a run: a repeat has ten
  EXPECT_NEAR(result.times[0].spread, 2.0 / 11, 1e-12);
  EXPECT_EQ(result.times[1].us, 2000);
  const std::size_t turns = order.size() / 2;
  EXPECT_EQ(turns, 2u + 19u);  // 19 repeats of 110 us on average are 2 ms
  for (std::size_t i = 0; i < turns; ++i) EXPECT_EQ(order.substr(2 * i, 2), "ab");
  order.clear();
  measure_in_turns({slow}, 1, nvml);
  EXPECT_EQ(order.size(), static_cast<std::size_t>(kWarmUps + kLeastRepeats));
  const Repeated nothing{1, [] { return 0.0; }};
  EXPECT_EQ(measure_in_turns({nothing}, 1, nvml).times.size(), 1u);  // ends
}

/// Entry name of the first kernel of an op.
std::string entry_of(tables::Op op) {
  for (const tables::KernelRow& row : tables::kernel_table()) {
    if (row.op == op) return module::entry_name({&row, 0, {"sm_80"}});
  }
  return "";
}

TEST(BenchShares, LaunchesAreStepsOfALayer) {
  const std::string route = entry_of(tables::Op::kRouting), operand = entry_of(tables::Op::kOperand),
                    gemm = entry_of(tables::Op::kGemm), sum = entry_of(tables::Op::kWeightedSum);
  const std::vector<LaunchShare> launches =
      name_launches({route, route, operand, gemm, operand, gemm, gemm, operand, gemm, sum, "other"});
  std::vector<std::string> steps;
  for (const LaunchShare& launch : launches) steps.push_back(launch.step);
  EXPECT_EQ(steps,
            (std::vector<std::string>{"routing", "routing", "quantise x", "GEMM 1", "quantise h", "GEMM 2",
                                      "shared GEMM 1", "quantise shared h", "shared GEMM 2", "weighted sum", "other"}));
}

TEST(BenchShares, EveryKernelIsKnownByItsEntry) {
  for (const tables::KernelRow& row : tables::kernel_table()) {
    for (int config = 0; config < static_cast<int>(row.configs.size()); ++config) {
      const module::KernelInstance instance{&row, config, {"sm_80"}};
      const std::string kernel = name_launches({module::entry_name(instance)})[0].kernel;
      EXPECT_EQ(kernel, row.name + ("/" + tables::config_name(row, instance.config())));
    }
  }
}

TEST(BenchShares, ALaunchTakesWhatItAdds) {
  std::vector<LaunchShare> launches(3);
  fill_shares({5, 25, 24.5}, launches);
  EXPECT_EQ(launches[0].us, 5);
  EXPECT_EQ(launches[1].us, 20);
  EXPECT_EQ(launches[2].us, -0.5);  // within the noise of the measurement: said as it is
}

TEST(BenchReport, SlowMachinesAreFaulty) {
  Ceilings c;
  c.device = "NVIDIA H100 80GB HBM3 (cuda:0, ...)";
  c.read_bytes_per_us = 3.06e6;
  c.matrix_flops_per_us = 695e6;
  c.matrix_measured = true;
  EXPECT_TRUE(faults_of(c).empty());
  c.read_bytes_per_us = 3.04e6;
  ASSERT_EQ(faults_of(c).size(), 1u);
  EXPECT_NE(faults_of(c)[0].find("3.04 TB/s, a healthy H100 80GB HBM3 at least 3.05"), std::string::npos);
  c.matrix_flops_per_us = 689e6;
  EXPECT_EQ(faults_of(c).size(), 2u);
  nlohmann::json report;
  add_ceilings(c, report);
  EXPECT_EQ(report["faulty"], true);
  EXPECT_EQ(report["faults"].size(), 2u);
  EXPECT_EQ(faults_text(c).rfind("FAULTY", 0), 0u);
  c.matrix_measured = false;  // the published rate says nothing about this machine
  EXPECT_EQ(faults_of(c).size(), 1u);
  c.device = "NVIDIA H20";
  EXPECT_TRUE(faults_of(c).empty());
  add_ceilings(c, report);
  EXPECT_EQ(report["faulty"], false);
}

TEST(BenchReport, CeilingsSayWhereTheyAreFrom) {
  Ceilings c;
  c.read_bytes_per_us = 3.1e6;
  c.copy_bytes_per_us = 3e6;
  EXPECT_EQ(ceilings_text(c), "read 3.100 TB/s, copy 3.000 TB/s (measured now)");
  c.matrix_source = "nobody has measured it, for cuBLASLt is not there: why";
  EXPECT_NE(ceilings_text(c).find("matrix rate unknown (nobody"), std::string::npos);
  c.matrix_flops_per_us = 781e6;
  c.matrix_source = "cuBLASLt 13.1.0 at 8192^3, measured now";
  EXPECT_NE(ceilings_text(c).find("matrix rate 781 TFLOP/s (cuBLASLt 13.1.0"), std::string::npos);
}

}  // namespace
}  // namespace moesaic::cli
