// SPDX-License-Identifier: Apache-2.0
// A cuBLASLt on host memory: products of the layouts that it was given, column by column, by plain loops over bf16
// numbers; large ones are not computed. It advises two algorithms and one that cannot be used. MOESAIC_FAKE_CUBLAS=N:
// create answers status N.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>

namespace {

struct Desc {
  bool transpose_a = false;
};
struct Layout {
  std::int64_t rows, cols, ld;
};
struct Algorithm {
  std::uint64_t data[8];
};
struct Heuristic {
  Algorithm algorithm;
  std::size_t workspace_bytes;
  int state;
  float waves;
  int reserved[4];
};

float read(const void* data, std::int64_t at) {
  const auto bits = std::uint32_t{static_cast<const std::uint16_t*>(data)[at]} << 16;
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}

void write(void* data, std::int64_t at, float value) {
  std::uint32_t bits;
  std::memcpy(&bits, &value, 4);
  static_cast<std::uint16_t*>(data)[at] = static_cast<std::uint16_t>(bits >> 16);  // the tests' results are exact
}

constexpr int kInvalid = 7;  // CUBLAS_STATUS_INVALID_VALUE

}  // namespace

extern "C" {

int cublasLtCreate(void** handle) {
  *handle = &*handle;
  const char* status = std::getenv("MOESAIC_FAKE_CUBLAS");
  return status == nullptr ? 0 : std::atoi(status);
}
int cublasLtDestroy(void*) { return 0; }
std::size_t cublasLtGetVersion() { return 120804; }
int cublasLtMatmulDescCreate(void** desc, int compute_type, int scale_type) {
  *desc = new Desc;
  return compute_type == 68 && scale_type == 0 ? 0 : kInvalid;
}
int cublasLtMatmulDescDestroy(void* desc) { return delete static_cast<Desc*>(desc), 0; }
int cublasLtMatmulDescSetAttribute(void* desc, int attribute, const void* value, std::size_t size) {
  std::int32_t operation = 0;
  if (attribute != 3 || size != sizeof(operation)) return kInvalid;
  std::memcpy(&operation, value, size);
  static_cast<Desc*>(desc)->transpose_a = operation == 1;
  return 0;
}
int cublasLtMatrixLayoutCreate(void** layout, int type, std::uint64_t rows, std::uint64_t cols, std::int64_t ld) {
  *layout = new Layout{static_cast<std::int64_t>(rows), static_cast<std::int64_t>(cols), ld};
  return type == 14 ? 0 : kInvalid;
}
int cublasLtMatrixLayoutDestroy(void* layout) { return delete static_cast<Layout*>(layout), 0; }
int cublasLtMatmulPreferenceCreate(void** preference) { return *preference = new std::size_t{0}, 0; }
int cublasLtMatmulPreferenceDestroy(void* preference) { return delete static_cast<std::size_t*>(preference), 0; }
int cublasLtMatmulPreferenceSetAttribute(void* preference, int attribute, const void* value, std::size_t size) {
  if (attribute != 1 || size != sizeof(std::size_t)) return kInvalid;
  return std::memcpy(preference, value, size), 0;
}
int cublasLtMatmulAlgoGetHeuristic(void*, void*, void*, void*, void*, void*, void* preference, int wanted,
                                   Heuristic* results, int* count) {
  if (wanted < 3 || *static_cast<std::size_t*>(preference) == 0) return kInvalid;
  for (int i = 0; i < 3; ++i) {
    results[i] = {};
    results[i].algorithm.data[0] = static_cast<std::uint64_t>(i);
    results[i].state = i == 1 ? kInvalid : 0;
  }
  *count = 3;
  return 0;
}
int cublasLtMatmul(void*, void* desc, const float* alpha, const void* a, const Layout* a_layout, const void* b,
                   const Layout* b_layout, const float* beta, const void*, const Layout*, void* d,
                   const Layout* d_layout, const Algorithm* algorithm, void*, std::size_t, void*) {
  if (!static_cast<Desc*>(desc)->transpose_a || algorithm->data[0] == 1 || *beta != 0) return kInvalid;
  if (a_layout->rows != b_layout->rows || a_layout->cols != d_layout->rows || b_layout->cols != d_layout->cols) {
    return kInvalid;
  }
  if (d_layout->rows * d_layout->cols * a_layout->rows > 1 << 16) return 0;
  for (std::int64_t col = 0; col < d_layout->cols; ++col) {
    for (std::int64_t row = 0; row < d_layout->rows; ++row) {
      float sum = 0;
      for (std::int64_t i = 0; i < a_layout->rows; ++i) {
        sum += read(a, row * a_layout->ld + i) * read(b, col * b_layout->ld + i);
      }
      write(d, col * d_layout->ld + row, *alpha * sum);
    }
  }
  return 0;
}

}  // extern "C"
