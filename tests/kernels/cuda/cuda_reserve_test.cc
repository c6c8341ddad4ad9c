// That the CUDA backend takes no memory of the device while it computes: the linker brings calls of
// the runtime's allocators here first (see CMakeLists.txt).

#include <cuda_runtime_api.h>

#include <cstdint>
#include <memory>
#include <random>

#include "gtest/gtest.h"
#include "kernels/cuda/cuda_backend.h"
#include "tests/kernels/random_steps.h"

namespace {

int64_t device_allocations = 0;

}  // namespace

extern "C" {

cudaError_t __real_cudaMalloc(void** memory, size_t bytes);
cudaError_t __real_cudaMallocHost(void** memory, size_t bytes);

cudaError_t __wrap_cudaMalloc(void** memory, size_t bytes) {
  ++device_allocations;
  return __real_cudaMalloc(memory, bytes);
}

cudaError_t __wrap_cudaMallocHost(void** memory, size_t bytes) {
  ++device_allocations;
  return __real_cudaMallocHost(memory, bytes);
}

}  // extern "C"

namespace winnow::test {
namespace {

TEST(CudaReserveTest, StepsWithinTheLimitsAllocateNothing) {
  absl::StatusOr<std::unique_ptr<Backend>> backend = CreateCudaBackend();
  if (backend.status().code() == absl::StatusCode::kFailedPrecondition) {
    GTEST_SKIP() << backend.status().message();
  }
  ASSERT_TRUE(backend.ok()) << backend.status();
  RandomSteps steps(**backend);
  device_allocations = 0;
  ASSERT_TRUE((*backend)->Reserve(steps.limits()).ok());
  EXPECT_GT(device_allocations, 0);  // they are counted
  std::mt19937 random(1);
  for (int step = 0; step < 300; ++step) {
    steps.Prepare(random, /*largest=*/step % 16 == 9);
    device_allocations = 0;
    steps.Run();
    ASSERT_EQ(device_allocations, 0) << "step " << step;
  }
}

}  // namespace
}  // namespace winnow::test
