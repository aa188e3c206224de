// SPDX-License-Identifier: Apache-2.0
// Where NVRTC lies on this machine, found without loading it.
#pragma once

#include <optional>
#include <string>
#include <vector>

namespace moesaic::module {

/// A libnvrtc that could be loaded.
struct NvrtcFile {
  std::string path;      // real path
  std::string build_id;  // who it is: part of every cache key
  int version = 0;       // 1000 * major + 10 * minor by the name of its builtins library; 0: unknown
  std::string found_by;  // "MOESAIC_NVRTC", "CUDA_HOME", "loader path", ...
};

/// What a search saw: the file, or why each place was passed over.
struct NvrtcSearch {
  std::optional<NvrtcFile> file;
  std::vector<std::string> passed_over;  // "CUDA_HOME: no libnvrtc in ..."

  /// The places in one line, for the error of a machine without NVRTC.
  std::string why_none() const;
};

inline constexpr int kMinNvrtcVersion = 12080;

/// Searches, in order: `given` or MOESAIC_NVRTC, which alone is used when set (libnvrtc itself, its folder, a toolkit
/// or a Python site folder); CUDA_HOME; the Python site folder that this library is installed in; the loader path;
/// /usr/local/cuda; site folders of the Python in use. Libraries older than 12.8 are passed over.
NvrtcSearch find_nvrtc(const std::optional<std::string>& given);

}  // namespace moesaic::module
