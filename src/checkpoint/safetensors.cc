// SPDX-License-Identifier: Apache-2.0
// Reads and checks the header of a safetensors file. Memory grows with the bytes of the file, never with a number in
// it.
#include "checkpoint/safetensors.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <optional>

#include "checkpoint/json_strict.h"
#include "checkpoint/printable.h"
#include "moesaic/error.h"

namespace moesaic::checkpoint {
namespace {

static_assert(std::endian::native == std::endian::little, "mapped tensors are little-endian");

constexpr std::uint64_t kMaxHeaderBytes = 100'000'000;  // the limit of the format's own implementation
constexpr std::size_t kMaxRank = 16;

struct DTypeRow {
  const char* name;
  int bits;
  std::optional<DType> dtype;
};
constexpr std::array kDTypes = {
    DTypeRow{"BF16", 16, DType::kBF16},
    DTypeRow{"F16", 16, DType::kF16},
    DTypeRow{"F32", 32, DType::kF32},
    DTypeRow{"F64", 64, DType::kF64},
    DTypeRow{"I32", 32, DType::kI32},
    DTypeRow{"I64", 64, DType::kI64},
    DTypeRow{"U8", 8, DType::kU8},
    DTypeRow{"BOOL", 8, {}},
    DTypeRow{"I8", 8, {}},
    DTypeRow{"I16", 16, {}},
    DTypeRow{"U16", 16, {}},
    DTypeRow{"U32", 32, {}},
    DTypeRow{"U64", 64, {}},
    DTypeRow{"C64", 64, {}},
    DTypeRow{"F8_E4M3", 8, {}},
    DTypeRow{"F8_E5M2", 8, {}},
    DTypeRow{"F8_E8M0", 8, {}},
    DTypeRow{"F8_E4M3FNUZ", 8, {}},
    DTypeRow{"F8_E5M2FNUZ", 8, {}},
    DTypeRow{"F6_E2M3", 6, {}},
    DTypeRow{"F6_E3M2", 6, {}},
    DTypeRow{"F4", 4, {}},
};

const DTypeRow* find_row(std::string_view name) {
  for (const DTypeRow& row : kDTypes) {
    if (name == row.name) return &row;
  }
  return nullptr;
}

// Depth 1: tensor names and __metadata__; depth 2: the three fields of a tensor; depth 3: numbers of shape and offsets.
class HeaderReader final : public StrictJson {
 public:
  explicit HeaderReader(const std::string& path) : StrictJson(path + ": safetensors header", 3) {}

  std::vector<TensorEntry> tensors;
  std::map<std::string, std::string> metadata;

 private:
  enum class Field { kNone, kDType, kShape, kOffsets };

  [[noreturn]] void fail_tensor(const std::string& why) const {
    fail(fmt::format("tensor {}: {}", in_quotes(entry_.name), why));
  }

  void on_key(const std::string& key) override {
    if (depth() == 1) {
      in_metadata_ = key == "__metadata__";
      entry_ = {};
      entry_.name = key;
      row_ = nullptr;
      has_shape_ = false;
      offsets_.clear();
    } else if (in_metadata_) {
      metadata_key_ = key;
    } else {
      field_ = key == "dtype"          ? Field::kDType
               : key == "shape"        ? Field::kShape
               : key == "data_offsets" ? Field::kOffsets
                                       : Field::kNone;
      if (field_ == Field::kNone) fail_tensor(fmt::format("unknown key {}", in_quotes(key)));
    }
  }

  void on_start(bool is_object) override {
    if (depth() == 0) return;
    if (depth() == 1) {
      if (!is_object) fail_tensor("an array where an object belongs");
      return;
    }
    if (in_metadata_) fail(fmt::format("__metadata__ {} is not a string", in_quotes(metadata_key_)));
    if (is_object || field_ == Field::kDType) fail_tensor("dtype, shape or data_offsets has the wrong JSON type");
    if (field_ == Field::kShape) has_shape_ = true;
  }

