#pragma once

#include <cublasLt.h>
#include <cuda_runtime_api.h>

#include <cstdint>
#include <map>
#include <memory>
#include <tuple>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/cuda/cublas_lt.h"
#include "kernels/cuda/memory.h"
#include "kernels/tensor.h"

namespace winnow::cuda {

/// Matrix products by cuBLASLt, bf16 factors with fp32 accumulation. Keeps, by shape, what the
/// library plans for a product.
class Products {
 public:
  static absl::StatusOr<std::unique_ptr<Products>> Create();
  ~Products();
  Products(const Products&) = delete;
  Products& operator=(const Products&) = delete;

  /// out[t, n] = sum_k x[t, k] w[n, k], added to what `out` holds if `accumulate`. x is bf16, `w`
  /// [out.columns, x.columns] too, out bf16 or fp32.
  absl::Status Queue(const Tensor& x, const void* w, bool accumulate, const Tensor& out,
                     cudaStream_t stream);

 private:
  /// x.rows, x.columns, x.stride, out.columns, out.stride, out.type, accumulate.
  using Shape = std::tuple<int64_t, int64_t, int64_t, int64_t, int64_t, DataType, bool>;

  /// How the library computes one shape. cuBLAS is column-major: w is its first factor, transposed.
  struct Plan {
    cublasLtMatmulDesc_t operation = nullptr;
    cublasLtMatrixLayout_t w = nullptr;
    cublasLtMatrixLayout_t x = nullptr;
    cublasLtMatrixLayout_t out = nullptr;
    cublasLtMatmulAlgo_t algorithm;
  };

  explicit Products(const CublasLt& lt) : lt_(lt) {}
  absl::StatusOr<Plan*> PlanFor(const Tensor& x, bool accumulate, const Tensor& out);
  absl::Status Make(const Tensor& x, const Tensor& out, Plan* plan);
  void Forget();

  const CublasLt lt_;
  cublasLtHandle_t handle_ = nullptr;
  std::unique_ptr<DeviceBuffer> workspace_;
  std::map<Shape, Plan> plans_;
};

}  // namespace winnow::cuda
