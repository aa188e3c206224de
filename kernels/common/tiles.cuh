// SPDX-License-Identifier: Apache-2.0
// How the rows of an expert are cut into tiles: `tokens` (tile_tokens, a power of two) of them each. Rows beyond full
// tiles that are at most `slack` (tile_slack) go with the tile before: alone they would pass over all weights again.
#pragma once

namespace moesaic {

__device__ __forceinline__ int tile_count(int rows, int tokens, int slack) {
  return min(rows, max(rows - slack, 1)) + tokens - 1 >> 31 - __clz(tokens);
}
/// Where the tile ends that begins at `begin`, of rows up to `end`.
__device__ __forceinline__ int tile_end(int begin, int end, int tokens, int slack) {
  return end - begin <= tokens + slack ? end : begin + tokens;
}

/// Whether a tile begins behind the first `before` of an expert's `rows` rows.
__device__ __forceinline__ bool tile_begins(int before, int rows, int tokens, int slack) {
  const bool goes_on = before > 0 && rows - before <= slack;  // the tile before
  return (before & (tokens - 1)) == 0 && !goes_on;
}

/// Where no expert has more than `rows` rows: whether its tiles are narrow, 1 or 0.
__device__ __forceinline__ int all_narrow(const abi::RouteParams& p, int rows) { return rows <= p.narrow_rows ? 1 : 0; }

/// By one thread. `narrow` of them are.
__device__ __forceinline__ void set_tile_counts(int* counts, int tiles, int narrow = 0) {
  counts[0] = tiles, counts[abi::kWideTiles] = tiles - narrow;
  counts[abi::claimed_at(1)] = 0, counts[abi::claimed_at(2)] = 0;
}

}  // namespace moesaic
