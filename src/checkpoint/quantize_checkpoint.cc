// SPDX-License-Identifier: Apache-2.0
// Writes a checkpoint folder again with its experts in another format, one expert in memory at a time.
#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <set>

#include "base/fs.h"
#include "checkpoint/json_strict.h"
#include "checkpoint/mapped_file.h"
#include "checkpoint/printable.h"
#include "checkpoint/target_formats.h"
#include "checkpoint/tensor_source.h"
#include "moesaic/checkpoint.h"
#include "tables/quant_table.h"
#include "tables/recipe_table.h"

namespace moesaic {

using namespace checkpoint;  // NOLINT(google-build-using-namespace): this file is that folder's public face

namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

constexpr std::uint64_t kShardBytes = std::uint64_t{4} << 30;  // of copied tensors; an expert shard is one layer
constexpr std::uint64_t kMaxConfigBytes = 4 << 20;
constexpr int kMaxConfigDepth = 16;
constexpr const char* kBlockScale = "_scale_inv";

// A folder that is removed unless it was moved to its final place.
class PartialFolder {
 public:
  explicit PartialFolder(const std::string& out) : path_(base::temporary_beside(out)), out_(out) {
    std::error_code error;
    if (!fs::create_directory(path_, error)) {
      throw Error(ErrorKind::kIo, fmt::format("quantize: cannot create {}: {}", in_quotes(path_), error.message()));
    }
  }
  ~PartialFolder() {
    std::error_code ignored;
    if (!path_.empty()) fs::remove_all(path_, ignored);
  }
  PartialFolder(const PartialFolder&) = delete;
  PartialFolder& operator=(const PartialFolder&) = delete;

  const std::string& path() const { return path_; }
  void move_into_place() {
    std::error_code error;
    fs::rename(path_, out_, error);
    if (error) {
      throw Error(ErrorKind::kIo, fmt::format("quantize: cannot rename {} to {}: {}", in_quotes(path_), in_quotes(out_),
                                              error.message()));
    }
    path_.clear();
  }

 private:
  std::string path_, out_;
};

void check_out(const std::string& folder, const std::string& out) {
  if (path_exists(out)) {
    throw Error(ErrorKind::kInvalidArgument,
                fmt::format("quantize: {} exists; wanted the name of a folder that does not", in_quotes(out)));
  }
  if (!fs::is_directory(base::folder_of(out))) {
    throw Error(ErrorKind::kIo, fmt::format("quantize: {} is no folder that {} could be made in",
                                            in_quotes(base::folder_of(out)), in_quotes(out)));
  }
  if (!fs::is_directory(folder)) {
    throw Error(ErrorKind::kIo, fmt::format("quantize: {} is no folder", in_quotes(folder)));
  }
}

// One matrix to write: its module (or nothing for fused storage), where it comes from, and its expert.
struct ExpertModules {
  std::string gate, up, down;
};

ExpertModules modules_of(const LayerModules& m, int expert) {
  const std::string prefix = fmt::format("{}experts.{}.", m.block, expert);
  return {prefix + m.gate, prefix + m.up, prefix + m.down};
}

ExpertModules shared_modules(const LayerModules& m) {
  const std::string prefix = m.block + m.shared;
  return {prefix + "gate_proj", prefix + "up_proj", prefix + "down_proj"};
}

std::size_t row_of(GateUpOrder order, bool is_gate, std::size_t row, std::size_t intermediate) {
  const bool gate_first = order == GateUpOrder::kGateFirst || order == GateUpOrder::kInterleavedGateFirst;
  const bool interleaved = order == GateUpOrder::kInterleavedGateFirst || order == GateUpOrder::kInterleavedUpFirst;
  const std::size_t half = is_gate == gate_first ? 0 : 1;
  return interleaved ? 2 * row + half : half * intermediate + row;
}

class CheckpointQuantizer {
 public:
  CheckpointQuantizer(const std::string& folder, const std::string& out, const QuantizeCheckpointOptions& options)
      : folder_(folder),
        options_(options),
        checkpoint_(Checkpoint::open(folder)),
        source_(folder),
        spec_(weight_spec(options.recipe, options.int4)),
        io_(tables::get_recipe(options.recipe).io),
        partial_(out) {}

