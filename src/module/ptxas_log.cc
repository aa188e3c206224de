// SPDX-License-Identifier: Apache-2.0
// Line by line: numbers before fixed words, as ptxas 12.8 to 13.5 write them.
#include "module/ptxas_log.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <string>

namespace moesaic::module {
namespace {

struct AllowedMessage {
  std::string_view code;
  const char* reason;
};
// Messages C75xx that are harmless, each with the reason. None so far.
constexpr std::array<AllowedMessage, 0> kAllowedMessages = {};

bool is_digit(char c) { return c >= '0' && c <= '9'; }

// The number right before `words`: 24 in "Used 24 registers" for " registers"; -1 where there is none.
int number_before(std::string_view line, std::string_view words) {
  const std::size_t end = line.find(words);
  if (end == std::string_view::npos) return -1;
  std::size_t begin = end;
  while (begin > 0 && is_digit(line[begin - 1])) --begin;
  if (begin == end) return -1;
  int number = 0;
  for (const char digit : line.substr(begin, end - begin)) number = std::min(100'000'000, 10 * number + (digit - '0'));
  return number;
}

// The code "C75xx" in a line, or nothing.
std::string_view message_code(std::string_view line) {
  for (std::size_t at = line.find("C75"); at != std::string_view::npos; at = line.find("C75", at + 1)) {
    const bool starts_word = at == 0 || std::isalnum(static_cast<unsigned char>(line[at - 1])) == 0;
    if (starts_word && at + 5 <= line.size() && is_digit(line[at + 3]) && is_digit(line[at + 4])) {
      return line.substr(at, 5);
    }
  }
  return {};
}

bool must_not_ship(std::string_view line) {
  const std::string_view code = message_code(line);
  for (const AllowedMessage& allowed : kAllowedMessages) {
    if (code == allowed.code) return false;
  }
  return !code.empty() || line.find("serialized") != std::string_view::npos ||
         line.find("ignored") != std::string_view::npos;
}

void read_numbers(std::string_view line, KernelFacts& facts) {
  const int stack = number_before(line, " bytes stack frame");
  const int stores = number_before(line, " bytes spill stores");
  const int loads = number_before(line, " bytes spill loads");
  const int registers = number_before(line, " registers");
  const int smem = number_before(line, " bytes smem");
  // A function that was not inlined has lines of its own: the worst counts.
  if (stack >= 0) facts.stack_bytes = std::max(facts.stack_bytes, stack);
  if (stores >= 0 && loads >= 0) facts.spill_bytes = std::max(facts.spill_bytes, 0) + stores + loads;
  if (registers >= 0 && line.find("Used ") != std::string_view::npos) {
    facts.registers = std::max(facts.registers, registers);
    facts.static_smem_bytes = std::max(facts.static_smem_bytes, std::max(smem, 0));
  }
}

}  // namespace

KernelFacts read_ptxas_log(std::string_view log) {
  KernelFacts facts;
  while (!log.empty()) {
    const std::size_t end = log.find('\n');
    const std::string_view line = log.substr(0, end);
    log.remove_prefix(end == std::string_view::npos ? log.size() : end + 1);
    read_numbers(line, facts);
    if (must_not_ship(line)) facts.complaints.emplace_back(line);
  }
  if (facts.spill_bytes > 0) facts.complaints.push_back(fmt::format("spills {} bytes", facts.spill_bytes));
  if (facts.stack_bytes > 0) facts.complaints.push_back(fmt::format("stack frame of {} bytes", facts.stack_bytes));
  return facts;
}

}  // namespace moesaic::module
