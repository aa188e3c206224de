// SPDX-License-Identifier: Apache-2.0
// Tensors of a checkpoint folder by name.
#include "checkpoint/tensor_source.h"

#include <fmt/format.h>

#include "base/fs.h"
#include "checkpoint/json_strict.h"
#include "checkpoint/printable.h"
#include "moesaic/error.h"

namespace moesaic::checkpoint {
namespace {

constexpr std::uint64_t kMaxIndexBytes = 100'000'000;  // Kimi-K2's has 15 MB
constexpr int kMaxIndexDepth = 8;

// Depth 1: "metadata" (anything) and "weight_map"; depth 2 of the latter: tensor name -> file name.
class IndexReader final : public StrictJson {
 public:
  IndexReader(const std::string& path, std::string folder)
      : StrictJson(path, kMaxIndexDepth), folder_(std::move(folder)) {}

  std::map<std::string, std::shared_ptr<const std::string>> shard_of;
  bool has_weight_map = false;

 private:
  void on_key(const std::string& key) override {
    if (depth() == 1) in_weight_map_ = key == "weight_map";
    key_ = key;
  }

  void on_start(bool is_object) override {
    if (depth() == 0 || !in_weight_map_) return;
    if (depth() > 1 || !is_object) fail(fmt::format("weight_map {} is no file name", in_quotes(key_)));
    has_weight_map = true;
  }

  void on_scalar(nlohmann::json value) override {
    if (!in_weight_map_) return;
    if (depth() == 1) fail("weight_map is not an object");
    if (!value.is_string()) fail(fmt::format("weight_map {} is no file name", in_quotes(key_)));
    const auto& file = value.get_ref<const std::string&>();
    bool plain = !file.empty() && file != "." && file != ".." && file.find('/') == std::string::npos &&
                 file.find('\0') == std::string::npos;
    if (!plain) {
      fail(fmt::format("weight_map sends {} to {}; wanted the name of a file in the same folder", in_quotes(key_),
                       in_quotes(file)));
    }
    std::shared_ptr<const std::string>& path = paths_[file];
    if (path == nullptr) path = std::make_shared<const std::string>(folder_ + "/" + file);
    shard_of.emplace(key_, path);
  }

  void on_end() override {}

  std::string folder_, key_;
  bool in_weight_map_ = false;
  std::map<std::string, std::shared_ptr<const std::string>> paths_;  // by file name
};

}  // namespace

TensorSource::TensorSource(const std::string& folder) {
  std::string single = folder + "/model.safetensors";
  std::string index = folder + "/model.safetensors.index.json";
  if (path_exists(single)) {
    listing_ = single;
    single_ = SafetensorsFile::open(single);
  } else if (path_exists(index)) {
    listing_ = index;
    read_index(index);
  } else {
    throw Error(ErrorKind::kIo,
                fmt::format("{} has neither model.safetensors nor model.safetensors.index.json", in_quotes(folder)));
  }
}

void TensorSource::read_index(const std::string& path) {
  IndexReader reader(path, base::folder_of(path));
  reader.parse(base::read_file(path, kMaxIndexBytes));
  if (!reader.has_weight_map) throw Error(ErrorKind::kIo, path + ": no weight_map");
  shard_of_ = std::move(reader.shard_of);
}

bool TensorSource::has(const std::string& name) const {
  return single_ != nullptr ? single_->find(name) != nullptr : shard_of_.contains(name);
}

FoundTensor TensorSource::get(const std::string& name) const {
  FoundTensor found;
  if (single_ != nullptr) {
    found.file = single_;
  } else if (auto at = shard_of_.find(name); at != shard_of_.end()) {
    found.file = open_shard(*at->second);
  } else {
    throw Error(ErrorKind::kIo, fmt::format("{} lists no tensor {}", listing_, in_quotes(name)));
  }
  found.entry = found.file->find(name);
  if (found.entry == nullptr) {
    std::string promised = single_ != nullptr ? "" : " that the index promises there";
    throw Error(ErrorKind::kIo, fmt::format("{} has no tensor {}{}", found.file->path(), in_quotes(name), promised));
  }
  return found;
}

std::shared_ptr<const SafetensorsFile> TensorSource::open_shard(const std::string& path) const {
  std::lock_guard lock(mutex_);
  std::weak_ptr<const SafetensorsFile>& slot = open_shards_[path];
  std::shared_ptr<const SafetensorsFile> file = slot.lock();
  if (file == nullptr) slot = file = SafetensorsFile::open(path);
  return file;
}

std::vector<std::string> TensorSource::names_below(const std::string& prefix) const {
  std::vector<std::string> found;
  if (single_ != nullptr) {
    for (const TensorEntry* entry : single_->below(prefix)) found.push_back(entry->name);
  } else {
    for (auto at = shard_of_.lower_bound(prefix); at != shard_of_.end() && at->first.starts_with(prefix); ++at) {
      found.push_back(at->first);
    }
  }
  return found;
}

}  // namespace moesaic::checkpoint
