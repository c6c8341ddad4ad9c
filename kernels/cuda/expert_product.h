#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "kernels/expert_routes.h"
#include "kernels/tensor.h"

namespace winnow::cuda {

/// Backend::ExpertMatMul: x and w are bf16, out bf16 or fp32.
struct ExpertProduct {
  const void* x = nullptr;  ///< [rows or pairs, columns]
  int64_t x_stride = 0;
  int x_pairs = 1;          ///< pairs that a row of x stands for
  const void* w = nullptr;  ///< [experts, outputs, columns]
  int columns = 0;
  int outputs = 0;
  void* out = nullptr;  ///< [pairs, outputs]
  int64_t out_stride = 0;
  DataType out_type = DataType::kBF16;
  ExpertRoutes routes;
};

/// What the launches below want columns and outputs to be multiples of.
inline constexpr int kExpertMultiple = 8;

/// Queues a product whose experts have a few pairs each, as in decoding: reads the weights of each
/// chosen expert at the speed of memory, once for up to 16 pairs. Returns the launch's error.
cudaError_t LaunchThinExperts(const ExpertProduct& call, cudaStream_t stream);

/// Queues a product whose experts have many pairs each, as in prompts: tiles on tensor cores.
/// Returns the launch's error.
cudaError_t LaunchWideExperts(const ExpertProduct& call, cudaStream_t stream);

}  // namespace winnow::cuda
