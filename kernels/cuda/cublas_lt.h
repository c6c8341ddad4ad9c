#pragma once

#include <cublasLt.h>

#include <memory>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace winnow::cuda {

/// What a call of cuBLASLt returned: OK, or INTERNAL with the call's name.
absl::Status CublasStatus(cublasStatus_t status, std::string_view call);

/// cuBLASLt, loaded when a CUDA device is asked for: binaries with the CUDA backend start on
/// machines without it. Members are the library's functions, by its names.
struct CublasLt {
  /// FAILED_PRECONDITION when the library, of the version compiled against, is not found.
  static absl::StatusOr<CublasLt> Load();

  decltype(&cublasLtCreate) Create;
  decltype(&cublasLtDestroy) Destroy;
  decltype(&cublasLtMatmul) Matmul;
  decltype(&cublasLtMatmulDescCreate) MatmulDescCreate;
  decltype(&cublasLtMatmulDescDestroy) MatmulDescDestroy;
  decltype(&cublasLtMatmulDescSetAttribute) MatmulDescSetAttribute;
  decltype(&cublasLtMatrixLayoutCreate) MatrixLayoutCreate;
  decltype(&cublasLtMatrixLayoutDestroy) MatrixLayoutDestroy;
  decltype(&cublasLtMatmulPreferenceCreate) MatmulPreferenceCreate;
  decltype(&cublasLtMatmulPreferenceDestroy) MatmulPreferenceDestroy;
  decltype(&cublasLtMatmulPreferenceSetAttribute) MatmulPreferenceSetAttribute;
  decltype(&cublasLtMatmulAlgoGetHeuristic) MatmulAlgoGetHeuristic;
};

}  // namespace winnow::cuda
