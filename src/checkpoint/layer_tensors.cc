// SPDX-License-Identifier: Apache-2.0
// Checked tensors of one layer.
#include "checkpoint/layer_tensors.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>

#include "checkpoint/printable.h"

namespace moesaic::checkpoint {
namespace {

constexpr std::array kPlainTypes = {"BF16", "F16", "F32"};

std::vector<const char*> names(std::span<const char* const> dtypes) {
  return {dtypes.begin(), std::find(dtypes.begin(), dtypes.end(), nullptr)};
}

}  // namespace

LayerTensors::LayerTensors(const TensorSource& source, std::string block)
    : source_(source), block_(std::move(block)), storage_(std::make_shared<Storage>()) {}

StoredPart LayerTensors::get(const std::string& name, const Wanted& wanted) {
  const std::string full = block_ + name;
  if (!source_.has(full)) {
    throw Error(ErrorKind::kIo,
                fmt::format("{} lists no tensor {}{}", source_.listing(), in_quotes(full), wanted.reason));
  }
  FoundTensor found = source_.get(full);
  seen_.insert(full);
  StoredPart part;
  part.where = fmt::format("{}: tensor {}", found.file->path(), in_quotes(full));
  part.dtype = found.entry->dtype;
  part.shape = found.entry->shape;
  std::vector<const char*> dtypes = names(wanted.dtypes);
  auto is_dtype = [&](std::string_view dtype) { return dtype == part.dtype; };
  if (std::none_of(dtypes.begin(), dtypes.end(), is_dtype)) {
    throw Error(wanted.dtype_error, fmt::format("{} has dtype {}; wanted {}{}", part.where, part.dtype,
                                                fmt::join(dtypes, " or "), wanted.reason));
  }
  if (std::find(wanted.shapes.begin(), wanted.shapes.end(), part.shape) == wanted.shapes.end()) {
    std::vector<std::string> shapes;
    for (const Shape& shape : wanted.shapes) shapes.push_back(shape_text(shape));
    throw Error(ErrorKind::kIo, fmt::format("{} has shape {}; by config.json it should be {}", part.where,
                                            shape_text(part.shape), fmt::join(shapes, " or ")));
  }
  part.data = keep(found);
  return part;
}

TensorView LayerTensors::get_plain(const std::string& name, const std::vector<Shape>& shapes,
                                   const std::string& reason) {
  StoredPart part = get(name, {kPlainTypes, shapes, reason, ErrorKind::kUnsupported});
  TensorView view;
  view.data = const_cast<std::byte*>(part.data);
  find_dtype(part.dtype, &view.dtype);
  view.rank = static_cast<int>(part.shape.size());
  std::copy(part.shape.begin(), part.shape.end(), view.shape.begin());
  return view;
}

const std::byte* LayerTensors::keep(const FoundTensor& found) {
  const std::byte* data = found.file->data(*found.entry);
  if (reinterpret_cast<std::uintptr_t>(data) % dtype_bytes(found.entry->dtype) != 0) {
    storage_->copies.emplace_back(data, data + (found.entry->end - found.entry->begin));
    return storage_->copies.back().data();
  }
  storage_->files.insert(found.file);
  return data;
}

void LayerTensors::refuse_others(const std::string& owner) const {
  for (const std::string& name : source_.names_below(block_)) {
    if (seen_.contains(name)) continue;
    throw Error(ErrorKind::kUnsupported,
                fmt::format("{}: tensor {} belongs to the layer, but {}", source_.listing(), in_quotes(name), owner));
  }
}

}  // namespace moesaic::checkpoint
