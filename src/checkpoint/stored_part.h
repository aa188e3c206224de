// SPDX-License-Identifier: Apache-2.0
// One tensor of a module, and what its contents must be: a file's shapes may be right and its scales no numbers.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace moesaic::checkpoint {

using Shape = std::vector<std::int64_t>;

/// A tensor that was found. Its bytes lie at the natural alignment of its type.
struct StoredPart {
  const std::byte* data = nullptr;  // nullptr: the module has no such tensor
  const char* dtype = nullptr;      // the file format's name, "BF16"
  Shape shape;
  std::string where;  // "<file>: tensor '<name>'", for messages
};

/// Throws Error(kIo) naming the first scale that is NaN or infinite.
void check_scales(const StoredPart& scales);

/// The only element of a scale (F32, BF16 or F16). Throws Error(kIo) unless it is positive and finite.
double read_global_scale(const StoredPart& scale);

/// g_idx, when it is there: element k must be k / group, else the order of K was changed (act-order), which is
/// Error(kUnsupported).
void check_group_index(const StoredPart& index, int group);

/// weight_shape, when it is there, must be [rows, cols], else Error(kIo).
void check_stored_shape(const StoredPart& shape, std::int64_t rows, std::int64_t cols);

/// Whether all 4-bit numbers of 32-bit words are `value`.
bool all_nibbles_are(const StoredPart& words, int value);

}  // namespace moesaic::checkpoint
