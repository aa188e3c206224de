// SPDX-License-Identifier: Apache-2.0
// Any bytes as a Gemm, weights and a run: an Error, or what the reference gives, within the memory that was given.
// Pointers are null, misaligned or good: a wild one is the caller's to avoid.
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <optional>
#include <vector>

#include "fuzz/weight_choices.h"
#include "moesaic/gemm.h"
#include "support/guarded_memory.h"
#include "tables/given_codes.h"
#include "tables/kernel_table.h"
#include "tables/recipe_table.h"

namespace {

using namespace moesaic;
using namespace moesaic::testing;

GemmConfig choose_config(Choices& c) {
  GemmConfig g;
  g.recipe = tables::kRecipeTable[static_cast<std::size_t>(c.below(tables::kNumRecipes))].name;
  g.n = c.of({24, 1, 64, 17});
  g.k = c.of({64, 32, 128, 256, 16, 64, 160, 5});
  g.groups = c.of({1, 3, 1, 2});
  g.int4 = {c.rarely() ? 0 : c.of({32, 32, 64}), c.flag()};
  g.e5m2 = c.rarely();
  g.max_rows = 64;
  if (c.rarely()) {
    constexpr int kFields = 4;
    int* fields[kFields] = {&g.n, &g.k, &g.groups, &g.max_rows};
    *fields[c.below(kFields)] =
        c.of({std::numeric_limits<int>::max(), std::numeric_limits<int>::min(), -1, 0, 1 << 20});
  }
  return g;
}

std::vector<GemmWeights> choose_weights(Choices& c, const GemmConfig& g) {
  std::vector<GemmWeights> weights;
  const int groups = g.groups + (c.rarely() ? c.of({1, -1}) : 0);
  for (int i = 0; i < groups; ++i) {
    weights.push_back({choose_matrix(c, g.recipe, g.int4, g.n, g.k), choose_vector(c, g.n)});
  }
  return weights;
}

/// A run whose every part is exactly as large as it must be, but that out has room for f32.
class Product {
 public:
  Product(Choices& c, const GemmConfig& g, std::int64_t each)
      : groups_(g.groups),
        each_(each),
        grouping_(c.rarely() || g.groups == 1 ? c.of({kNone, kOffsets, kCounts}) : c.of({kOffsets, kCounts})) {
    parts_.reserve(8);  // views stay where they are
    if (grouping_ == kOffsets) choose_offsets(c);
    if (grouping_ == kCounts) choose_counts(c);
    const tables::RecipeRow& recipe = tables::get_recipe(g.recipe);
    const auto codes = tables::given_codes(g.recipe, rows(), g.k, g.e5m2);
    if (codes && c.flag()) {
      give(c, *codes);
    } else {
      run.x = matrix(recipe.io, g.k);
      if (c.flag() && tables::takes_static_scales(recipe) != c.rarely()) run.input_scale = view(DType::kF32, {1});
    }
    run.out = matrix(DType::kF32, g.n);  // the largest that is legal, for a type may be spoilt
    run.out.dtype = c.of({DType::kF32, DType::kBF16, DType::kF16});
    out_ = parts_.size() - 1;
    if (c.rarely()) run.alpha = c.of({0.5f, 0.0f, -3.0f, std::nanf(""), HUGE_VALF});
    if (c.rarely()) run.scale_major = static_cast<ScaleMajor>(c.below(4));
    if (c.below(4) == 3) spoil_one(c);
  }

  std::int64_t rows() const { return grouping_ == kCounts ? each_ * groups_ : each_; }
  const GuardedMemory& out() const { return parts_[out_]; }
  bool intact() const {
    return std::all_of(parts_.begin(), parts_.end(), [](const GuardedMemory& part) { return part.intact(); });
  }

  GemmRun run;

 private:
  enum Grouping { kNone, kOffsets, kCounts };

  TensorView view(DType dtype, std::initializer_list<std::int64_t> shape) {
    TensorView t(static_cast<void*>(nullptr), dtype, shape);
    parts_.emplace_back(static_cast<std::size_t>(t.num_elements()) * dtype_size(dtype));
    t.data = parts_.back().data();
    std::copy_n(numbers().middle(), parts_.back().size(), static_cast<char*>(t.data));
    return t;
  }
  TensorView matrix(DType dtype, std::int64_t cols) {
    return grouping_ == kCounts ? view(dtype, {groups_, each_, cols}) : view(dtype, {each_, cols});
  }