  QuantizedCheckpoint run() {
    survey();
    plan_copies();
    const std::size_t shards = copies_.size() + static_cast<std::size_t>(result_.layers);
    for (std::size_t i = 0; i < copies_.size(); ++i) write_copies(copies_[i], shard_name(i + 1, shards));
    for (std::size_t i = 0; i < checkpoint_.moe_layers().size(); ++i) {
      write_layer(checkpoint_.moe_layers()[i], shard_name(copies_.size() + i + 1, shards));
    }
    write_index();
    write_configs();
    copy_other_files();
    base::sync_folder(partial_.path());
    partial_.move_into_place();
    return result_;
  }

 private:
  static std::string shard_name(std::size_t number, std::size_t of) {
    return fmt::format("model-{:05}-of-{:05}.safetensors", number, of);
  }
  bool plain() const { return target_->target == Target::kPlain; }
  bool writes_shared(const CheckpointLayer& layer) const {
    if (layer.modules.shared.empty() || layer.config.shared.intermediate == 0) return false;
    // Shared experts that a quantised checkpoint leaves in 16 bits stay so.
    const bool kept_plain = layer.config.recipe != "bf16" && layer.config.shared.recipe == "bf16";
    return plain() || !kept_plain;
  }

  // Which tensors the experts' matrices are, and what the layers need.
  void survey() {
    for (const int number : checkpoint_.moe_layers()) {
      const CheckpointLayer layer = checkpoint_.load(number);
      if (target_ == nullptr) {
        const bool interleaved = layer.modules.order == GateUpOrder::kInterleavedGateFirst;
        target_ = &target_for(options_.recipe, layer.modules.fused && interleaved);
        result_.format = target_->name;
      }
      refuse_same_format(layer);
      replaced_.insert(layer.modules.expert_tensors.begin(), layer.modules.expert_tensors.end());
      if (writes_shared(layer)) {
        replaced_.insert(layer.modules.shared_tensors.begin(), layer.modules.shared_tensors.end());
        total_ += 1;
      }
      total_ += layer.config.num_experts;
      ++result_.layers;
    }
  }

  // Quantising codes again would only lose.
  void refuse_same_format(const CheckpointLayer& layer) const {
    if (plain()) return;
    for (const ExpertWeights& expert : layer.weights.experts) {
      for (const MatrixView* matrix : {&expert.gate, &expert.up, &expert.down}) {
        if (!fits_recipe(options_.recipe, layer.config.int4, *matrix)) return;
      }
    }
    throw Error(ErrorKind::kInvalidArgument,
                fmt::format("quantize: the experts of {} are stored as {} already, which recipe {} reads as it is",
                            in_quotes(folder_), layer.stored, options_.recipe));
  }

  // --- tensors that stay -------------------------------------------------------------------------------------------

  struct Copy {
    std::string name;
    PlannedTensor planned;
    bool decode_blocks = false;  // fp8 with _scale_inv -> bf16
  };

  void plan_copies() {
    std::uint64_t bytes = kShardBytes;
    for (const std::string& name : source_.names_below("")) {
      if (replaced_.contains(name) || (name.ends_with(kBlockScale) && source_.has(without_block_scale(name)))) continue;
      const FoundTensor found = source_.get(name);
      Copy copy{name, {name, found.entry->dtype, found.entry->shape}, source_.has(name + kBlockScale)};
      if (copy.decode_blocks) copy.planned.dtype = "BF16";
      refuse_other_codes(copy, found);
      note_plain_module(copy);
      if (bytes >= kShardBytes) {
        copies_.emplace_back();
        bytes = 0;
      }
      bytes += planned_bytes(copy.planned);
      copies_.back().push_back(std::move(copy));
    }
  }

  static std::string without_block_scale(const std::string& name) {
    return name.substr(0, name.size() - std::strlen(kBlockScale));
  }

  void refuse_other_codes(const Copy& copy, const FoundTensor& found) const {
    const std::string_view dtype = found.entry->dtype;
    if (copy.decode_blocks || dtype == "BF16" || dtype == "F16" || dtype == "F32" || dtype == "F64") return;
    if (copy.name.ends_with(".weight") || copy.name.ends_with(".qweight") || copy.name.ends_with(".weight_packed")) {
      throw Error(ErrorKind::kUnsupported,
                  fmt::format("quantize: {} has tensor {} of dtype {} outside of the experts; only fp8 blocks are "
                              "decoded there: begin from the 16-bit checkpoint",
                              found.file->path(), in_quotes(copy.name), dtype));
    }
  }

  void note_plain_module(const Copy& copy) {
    constexpr std::string_view kWeight = ".weight";
    const bool linear = copy.planned.shape.size() == 2 && copy.name.ends_with(kWeight);
    if (linear && copy.name.find("embed_tokens") == std::string::npos) {
      plain_modules_.push_back(copy.name.substr(0, copy.name.size() - kWeight.size()));
    }
  }

