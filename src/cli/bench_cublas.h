// SPDX-License-Identifier: Apache-2.0
// The vendor's matrix product, for comparison: cuBLASLt, where it is there. No CUDA header: cublasLt.h comes only with
// packages of half a gigabyte, and it includes the toolkit's. What is declared here is the documented ABI that CUDA 12
// and 13 share.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "cli/bench_library.h"
#include "moesaic/tensor.h"

namespace moesaic::cli {

/// What a product needs of cuBLASLt. Handles are opaque; results are 0 for success.
class CublasLt {
 public:
  /// Candidates in order: names for the loader, then files beside NVRTC and in toolkits.
  static std::vector<std::string> files();
  /// Loads the first of them.
  explicit CublasLt(const std::vector<std::string>& files);
  ~CublasLt();
  CublasLt(const CublasLt&) = delete;
  CublasLt& operator=(const CublasLt&) = delete;

  /// Empty: can be used.
  const std::string& why_not() const noexcept { return why_not_; }
  /// "cuBLASLt 13.1.0".
  std::string name() const;

 private:
  friend class CublasProduct;
  using Handle = void*;

  struct Algorithm {
    std::uint64_t data[8];
  };
  struct Heuristic {  // cublasLtMatmulHeuristicResult_t
    Algorithm algorithm;
    std::size_t workspace_bytes;
    int state;
    float waves;
    int reserved[4];
  };
  void resolve();

  BenchLibrary library_;
  std::string why_not_;
  Handle handle_ = nullptr;
  int (*create_)(Handle*) = nullptr;
  int (*destroy_)(Handle) = nullptr;
  std::size_t (*version_)() = nullptr;
  int (*desc_create_)(Handle*, int compute_type, int scale_type) = nullptr;
  int (*desc_destroy_)(Handle) = nullptr;
  int (*desc_set_)(Handle, int attribute, const void* value, std::size_t size) = nullptr;
  int (*layout_create_)(Handle*, int type, std::uint64_t rows, std::uint64_t cols, std::int64_t ld) = nullptr;
  int (*layout_destroy_)(Handle) = nullptr;
  int (*preference_create_)(Handle*) = nullptr;
  int (*preference_destroy_)(Handle) = nullptr;
  int (*preference_set_)(Handle, int attribute, const void* value, std::size_t size) = nullptr;
  int (*heuristic_)(Handle lt, Handle desc, Handle a, Handle b, Handle c, Handle d, Handle preference, int wanted,
                    Heuristic* results, int* count) = nullptr;
  int (*matmul_)(Handle lt, Handle desc, const void* alpha, const void* a, Handle a_layout, const void* b,
                 Handle b_layout, const void* beta, const void* c, Handle c_layout, void* d, Handle d_layout,
                 const Algorithm* algorithm, void* workspace, std::size_t workspace_bytes, void* stream) = nullptr;
};

/// out [m, n] = x [m, k] times W [n, k] transposed, all of one 16-bit type, sums in FP32. The device of its memory must
/// be current. Throws Error(kUnsupported) for a product that the library has no algorithm for, else Error(kCuda) naming
/// the call.
class CublasProduct {
 public:
  static constexpr std::size_t kWorkspaceBytes = std::size_t{32} << 20;  // what the vendor advises for Hopper

  /// `lt` can be used, and outlives this object.
  CublasProduct(const CublasLt& lt, DType type, int m, int n, int k);
  ~CublasProduct();
  CublasProduct(const CublasProduct&) = delete;
  CublasProduct& operator=(const CublasProduct&) = delete;

  /// Algorithms that the library advises, best first by its own judgement.
  int algorithms() const noexcept { return static_cast<int>(heuristics_.size()); }
  /// Enqueues one product. workspace: kWorkspaceBytes.
  void enqueue(int algorithm, const void* x, const void* w, void* out, void* workspace, void* stream) const;

 private:
  void destroy() noexcept;

  const CublasLt& lt_;
  CublasLt::Handle desc_ = nullptr, w_ = nullptr, x_ = nullptr, out_ = nullptr;
  std::vector<CublasLt::Heuristic> heuristics_;
};

}  // namespace moesaic::cli