  void on_scalar(nlohmann::json value) override {
    if (depth() == 1) fail_tensor("a single value where an object belongs");
    if (in_metadata_) {
      if (!value.is_string()) fail(fmt::format("__metadata__ {} is not a string", in_quotes(metadata_key_)));
      metadata.emplace(metadata_key_, value.get_ref<const std::string&>());
    } else if (depth() == 2) {
      if (field_ != Field::kDType || !value.is_string()) fail_tensor("shape and data_offsets must be arrays");
      const auto& name = value.get_ref<const std::string&>();
      row_ = find_row(name);
      if (row_ == nullptr) fail_tensor(fmt::format("unknown dtype {}", in_quotes(name)));
    } else {
      on_number(value);
    }
  }

  void on_number(const nlohmann::json& value) {
    const char* field = field_ == Field::kShape ? "shape" : "data_offsets";
    if (!value.is_number_unsigned()) {
      fail_tensor(fmt::format("{} holds {}; wanted unsigned 64-bit integers", field, one_line(value.dump(), 40)));
    }
    auto number = value.get<std::uint64_t>();
    if (number > INT64_MAX) fail_tensor(fmt::format("{} holds {}, more than any file has", field, number));
    if (field_ == Field::kShape) {
      if (entry_.shape.size() == kMaxRank) fail_tensor(fmt::format("more than {} dimensions", kMaxRank));
      entry_.shape.push_back(static_cast<std::int64_t>(number));
    } else {
      if (offsets_.size() == 2) fail_tensor("data_offsets holds more than two numbers");
      offsets_.push_back(number);
    }
  }

  void on_end() override {
    if (depth() != 1 || in_metadata_) return;
    if (row_ == nullptr) fail_tensor("no dtype");
    if (!has_shape_) fail_tensor("no shape");
    if (offsets_.size() != 2) fail_tensor("data_offsets must hold two numbers");
    entry_.dtype = row_->name;
    entry_.begin = offsets_[0];
    entry_.end = offsets_[1];
    if (entry_.begin > entry_.end) {
      fail_tensor(fmt::format("data_offsets [{}, {}] end before they begin", entry_.begin, entry_.end));
    }
    check_size();
    tensors.push_back(std::move(entry_));
  }

  void check_size() const {
    std::uint64_t bits = static_cast<std::uint64_t>(row_->bits);
    for (std::int64_t extent : entry_.shape) {
      if (__builtin_mul_overflow(bits, static_cast<std::uint64_t>(extent), &bits)) {
        fail_tensor(fmt::format("shape {} of {} overflows", shape_text(entry_.shape), row_->name));
      }
    }
    std::uint64_t stored = entry_.end - entry_.begin;
    if (bits % 8 != 0 || bits / 8 != stored) {
      fail_tensor(fmt::format("shape {} of {} takes {} bits, data_offsets [{}, {}] give {} bytes",
                              shape_text(entry_.shape), row_->name, bits, entry_.begin, entry_.end, stored));
    }
  }

