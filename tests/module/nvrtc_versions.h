// SPDX-License-Identifier: Apache-2.0
// The NVRTC versions of tools/fetch_nvrtc.sh.
#pragma once

#include <gtest/gtest.h>

#include <filesystem>
#include <string>

namespace moesaic::testing {

inline const std::string kNvrtc13 = std::string(MOESAIC_SOURCE_ROOT) + "/.deps/nvrtc13";
inline const std::string kNvrtc12 = std::string(MOESAIC_SOURCE_ROOT) + "/.deps/nvrtc12";

inline bool is_there(const std::string& folder) { return std::filesystem::is_directory(folder); }

/// Skips the test unless both versions are there.
#define MOESAIC_NEED_NVRTC()                                                                               \
  if (!::moesaic::testing::is_there(::moesaic::testing::kNvrtc13) ||                                       \
      !::moesaic::testing::is_there(::moesaic::testing::kNvrtc12)) {                                       \
    GTEST_SKIP() << ".deps/nvrtc13 or .deps/nvrtc12 is missing: run tools/fetch_nvrtc.sh (needs network)"; \
  }

}  // namespace moesaic::testing
