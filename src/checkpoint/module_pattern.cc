// SPDX-License-Identifier: Apache-2.0
// Patterns become a tree, the tree a nondeterministic automaton (Thompson's construction), which walks through a name
// with the set of all states it can be in.
#include "checkpoint/module_pattern.h"

#include <fmt/format.h>

#include "checkpoint/printable.h"
#include "moesaic/error.h"

namespace moesaic::checkpoint {
namespace {

using Set = ModulePattern::Set;
using Step = ModulePattern::Step;

constexpr std::size_t kMaxLength = 1000;  // characters of a pattern; published ones have at most about 100
constexpr int kMaxDepth = 16;             // groups within each other

struct Node {
  enum class Kind : std::uint8_t { kSet, kBegin, kEnd, kSequence, kChoice, kStar, kPlus, kOptional };
  Kind kind = Kind::kSequence;
  Set set;
  std::vector<Node> children;
};

Node set_node(const Set& set) { return {Node::Kind::kSet, set, {}}; }

Node character(char c) {
  Set set;
  set.set(static_cast<unsigned char>(c));
  return set_node(set);
}

Set range(char first, char last) {
  Set set;
  for (int c = static_cast<unsigned char>(first); c <= static_cast<unsigned char>(last); ++c) {
    set.set(static_cast<std::size_t>(c));
  }
  return set;
}

Set digits() { return range('0', '9'); }
Set word() { return digits() | range('a', 'z') | range('A', 'Z') | range('_', '_'); }

// As in Python, a dot is no line break.
Set any_character() { return ~range('\n', '\n'); }

bool is_alphanumeric(char c) { return c != '_' && word().test(static_cast<unsigned char>(c)); }

class RegexParser {
 public:
  RegexParser(std::string_view text, const std::string& where) : text_(text), where_(where) {}

  Node parse() {
    if (text_.size() > kMaxLength) fail(fmt::format("more than {} characters", kMaxLength));
    Node node = choice(0);
    if (at_ < text_.size()) fail("a ')' without '('");
    return node;
  }

 private:
  [[noreturn]] void fail(const std::string& why) const {
    throw Error(
        ErrorKind::kUnsupported,
        fmt::format("{}: pattern {}: {} (at character {}); read are characters, \\., \\d, \\w, ., [...], (...), "
                    "|, *, +, ?, ^ and $",
                    where_, in_quotes(text_), why, at_));
  }

  bool more() const { return at_ < text_.size(); }
  char take() {
    if (!more()) fail("the pattern ends too early");
    return text_[at_++];
  }
  bool accept(char c) {
    bool found = more() && text_[at_] == c;
    if (found) ++at_;
    return found;
  }

  Node choice(int depth) {
    if (depth > kMaxDepth) fail("groups nested too deeply");
    Node node{Node::Kind::kChoice, {}, {}};
    do {
      node.children.push_back(sequence(depth));
    } while (accept('|'));
    return node;
  }

  Node sequence(int depth) {
    Node node;
    while (more() && text_[at_] != '|' && text_[at_] != ')') node.children.push_back(repeated(depth));
    return node;
  }

  Node repeated(int depth) {
    Node inner = atom(depth);
    Node::Kind kind;
    if (accept('*')) {
      kind = Node::Kind::kStar;
    } else if (accept('+')) {
      kind = Node::Kind::kPlus;
    } else if (accept('?')) {
      kind = Node::Kind::kOptional;
    } else {
      return inner;
    }
    accept('?');  // lazy: matches the same names
    if (more() && std::string_view("*+?{").find(text_[at_]) != std::string_view::npos) fail("a repetition repeated");
    Node node{kind, {}, {}};
    node.children.push_back(std::move(inner));
    return node;
  }

  Node atom(int depth) {
    char c = take();
    switch (c) {
      case '(': {
        if (accept('?') && !accept(':')) fail("groups with (? other than (?:");
        Node node = choice(depth + 1);
        if (!accept(')')) fail("a '(' without ')'");
        return node;
      }
      case '[':
        return set_node(bracket());
      case '\\':
        return set_node(escape());
      case '.':
        return set_node(any_character());
      case '^':
        return {Node::Kind::kBegin, {}, {}};
      case '$':
        return {Node::Kind::kEnd, {}, {}};
      case '*':
      case '+':
      case '?':
      case '{':
        fail("a repetition of nothing, or one with numbers");
      default:
        return character(c);
    }
  }

  Set escape() {
    char c = take();
    if (c == 'd') return digits();
    if (c == 'w') return word();
    if (is_alphanumeric(c)) fail(fmt::format("the escape \\{}", c));
    return range(c, c);
  }

