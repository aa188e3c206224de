// SPDX-License-Identifier: Apache-2.0
// Hash, log, error and tensor: the small files of src/base.
#include <gtest/gtest.h>

#include <set>
#include <stdexcept>
#include <string>
#include <vector>

#include "base/hash.h"
#include "base/log.h"
#include "moesaic/tensor.h"
#include "tests/support/expect_error.h"

namespace moesaic {
namespace {

using testing::expect_error;

TEST(Hash, KnownAnswers) {  // FIPS 180-2, appendix B
  EXPECT_EQ(base::sha256_hex(""), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  EXPECT_EQ(base::sha256_hex("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  EXPECT_EQ(base::Sha256().add_raw("a").add_raw("bc").hex(), base::sha256_hex("abc"));
}

TEST(Hash, PartsDoNotRunTogether) {
  EXPECT_NE(base::Sha256().add("ab").add("c").hex(), base::Sha256().add("a").add("bc").hex());
  EXPECT_NE(base::Sha256().add("").add("a").hex(), base::Sha256().add("a").add("").hex());
}

TEST(Log, GoesToTheCallbackAndSurvivesIt) {
  std::vector<std::string> lines;
  set_log_callback([&](LogLevel level, std::string_view message) {
    lines.push_back(std::string(level == LogLevel::kWarning ? "W " : "N ") + std::string(message));
    throw std::runtime_error("from the callback");
  });
  base::log_warning("one");
  base::log_notice("two");
  set_log_callback({});
  EXPECT_EQ(lines, (std::vector<std::string>{"W one", "N two"}));
}

TEST(Log, DefaultPrintsNoticesAndWarningsOnly) {
  ::testing::internal::CaptureStderr();
  base::log_debug("quiet");
  base::log_notice("said");
  base::log_warning("loud");
  EXPECT_EQ(::testing::internal::GetCapturedStderr(), "moesaic: said\nmoesaic: warning: loud\n");
}

TEST(ErrorKind, NamesDiffer) {
  std::set<std::string> names;
  for (const ErrorKind kind : {ErrorKind::kInvalidArgument, ErrorKind::kUnsupported, ErrorKind::kCompile,
                               ErrorKind::kCuda, ErrorKind::kIo, ErrorKind::kInternal}) {
    EXPECT_TRUE(names.insert(error_kind_name(kind)).second);
  }
}

TEST(Tensor, SizesAndNames) {
  EXPECT_EQ(dtype_size(DType::kF64), 8u);
  EXPECT_EQ(dtype_size(DType::kBF16), 2u);
  EXPECT_EQ(dtype_size(DType::kU8), 1u);
  EXPECT_STREQ(dtype_name(DType::kBF16), "bf16");
  EXPECT_STREQ(dtype_name(DType::kI32), "i32");
}

TEST(Tensor, ElementsOfViews) {
  float data[1] = {};
  EXPECT_EQ(TensorView(data, DType::kF32, {2, 3, 4}).num_elements(), 24);
  EXPECT_EQ(TensorView(data, DType::kF32, {0, 3}).num_elements(), 0);
  EXPECT_EQ(TensorView().num_elements(), 0);
  expect_error(ErrorKind::kInvalidArgument, {"5 dimensions"}, [&] { TensorView(data, DType::kF32, {1, 1, 1, 1, 1}); });
  expect_error(ErrorKind::kInvalidArgument, {"-1"}, [&] { TensorView(data, DType::kF32, {2, -1}); });
}

TEST(Device, ParsesAndPrints) {
  EXPECT_EQ(device_name(parse_device("cpu")), "cpu");
  EXPECT_EQ(device_name(parse_device("cuda")), "cuda:0");
  EXPECT_EQ(device_name(parse_device("cuda:7")), "cuda:7");
  for (const char* wrong : {"", "gpu", "cuda:", "cuda:-1", "cuda:1x", "cuda:99999999999", "CPU"}) {
    expect_error(ErrorKind::kInvalidArgument, {"cpu, cuda, cuda:N"}, [&] { parse_device(wrong); });
  }
}

}  // namespace
}  // namespace moesaic