  void write_copies(const std::vector<Copy>& copies, const std::string& shard) {
    std::vector<PlannedTensor> planned;
    for (const Copy& copy : copies) planned.push_back(copy.planned);
    SafetensorsWriter writer(partial_.path() + "/" + shard, planned);
    for (const Copy& copy : copies) {
      const FoundTensor found = source_.get(copy.name);
      const std::byte* data = found.file->data(*found.entry);
      const std::uint64_t size = found.entry->end - found.entry->begin;
      if (copy.decode_blocks) {
        const ops::ConvertedMatrix matrix = ops::round_matrix(block_matrix(found, copy.name), DType::kBF16);
        writer.write(copy.name, 0, matrix.codes.data(), matrix.codes.size());
      } else {
        writer.write(copy.name, 0, data, size);
      }
      release_pages(data, size);
      note(copy.planned, shard);
    }
    writer.finish();
  }

  MatrixView block_matrix(const FoundTensor& found, const std::string& name) const {
    const FoundTensor scale = source_.get(name + kBlockScale);
    const auto& shape = found.entry->shape;
    const auto& blocks = scale.entry->shape;
    const bool fits = shape.size() == 2 && blocks.size() == 2 && std::string_view(found.entry->dtype) == "F8_E4M3" &&
                      blocks[0] == (shape[0] + 127) / 128 && blocks[1] == (shape[1] + 127) / 128;
    const std::string_view dtype = scale.entry->dtype;
    if (!fits || (dtype != "F32" && dtype != "BF16")) {
      throw Error(ErrorKind::kUnsupported, fmt::format("quantize: {}: {} and its {} are not e4m3 with 128x128 blocks",
                                                       found.file->path(), in_quotes(name), kBlockScale));
    }
    MatrixView view{found.file->data(*found.entry), DType::kU8, shape[0], shape[1], shape[1], 1};
    Quantization& q = view.quantization;
    q.codes = CodeFormat::kE4M3;
    q.scale_format = dtype == "F32" ? ScaleFormat::kF32 : ScaleFormat::kBF16;
    q.scales = scale.file->data(*scale.entry);
    q.block_rows = q.block_cols = 128;
    q.scale_row_stride = blocks[1];
    q.scale_col_stride = 1;
    return view;
  }

  // --- experts -----------------------------------------------------------------------------------------------------

  void write_layer(int number, const std::string& shard) {
    const CheckpointLayer layer = checkpoint_.load(number);
    std::vector<PlannedTensor> planned =
        layer.modules.fused && fused_target() ? fused_tensors(layer) : split_tensors(layer);
    if (writes_shared(layer)) {
      const ExpertModules modules = shared_modules(layer.modules);
      plan_expert(modules, layer.config.shared.intermediate, layer.config.hidden, &planned);
    }
    SafetensorsWriter writer(partial_.path() + "/" + shard, planned);
    for (int e = 0; e < layer.config.num_experts; ++e) {
      const ExpertWeights& expert = layer.weights.experts[static_cast<std::size_t>(e)];
      if (layer.modules.fused && fused_target()) {
        write_fused(layer, e, expert, &writer);
      } else {
        write_expert(modules_of(layer.modules, e), expert, &writer);
      }
      advance(fmt::format("layer {} expert {}", number, e));
    }
    if (writes_shared(layer)) {
      write_expert(shared_modules(layer.modules), layer.weights.shared, &writer);
      advance(fmt::format("layer {} shared experts", number));
    }
    writer.finish();
    for (const PlannedTensor& tensor : planned) note(tensor, shard);
  }

  bool fused_target() const { return plain() || target_->target == Target::kGptOssMxfp4; }

  std::vector<PlannedTensor> split_tensors(const CheckpointLayer& layer) const {
    std::vector<PlannedTensor> planned;
    for (int e = 0; e < layer.config.num_experts; ++e) {
      plan_expert(modules_of(layer.modules, e), layer.config.intermediate, layer.config.hidden, &planned);
    }
    return planned;
  }

  void plan_expert(const ExpertModules& modules, std::int64_t intermediate, std::int64_t hidden,
                   std::vector<PlannedTensor>* planned) const {
    plan_matrix(modules.gate, intermediate, hidden, planned);
    plan_matrix(modules.up, intermediate, hidden, planned);
    plan_matrix(modules.down, hidden, intermediate, planned);
  }

