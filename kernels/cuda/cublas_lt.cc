#include "kernels/cuda/cublas_lt.h"

#include <dlfcn.h>

#include <string>

#include "absl/strings/str_cat.h"

namespace winnow::cuda {

absl::Status CublasStatus(cublasStatus_t status, std::string_view call) {
  if (status == CUBLAS_STATUS_SUCCESS) return absl::OkStatus();
  return absl::InternalError(
      absl::StrCat(std::string(call), ": cuBLAS status ", static_cast<int>(status)));
}

absl::StatusOr<CublasLt> CublasLt::Load() {
  const std::string name = absl::StrCat("libcublasLt.so.", CUBLAS_VER_MAJOR);
  void* library = dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL);  // stays loaded
  if (library == nullptr) {
    return absl::FailedPreconditionError(
        absl::StrCat("cuBLAS can't be loaded, put its folder into LD_LIBRARY_PATH: ", dlerror()));
  }
  CublasLt lt;
  bool found = true;
  const auto bind = [&](const char* function, auto* member) {
    *member =
        reinterpret_cast<std::remove_reference_t<decltype(*member)>>(dlsym(library, function));
    found = found && *member != nullptr;
  };
  bind("cublasLtCreate", &lt.Create);
  bind("cublasLtDestroy", &lt.Destroy);
  bind("cublasLtMatmul", &lt.Matmul);
  bind("cublasLtMatmulDescCreate", &lt.MatmulDescCreate);
  bind("cublasLtMatmulDescDestroy", &lt.MatmulDescDestroy);
  bind("cublasLtMatmulDescSetAttribute", &lt.MatmulDescSetAttribute);
  bind("cublasLtMatrixLayoutCreate", &lt.MatrixLayoutCreate);
  bind("cublasLtMatrixLayoutDestroy", &lt.MatrixLayoutDestroy);
  bind("cublasLtMatmulPreferenceCreate", &lt.MatmulPreferenceCreate);
  bind("cublasLtMatmulPreferenceDestroy", &lt.MatmulPreferenceDestroy);
  bind("cublasLtMatmulPreferenceSetAttribute", &lt.MatmulPreferenceSetAttribute);
  bind("cublasLtMatmulAlgoGetHeuristic", &lt.MatmulAlgoGetHeuristic);
  if (!found) {
    return absl::FailedPreconditionError(
        absl::StrCat(name, " lacks functions that the version compiled against has"));
  }
  return lt;
}

}  // namespace winnow::cuda