  Set bracket() {
    Set set;
    bool negated = accept('^');
    for (bool first = true; first || !accept(']'); first = false) {
      char c = take();
      if (c == '\\') {
        set |= escape();
      } else if (at_ + 1 < text_.size() && text_[at_] == '-' && text_[at_ + 1] != ']') {
        ++at_;
        char last = take();
        if (last == '\\' || static_cast<unsigned char>(last) < static_cast<unsigned char>(c)) fail("a range like that");
        set |= range(c, last);
      } else {
        set.set(static_cast<unsigned char>(c));
      }
    }
    return negated ? ~set : set;
  }

  std::string_view text_;
  const std::string& where_;
  std::size_t at_ = 0;
};

// Appends the steps of `node` that go on to `next`; returns the first.
int compile(const Node& node, int next, std::vector<Step>& steps) {
  auto add = [&](const Step& step) {
    steps.push_back(step);
    return static_cast<int>(steps.size()) - 1;
  };
  switch (node.kind) {
    case Node::Kind::kSet:
      return add({Step::Kind::kSet, next, -1, node.set});
    case Node::Kind::kBegin:
      return add({Step::Kind::kBegin, next, -1, {}});
    case Node::Kind::kEnd:
      return add({Step::Kind::kEnd, next, -1, {}});
    case Node::Kind::kSequence:
      for (auto child = node.children.rbegin(); child != node.children.rend(); ++child) {
        next = compile(*child, next, steps);
      }
      return next;
    case Node::Kind::kChoice: {
      int first = compile(node.children.back(), next, steps);
      for (auto child = node.children.rbegin() + 1; child != node.children.rend(); ++child) {
        int other = compile(*child, next, steps);
        first = add({Step::Kind::kSplit, other, first, {}});
      }
      return first;
    }
    case Node::Kind::kOptional: {
      int inner = compile(node.children.front(), next, steps);
      return add({Step::Kind::kSplit, inner, next, {}});
    }
    case Node::Kind::kStar:
    case Node::Kind::kPlus: {
      int loop = add({Step::Kind::kSplit, -1, next, {}});
      int inner = compile(node.children.front(), loop, steps);
      steps[static_cast<std::size_t>(loop)].next = inner;
      return node.kind == Node::Kind::kStar ? loop : inner;
    }
  }
  throw Error(ErrorKind::kInternal, "module pattern: unknown node");
}

// The states that an automaton is in, closed under steps that take no character.
class States {
 public:
  explicit States(const std::vector<Step>& steps) : steps_(steps), marked_(steps.size(), false) {}

  void clear() {
    for (int at : members) marked_[static_cast<std::size_t>(at)] = false;
    members.clear();
    matched = false;
  }

  void add(int start, bool at_begin, bool at_end) {
    pending_.push_back(start);
    while (!pending_.empty()) {
      int at = pending_.back();
      pending_.pop_back();
      auto mark = marked_[static_cast<std::size_t>(at)];
      if (mark) continue;
      mark = true;
      members.push_back(at);
      const Step& step = steps_[static_cast<std::size_t>(at)];
      if (step.kind == Step::Kind::kMatch) matched = true;
      if (step.kind == Step::Kind::kSplit) pending_.push_back(step.other);
      bool passes = step.kind == Step::Kind::kSplit || (step.kind == Step::Kind::kBegin && at_begin) ||
                    (step.kind == Step::Kind::kEnd && at_end);
      if (passes) pending_.push_back(step.next);
    }
  }

  std::vector<int> members;
  bool matched = false;

 private:
  const std::vector<Step>& steps_;
  std::vector<bool> marked_;
  std::vector<int> pending_;
};

}  // namespace

ModulePattern ModulePattern::from_regex(std::string_view text, const std::string& where) {
  ModulePattern pattern;
  pattern.steps_.push_back({Step::Kind::kMatch, -1, -1, {}});
  pattern.start_ = compile(RegexParser(text, where).parse(), 0, pattern.steps_);
  return pattern;
}

ModulePattern ModulePattern::from_glob(std::string_view text, const std::string& where) {
  std::string inner;
  for (char c : text) {
    if (c == '*') {
      inner += ".*";
    } else if (c == '?') {
      inner += '.';
    } else {
      if (!is_alphanumeric(c)) inner += '\\';
      inner += c;
    }
  }
  return from_regex(fmt::format("(.*\\.)?{}(\\..*)?$", inner), where);
}

bool ModulePattern::matches(std::string_view name) const {
  States first(steps_), second(steps_);
  States *now = &first, *later = &second;
  now->add(start_, true, name.empty());
  for (std::size_t i = 0; i < name.size() && !now->matched && !now->members.empty(); ++i) {
    later->clear();
    for (int at : now->members) {
      const Step& step = steps_[static_cast<std::size_t>(at)];
      if (step.kind == Step::Kind::kSet && step.set.test(static_cast<unsigned char>(name[i]))) {
        later->add(step.next, false, i + 1 == name.size());
      }
    }
    std::swap(now, later);
  }
  return now->matched;
}

}  // namespace moesaic::checkpoint