  void plan_matrix(const std::string& module, std::int64_t rows, std::int64_t cols,
                   std::vector<PlannedTensor>* planned) const {
    if (plain()) {
      planned->push_back({module + ".weight", io_ == DType::kF16 ? "F16" : "BF16", {rows, cols}});
      return;
    }
    const std::vector<PlannedTensor> tensors = module_tensors(target_->target, *spec_, module, rows, cols);
    planned->insert(planned->end(), tensors.begin(), tensors.end());
  }

  void write_expert(const ExpertModules& modules, const ExpertWeights& expert, SafetensorsWriter* writer) {
    write_matrix(modules.gate, expert.gate, writer);
    write_matrix(modules.up, expert.up, writer);
    write_matrix(modules.down, expert.down, writer);
  }

  void write_matrix(const std::string& module, const MatrixView& matrix, SafetensorsWriter* writer) {
    const ops::ConvertedMatrix made = convert(matrix);
    if (plain()) {
      writer->write(module + ".weight", 0, made.codes.data(), made.codes.size());
    } else {
      write_module(target_->target, *spec_, module, made, writer);
    }
  }

  ops::ConvertedMatrix convert(const MatrixView& matrix) {
    ops::ConvertedMatrix made = plain() ? ops::round_matrix(matrix, io_) : ops::quantize_matrix(matrix, *spec_);
    ++result_.matrices;
    result_.bytes_written += made.codes.size() + made.scales.size() + made.zeros.size();
    // Whole matrices only: rows of interleaved ones share pages with others that are still to be read.
    if (matrix.col_stride == 1 && matrix.row_stride == matrix.cols) release_matrix(matrix);
    return made;
  }

  static void release_matrix(const MatrixView& matrix) {
    const std::int64_t bits = matrix.quantized() ? tables::code_bits(matrix.quantization.codes)
                                                 : 8 * static_cast<std::int64_t>(dtype_size(matrix.dtype));
    const auto size = static_cast<std::size_t>(matrix.rows * matrix.cols * bits / 8);
    release_pages(matrix.data, size);
  }

  // --- fused tensors -----------------------------------------------------------------------------------------------

  std::vector<PlannedTensor> fused_tensors(const CheckpointLayer& layer) const {
    const std::int64_t e = layer.config.num_experts, h = layer.config.hidden, i = layer.config.intermediate;
    const std::string up = layer.modules.block + "experts.gate_up_proj",
                      down = layer.modules.block + "experts.down_proj";
    if (plain()) {
      const std::string dtype = io_ == DType::kF16 ? "F16" : "BF16";
      return {{up, dtype, {e, h, 2 * i}}, {down, dtype, {e, i, h}}};
    }
    return {{up + "_blocks", "U8", {e, 2 * i, h / 32, 16}},
            {up + "_scales", "U8", {e, 2 * i, h / 32}},
            {down + "_blocks", "U8", {e, h, i / 32, 16}},
            {down + "_scales", "U8", {e, h, i / 32}}};
  }

  void write_fused(const CheckpointLayer& layer, int expert, const ExpertWeights& weights, SafetensorsWriter* writer) {
    const ops::ConvertedMatrix gate = convert(weights.gate), up = convert(weights.up), down = convert(weights.down);
    const std::string name = layer.modules.block + "experts.";
    const GateUpOrder order = layer.modules.order;
    if (plain()) {
      write_part(name + "gate_up_proj", expert, transposed({&gate, &up}, order), writer);
      write_part(name + "down_proj", expert, transposed({&down}, order), writer);
      return;
    }
    write_part(name + "gate_up_proj_blocks", expert, merged_rows(gate.codes, up.codes, gate.rows, order), writer);
    write_part(name + "gate_up_proj_scales", expert, merged_rows(gate.scales, up.scales, gate.rows, order), writer);
    write_part(name + "down_proj_blocks", expert, down.codes, writer);
    write_part(name + "down_proj_scales", expert, down.scales, writer);
  }

  static void write_part(const std::string& name, int expert, const std::vector<std::uint8_t>& bytes,
                         SafetensorsWriter* writer) {
    writer->write(name, static_cast<std::uint64_t>(expert) * bytes.size(), bytes.data(), bytes.size());
  }

