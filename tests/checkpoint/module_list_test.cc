// SPDX-License-Identifier: Apache-2.0
// Lists of modules as published configs write them, and patterns made to be slow.
#include "checkpoint/module_list.h"

#include <gtest/gtest.h>

#include <chrono>

#include "moesaic/error.h"

namespace moesaic::testing {
namespace {

using checkpoint::ModuleList;
using checkpoint::ModulePattern;

struct Case {
  const char* entry;
  const char* module;
  bool named;
};

// Entries of Qwen3-FP8, gpt-oss, ModelOpt, Kimi-K2, Llama-4 and AWQ configs.
const Case kCases[] = {
    {"model.layers.0.mlp.gate", "model.layers.0.mlp.gate", true},
    {"model.layers.0.mlp.gate", "model.layers.0.mlp.gate_proj", false},
    {"model.layers.0.mlp.gate", "model.layers.10.mlp.gate", false},
    {"model.layers.1", "model.layers.1.mlp.experts.3.up_proj", true},
    {"model.layers.1", "model.layers.11.mlp.experts.3.up_proj", false},
    {"mlp.gate", "language_model.model.layers.0.mlp.gate", true},
    {"mlp.gate", "model.layers.0.mlp.gate_up_proj", false},
    {"mlp.gate", "model.layers.0.xmlp.gate", false},
    {"shared_experts", "model.layers.0.mlp.shared_experts.gate_proj", true},
    {"lm_head", "model.layers.0.mlp.shared_experts.gate_proj", false},
    {"", "model.layers.0", false},
    {"model.layers.*.self_attn", "model.layers.12.self_attn.q_proj", true},
    {"model.layers.*.mlp.router", "model.layers.12.mlp.router", true},
    {"model.layers.*.mlp.router", "model.layers.12.mlp.experts", false},
    {"model.layers.0.self_attn*", "model.layers.0.self_attn.o_proj", true},
    {"*shared_expert_gate*", "model.layers.0.mlp.shared_expert_gate", true},
    {"*.mlp.gate", "model.layers.0.mlp.gate", true},
    {"*.mlp.gate", "model.layers.0.mlp.gate_proj", false},
    {"mlp.experts.?.up_proj", "model.layers.0.mlp.experts.3.up_proj", true},
    {"mlp.experts.?.up_proj", "model.layers.0.mlp.experts.33.up_proj", false},
    {"a+b*", "x.a+bc.y", true},
    {"a+b*", "x.aabc.y", false},
    {"re:.*self_attn.*", "model.layers.3.self_attn.q_proj", true},
    {"re:.*mlp\\.(gate|up|gate_up|down)_proj.*", "model.layers.0.mlp.gate_up_proj", true},
    {"re:.*mlp\\.(gate|up|gate_up|down)_proj.*", "model.layers.0.mlp.experts.0.gate_proj", false},
    {"re:.*\\.mlp\\.gate$", "model.layers.0.mlp.gate", true},
    {"re:.*\\.mlp\\.gate$", "model.layers.0.mlp.gate_proj", false},
    {"re:.*mlp.gate", "model.layers.0.mlp_gate_proj", true},
    {"re:mlp", "model.layers.0.mlp", false},
    {"re:model", "model.layers.0.mlp", true},
    {"re:^model\\.layers\\.(?:[0-2]|61)\\.", "model.layers.61.mlp", true},
    {"re:^model\\.layers\\.(?:[0-2]|61)\\.", "model.layers.6.mlp", false},
    {"re:model\\.layers\\.\\d+\\.mlp\\.experts\\.[^.]+\\.w[13]$", "model.layers.17.mlp.experts.204.w3", true},
    {"re:model\\.layers\\.\\d+\\.mlp\\.experts\\.[^.]+\\.w[13]$", "model.layers.17.mlp.experts.204.w2", false},
    {"re:(a|b)*c?d+?$", "abbad", true},
    {"re:(a|b)*c?d+?$", "abbaccd", false},
    {"re:(|x)y", "y", true},
    {"re:[]a-]+$", "a]-a", true},
    {"re:a$b", "ab", false},
    {"re:", "anything", true},
};

TEST(ModuleList, NamesWhatPublishedConfigsMean) {
  for (const Case& c : kCases) {
    ModuleList list;
    list.add(c.entry, "test");
    const std::string* entry = list.find(c.module);
    EXPECT_EQ(entry != nullptr, c.named) << c.entry << " and " << c.module;
    if (entry != nullptr) {
      EXPECT_EQ(*entry, c.entry);
    }
  }
}

TEST(ModuleList, PatternsThatAreNotReadAreRefused) {
  for (const char* pattern : {"(?!x)y", "(?=x)", "(?P<n>x)", "(", ")", "a)", "(a", "[a", "[]", "*a", "a{2}", "a**",
                              "a++", "\\", "\\b", "\\1", "\\p", "[b-a]", "|*"}) {
    try {
      ModulePattern::from_regex(pattern, "config.json: ignore");
      ADD_FAILURE() << pattern;
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kUnsupported);
      EXPECT_NE(std::string(error.what()).find("config.json: ignore: pattern '"), std::string::npos) << error.what();
    }
  }
  EXPECT_THROW(ModulePattern::from_regex(std::string(5000, 'a'), ""), Error);
  EXPECT_THROW(ModulePattern::from_regex(std::string(500, '(') + std::string(500, ')'), ""), Error);
  ModuleList list;
  EXPECT_THROW(for (int i = 0; i < 1000; ++i) list.add("re:" + std::string(900, 'a'), ""), Error);
  EXPECT_THROW(list.add_all(nlohmann::json::object(), ""), Error);
}

TEST(ModuleList, NoPatternTakesExponentialTime) {
  const std::string module(2000, 'a');
  std::string nested = "a*";
  for (int i = 0; i < 12; ++i) nested = "(" + nested + ")*";
  const std::string patterns[] = {"(a*)*b", "(a|a)*b", "(a|aa)+$b", "(.*)*(.*)*(.*)*x", nested};
  for (const std::string& pattern : patterns) {
    const auto begin = std::chrono::steady_clock::now();
    ModulePattern::from_regex(pattern + "c", "").matches(module);
    EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(2)) << pattern;
  }
}

}  // namespace
}  // namespace moesaic::testing
