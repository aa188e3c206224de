// SPDX-License-Identifier: Apache-2.0
// Declarations, labels and scopes; instructions go to the decoders.
#include "simulator/program.h"

#include <algorithm>
#include <sstream>

#include "simulator/decode.h"

namespace moesaic::sim {
namespace {

// Offset of dynamic shared memory: behind all static variables.
constexpr u32 kSharedAlignment = 1024;

u32 align(u32 value, u32 to) { return (value + to - 1) / to * to; }

class Reader {
 public:
  explicit Reader(const std::string& text) : tokens_(tokens_of(text)) {
    std::istringstream lines(text);
    for (std::string line; std::getline(lines, line);) program_.lines.push_back(line);
  }

  Program read() {
    while (at_ < tokens_.size()) {
      const std::string& word = tokens_[at_].text;
      if (word == ".entry") {
        read_entry();
      } else if (word == ".extern" && tokens_.at(at_ + 1).text == ".shared") {
        dynamic_.push_back(variable_name());
        skip_statement();
      } else if (word == ".global" || word == ".const" || word == ".extern") {
        skip_statement();
      } else {
        ++at_;  // .version 9.0, .visible
      }
    }
    return std::move(program_);
  }

 private:
  bool ends_declaration(std::size_t i) const {
    const std::string& word = tokens_.at(i).text;
    return word == ";" || word == ")" || word == ",";
  }

  // The last word of a declaration before its size, value or end.
  std::string variable_name() const {
    std::string name;
    for (std::size_t i = at_; tokens_.at(i).text != "[" && tokens_[i].text != "=" && !ends_declaration(i); ++i) {
      name = tokens_[i].text;
    }
    return name;
  }

  u32 number_behind(const char* word, u32 otherwise) const {
    for (std::size_t i = at_; !ends_declaration(i); ++i) {
      if (tokens_[i].text == word) return static_cast<u32>(std::stoul(tokens_.at(i + 1).text));
    }
    return otherwise;
  }

  void skip_statement() {
    while (tokens_.at(at_).text != ";") ++at_;
    ++at_;
  }

  void read_entry() {
    const std::string name = tokens_.at(at_ + 1).text;
    Entry entry;
    Names names(entry);
    for (std::size_t i = 0; i < entry.specials.size(); ++i) {
      const char* special = special_name(static_cast<Special>(i));
      names.declare(special, 4, 1);
      entry.specials[i] = names.result(special).at;
    }
    for (; tokens_.at(at_).text != "{"; ++at_) {
      if (tokens_[at_].text != ".param") continue;
      const u32 element = type_bytes(tokens_.at(at_ + (tokens_.at(at_ + 1).text == ".align" ? 3 : 1)).text.substr(1));
      names.declare_parameter(variable_name(), element * number_behind("[", 1), number_behind(".align", element));
    }
    ++at_;
    read_body(entry, names);
    program_.entries.emplace(name, std::move(entry));
  }

  void read_body(Entry& entry, Names& names) {
    std::vector<std::map<std::string, u32>> labels(1);
    struct Jump {
      std::size_t from;
      std::string label;
    };
    std::vector<Jump> jumps;
    const auto resolve = [&](bool last) {
      for (Jump& jump : jumps) {
        if (jump.label.empty()) continue;
        const auto found = labels.back().find(jump.label);
        if (found == labels.back().end()) {
          if (last) throw Fault("no label " + jump.label);
          continue;
        }
        entry.code[jump.from].target = found->second;
        jump.label.clear();
      }
    };
    for (std::size_t depth = 1; depth > 0;) {
      const std::string& word = tokens_.at(at_).text;
      if (word == "{") {
        ++depth, ++at_, names.open_scope(), labels.emplace_back();
      } else if (word == "}") {
        resolve(depth == 1);
        --depth, ++at_, names.close_scope(), labels.pop_back();
      } else if (word[0] == '.') {
        read_directive(names);
      } else if (tokens_.at(at_ + 1).text == ":") {
        labels.back()[word] = static_cast<u32>(entry.code.size());
        at_ += 2;
      } else {
        const Statement statement = read_statement(tokens_, at_);
        if (statement.op[0] == "bra") jumps.push_back({entry.code.size(), statement.operands.at(0).name});
        entry.code.push_back(decode(statement, names));
      }
    }
  }

  void read_directive(Names& names) {
    const std::string& word = tokens_[at_].text;
    if (word == ".reg") {
      const u32 bytes = type_bytes(tokens_.at(at_ + 1).text.substr(1));
      for (at_ += 2;; ++at_) {  // "%r<4>", or "a, b"
        const std::string name = tokens_.at(at_++).text;
        u32 count = 1;
        if (tokens_.at(at_).text == "<") count = static_cast<u32>(std::stoul(tokens_.at(at_ + 1).text)), at_ += 3;
        names.declare(name, bytes, count);
        if (tokens_.at(at_).text != ",") break;
      }
    } else if (word == ".shared") {
      const u32 element = type_bytes(tokens_.at(at_ + (tokens_.at(at_ + 1).text == ".align" ? 3 : 1)).text.substr(1));
      names.declare_shared(variable_name(), element * number_behind("[", 1), number_behind(".align", element));
    }
    skip_statement();
  }

