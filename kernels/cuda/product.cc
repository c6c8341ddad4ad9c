#include "kernels/cuda/product.h"

#include <utility>

#include "absl/strings/str_cat.h"

namespace winnow::cuda {
namespace {

// What cuBLAS recommends for Hopper.
constexpr int64_t kWorkspaceBytes = int64_t{32} << 20;
// Prefill chunks come in any length, so that shapes add up.
constexpr size_t kMaxPlans = 4096;

cudaDataType_t CudaType(DataType type) {
  return type == DataType::kBF16 ? CUDA_R_16BF : CUDA_R_32F;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Products>> Products::Create() {
  absl::StatusOr<CublasLt> lt = CublasLt::Load();
  if (!lt.ok()) return lt.status();
  std::unique_ptr<Products> products(new Products(*lt));
  absl::Status status = CublasStatus(lt->Create(&products->handle_), "cublasLtCreate");
  if (!status.ok()) return status;
  absl::StatusOr<std::unique_ptr<DeviceBuffer>> workspace = DeviceBuffer::Create(kWorkspaceBytes);
  if (!workspace.ok()) return workspace.status();
  products->workspace_ = *std::move(workspace);
  return products;
}

Products::~Products() {
  Forget();
  if (handle_ != nullptr) lt_.Destroy(handle_);
}

absl::Status Products::Queue(const Tensor& x, const void* w, bool accumulate, const Tensor& out,
                             cudaStream_t stream) {
  const absl::StatusOr<Plan*> plan = PlanFor(x, accumulate, out);
  if (!plan.ok()) return plan.status();
  const float alpha = 1;
  const float beta = accumulate ? 1 : 0;
  return CublasStatus(
      lt_.Matmul(handle_, (*plan)->operation, &alpha, w, (*plan)->w, x.data, (*plan)->x, &beta,
                 out.data, (*plan)->out, out.data, (*plan)->out, &(*plan)->algorithm,
                 workspace_->data(), static_cast<size_t>(kWorkspaceBytes), stream),
      "cublasLtMatmul");
}

absl::StatusOr<Products::Plan*> Products::PlanFor(const Tensor& x, bool accumulate,
                                                  const Tensor& out) {
  const Shape shape{x.rows, x.columns, x.stride, out.columns, out.stride, out.type, accumulate};
  if (const auto known = plans_.find(shape); known != plans_.end()) return &known->second;
  if (plans_.size() == kMaxPlans) Forget();
  Plan& plan = plans_[shape];
  if (absl::Status status = Make(x, out, &plan); !status.ok()) {
    Forget();
    return status;
  }
  return &plan;
}

absl::Status Products::Make(const Tensor& x, const Tensor& out, Plan* plan) {
  const auto size = [](int64_t value) { return static_cast<uint64_t>(value); };
  absl::Status status;
  const auto call = [&](cublasStatus_t result, const char* name) {
    status.Update(CublasStatus(result, name));
  };
  call(lt_.MatmulDescCreate(&plan->operation, CUBLAS_COMPUTE_32F, CUDA_R_32F),
       "cublasLtMatmulDescCreate");
  const cublasOperation_t transpose = CUBLAS_OP_T;
  if (status.ok()) {
    call(lt_.MatmulDescSetAttribute(plan->operation, CUBLASLT_MATMUL_DESC_TRANSA, &transpose,
                                    sizeof(transpose)),
         "cublasLtMatmulDescSetAttribute");
  }
  constexpr const char* kLayout = "cublasLtMatrixLayoutCreate";
  call(lt_.MatrixLayoutCreate(&plan->w, CUDA_R_16BF, size(x.columns), size(out.columns), x.columns),
       kLayout);
  call(lt_.MatrixLayoutCreate(&plan->x, CUDA_R_16BF, size(x.columns), size(x.rows), x.stride),
       kLayout);
  call(lt_.MatrixLayoutCreate(&plan->out, CudaType(out.type), size(out.columns), size(out.rows),
                              out.stride),
       kLayout);
  cublasLtMatmulPreference_t preference = nullptr;
  call(lt_.MatmulPreferenceCreate(&preference), "cublasLtMatmulPreferenceCreate");
  if (!status.ok()) return status;
  const auto workspace = static_cast<size_t>(kWorkspaceBytes);
  call(lt_.MatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                                        &workspace, sizeof(workspace)),
       "cublasLtMatmulPreferenceSetAttribute");
  cublasLtMatmulHeuristicResult_t result = {};
  int results = 0;
  call(lt_.MatmulAlgoGetHeuristic(handle_, plan->operation, plan->w, plan->x, plan->out, plan->out,
                                  preference, 1, &result, &results),
       "cublasLtMatmulAlgoGetHeuristic");
  lt_.MatmulPreferenceDestroy(preference);
  if (status.ok() && results == 0) {
    status = absl::InternalError(absl::StrCat("cublasLtMatmulAlgoGetHeuristic: nothing for ",
                                              x.rows, " x ", x.columns, " x ", out.columns));
  }
  plan->algorithm = result.algo;
  return status;
}

void Products::Forget() {
  for (auto& [shape, plan] : plans_) {
    if (plan.operation != nullptr) lt_.MatmulDescDestroy(plan.operation);
    for (cublasLtMatrixLayout_t layout : {plan.w, plan.x, plan.out}) {
      if (layout != nullptr) lt_.MatrixLayoutDestroy(layout);
    }
  }
  plans_.clear();
}

}  // namespace winnow::cuda
