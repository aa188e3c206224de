// SPDX-License-Identifier: Apache-2.0
// Every file of a corpus once more, without a fuzzer: what was found once stays found. The same entry function.
#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

TEST(Replay, WholeCorpusAndItsPrefixes) {
  int files = 0;
  for (const auto& entry : std::filesystem::directory_iterator(MOESAIC_TEST_DATA "/fuzz/" MOESAIC_CORPUS)) {
    SCOPED_TRACE(entry.path().string());
    std::ifstream file(entry.path(), std::ios::binary);
    const std::string bytes{std::istreambuf_iterator<char>(file), {}};
    ASSERT_TRUE(file.good() || file.eof());
    for (const std::size_t size : {bytes.size(), bytes.size() / 2, bytes.size() * 9 / 10}) {
      // Exactly sized, so that an address sanitizer sees reads beyond the end.
      const std::vector<std::uint8_t> input(bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(size));
      EXPECT_EQ(LLVMFuzzerTestOneInput(input.data(), input.size()), 0);
    }
    ++files;
  }
  EXPECT_GT(files, 10);
}
