// SPDX-License-Identifier: Apache-2.0
// Numbers of quantised checkpoints in FP64, twice over: by the published formula of each format from the tensors as
// they lie in the file, and through a MatrixView. Shares no code with the library.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "moesaic/tensor.h"
#include "tests/support/safetensors_reader.h"

namespace moesaic::testing {

/// Element (n, k) of module `m` ("model.layers.0.mlp.experts.0.gate_proj"), by a format's formula.
using Formula = double (*)(const StoredFile& file, const std::string& m, std::int64_t n, std::int64_t k);

double fp8_block_formula(const StoredFile& file, const std::string& m, std::int64_t n, std::int64_t k);
double fp8_scaled_formula(const StoredFile& file, const std::string& m, std::int64_t n, std::int64_t k);
double mxfp8_formula(const StoredFile& file, const std::string& m, std::int64_t n, std::int64_t k);
double nvfp4_formula(const StoredFile& file, const std::string& m, std::int64_t n, std::int64_t k);
double ct_nvfp4_formula(const StoredFile& file, const std::string& m, std::int64_t n, std::int64_t k);
double ct_int4_formula(const StoredFile& file, const std::string& m, std::int64_t n, std::int64_t k);
double gptq_formula(const StoredFile& file, const std::string& m, std::int64_t n, std::int64_t k);
double awq_formula(const StoredFile& file, const std::string& m, std::int64_t n, std::int64_t k);
double plain_formula(const StoredFile& file, const std::string& m, std::int64_t n, std::int64_t k);
/// Row n of expert `e` in a fused module; m is "....experts.gate_up_proj".
double mxfp4_formula(const StoredFile& file, const std::string& m, std::int64_t e, std::int64_t n, std::int64_t k);

/// Element (r, c) of a view, as tensor.h defines it.
double view_element(const MatrixView& view, std::int64_t r, std::int64_t c);

/// The only number of a tensor.
double only_number(const StoredArray& array);

/// Every element: at most `relative` off (a division in FP64 may round otherwise than a product with a reciprocal).
void expect_elements(const MatrixView& view, double relative,
                     const std::function<double(std::int64_t n, std::int64_t k)>& formula);

}  // namespace moesaic::testing
