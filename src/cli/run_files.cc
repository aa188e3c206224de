// SPDX-License-Identifier: Apache-2.0
// The tensors that `moesaic run` reads.
#include "cli/run_files.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <charconv>
#include <limits>

#include "backend_cpu/fast_number.h"
#include "checkpoint/tensor_argument.h"
#include "moesaic/checkpoint.h"

namespace moesaic::cli {
namespace {

std::string described(const StoredTensor& tensor) {
  const auto& shape = tensor.view.shape;
  return fmt::format("{} [{}]", dtype_name(tensor.view.dtype),
                     fmt::join(shape.begin(), shape.begin() + tensor.view.rank, ", "));
}

[[noreturn]] void refuse(const std::string& file, const StoredTensor& tensor, const std::string& wanted) {
  throw Error(ErrorKind::kInvalidArgument,
              fmt::format("run: tensor '{}' of {} is {}; wanted {}", tensor.name, file, described(tensor), wanted));
}

template <class T, class Convert>
std::vector<float> converted(const TensorView& view, Convert convert) {
  const auto* data = static_cast<const T*>(view.data);
  std::vector<float> values;
  for (std::int64_t i = 0; i < view.num_elements(); ++i) values.push_back(convert(data[i]));
  return values;
}

std::vector<float> read_floats(const std::string& file, const StoredTensor& tensor, const std::string& wanted) {
  switch (tensor.view.dtype) {
    case DType::kF32:
      return converted<float>(tensor.view, [](float value) { return value; });
    case DType::kF64:
      return converted<double>(tensor.view, [](double value) { return static_cast<float>(value); });
    case DType::kBF16:
      return converted<std::uint16_t>(tensor.view, cpu::bf16_to_float);
    case DType::kF16:
      return converted<std::uint16_t>(tensor.view, cpu::half_to_float);
    default:
      refuse(file, tensor, wanted);
  }
}

void demand_shape(const std::string& file, const StoredTensor& tensor, std::int64_t rows, std::int64_t cols,
                  const std::string& wanted) {
  const TensorView& view = tensor.view;
  if (view.rank != 2 || view.shape[1] != cols || (rows >= 0 && view.shape[0] != rows)) refuse(file, tensor, wanted);
}

std::vector<std::int32_t> read_ids(const std::string& file, const StoredTensor& tensor, const std::string& wanted) {
  std::vector<std::int32_t> ids;
  for (std::int64_t i = 0; i < tensor.view.num_elements(); ++i) {
    std::int64_t id = tensor.view.dtype == DType::kI32   ? static_cast<const std::int32_t*>(tensor.view.data)[i]
                      : tensor.view.dtype == DType::kI64 ? static_cast<const std::int64_t*>(tensor.view.data)[i]
                                                         : std::numeric_limits<std::int64_t>::max();
    if (id < std::numeric_limits<std::int32_t>::min() || id > std::numeric_limits<std::int32_t>::max()) {
      refuse(file, tensor, wanted);
    }
    ids.push_back(static_cast<std::int32_t>(id));
  }
  return ids;
}

}  // namespace

LayerInputs read_inputs(const std::string& file_and_name, const MoeConfig& config) {
  StoredTensor x = read_tensor(file_and_name, "x");
  std::string wanted = fmt::format("f32, bf16, f16 or f64 [tokens, {}]", config.hidden);
  demand_shape(file_and_name, x, -1, config.hidden, wanted);
  LayerInputs inputs;
  inputs.tokens = x.view.shape[0];
  inputs.x = read_floats(file_and_name, x, wanted);
  return inputs;
}

void read_routing(const std::string& ids, const std::string& weights, const MoeConfig& config, LayerInputs* inputs) {
  StoredTensor stored_ids = read_tensor(ids, "topk_ids"), stored_weights = read_tensor(weights, "topk_weights");
  std::string shape = fmt::format("[{}, {}]: tokens of the input, experts per token", inputs->tokens, config.top_k);
  std::string wanted_ids = "i32 or i64 " + shape, wanted_weights = "f32, bf16, f16 or f64 " + shape;
  demand_shape(ids, stored_ids, inputs->tokens, config.top_k, wanted_ids);
  demand_shape(weights, stored_weights, inputs->tokens, config.top_k, wanted_weights);
  inputs->topk_ids = read_ids(ids, stored_ids, wanted_ids);
  inputs->topk_weights = read_floats(weights, stored_weights, wanted_weights);
}

Expected read_expected(const std::string& file_and_name, const MoeConfig& config, std::int64_t tokens) {
  StoredTensor y = read_tensor(file_and_name, "y");
  std::string wanted = fmt::format("f32, bf16, f16 or f64 [{}, {}], the shape of the output", tokens, config.hidden);
  demand_shape(file_and_name, y, tokens, config.hidden, wanted);
  Expected expected;
  expected.y = read_floats(file_and_name, y, wanted);

  auto file = checkpoint::SafetensorsFile::open(checkpoint::split_tensor_argument(file_and_name).file);
  const checkpoint::TensorEntry* entry = file->find("topk_ids");
  if (entry != nullptr && entry->shape == std::vector<std::int64_t>{tokens, config.top_k}) {
    expected.topk_ids = read_ids(file_and_name, checkpoint::tensor_view(file, *entry), "i32 or i64 expert ids");
  }
  return expected;
}

std::optional<int> layer_in_metadata(const std::string& file_and_name) {
  auto file = checkpoint::SafetensorsFile::open(checkpoint::split_tensor_argument(file_and_name).file);
  auto at = file->metadata().find("layer");
  if (at == file->metadata().end()) return std::nullopt;
  const std::string& text = at->second;
  int layer = 0;
  auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), layer);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return layer;
}

}  // namespace moesaic::cli
