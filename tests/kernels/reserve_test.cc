// That the CPU backend takes no memory while it computes.

#include <cstdint>
#include <memory>
#include <random>

#include "gtest/gtest.h"
#include "kernels/cpu/cpu_backend.h"
#include "tests/kernels/allocation_count.h"
#include "tests/kernels/random_steps.h"

namespace winnow::test {
namespace {

TEST(ReserveTest, StepsWithinTheLimitsAllocateNothing) {
  // Few workers divide what a head does among them, many keep heads to themselves.
  for (const int threads : {1, 3, 16}) {
    const auto backend = CreateCpuBackend({.threads = threads});
    RandomSteps steps(*backend);
    ASSERT_TRUE(backend->Reserve(steps.limits()).ok());
    std::mt19937 random(static_cast<unsigned>(threads));
    for (int step = 0; step < 24; ++step) {
      steps.Prepare(random, /*largest=*/step % 8 == 5);
      allocation_count = 0;
      steps.Run();
      ASSERT_EQ(allocation_count, 0) << threads << " threads, step " << step;
    }
  }
}

TEST(ReserveTest, MemoryThatIsShortIsSaid) {
  const auto backend = CreateCpuBackend({.threads = 1});
  RandomSteps steps(*backend);
  most_allocated_bytes = 100'000;
  const absl::Status status = backend->Reserve(steps.limits());
  most_allocated_bytes = SIZE_MAX;
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted) << status;
}

}  // namespace
}  // namespace winnow::test
