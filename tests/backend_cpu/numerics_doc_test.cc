// SPDX-License-Identifier: Apache-2.0
// Executes the examples of docs/numerics.md.
#include <gtest/gtest.h>

#include <cstdint>
#include <cstring>
#include <fstream>
#include <map>
#include <sstream>
#include <string>
#include <vector>

#include "backend_cpu/backend_cpu.h"
#include "tables/quant_table.h"

namespace moesaic::cpu {
namespace {

struct Example {
  std::string kind;                                       // first word behind "example"
  std::map<std::string, std::string> options;             // "shape" -> "1x16"; flags: ""
  std::map<std::string, std::vector<std::string>> lines;  // "codes" -> its words, N* expanded
  int line = 0;

  std::int64_t number(const std::string& option) const { return std::stoll(options.at(option)); }
  std::vector<float> numbers(const std::string& name) const {
    std::vector<float> values;
    for (const std::string& word : lines.at(name)) values.push_back(std::stof(word));
    return values;
  }
  std::vector<std::uint32_t> hex(const std::string& name) const {
    std::vector<std::uint32_t> values;
    for (const std::string& word : lines.at(name)) {
      values.push_back(static_cast<std::uint32_t>(std::stoul(word, nullptr, 16)));
    }
    return values;
  }
};

void add_words(std::istringstream& words, std::vector<std::string>* to) {
  std::string word;
  while (words >> word) {
    const std::size_t star = word.find('*');
    const int times = star == std::string::npos ? 1 : std::stoi(word.substr(0, star));
    for (int i = 0; i < times; ++i) to->push_back(star == std::string::npos ? word : word.substr(star + 1));
  }
}

std::vector<Example> read_examples() {
  std::ifstream file(MOESAIC_SOURCE_ROOT "/docs/numerics.md");
  std::vector<Example> examples;
  std::string line;
  bool inside = false;
  for (int number = 1; std::getline(file, line); ++number) {
    std::istringstream words(line);
    std::string first;
    words >> first;
    if (first == "```example") {
      inside = true;
      Example example;
      example.line = number;
      words >> example.kind;
      for (std::string option; words >> option;) {
        const std::size_t equals = option.find('=');
        example.options[option.substr(0, equals)] = equals == std::string::npos ? "" : option.substr(equals + 1);
      }
      examples.push_back(example);
    } else if (first == "```") {
      inside = false;
    } else if (inside) {
      add_words(words, &examples.back().lines[first]);
    }
  }
  return examples;
}

using QuantizeFunction = void (*)(const QuantSpec&, const QuantizeRun&, const Activation*);

template <typename T>
std::vector<T> from_bytes(const std::vector<std::uint8_t>& bytes) {
  std::vector<T> values(bytes.size() / sizeof(T));
  std::memcpy(values.data(), bytes.data(), bytes.size());
  return values;
}

void run_quantiser(const Example& example, QuantizeFunction quantise) {
  QuantSpec spec;
  spec.format = parse_quant_format(example.kind);
  if (example.options.contains("floor")) spec.e8m0 = E8m0Rounding::kFloor;
  if (example.options.contains("group")) spec.int4.size = static_cast<int>(example.number("group"));
  spec.int4.zero_points = example.options.contains("zero_points");
  const std::string shape = example.options.at("shape");
  const std::int64_t rows = std::stoll(shape), cols = std::stoll(shape.substr(shape.find('x') + 1));
  const QuantSizes sizes = quant_sizes(spec, rows, cols);

  const std::vector<float> x = example.numbers("x");
  ASSERT_EQ(static_cast<std::int64_t>(x.size()), rows * cols);
  std::vector<std::uint8_t> codes(sizes.code_bytes, 0xA5), scales(sizes.scale_bytes, 0xA5),
      zeros(sizes.zero_bytes, 0xA5);
  std::vector<float> row_scales(rows, -1.0f);
  const float global = example.options.contains("global_scale") ? std::stof(example.options.at("global_scale")) : 0.0f;
  QuantizeRun run;
  run.x = TensorView(x.data(), DType::kF32, {rows, cols});
  run.codes = TensorView(codes.data(), DType::kU8, {rows, sizes.code_bytes / rows});
  run.scales = TensorView(scales.data(), DType::kU8, {sizes.scale_bytes});
  run.zeros = TensorView(zeros.data(), DType::kU8, {rows, sizes.scale_cols});
  run.global_scale = TensorView(&global, DType::kF32, {1});
  run.row_scales = TensorView(row_scales.data(), DType::kF32, {rows});
  quantise(spec, run, nullptr);

  EXPECT_EQ(std::vector<std::uint32_t>(codes.begin(), codes.end()), example.hex("codes"));
  switch (quant_traits(spec).scales) {
    case ScaleFormat::kF32:
      EXPECT_EQ(from_bytes<float>(scales), example.numbers("scales"));
      break;
    case ScaleFormat::kBF16: {
      const std::vector<float> wanted = example.numbers("scales");
      for (std::size_t i = 0; i < wanted.size(); ++i) {
        EXPECT_EQ(load_element(scales.data(), DType::kBF16, static_cast<std::int64_t>(i)), wanted[i]);
      }
      break;
    }
    default:
      EXPECT_EQ(std::vector<std::uint32_t>(scales.begin(), scales.end()), example.hex("scales"));
      break;
  }
  if (example.lines.contains("row_scales")) {
    EXPECT_EQ(row_scales, example.numbers("row_scales"));
  }
  if (sizes.zero_bytes > 0) {
    EXPECT_EQ(std::vector<float>(zeros.begin(), zeros.end()), example.numbers("zeros"));
  }
}

void run_scale_index(const Example& example) {
  const ScaleLayout layout = parse_scale_layout(example.options.at("layout"));
  const std::vector<float> m = example.numbers("m"), k = example.numbers("k"), index = example.numbers("index");
  for (std::size_t i = 0; i < m.size(); ++i) {
    const auto row = static_cast<std::int64_t>(m[i]), col = static_cast<std::int64_t>(k[i]);
    EXPECT_EQ(scale_index(layout, row, col, example.number("columns")), static_cast<std::int64_t>(index[i]));
    EXPECT_EQ(oracle_scale_index(layout, row, col, example.number("columns")), static_cast<std::int64_t>(index[i]));
  }
}

void run_grouped(const Example& example) {
  const std::vector<float> first = example.numbers("first"), group = example.numbers("group"),
                           row = example.numbers("row");
  for (std::size_t i = 0; i < first.size(); ++i) {
    EXPECT_EQ(grouped_scale_row(static_cast<std::int64_t>(first[i]), static_cast<std::int64_t>(group[i])),
              static_cast<std::int64_t>(row[i]));
  }
}

void run_packing(const Example& example) {
  const std::vector<std::uint32_t> words = example.hex("words");
  const std::int64_t rows = example.number("rows"), cols = example.number("columns");
  MatrixView view{words.data(), DType::kU8, rows, cols, 0, 0};
  view.quantization.codes = CodeFormat::kInt4;
  const std::string order = example.options.at("order");
  if (order == "linear") {
    view.row_stride = cols;
    view.col_stride = 1;
  } else if (order == "words_along_columns") {
    view.quantization.order = NibbleOrder::kWordsAlongC;
    view.row_stride = rows;
  } else if (order == "words_along_rows") {
    view.quantization.order = NibbleOrder::kWordsAlongR;
    view.row_stride = cols;
  } else {
    ASSERT_EQ(order, "awq");
    view.quantization.order = NibbleOrder::kAwq;
    view.col_stride = rows;
  }
  const std::vector<float> codes = example.numbers("codes");
  ASSERT_EQ(static_cast<std::int64_t>(codes.size()), rows * cols);
  for (std::int64_t i = 0; i < rows * cols; ++i) EXPECT_EQ(matrix_element(view, i / cols, i % cols) + 8, codes[i]) << i;
}

TEST(NumericsDocument, EveryExampleHolds) {
  std::map<std::string, int> seen;
  for (const Example& example : read_examples()) {
    SCOPED_TRACE("docs/numerics.md:" + std::to_string(example.line));
    ++seen[example.kind];
    if (example.kind == "scale_index") {
      run_scale_index(example);
    } else if (example.kind == "grouped_scale_row") {
      run_grouped(example);
    } else if (example.kind == "packing") {
      run_packing(example);
    } else {
      run_quantiser(example, oracle_quantize);
    }
  }
  for (const tables::QuantRow& row : tables::kQuantTable) EXPECT_GE(seen[row.name], 1) << "no example of " << row.name;
  EXPECT_EQ(seen["packing"], 4);
  EXPECT_EQ(seen["scale_index"], 2);
}

}  // namespace
}  // namespace moesaic::cpu
