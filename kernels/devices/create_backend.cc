#include "kernels/devices/create_backend.h"

#include "absl/status/status.h"
#include "kernels/cpu/cpu_backend.h"
#ifdef WINNOW_CUDA
#include "kernels/cuda/cuda_backend.h"
#endif

namespace winnow {

absl::StatusOr<std::unique_ptr<Backend>> CreateBackend(const BackendOptions& options) {
  if (options.device == "cpu") {
    return CreateCpuBackend({.threads = options.threads, .f32_matmul = options.exact_products});
  }
  if (options.device == "cuda" && options.exact_products) {
    return absl::InvalidArgumentError("--exact-products needs --device cpu");
  }
#ifdef WINNOW_CUDA
  if (options.device == "cuda") return CreateCudaBackend();
#else
  if (options.device == "cuda") {
    return absl::FailedPreconditionError(
        "--device cuda: this binary was built without CUDA (cmake --preset cuda)");
  }
#endif
  return absl::InvalidArgumentError("--device must be cpu or cuda, is " + options.device);
}

}  // namespace winnow
