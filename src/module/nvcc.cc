// SPDX-License-Identifier: Apache-2.0
// The program's texts as files, nvcc over them, the image and the log back.
#include "module/nvcc.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <charconv>
#include <filesystem>
#include <sstream>

#include "base/env.h"
#include "base/fs.h"
#include "base/process.h"
#include "base/temporary_folder.h"
#include "moesaic/error.h"

namespace moesaic::module {
namespace {

namespace fs = std::filesystem;
using base::Env;

constexpr std::chrono::seconds kAnswerLimit{30};  // for --version, also on a machine that is busy
constexpr std::uint64_t kMaxImage = 256u << 20;

void write_text(const std::string& file, const std::string& text) {
  base::make_folders(base::folder_of(file));
  base::write_file_synced(file, text);
}

// What stands between `before` and the next of `ends`; "" where `before` does not occur.
std::string word_after(const std::string& text, const std::string& before, const char* ends) {
  const std::size_t at = text.find(before);
  if (at == std::string::npos) return {};
  const std::size_t begin = at + before.size();
  return text.substr(begin, text.find_first_of(ends, begin) - begin);
}

std::optional<Nvcc> ask(const std::string& path) {
  try {
    const std::string text = base::run_command({path, "--version"}, "/", kAnswerLimit).output;
    const std::string release = word_after(text, "release ", ",\n");
    Nvcc nvcc{path, 0, word_after(text, "Build ", " \n"), {}};
    int major = 0, minor = 0;
    const char* end = release.data() + release.size();
    const auto first = std::from_chars(release.data(), end, major);
    if (first.ec != std::errc() || first.ptr == end || nvcc.build.empty()) return std::nullopt;
    if (std::from_chars(first.ptr + 1, end, minor).ec != std::errc()) return std::nullopt;
    nvcc.version = 1000 * major + 10 * minor;
    std::istringstream archs(base::run_command({path, "--list-gpu-arch"}, "/", kAnswerLimit).output);
    constexpr std::size_t kPrefix = std::string_view("compute_").size();
    for (std::string line; std::getline(archs, line);) {
      int number = 0;
      if (line.size() > kPrefix) std::from_chars(line.data() + kPrefix, line.data() + line.size(), number);
      if (number > 0) nvcc.supported.push_back(number);
    }
    return nvcc;
  } catch (const Error&) {
    return std::nullopt;
  }
}

}  // namespace

std::optional<Nvcc> find_nvcc() {
  std::vector<std::string> folders;
  if (const auto home = base::env_value(Env::kCudaHome)) folders.push_back(*home + "/bin");
  std::istringstream path(base::env_value(Env::kPath).value_or(""));
  for (std::string folder; std::getline(path, folder, ':');) folders.push_back(folder);
  folders.emplace_back("/usr/local/cuda/bin");
  for (const std::string& folder : folders) {
    std::error_code error;
    if (folder.empty() || !fs::is_regular_file(folder + "/nvcc", error)) continue;
    if (auto nvcc = ask(fs::absolute(folder + "/nvcc", error).string())) return nvcc;
  }
  return std::nullopt;
}

std::vector<std::string> nvcc_flags(const Target& target) {
  std::vector<std::string> flags = compile_flags(target);
  flags.emplace_back("--generate-line-info");
  flags.emplace_back(target.is_ptx() ? "--ptx" : "--cubin");
  return flags;
}

NvrtcOutput compile_with_nvcc(const Nvcc& nvcc, const KernelInstance& instance, std::chrono::seconds limit) {
  const auto scratch = base::TemporaryFolder::of_system("nvcc");
  for (const SourceText& header : program_headers(instance)) write_text(scratch / header.path, header.text);
  const std::string source = entry_name(instance) + ".cu", image = "kernel";
  write_text(scratch / source, main_text(instance));
  std::vector<std::string> words = nvcc_flags(instance.target);
  words.insert(words.begin(), nvcc.path);
  for (const std::string& word : {std::string("-I."), std::string("-o"), image, source}) words.push_back(word);

  base::CommandOutcome outcome = base::run_command(words, scratch.path(), limit);
  const std::string kernel = fmt::format("kernel {} for {}", entry_name(instance), instance.target.name);
  if (!outcome.in_time) {
    throw Error(ErrorKind::kCompile, fmt::format("{}: {} had not compiled it within {} s and was ended; "
                                                 "MOESAIC_COMPILE_TIMEOUT can allow more (0: no limit)",
                                                 kernel, nvcc.path, limit.count()));
  }
  if (outcome.exit_code != 0) {
    throw Error(ErrorKind::kCompile,
                fmt::format("{}: {} ended with {}:\n{}", kernel, nvcc.path, outcome.exit_code, outcome.output));
  }
  NvrtcOutput output;
  const std::string bytes = base::read_file(scratch / image, kMaxImage);
  output.image.assign(bytes.begin(), bytes.end());
  if (instance.target.is_ptx()) output.image.push_back('\0');
  output.log = std::move(outcome.output);
  return output;
}

}  // namespace moesaic::module