  void choose_offsets(Choices& c) {
    run.group_offsets = view(DType::kI32, {groups_ + 1});
    auto* offsets = static_cast<std::int32_t*>(run.group_offsets.data);
    offsets[0] = 0;
    for (std::int64_t g = 0; g < groups_; ++g) {
      offsets[g + 1] = offsets[g] + c.below(static_cast<int>(each_) - offsets[g] + 1);
    }
    if (c.rarely()) offsets[c.below(static_cast<int>(groups_) + 1)] = c.of({-1, 1 << 30, 1});
  }
  void choose_counts(Choices& c) {
    run.group_counts = view(DType::kI32, {groups_});
    auto* counts = static_cast<std::int32_t*>(run.group_counts.data);
    for (std::int64_t g = 0; g < groups_; ++g) counts[g] = c.below(static_cast<int>(each_) + 1);
    if (c.rarely()) counts[c.below(static_cast<int>(groups_))] = c.of({-1, 1 << 30, static_cast<int>(each_) + 1});
  }
  /// Codes and their scales instead of numbers.
  void give(Choices& c, const tables::GivenCodes& codes) {
    run.x = matrix(codes.codes.dtype, codes.codes.shape[1]);
    if (codes.common_scale && c.flag()) {
      run.x_scale = view(codes.scale.dtype, {1});
    } else if (codes.scale.rank == 1) {
      run.x_scale = view(codes.scale.dtype, {rows()});
    } else if (codes.format == QuantFormat::kFp8Block1x128 && c.flag()) {
      run.scale_major = ScaleMajor::kMn;
      run.x_scale = view(codes.scale.dtype, {codes.scale.shape[1], rows()});
    } else {
      run.x_scale = view(codes.scale.dtype, {rows(), codes.scale.shape[1]});
    }
    if (codes.row_scale) run.x_row_scale = view(DType::kF32, {c.flag() ? rows() : 1});
  }
  void spoil_one(Choices& c) {
    TensorView* views[] = {&run.x,           &run.out,          &run.x_scale,      &run.x_row_scale,
                           &run.input_scale, &run.group_counts, &run.group_offsets};
    spoil(c, *views[c.below(7)]);
  }

  std::int64_t groups_, each_;
  Grouping grouping_;
  std::size_t out_ = 0;  // of parts
  std::vector<GuardedMemory> parts_;
};

// The reference takes what the op took, and more: any result type, and weights in any format.
void compare_with_reference(const GemmConfig& g, const std::vector<GemmWeights>& weights, const Product& product) {
  GemmRun reference = product.run;
  GuardedMemory same(product.out().size()), wide(static_cast<std::size_t>(product.run.out.num_elements()) * 8);
  std::copy_n(numbers().middle(), same.size(), static_cast<char*>(same.data()));
  reference.out.data = same.data();
  reference_gemm(g, weights, ReferenceMode::kOracle, reference);
  demand(same.text() == product.out().text(), "a result that the reference does not give");
  reference.out.data = wide.data();
  reference.out.dtype = DType::kF64;
  reference_gemm(g, weights, ReferenceMode::kExact, reference);
  demand(same.intact() && wide.intact(), "bytes outside of the reference's memory written");
}

void fuzz_product(Choices& c) {
  const GemmConfig g = choose_config(c);
  try {
    const Gemm gemm = Gemm::create(g);
    const std::int64_t each = c.of({3, 1, 17, 0, 2, 65});
    if (gemm.prepared_bytes() > 4'000'000 || g.n > 1000 || g.k > 1000) return;
    const std::vector<GemmWeights> weights = choose_weights(c, g);
    Product product(c, g, each);
    GuardedMemory prepared(gemm.prepared_bytes(), 0xff, c.rarely() ? 64 : 0);
    GemmRun& run = product.run;
    const std::size_t workspace_bytes = product.rows() <= g.max_rows ? gemm.workspace_bytes(product.rows()) : 0;
    GuardedMemory workspace(workspace_bytes, 0xff, c.rarely() ? 32 : 0);
    run.workspace = c.rarely() ? nullptr : workspace.data();
    run.workspace_bytes = workspace.size() - std::min<std::size_t>(c.rarely() ? 1 : 0, workspace.size());
    run.prepared = c.rarely() ? nullptr : prepared.data();
    if (!c.rarely()) gemm.prepare(weights, c.rarely() ? nullptr : prepared.data());
    gemm.run(run);
    demand(prepared.intact() && workspace.intact() && product.intact(), "bytes outside of the given memory written");
    compare_with_reference(g, weights, product);
  } catch (const Error& error) {
    demand_refusal(error);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  Choices choices(data, size);
  fuzz_product(choices);
  return 0;
}
