// SPDX-License-Identifier: Apache-2.0
// Damaged and hostile safetensors files: every one is an Error that names the culprit, none a crash or an allocation.
#include "checkpoint/safetensors.h"

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include <cstring>
#include <random>

#include "files.h"
#include "moesaic/checkpoint.h"

namespace moesaic::testing {
namespace {

using checkpoint::SafetensorsFile;

const char* const kGoodHeader =
    R"({"__metadata__":{"layer":"3"},"a":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]},)"
    R"("b":{"dtype":"BF16","shape":[4],"data_offsets":[16,24]}})";
const std::string kGoodData = std::string("\0\0\x80\x3f\0\0\0\x40\0\0\x40\x40\0\0\x80\x40", 16) + "bbbbbbbb";

std::string replaced(std::string text, const std::string& what, const std::string& with) {
  std::size_t at = text.find(what);
  if (at == std::string::npos) throw std::logic_error("the good header has no " + what);
  return text.replace(at, what.size(), with);
}

// The message of the Error(kIo) that opening `bytes` gives; "" when it opens.
std::string open_error(const TempFolder& folder, const std::string& bytes) {
  std::string path = folder.path("t.safetensors");
  write_bytes(path, bytes);
  try {
    SafetensorsFile::open(path);
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kIo) << error.what();
    EXPECT_NE(std::string(error.what()).find(path), std::string::npos) << error.what();
    EXPECT_LT(std::strlen(error.what()), 1000u);
    return error.what();
  }
  return "";
}

long peak_kib() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return usage.ru_maxrss;
}

TEST(Safetensors, ReadsAGoodFile) {
  TempFolder folder;
  ASSERT_EQ(open_error(folder, pack(kGoodHeader, kGoodData)), "");
  auto file = SafetensorsFile::open(folder.path("t.safetensors"));
  EXPECT_EQ(file->metadata().at("layer"), "3");
  ASSERT_NE(file->find("a"), nullptr);
  EXPECT_EQ(file->find("a")->shape, (std::vector<std::int64_t>{2, 2}));
  EXPECT_EQ(std::memcmp(file->data(*file->find("b")), "bbbbbbbb", 8), 0);
  EXPECT_EQ(file->find("c"), nullptr);
  EXPECT_EQ(file->find(""), nullptr);
  EXPECT_EQ(file->below("").size(), 2u);
}

TEST(Safetensors, EveryTruncationIsAnError) {
  TempFolder folder;
  std::string good = pack(kGoodHeader, kGoodData);
  for (std::size_t length = 0; length < good.size(); ++length) {
    EXPECT_NE(open_error(folder, good.substr(0, length)), "") << length;
  }
}

TEST(Safetensors, HugeHeaderLengthAllocatesNothing) {
  TempFolder folder;
  std::string bytes = pack(kGoodHeader, kGoodData);
  long before = peak_kib();
  const std::uint64_t lengths[] = {~0ull,          1ull << 63,    (1ull << 63) - 1, 1ull << 40,
                                   100'000'001ull, 99'999'999ull, bytes.size() - 7};
  for (std::uint64_t length : lengths) {
    std::memcpy(bytes.data(), &length, 8);
    std::string error = open_error(folder, bytes);
    EXPECT_NE(error.find(std::to_string(length)), std::string::npos) << error;
  }
  EXPECT_LT(peak_kib() - before, 32 * 1024);
}

struct DamagedHeader {
  const char* name;
  std::string header;
  const char* culprit;  // stands in the message
};

