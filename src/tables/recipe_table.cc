// SPDX-License-Identifier: Apache-2.0
// Names for the recipe table and the check that its rows are sound.
#include "tables/recipe_table.h"

#include <fmt/format.h>

#include <string>

#include "moesaic/error.h"

namespace moesaic::tables {
namespace {

static_assert(kNumRecipes < 32, "kernel rows hold recipes as bits of 32");

}  // namespace

const char* number_name(Number number) noexcept {
  switch (number) {
    case Number::kBf16:
      return "bf16";
    case Number::kFp16:
      return "fp16";
    case Number::kIo16:
      return "bf16 or fp16";
    case Number::kE4m3:
      return "e4m3";
    case Number::kE2m1:
      return "e2m1";
    case Number::kInt4:
      return "int4";
  }
  return "unknown";
}

const char* scale_name(Scale scale) noexcept {
  switch (scale) {
    case Scale::kNone:
      return "none";
    case Scale::kTensorStatic:
      return "per tensor, static";
    case Scale::kToken:
      return "per token";
    case Scale::kChannel:
      return "per channel";
    case Scale::kBlock1x128:
      return "1x128";
    case Scale::kBlock128x128:
      return "128x128";
    case Scale::kE8m0x32:
      return "e8m0 per 32";
    case Scale::kE4m3x16:
      return "e4m3 per 16";
    case Scale::kGroup:
      return "groups of 32, 64 or 128";
  }
  return "unknown";
}

const RecipeRow& get_recipe(std::string_view name) {
  const int index = recipe_index(name);
  if (index >= 0) return kRecipeTable[static_cast<std::size_t>(index)];
  std::string names;
  for (const RecipeRow& row : kRecipeTable) names += fmt::format("{}{}", names.empty() ? "" : ", ", row.name);
  throw Error(ErrorKind::kInvalidArgument, fmt::format("recipe '{}' is not known; known: {}", name, names));
}

}  // namespace moesaic::tables
