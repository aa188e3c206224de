// SPDX-License-Identifier: Apache-2.0
// The fast path gives a token the same bits in every batch: its kernels sum in one order whatever the number of rows.
#include <gtest/gtest.h>

#include <algorithm>

#include "quantized_layer.h"
#include "tables/recipe_table.h"

namespace moesaic::cpu {
namespace {

TEST(FastPathBatches, TokenHasTheSameBitsAloneAndAmongOthers) {
  std::mt19937 random(std::random_device{}());
  for (const tables::RecipeRow& recipe : tables::kRecipeTable) {
    LayerShape shape;
    shape.recipe = recipe.name;
    shape.hidden = 256, shape.intermediate = 128;
    shape.stored = DType::kF32;
    shape.shared.intermediate = 128;
    RandomLayer layer = quantized_layer(shape, {32, false}, random);
    layer.config.batch_invariant = true;
    const Input all = random_input(layer.config, 70, random);
    const Outcome together = run_fast(layer, all, DType::kF32);
    for (std::int64_t t = 0; t < all.tokens; t += 3) {
      Input one;
      one.tokens = 1;
      one.x.assign(all.x.begin() + t * shape.hidden, all.x.begin() + (t + 1) * shape.hidden);
      const Outcome alone = run_fast(layer, one, DType::kF32);
      EXPECT_TRUE(std::equal(alone.y.begin(), alone.y.end(), together.y.begin() + t * shape.hidden))
          << recipe.name << " token " << t;
    }
  }
}

}  // namespace
}  // namespace moesaic::cpu
