// The CUDA backend's operators for experts. Skipped where there is no device.

#include <memory>
#include <random>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/step_batch_builder.h"
#include "tests/kernels/cuda/cuda_backend_fixture.h"
#include "tests/kernels/expert_operators.h"

namespace winnow::test {
namespace {

class CudaExpertsTest : public CudaBackendTest {};

TEST_F(CudaExpertsTest, RouteChoosesTheLargestLogitsAndGroupsThePairs) { TestRoute(*backend_); }

TEST_F(CudaExpertsTest, RouteChoosesWhatIsNoNumberLast) { TestRouteOfNoNumbers(*backend_); }

TEST_F(CudaExpertsTest, ExpertMatMulEqualsTheDoublePrecisionProductOfRoundedFactors) {
  for (const DataType type : {DataType::kF32, DataType::kBF16, DataType::kQ4_K, DataType::kQ8_0}) {
    TestExpertMatMul(*backend_, type, 1e-5);
  }
}

TEST_F(CudaExpertsTest, AddExpertsEqualsTheDoublePrecisionSum) { TestAddExperts(*backend_); }

TEST_F(CudaExpertsTest, ReplaysOfARecordingComputeTheirOwnBatch) {
  std::mt19937 random(25);
  const ExpertShape shape{.rows = 12, .experts = 16, .chosen = 4, .columns = 256, .outputs = 256};
  const RandomExperts experts(*backend_, DataType::kBF16, shape, random);
  DeviceValues device(*backend_);
  const int64_t pairs = shape.rows * shape.chosen;
  const Tensor logits = device.Put(experts.logits, shape.experts);
  const Tensor x =
      device.Put(RandomFloats(shape.rows * shape.columns, random), shape.columns, DataType::kBF16);
  const ExpertRoutes routes = device.Routes(shape.rows, shape.experts, shape.chosen);
  const Tensor parts = device.Poisoned(pairs, shape.outputs);
  const Tensor sum = device.Poisoned(shape.rows, shape.outputs);
  const std::vector<float> zeros(static_cast<size_t>(shape.rows * shape.outputs));
  const int64_t sum_bytes = std::ssize(zeros) * 4;

  StepBatchBuilder step;
  const int32_t block = 0;
  for (int row = 0; row < shape.rows; ++row) {
    step.BeginSequence({&block, 1});
    step.AddRow(0, 0, Selection{}, /*wants_logits=*/false);
  }
  const StepBatch batch = step.Build();
  const auto compute = [&] {
    backend_->Route(logits, true, routes);
    backend_->ExpertMatMul(x, *experts.matrix, routes, parts);
    backend_->AddExperts(parts, routes, sum);
  };
  const auto clear = [&] {
    backend_->Copy(static_cast<std::byte*>(sum.data),
                   reinterpret_cast<const std::byte*>(zeros.data()), sum_bytes);
  };
  std::unique_ptr<Recordings> recordings;
  for (int round = 0; round < 5; ++round) {
    const auto next = RandomFloats(shape.rows * shape.experts, random);
    backend_->Copy(static_cast<std::byte*>(logits.data),
                   reinterpret_cast<const std::byte*>(next.data()), std::ssize(next) * 4);
    backend_->BeginStep(batch);
    clear();
    backend_->Replay(batch, &recordings, compute);
    const auto replayed = device.Get(sum);
    backend_->BeginStep(batch);
    clear();
    compute();
    EXPECT_EQ(replayed, device.Get(sum)) << "round " << round;
  }
}

}  // namespace
}  // namespace winnow::test