  static std::vector<std::uint8_t> merged_rows(const std::vector<std::uint8_t>& gate,
                                               const std::vector<std::uint8_t>& up, std::int64_t rows,
                                               GateUpOrder order) {
    const auto count = static_cast<std::size_t>(rows);
    const std::size_t row_bytes = gate.size() / count;
    std::vector<std::uint8_t> merged(gate.size() + up.size());
    for (std::size_t r = 0; r < count; ++r) {
      std::memcpy(&merged[row_of(order, true, r, count) * row_bytes], &gate[r * row_bytes], row_bytes);
      std::memcpy(&merged[row_of(order, false, r, count) * row_bytes], &up[r * row_bytes], row_bytes);
    }
    return merged;
  }

  // 16-bit matrices [rows, cols] -> [cols, rows of all], as fused tensors lie.
  static std::vector<std::uint8_t> transposed(const std::vector<const ops::ConvertedMatrix*>& parts,
                                              GateUpOrder order) {
    const auto rows = static_cast<std::size_t>(parts[0]->rows), cols = static_cast<std::size_t>(parts[0]->cols);
    const std::size_t total = rows * parts.size();
    std::vector<std::uint8_t> result(total * cols * 2);
    for (std::size_t part = 0; part < parts.size(); ++part) {
      for (std::size_t r = 0; r < rows; ++r) {
        const std::size_t target = parts.size() == 1 ? r : row_of(order, part == 0, r, rows);
        for (std::size_t c = 0; c < cols; ++c) {
          std::memcpy(&result[(c * total + target) * 2], &parts[part]->codes[(r * cols + c) * 2], 2);
        }
      }
    }
    return result;
  }

  // --- the rest of the folder --------------------------------------------------------------------------------------

  void advance(const std::string& what) {
    ++done_;
    if (options_.progress) options_.progress(done_, total_, what);
  }

  void note(const PlannedTensor& tensor, const std::string& shard) {
    weight_map_[tensor.name] = shard;
    total_size_ += planned_bytes(tensor);
  }

  void write_index() const {
    const Json index = {{"metadata", {{"total_size", total_size_}}}, {"weight_map", weight_map_}};
    base::write_file_synced(partial_.path() + "/model.safetensors.index.json", index.dump(2) + "\n");
  }

  void write_configs() const {
    const std::string file = folder_ + "/config.json";
    const std::string text = base::read_file(file, kMaxConfigBytes);
    parse_strict(text, file, kMaxConfigDepth);
    Json config = Json::parse(text);
    for (const char* key : {"quantization_config", "compression_config"}) {
      config.erase(key);
      if (config.contains("text_config") && config["text_config"].is_object()) config["text_config"].erase(key);
    }
    if (!plain()) config["quantization_config"] = quantization_config(target_->target, *spec_, plain_modules_);
    base::write_file_synced(partial_.path() + "/config.json", config.dump(2) + "\n");
    const Json separate = plain() ? Json(nullptr) : hf_quant_config(target_->target, plain_modules_);
    if (!separate.is_null()) {
      base::write_file_synced(partial_.path() + "/hf_quant_config.json", separate.dump(2) + "\n");
    }
  }

  // Tokenizer and the like.
  void copy_other_files() const {
    for (const fs::directory_entry& entry : fs::directory_iterator(folder_)) {
      const std::string name = entry.path().filename().string();
      if (!entry.is_regular_file() || name.ends_with(".safetensors") || name.ends_with(".safetensors.index.json") ||
          name == "config.json" || name == "hf_quant_config.json") {
        continue;
      }
      std::error_code error;
      fs::copy_file(entry.path(), fs::path(partial_.path()) / name, error);
      if (error) {
        throw Error(ErrorKind::kIo, fmt::format("quantize: cannot copy {}: {}", in_quotes(name), error.message()));
      }
    }
  }

  const std::string folder_;
  const QuantizeCheckpointOptions& options_;
  Checkpoint checkpoint_;
  TensorSource source_;
  std::optional<QuantSpec> spec_;
  DType io_;
  PartialFolder partial_;
  const TargetRow* target_ = nullptr;
  std::set<std::string> replaced_;
  std::vector<std::vector<Copy>> copies_;  // by shard
  std::vector<std::string> plain_modules_;
  std::map<std::string, std::string> weight_map_;
  std::uint64_t total_size_ = 0;
  std::int64_t done_ = 0, total_ = 0;
  QuantizedCheckpoint result_;
};

}  // namespace

QuantizedCheckpoint quantize_checkpoint(const std::string& folder, const std::string& out,
                                        const QuantizeCheckpointOptions& options) {
  tables::get_recipe(options.recipe);
  check_out(folder, out);
  return CheckpointQuantizer(folder, out, options).run();
}

}  // namespace moesaic
