// SPDX-License-Identifier: Apache-2.0
// cuBLASLt by its documented ABI.
#include "cli/bench_cublas.h"

#include <fmt/format.h>

#include "base/env.h"
#include "base/fs.h"
#include "module/nvrtc_file.h"
#include "moesaic/error.h"

namespace moesaic::cli {
namespace {

// Enumerators of cublas_api.h, cublasLt.h and library_types.h.
constexpr int kCompute32F = 68, kReal32F = 0, kReal16F = 2, kReal16BF = 14;
constexpr int kDescTransA = 3, kOpTranspose = 1, kPreferenceWorkspaceBytes = 1;

constexpr int kMostAlgorithms = 8;

void check(int status, const char* call) {
  if (status != 0) throw Error(ErrorKind::kCuda, fmt::format("cuBLASLt: {} answers status {}", call, status));
}

}  // namespace

std::vector<std::string> CublasLt::files() {
  std::vector<std::string> folders = {""};
  if (const auto nvrtc = module::find_nvrtc({}).file) {
    const std::string folder = base::folder_of(nvrtc->path);
    folders.push_back(folder + "/");                   // a toolkit, or the packages of CUDA 13
    folders.push_back(folder + "/../../cublas/lib/");  // those of CUDA 12
  }
  if (const auto home = base::env_value(base::Env::kCudaHome)) folders.push_back(*home + "/lib64/");
  folders.emplace_back("/usr/local/cuda/lib64/");
  std::vector<std::string> files;
  for (const std::string& folder : folders) {
    for (const char* name : {"libcublasLt.so.13", "libcublasLt.so.12"}) files.push_back(folder + name);
  }
  return files;
}

CublasLt::CublasLt(const std::vector<std::string>& files) : library_(files) {
  resolve();
  why_not_ = library_.why_not();
  if (!why_not_.empty()) return;
  if (const int status = create_(&handle_); status != 0) {
    why_not_ = fmt::format("cublasLtCreate answers status {}", status);
  }
}

CublasLt::~CublasLt() {
  if (handle_ != nullptr) destroy_(handle_);
}

void CublasLt::resolve() {
  library_.find("cublasLtCreate", create_);
  library_.find("cublasLtDestroy", destroy_);
  library_.find("cublasLtGetVersion", version_);
  library_.find("cublasLtMatmulDescCreate", desc_create_);
  library_.find("cublasLtMatmulDescDestroy", desc_destroy_);
  library_.find("cublasLtMatmulDescSetAttribute", desc_set_);
  library_.find("cublasLtMatrixLayoutCreate", layout_create_);
  library_.find("cublasLtMatrixLayoutDestroy", layout_destroy_);
  library_.find("cublasLtMatmulPreferenceCreate", preference_create_);
  library_.find("cublasLtMatmulPreferenceDestroy", preference_destroy_);
  library_.find("cublasLtMatmulPreferenceSetAttribute", preference_set_);
  library_.find("cublasLtMatmulAlgoGetHeuristic", heuristic_);
  library_.find("cublasLtMatmul", matmul_);
}

std::string CublasLt::name() const {
  std::size_t version = version_();
  // 130100 for 13.1.0; 120804 for 12.8.4.
  return fmt::format("cuBLASLt {}.{}.{}", version / 10000, version / 100 % 100, version % 100);
}

CublasProduct::CublasProduct(const CublasLt& lt, DType type, int m, int n, int k) : lt_(lt) {
  // Matrices there are column by column: W [n, k] is a [k, n] matrix to be transposed, x [m, k] is [k, m], and out
  // [m, n] is [n, m].
  const int number = type == DType::kBF16 ? kReal16BF : kReal16F;
  const auto size = [](int extent) { return static_cast<std::uint64_t>(extent); };
  CublasLt::Handle preference = nullptr;
  int count = 0;
  try {
    check(lt.desc_create_(&desc_, kCompute32F, kReal32F), "cublasLtMatmulDescCreate");
    const std::int32_t transpose = kOpTranspose;
    check(lt.desc_set_(desc_, kDescTransA, &transpose, sizeof(transpose)), "cublasLtMatmulDescSetAttribute");
    check(lt.layout_create_(&w_, number, size(k), size(n), k), "cublasLtMatrixLayoutCreate");
    check(lt.layout_create_(&x_, number, size(k), size(m), k), "cublasLtMatrixLayoutCreate");
    check(lt.layout_create_(&out_, number, size(n), size(m), n), "cublasLtMatrixLayoutCreate");
    check(lt.preference_create_(&preference), "cublasLtMatmulPreferenceCreate");
    check(lt.preference_set_(preference, kPreferenceWorkspaceBytes, &kWorkspaceBytes, sizeof(kWorkspaceBytes)),
          "cublasLtMatmulPreferenceSetAttribute");
    heuristics_.resize(kMostAlgorithms);
    const int status =
        lt.heuristic_(lt.handle_, desc_, w_, x_, out_, out_, preference, kMostAlgorithms, heuristics_.data(), &count);
    heuristics_.resize(status == 0 ? static_cast<std::size_t>(count) : 0);
    std::erase_if(heuristics_, [](const CublasLt::Heuristic& h) { return h.state != 0; });
    if (heuristics_.empty()) {
      throw Error(ErrorKind::kUnsupported,
                  fmt::format("cuBLASLt has no algorithm for [{}, {}] x [{}, {}]: status {}", m, k, n, k, status));
    }
  } catch (...) {
    if (preference != nullptr) lt.preference_destroy_(preference);
    destroy();
    throw;
  }
  lt.preference_destroy_(preference);
}

CublasProduct::~CublasProduct() { destroy(); }

void CublasProduct::destroy() noexcept {
  if (desc_ != nullptr) lt_.desc_destroy_(desc_);
  for (CublasLt::Handle layout : {w_, x_, out_}) {
    if (layout != nullptr) lt_.layout_destroy_(layout);
  }
}

void CublasProduct::enqueue(int algorithm, const void* x, const void* w, void* out, void* workspace,
                            void* stream) const {
  const float one = 1.0f, zero = 0.0f;
  check(lt_.matmul_(lt_.handle_, desc_, &one, w, w_, x, x_, &zero, out, out_, out, out_,
                    &heuristics_[static_cast<std::size_t>(algorithm)].algorithm, workspace, kWorkspaceBytes, stream),
        "cublasLtMatmul");
}

}  // namespace moesaic::cli
