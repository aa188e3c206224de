// SPDX-License-Identifier: Apache-2.0
// Text to tokens, tokens to statements.
#include "simulator/statement.h"

#include <algorithm>
#include <cctype>
#include <sstream>

namespace moesaic::sim {
namespace {

bool is_word(char c) {
  return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_' || c == '$' || c == '%' || c == '.';
}

bool is_number(const std::string& text) {
  return std::isdigit(static_cast<unsigned char>(text[0])) != 0 || (text[0] == '-' && text.size() > 1);
}

u64 number(const std::string& text) {
  if (text.size() > 2 && (text.rfind("0f", 0) == 0 || text.rfind("0d", 0) == 0)) {
    return std::stoull(text.substr(2), nullptr, 16);
  }
  const std::string digits = text.back() == 'U' ? text.substr(0, text.size() - 1) : text;
  return digits[0] == '-' ? static_cast<u64>(std::stoll(digits, nullptr, 0)) : std::stoull(digits, nullptr, 0);
}

bool is_float(const std::string& text) { return text.rfind("0f", 0) == 0 || text.rfind("0d", 0) == 0; }

void expect(const std::vector<Token>& tokens, std::size_t& at, const char* what) {
  if (tokens.at(at).text != what) {
    throw Fault("line " + std::to_string(tokens[at].line) + ": '" + tokens[at].text + "' where " + what + " belongs");
  }
  ++at;
}

void read_names(const std::vector<Token>& tokens, std::size_t& at, Operand& to) {
  for (;; ++at) {
    to.names.push_back(tokens.at(at++).text);
    if (tokens.at(at).text != ",") break;
  }
  expect(tokens, at, "}");
}

Operand read_address(const std::vector<Token>& tokens, std::size_t& at) {
  Operand operand;
  operand.kind = Operand::Kind::kAddress;
  if (is_number(tokens[at].text)) {
    operand.bits = number(tokens[at++].text);
  } else {
    operand.name = tokens[at++].text;
    if (tokens[at].text == "+") operand.bits = number(tokens[++at].text), ++at;
  }
  if (tokens.at(at).text == ",") {
    expect(tokens, ++at, "{");
    read_names(tokens, at, operand);
  }
  expect(tokens, at, "]");
  return operand;
}

Operand read_operand(const std::vector<Token>& tokens, std::size_t& at) {
  const std::string first = tokens.at(at++).text;
  if (first == "[") return read_address(tokens, at);
  Operand operand;
  if (first == "{") {
    operand.kind = Operand::Kind::kVector;
    read_names(tokens, at, operand);
  } else {
    operand = operand_of(first);
    if (tokens.at(at).text == "|") operand.also = tokens.at(at + 1).text, at += 2;
  }
  return operand;
}

}  // namespace

Operand operand_of(const std::string& word) {
  Operand operand;
  if (is_number(word)) {
    operand.kind = is_float(word) ? Operand::Kind::kFloat : Operand::Kind::kNumber;
    operand.bits = number(word);
  } else {
    operand.name = word;
  }
  return operand;
}

bool Statement::has(const char* part) const { return std::find(op.begin(), op.end(), part) != op.end(); }

std::string Statement::text() const {
  std::string joined;
  for (const std::string& part : op) joined += (joined.empty() ? "" : ".") + part;
  return joined;
}

std::vector<Token> tokens_of(const std::string& text) {
  std::vector<Token> tokens;
  u32 line = 1;
  for (std::size_t i = 0; i < text.size();) {
    const char c = text[i];
    if (c == '\n') ++line;
    if (std::isspace(static_cast<unsigned char>(c)) != 0) {
      ++i;
    } else if (text.compare(i, 2, "//") == 0) {
      i = std::min(text.find('\n', i), text.size());
    } else if (c == '"') {
      const std::size_t end = text.find('"', i + 1);
      tokens.push_back({text.substr(i, end + 1 - i), line});
      i = end + 1;
    } else if (is_word(c) ||
               (c == '-' && i + 1 < text.size() && std::isdigit(static_cast<unsigned char>(text[i + 1])) != 0)) {
      std::size_t end = i + 1;
      // "::" belongs to the word, a single ':' ends a label.
      while (end < text.size() && (is_word(text[end]) || text.compare(end, 2, "::") == 0))
        end += is_word(text[end]) ? 1 : 2;
      tokens.push_back({text.substr(i, end - i), line});
      i = end;
    } else {
      tokens.push_back({std::string(1, c), line});
      ++i;
    }
  }
  return tokens;
}

Statement read_statement(const std::vector<Token>& tokens, std::size_t& at) {
  Statement statement;
  if (tokens.at(at).text == "@") {
    statement.guard_negated = tokens.at(++at).text == "!";
    if (statement.guard_negated) ++at;
    statement.guard = tokens.at(at++).text;
  }
  statement.line = tokens.at(at).line;
  std::istringstream parts(tokens[at++].text);
  for (std::string part; std::getline(parts, part, '.');) statement.op.push_back(part);
  while (tokens.at(at).text != ";") {
    statement.operands.push_back(read_operand(tokens, at));
    if (tokens.at(at).text == ",") ++at;
  }
  ++at;
  return statement;
}

}  // namespace moesaic::sim
