// SPDX-License-Identifier: Apache-2.0
// Any text as a list of architectures or, behind the name, as the value of an environment variable, any bytes as
// libnvrtc: a value, or an Error that names what is wrong.
#include <stdlib.h>  // NOLINT(modernize-deprecated-headers): setenv

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "base/env.h"
#include "fuzz/choices.h"
#include "fuzz/memory_file.h"
#include "module/cache.h"
#include "module/compile_limit.h"
#include "module/nvrtc_file.h"
#include "module/store.h"
#include "tables/arch_list.h"

namespace {

using namespace moesaic;
using base::Env;
using testing::demand;

bool says(const Error& error, const std::string& text) {
  return std::string(error.what()).find(text) != std::string::npos;
}

void read_list(const std::string& text, const std::vector<int>& native) {
  try {
    const tables::ArchList list = tables::parse_arch_list(text, [&] { return native; });
    demand(!list.rows.empty() && list.rows.size() <= tables::kArchTable.size(), "rows that the table has not");
    demand(std::is_sorted(list.rows.begin(), list.rows.end(), [](auto a, auto b) { return a->sm < b->sm; }), "order");
    for (const tables::ArchRow* row : list.named) {
      demand(std::count(list.rows.begin(), list.rows.end(), row) == 1, "named, but not listed");
    }
  } catch (const Error& error) {
    testing::demand_refusal(error);
    demand(says(error, "architecture"), "an error that does not say of what");
  }
  try {
    demand(&tables::parse_arch(text) == tables::find_arch(tables::parse_arch(text).sm), "another row");
  } catch (const Error& error) {
    demand(error.kind() == ErrorKind::kInvalidArgument, "an error of another kind");
  }
}

// A value, or an Error that names the variable.
template <typename Read>
void read_value(Env id, const Read& read) {
  try {
    read();
  } catch (const Error& error) {
    demand(error.kind() == ErrorKind::kInvalidArgument && says(error, base::env_name(id)), "an error without a name");
  }
}

void read_variable(Env id, const std::string& value) {
  setenv(base::env_name(id), value.c_str(), 1);
  const auto text = base::env_value(id);
  demand(text.has_value() == !value.empty() && text.value_or("") == value, "another text");
  read_value(id, [&] { base::env_switch(id); });
  read_value(id, [&] { demand(base::env_number(id, 3).value_or(3) >= 3, "a number below the least"); });
  read_value(id, [&] { demand(base::env_bytes(id).value_or(1) > 0, "no bytes"); });
  if (id == Env::kCompileTimeout)
    read_value(id, [] { demand(module::compile_limit().count() >= 0, "a negative time"); });
  if (id == Env::kNvrtc) {
    const auto search = module::find_nvrtc({});
    demand(search.file.has_value() || !search.why_none().empty(), "nothing, and no reason");
  }
  demand(module::cache_folder({}).empty() || id != Env::kCacheDir || module::cache_folder({}) == value,
         "another folder");
  try {
    ModuleOptions options;
    options.cache_dir = "/nowhere";
    module::Store store(options);
  } catch (const Error& error) {
    demand(error.kind() != ErrorKind::kInternal, "an internal error");
  }
  unsetenv(base::env_name(id));
}

// NAME=value: by name, so that the corpus means the same whatever variables there are.
void read_assignment(const std::string& text) {
  const std::size_t end = text.find('=');
  if (end == std::string::npos) return;
  for (const base::EnvVariable& variable : base::env_variables()) {
    if (text.compare(0, end, variable.name) == 0) return read_variable(variable.id, text.substr(end + 1));
  }
}

void read_library(const std::string& bytes) {
  static const testing::MemoryFile file;
  const auto search = module::find_nvrtc(file.hold(bytes));
  demand(search.file.has_value() ? !search.file->build_id.empty() : !search.why_none().empty(),
         "no build-id, no reason");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  const std::string rest(reinterpret_cast<const char*>(data) + 1, size - 1);
  const std::string text = rest.substr(0, rest.find('\0'));
  switch (data[0]) {
    case 'a':
      read_list(text, {});
      break;
    case 'n':
      read_list(text, {tables::kArchTable.front().sm, tables::kArchTable.back().sm, tables::kArchTable.front().sm});
      break;
    case 'l':
      read_library(rest);
      break;
    case 'v':
      read_assignment(text);
      break;
    default:
      break;
  }
  return 0;
}
