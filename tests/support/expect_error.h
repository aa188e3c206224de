// SPDX-License-Identifier: Apache-2.0
// An error must have its kind and say what it should.
#pragma once

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "moesaic/error.h"

namespace moesaic::testing {

template <typename Call>
void expect_error(ErrorKind kind, const std::vector<std::string>& words, const Call& call) {
  try {
    call();
    ADD_FAILURE() << "no error";
  } catch (const Error& error) {
    EXPECT_EQ(error_kind_name(error.kind()), std::string(error_kind_name(kind))) << error.what();
    for (const std::string& word : words) {
      EXPECT_NE(std::string(error.what()).find(word), std::string::npos) << "no '" << word << "' in: " << error.what();
    }
  }
}

}  // namespace moesaic::testing