  TensorEntry entry_;
  const DTypeRow* row_ = nullptr;
  bool has_shape_ = false, in_metadata_ = false;
  std::vector<std::uint64_t> offsets_;
  std::string metadata_key_;
  Field field_ = Field::kNone;
};

// Sorts into data order and demands that the tensors tile the data.
void check_cover(std::vector<TensorEntry>& tensors, std::uint64_t data_bytes, const std::string& path) {
  auto fail = [&](const std::string& why) { throw Error(ErrorKind::kIo, path + ": safetensors header: " + why); };
  for (const TensorEntry& entry : tensors) {
    if (entry.end > data_bytes) {
      fail(fmt::format("tensor {}: data_offsets [{}, {}] lie outside the file, which has {} bytes of data (truncated?)",
                       in_quotes(entry.name), entry.begin, entry.end, data_bytes));
    }
  }
  std::sort(tensors.begin(), tensors.end(), [](const TensorEntry& a, const TensorEntry& b) {
    return a.begin != b.begin ? a.begin < b.begin : a.end < b.end;
  });
  std::uint64_t covered = 0;
  const TensorEntry* previous = nullptr;
  for (const TensorEntry& entry : tensors) {
    if (entry.begin < covered) {
      fail(fmt::format("tensors {} and {} overlap: data_offsets [{}, {}] begin before byte {}",
                       in_quotes(previous->name), in_quotes(entry.name), entry.begin, entry.end, covered));
    }
    if (entry.begin > covered) {
      fail(fmt::format("bytes {} to {} before tensor {} belong to no tensor", covered, entry.begin,
                       in_quotes(entry.name)));
    }
    covered = entry.end;
    previous = &entry;
  }
  if (covered != data_bytes) {
    fail(fmt::format("the last {} bytes of the file belong to no tensor", data_bytes - covered));
  }
}

}  // namespace

std::string shape_text(const std::vector<std::int64_t>& shape) { return fmt::format("[{}]", fmt::join(shape, ", ")); }

bool find_dtype(std::string_view safetensors_name, DType* dtype) {
  const DTypeRow* row = find_row(safetensors_name);
  if (row == nullptr || !row->dtype) return false;
  *dtype = *row->dtype;
  return true;
}

std::size_t dtype_bytes(std::string_view safetensors_name) {
  return static_cast<std::size_t>(std::max(dtype_bits(safetensors_name) / 8, 1));
}

int dtype_bits(std::string_view safetensors_name) {
  const DTypeRow* row = find_row(safetensors_name);
  return row == nullptr ? 0 : static_cast<int>(row->bits);
}

std::shared_ptr<const SafetensorsFile> SafetensorsFile::open(const std::string& path) {
  return std::make_shared<const SafetensorsFile>(path);
}

SafetensorsFile::SafetensorsFile(const std::string& path) : path_(path), file_(path) {
  auto fail = [&](const std::string& why) { throw Error(ErrorKind::kIo, path + ": not a safetensors file: " + why); };
  if (file_.size() < 8) fail(fmt::format("{} bytes, shorter than the header's length field", file_.size()));
  std::uint64_t header_bytes = 0;
  std::memcpy(&header_bytes, file_.data(), 8);
  if (header_bytes > kMaxHeaderBytes) {
    fail(fmt::format("header length {} is above the format's limit of {}", header_bytes, kMaxHeaderBytes));
  }
  if (header_bytes > file_.size() - 8) {
    fail(fmt::format("header length {}, but only {} bytes follow (truncated?)", header_bytes, file_.size() - 8));
  }
  data_start_ = 8 + static_cast<std::size_t>(header_bytes);

  HeaderReader reader(path);
  reader.parse(file_.text().substr(8, static_cast<std::size_t>(header_bytes)));
  tensors_ = std::move(reader.tensors);
  metadata_ = std::move(reader.metadata);
  check_cover(tensors_, file_.size() - data_start_, path);

  by_name_.resize(tensors_.size());
  for (std::size_t i = 0; i < by_name_.size(); ++i) by_name_[i] = static_cast<std::uint32_t>(i);
  std::sort(by_name_.begin(), by_name_.end(), [this](auto a, auto b) { return tensors_[a].name < tensors_[b].name; });
}

std::vector<std::uint32_t>::const_iterator SafetensorsFile::first_not_below(std::string_view name) const noexcept {
  return std::lower_bound(by_name_.begin(), by_name_.end(), name,
                          [this](auto index, std::string_view wanted) { return tensors_[index].name < wanted; });
}

const TensorEntry* SafetensorsFile::find(std::string_view name) const noexcept {
  auto at = first_not_below(name);
  return at != by_name_.end() && tensors_[*at].name == name ? &tensors_[*at] : nullptr;
}

std::vector<const TensorEntry*> SafetensorsFile::below(std::string_view prefix) const {
  std::vector<const TensorEntry*> found;
  for (auto at = first_not_below(prefix); at != by_name_.end() && tensors_[*at].name.starts_with(prefix); ++at) {
    found.push_back(&tensors_[*at]);
  }
  return found;
}

const std::byte* SafetensorsFile::data(const TensorEntry& entry) const noexcept {
  return file_.data() + data_start_ + entry.begin;
}

}  // namespace moesaic::checkpoint
