// SPDX-License-Identifier: Apache-2.0
// nvdisasm is found, run, and its listing read line by line.
#include "tests/support/machine_code.h"

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <optional>
#include <sstream>
#include <string_view>

#include "base/process.h"
#include "moesaic/error.h"
#include "tests/support/temporary_folder.h"

namespace moesaic::testing {
namespace {

using Loop = std::pair<std::size_t, std::size_t>;

// The smallest loop around an instruction: code that waits may stand at the end of a kernel and jump back into a loop,
// which makes large ones around everything.
std::optional<Loop> innermost(const std::vector<Loop>& loops, std::size_t at) {
  std::optional<Loop> found;
  for (const Loop& loop : loops) {
    if (at < loop.first || at > loop.second) continue;
    if (!found || loop.second - loop.first < found->second - found->first) found = loop;
  }
  return found;
}

std::string_view trimmed(std::string_view text) {
  constexpr const char* kBlank = " \t";
  const std::size_t first = text.find_first_not_of(kBlank);
  if (first == std::string_view::npos) return {};
  return text.substr(first, text.find_last_not_of(kBlank) + 1 - first);
}

// "BRA `(.L_x_43)" of "/*38f0*/ @P0 BRA `(.L_x_43) ;": without address and guard. Empty: no instruction.
std::string instruction_of(std::string_view line) {
  line = trimmed(line);
  const std::size_t address_end = line.find("*/"), end = line.find(';');
  if (line.substr(0, 2) != "/*" || end == std::string_view::npos || address_end > end) return {};
  std::string_view text = trimmed(line.substr(address_end + 2, end - address_end - 2));
  if (text.substr(0, 1) == "@") text = trimmed(text.substr(std::min(text.find(' '), text.size())));
  return std::string(text);
}

}  // namespace

bool Instruction::is(const std::string& name) const {
  return opcode.rfind(name, 0) == 0 && (opcode.size() == name.size() || opcode[name.size()] == '.');
}

unsigned long Instruction::last_number() const { return std::stoul(text.substr(text.rfind(' ') + 1), nullptr, 0); }

std::size_t count(Instructions instructions, const std::string& name) {
  return static_cast<std::size_t>(
      std::count_if(instructions.begin(), instructions.end(), [&](const Instruction& one) { return one.is(name); }));
}

MachineCode::MachineCode(const std::string& listing) {
  std::map<std::string, std::size_t> labels;
  std::istringstream lines(listing);
  for (std::string line; std::getline(lines, line);) {
    if (line.rfind(".L", 0) == 0) labels[line.substr(0, line.find(':'))] = instructions_.size();  // .L_x_43:
    const std::string text = instruction_of(line);
    if (text.empty()) continue;
    instructions_.push_back({text.substr(0, text.find(' ')), text});
    if (!instructions_.back().is("BRA")) continue;
    const std::size_t begin = text.find("`(");  // `(.L_x_43)
    if (begin == std::string::npos) continue;
    const auto target = labels.find(text.substr(begin + 2, text.find(')', begin) - begin - 2));
    if (target != labels.end()) loops_.emplace_back(target->second, instructions_.size() - 1);
  }
}

Instructions MachineCode::main_loop(const std::string& name) const {
  std::map<Loop, std::size_t> members;
  for (std::size_t i = 0; i < instructions_.size(); ++i) {
    if (!instructions_[i].is(name)) continue;
    if (const auto loop = innermost(loops_, i)) ++members[*loop];
  }
  const auto most = std::max_element(members.begin(), members.end(),
                                     [](const auto& a, const auto& b) { return a.second < b.second; });
  if (most == members.end()) return {};
  const auto [first, last] = most->first;
  return Instructions(instructions_).subspan(first, last - first + 1);
}

std::string find_disassembler() {
  std::vector<std::string> places = {std::string(MOESAIC_SOURCE_ROOT) + "/.deps/nvdisasm/nvidia/cu13/bin/nvdisasm"};
  if (const char* home = std::getenv("CUDA_HOME")) places.push_back(std::string(home) + "/bin/nvdisasm");
  places.emplace_back("/usr/local/cuda/bin/nvdisasm");
  const auto found = std::find_if(places.begin(), places.end(),
                                  [](const std::string& place) { return std::filesystem::is_regular_file(place); });
  return found == places.end() ? "" : *found;
}

MachineCode disassemble(const std::vector<char>& cubin) {
  const TemporaryFolder folder;
  std::ofstream(folder / "kernel.cubin", std::ios::binary)
      .write(cubin.data(), static_cast<std::streamsize>(cubin.size()));
  const auto outcome =
      base::run_command({find_disassembler(), "--print-code", "kernel.cubin"}, folder.path(), std::chrono::seconds(0));
  if (outcome.exit_code != 0) throw Error(ErrorKind::kIo, "nvdisasm: " + outcome.output);
  return MachineCode(outcome.output);
}

}  // namespace moesaic::testing
