// SPDX-License-Identifier: Apache-2.0
// The greedy construction: of some random rows that begin with a pair still missing, the one that covers most others.
#include "support/pairwise.h"

#include <algorithm>
#include <numeric>
#include <random>
#include <utility>

namespace moesaic::testing {
namespace {

constexpr int kCandidates = 40, kUnset = -1;

class Design {
 public:
  Design(const std::vector<int>& levels, const Forbidden& forbidden) : levels_(levels) {
    int size = 0;
    for (const int count : levels) {
      first_.push_back(size);
      size += count;
    }
    size_ = size;
    missing_.assign(static_cast<std::size_t>(size) * static_cast<std::size_t>(size), false);
    allowed_ = missing_;
    for (int a = 0; a < factors(); ++a) {
      for (int b = a + 1; b < factors(); ++b) {
        for (int i = 0; i < level_count(a); ++i) {
          for (int j = 0; j < level_count(b); ++j) {
            if (!forbidden(a, i, b, j)) allow(a, i, b, j);
          }
        }
      }
    }
  }

  std::vector<std::vector<int>> rows() {
    std::vector<std::vector<int>> result;
    while (left_ > 0) {
      std::vector<int> best;
      int most = 0;
      for (int i = 0; i < kCandidates; ++i) {
        std::vector<int> row = candidate();
        const int covered = covered_by(row);
        if (covered <= most) continue;
        most = covered;
        best = std::move(row);
      }
      cover(best);
      result.push_back(std::move(best));
    }
    return result;
  }

 private:
  int factors() const { return static_cast<int>(levels_.size()); }
  int level_count(int factor) const { return levels_[static_cast<std::size_t>(factor)]; }
  std::size_t at(int a, int i, int b, int j) const {
    const int row = first_[static_cast<std::size_t>(a)] + i, col = first_[static_cast<std::size_t>(b)] + j;
    return static_cast<std::size_t>(row) * static_cast<std::size_t>(size_) + static_cast<std::size_t>(col);
  }
  void set(int a, int i, int b, int j, bool missing) { missing_[at(a, i, b, j)] = missing_[at(b, j, a, i)] = missing; }
  void allow(int a, int i, int b, int j) {
    allowed_[at(a, i, b, j)] = allowed_[at(b, j, a, i)] = true;
    set(a, i, b, j, true);
    ++left_;
  }
  // std::uniform_int_distribution differs between libraries.
  int random(int count) { return static_cast<int>(random_() % static_cast<unsigned>(count)); }

  std::pair<int, int> some_missing_pair() {
    std::vector<std::size_t> pairs;
    for (std::size_t i = 0; i < missing_.size(); ++i) {
      if (missing_[i]) pairs.push_back(i);
    }
    const std::size_t pair = pairs[static_cast<std::size_t>(random(static_cast<int>(pairs.size())))];
    return {static_cast<int>(pair / static_cast<std::size_t>(size_)),
            static_cast<int>(pair % static_cast<std::size_t>(size_))};
  }
  void place(int index, std::vector<int>& row) const {
    const auto factor = std::upper_bound(first_.begin(), first_.end(), index) - first_.begin() - 1;
    row[static_cast<std::size_t>(factor)] = index - first_[static_cast<std::size_t>(factor)];
  }

  std::vector<int> candidate() {
    std::vector<int> row(levels_.size(), kUnset);
    const auto [one, other] = some_missing_pair();
    place(one, row);
    place(other, row);
    std::vector<int> order(levels_.size());
    std::iota(order.begin(), order.end(), 0);
    for (std::size_t i = order.size(); i > 1; --i)
      std::swap(order[i - 1], order[static_cast<std::size_t>(random(static_cast<int>(i)))]);
    for (const int factor : order) {
      int& level = row[static_cast<std::size_t>(factor)];
      if (level == kUnset) level = best_level(row, factor);
    }
    return row;
  }

  /// The allowed level that covers most pairs with what is set; among equals any.
  int best_level(const std::vector<int>& row, int factor) {
    int best = kUnset, most = -1, equals = 0;
    for (int level = 0; level < level_count(factor); ++level) {
      const int covered = gain(row, factor, level);
      if (covered < most || covered < 0) continue;
      equals = covered > most ? 1 : equals + 1;
      if (covered > most || random(equals) == 0) best = level;
      most = covered;
    }
    return best;
  }

  /// Missing pairs of one level with all others of the row; -1: forbidden.
  int gain(const std::vector<int>& row, int factor, int level) const {
    int covered = 0;
    for (int other = 0; other < factors(); ++other) {
      const int other_level = row[static_cast<std::size_t>(other)];
      if (other == factor || other_level == kUnset) continue;
      if (!allowed_[at(factor, level, other, other_level)]) return -1;
      covered += missing_[at(factor, level, other, other_level)] ? 1 : 0;
    }
    return covered;
  }

  int covered_by(const std::vector<int>& row) const {
    int twice = 0;
    for (int f = 0; f < factors(); ++f) twice += gain(row, f, row[static_cast<std::size_t>(f)]);
    return twice / 2;
  }

  void cover(const std::vector<int>& row) {
    left_ -= covered_by(row);
    for (int a = 0; a < factors(); ++a) {
      for (int b = a + 1; b < factors(); ++b) {
        set(a, row[static_cast<std::size_t>(a)], b, row[static_cast<std::size_t>(b)], false);
      }
    }
  }

  std::vector<int> levels_, first_;      // first_: index of a factor's first level among all levels
  std::vector<bool> missing_, allowed_;  // [level of any factor][level of any factor]
  int size_ = 0, left_ = 0;
  std::mt19937 random_{1};
};

}  // namespace

std::vector<std::vector<int>> pairwise_design(const std::vector<int>& levels, const Forbidden& forbidden) {
  return Design(levels, forbidden).rows();
}

}  // namespace moesaic::testing
