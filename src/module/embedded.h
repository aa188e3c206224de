// SPDX-License-Identifier: Apache-2.0
// The kernel texts that the build put into the library (cmake/embed_kernels.cmake).
#pragma once

namespace moesaic::module {

struct EmbeddedText {
  const char* path;  // below the repository root
  const char* text;
};

extern const EmbeddedText kEmbeddedTexts[];  // ends with a null path

}  // namespace moesaic::module