  Instruction decode(const Statement& statement, Names& names) {
    Instruction to;
    to.line = statement.line;
    if (!statement.guard.empty()) {
      to.guarded = true;
      to.guard_negated = statement.guard_negated;
      to.guard = names.result(statement.guard).at;
    }
    try {
      for (const std::string& name : dynamic_) names.declare_dynamic(name);
      const bool known = decode_arithmetic(statement, names, to) || decode_floating(statement, names, to) ||
                         decode_conversion(statement, names, to) || decode_bulk(statement, names, to) ||
                         decode_memory(statement, names, to) || decode_control(statement, names, to) ||
                         decode_lanes(statement, names, to) || decode_barrier(statement, names, to) ||
                         decode_matrix(statement, names, to);
      if (!known) throw Fault("not simulated: " + statement.text());
    } catch (const std::exception& e) {
      throw Fault("line " + std::to_string(statement.line) + ": " + program_.lines.at(statement.line - 1) + ": " +
                  e.what());
    }
    return to;
  }

  std::vector<Token> tokens_;
  std::size_t at_ = 0;
  std::vector<std::string> dynamic_;
  Program program_;
};

}  // namespace

const char* special_name(Special special) {
  static constexpr const char* kNames[] = {"%tid.x",   "%tid.y",           "%tid.z",           "%ntid.x",   "%ctaid.x",
                                           "%ctaid.y", "%ctaid.z",         "%nctaid.x",        "%nctaid.y", "%nctaid.z",
                                           "%laneid",  "%cluster_ctarank", "%cluster_nctarank"};
  static_assert(std::size(kNames) == static_cast<std::size_t>(Special::kCount));
  return kNames[static_cast<std::size_t>(special)];
}

u32 type_bytes(const std::string& type) {
  if (type == "pred") return 1;
  if (type == "bf16x2" || type == "f16x2") return 4;
  const std::size_t digit = type.find_first_of("0123456789");
  if (digit == std::string::npos) throw Fault("type " + type);
  return static_cast<u32>(std::stoul(type.substr(digit))) / 8;
}

// ---- names ----------------------------------------------------------------------------------------------------------

Slot Names::place(u32 bytes) {
  const Slot slot{static_cast<u32>(entry_.frame.size()), bytes};
  entry_.frame.resize(entry_.frame.size() + std::size_t{bytes} * kLanes);
  return slot;
}

void Names::declare(const std::string& name, u32 bytes, u32 count) {
  if (count == 1) scopes_.back()[name] = place(bytes);
  for (u32 i = 0; count > 1 && i < count; ++i) scopes_.back()[name + std::to_string(i)] = place(bytes);
}

void Names::declare_shared(const std::string& name, u32 bytes, u32 alignment) {
  entry_.shared_bytes = align(entry_.shared_bytes, alignment);
  shared_[name] = entry_.shared_bytes;
  entry_.shared_bytes += bytes;
}

void Names::declare_dynamic(const std::string& name) { shared_[name] = align(entry_.shared_bytes, kSharedAlignment); }

void Names::declare_parameter(const std::string& name, u32 bytes, u32 alignment) {
  declare(name, 8, 1);
  const u32 offset = align(entry_.parameter_bytes, alignment);
  entry_.parameters.push_back({offset, bytes, result(name).at});
  entry_.parameter_bytes = offset + bytes;
}

const Slot* Names::find(const std::string& name) const {
  for (auto scope = scopes_.rbegin(); scope != scopes_.rend(); ++scope) {
    if (const auto found = scope->find(name); found != scope->end()) return &found->second;
  }
  return nullptr;
}

Slot Names::result(const std::string& name) {
  if (name == "_") return place(8);
  const Slot* slot = find(name);
  if (slot == nullptr) throw Fault("no name " + name);
  return *slot;
}

Slot Names::constant(u64 bits, u32 bytes) {
  const auto [found, is_new] = constants_.emplace(std::pair{bits, bytes}, Slot{});
  if (is_new) {
    found->second = place(bytes);
    for (u32 lane = 0; lane < kLanes; ++lane) {
      for (u32 i = 0; i < bytes; ++i) {
        entry_.frame[found->second.at + lane * bytes + i] = static_cast<std::byte>(bits >> (8 * i));
      }
    }
  }
  return found->second;
}

Slot Names::value(const Operand& operand, u32 bytes) {
  if (operand.kind == Operand::Kind::kNumber || operand.kind == Operand::Kind::kFloat) {
    return constant(bytes == 1 ? operand.bits & 1 : operand.bits, bytes);
  }
  if (const auto shared = shared_.find(operand.name); shared != shared_.end()) return constant(shared->second, bytes);
  return result(operand.name);
}

Slot Names::address(const Operand& operand) {
  if (operand.kind != Operand::Kind::kAddress) throw Fault("an address belongs here");
  const auto shared = shared_.find(operand.name);
  Slot base = operand.name.empty()      ? constant(0, 8)
              : shared != shared_.end() ? constant(shared->second, 8)
                                        : result(operand.name);
  base.offset = static_cast<s64>(operand.bits);
  return base;
}

// ---- text -----------------------------------------------------------------------------------------------------------

Program read_program(const std::string& text) { return Reader(text).read(); }

}  // namespace moesaic::sim