std::vector<DamagedHeader> damaged_headers() {
  auto good = [](const std::string& what, const std::string& with) { return replaced(kGoodHeader, what, with); };
  std::string deep(100'000, '[');
  std::string deep_objects;
  for (int i = 0; i < 100'000; ++i) deep_objects += R"({"a":)";
  return {
      {"overlap", good("[16,24]", "[8,16]"), "overlap"},
      {"same range", good("[16,24]", "[0,8]"), "overlap"},
      {"out of range", good("[16,24]", "[24,32]"), "outside the file"},
      {"hole", good(R"("shape":[2,2],"data_offsets":[0,16])", R"("shape":[2],"data_offsets":[0,8])"), "no tensor"},
      {"rest", good(R"("shape":[4],"data_offsets":[16,24])", R"("shape":[2],"data_offsets":[16,20])"), "no tensor"},
      {"end before begin", good("[16,24]", "[24,16]"), "end before they begin"},
      {"size differs", good("[2,2]", "[2,3]"), "'a'"},
      {"duplicate tensor", good(R"("b":)", R"("a":)"), "'a' stands twice"},
      {"duplicate escaped", good(R"("b":)", R"("\u0061":)"), "'a' stands twice"},
      {"duplicate field", good(R"("shape":[4])", R"("dtype":"BF16")"), "'dtype' stands twice"},
      {"duplicate metadata", good(R"("layer":"3")", R"("layer":"3","layer":"4")"), "'layer' stands twice"},
      {"unknown dtype", good("BF16", "BF17"), "'BF17'"},
      {"dtype not text", good(R"("BF16")", "16"), "'b'"},
      {"dtype array", good(R"("BF16")", "[]"), "'b'"},
      {"no dtype", good(R"("dtype":"BF16",)", ""), "no dtype"},
      {"no shape", good(R"("shape":[4],)", ""), "no shape"},
      {"no offsets", good(R"(,"data_offsets":[16,24])", ""), "two numbers"},
      {"unknown field", good(R"("shape":[4])", R"("shape":[4],"stride":[1])"), "'stride'"},
      {"negative extent", good("[4]", "[-4]"), "-4"},
      {"fractional extent", good("[4]", "[4.0]"), "4.0"},
      {"text extent", good("[4]", R"(["4"])"), "shape"},
      {"huge extent", good("[4]", "[18446744073709551615]"), "18446744073709551615"},
      {"beyond 64 bits", good("[4]", "[18446744073709551616]"), "shape"},
      {"overflowing product", good("[4]", "[4294967296,4294967296,4294967296]"), "overflows"},
      // 2^62 * 2 * 16 bit = 2^67 = 0 modulo 2^64.
      {"product wraps to zero",
       good(R"("shape":[4],"data_offsets":[16,24])", R"("shape":[4611686018427387904,2],"data_offsets":[16,16])"),
       "overflows"},
      {"huge offset", good("[16,24]", "[16,9223372036854775807]"), "'b'"},
      {"negative offset", good("[16,24]", "[-16,24]"), "-16"},
      {"one offset", good("[16,24]", "[16]"), "two numbers"},
      {"three offsets", good("[16,24]", "[16,24,24]"), "two numbers"},
      {"rank", good("[4]", "[4,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1]"), "dimensions"},
      {"half a byte", good(R"("dtype":"BF16","shape":[4])", R"("dtype":"F4","shape":[15])"), "60 bits"},
      {"metadata number", good(R"("layer":"3")", R"("layer":3)"), "'layer' is not a string"},
      {"metadata object", good(R"("layer":"3")", R"("layer":{})"), "'layer' is not a string"},
      {"metadata text", good(R"({"layer":"3"})", R"("3")"), "__metadata__"},
      {"tensor is a number", good(R"("b":{)", R"("c":7,"b":{)"), "'c'"},
      {"tensor is an array", good(R"("b":{)", R"("c":[],"b":{)"), "'c'"},
      {"deep arrays", good("[4]", deep), "nested deeper"},
      {"deep objects", deep_objects, "unknown key 'a'"},
      {"array at the top", "[" + std::string(kGoodHeader) + "]", "'{'"},
      {"byte order mark", "\xEF\xBB\xBF" + std::string(kGoodHeader), "'{'"},
      {"empty", "", "'{'"},
      {"not closed", std::string(kGoodHeader).substr(0, std::strlen(kGoodHeader) - 1), "not valid JSON"},
      {"something behind", std::string(kGoodHeader) + "{}", "not valid JSON"},
      {"NUL behind", std::string(kGoodHeader) + '\0' + "garbage", "NUL"},
      {"bad UTF-8", good(R"("b":)", "\"\xC0\x80\":"), "not valid JSON"},
      {"surrogate", good(R"("b":)", R"("\ud800":)"), "not valid JSON"},
      {"long token", good(R"("BF16")", std::string(100'000, 'x')), "not valid JSON"},
      {"long name", good(R"("b":{"dtype")", "\"" + std::string(100'000, 'n') + R"(":{"stype")"), "'stype'"},
      {"comment", good(R"("b":)", R"(/* */"b":)"), "not valid JSON"},
      {"NaN", good("[4]", "[NaN]"), "not valid JSON"},
  };
}

TEST(Safetensors, DamagedHeadersAreErrorsThatNameTheCulprit) {
  TempFolder folder;
  for (const DamagedHeader& damaged : damaged_headers()) {
    std::string error = open_error(folder, pack(damaged.header, kGoodData));
    EXPECT_NE(error.find(damaged.culprit), std::string::npos) << damaged.name << ": " << error;
  }
}

TEST(Safetensors, OtherThanRegularFilesAreErrors) {
  TempFolder folder;
  ASSERT_EQ(mkfifo(folder.path("fifo").c_str(), 0600), 0);
  for (const std::string& path :
       {folder.path(), folder.path("fifo"), folder.path("missing"), std::string("/dev/zero")}) {
    EXPECT_THROW(SafetensorsFile::open(path), Error) << path;
  }
}

// Names, views and bytes of everything in a file that opened.
std::uint64_t touch_everything(const SafetensorsFile& file) {
  std::uint64_t sum = 0;
  for (const auto& entry : file.tensors()) {
    EXPECT_EQ(file.find(entry.name), &entry);
    for (std::uint64_t at = 0; at < entry.end - entry.begin; ++at) {
      sum += static_cast<std::uint64_t>(file.data(entry)[at]);
    }
  }
  return sum;
}

TEST(Safetensors, RandomByteFlipsNeverCrash) {
  TempFolder folder;
  std::string good = pack(kGoodHeader, kGoodData);
  std::size_t header_end = good.size() - kGoodData.size();
  std::mt19937 random(3);
  int opened = 0;
  for (int round = 0; round < 6000; ++round) {
    std::string bytes = good;
    for (unsigned flips = 1 + random() % 3; flips > 0; --flips) {
      // Every other flip exchanges a byte for one that JSON gives a meaning.
      char& byte = bytes[random() % header_end];
      byte =
          round % 2 == 0 ? static_cast<char>(byte ^ (1 << random() % 8)) : "{}[]\",:0123456789-eE.\\u"[random() % 23];
    }
    write_bytes(folder.path("f.safetensors"), bytes);
    try {
      touch_everything(*SafetensorsFile::open(folder.path("f.safetensors")));
      ++opened;
    } catch (const Error& error) {
      ASSERT_EQ(error.kind(), ErrorKind::kIo) << error.what();
    }
  }
  EXPECT_GT(opened, 0);  // flips inside names do no harm
  EXPECT_LT(opened, 3000);
}

TEST(ReadTensor, TakesTheOnlyTensorTheNamedOneOrTheDefault) {
  TempFolder folder;
  std::string two = folder.path("two.safetensors"), one = folder.path("one:1.safetensors");
  write_bytes(two, pack(kGoodHeader, kGoodData));
  write_bytes(one, pack(R"({"q":{"dtype":"F32","shape":[],"data_offsets":[0,4]}})", kGoodData.substr(0, 4)));
  EXPECT_EQ(read_tensor(two, "b").name, "b");
  EXPECT_EQ(read_tensor(two + ":a", "b").name, "a");
  StoredTensor only = read_tensor(one, "b");
  EXPECT_EQ(only.name, "q");
  EXPECT_EQ(only.view.num_elements(), 1);
  EXPECT_EQ(*static_cast<const float*>(only.view.data), 1.0f);
  try {
    read_tensor(two + ":z", "b");
    FAIL();
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("'z'; it has: 'a', 'b'"), std::string::npos) << error.what();
  }
}

TEST(ReadTensor, MisalignedTensorsAreCopied) {
  TempFolder folder;
  write_bytes(folder.path("m.safetensors"), pack(kGoodHeader, kGoodData, 3));
  StoredTensor a = read_tensor(folder.path("m.safetensors:a"), "x");
  ASSERT_EQ(reinterpret_cast<std::uintptr_t>(a.view.data) % 4, 0u);
  EXPECT_EQ(static_cast<const float*>(a.view.data)[2], 3.0f);
}

TEST(ReadTensor, RefusesTypesAndRanksThatViewsHaveNot) {
  TempFolder folder;
  std::string path = folder.path("t.safetensors");
  write_bytes(path, pack(R"({"f":{"dtype":"F8_E4M3","shape":[4],"data_offsets":[0,4]},)"
                         R"("r":{"dtype":"U8","shape":[1,1,1,1,4],"data_offsets":[4,8]}})",
                         "abcdefgh"));
  for (const char* name : {"f", "r"}) {
    try {
      read_tensor(path + ":" + name, "x");
      FAIL() << name;
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kUnsupported);
      EXPECT_NE(std::string(error.what()).find(name), std::string::npos);
    }
  }
}

TEST(WriteTensors, RoundTrips) {
  TempFolder folder;
  std::vector<float> y = {1, -2, 3, 4, 5, 6};
  std::vector<std::int32_t> ids = {7, 8};
  std::vector<std::uint16_t> half = {0x3f80};
  std::string path = folder.path("out.safetensors");
  write_tensors(path, {{"half", TensorView(half.data(), DType::kBF16, {1})},
                       {"y", TensorView(y.data(), DType::kF32, {2, 3})},
                       {"ids", TensorView(ids.data(), DType::kI32, {2, 1})},
                       {"none", TensorView(y.data(), DType::kF64, {0, 5})}});
  StoredTensor got = read_tensor(path, "y");
  EXPECT_EQ(got.view.shape[0], 2);
  EXPECT_EQ(got.view.shape[1], 3);
  EXPECT_EQ(std::memcmp(got.view.data, y.data(), 24), 0);
  EXPECT_EQ(static_cast<const std::int32_t*>(read_tensor(path + ":ids", "").view.data)[1], 8);
  EXPECT_EQ(read_tensor(path + ":none", "").view.shape[1], 5);
  EXPECT_EQ(static_cast<const std::uint16_t*>(read_tensor(path + ":half", "").view.data)[0], 0x3f80);
}

TEST(WriteTensors, RefusesDuplicatesAndMissingFolders) {
  TempFolder folder;
  float one = 1;
  TensorView view(&one, DType::kF32, {1});
  EXPECT_THROW(write_tensors(folder.path("d.safetensors"), {{"y", view}, {"y", view}}), Error);
  EXPECT_THROW(write_tensors(folder.path("no/such/folder.safetensors"), {{"y", view}}), Error);
}

}  // namespace
}  // namespace moesaic::testing
