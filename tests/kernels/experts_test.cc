// The CPU backend's operators for experts.

#include <cstring>
#include <memory>
#include <random>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/cpu/cpu_backend.h"
#include "tests/kernels/expert_operators.h"

namespace winnow::test {
namespace {

TEST(RouteTest, ChoosesTheLargestLogitsAndGroupsThePairs) {
  TestRoute(*CreateCpuBackend({.threads = 2}));
}

TEST(RouteTest, ChoosesWhatIsNoNumberLast) {
  TestRouteOfNoNumbers(*CreateCpuBackend({.threads = 1}));
}

TEST(ExpertMatMulTest, EqualsTheDoublePrecisionProductOfDequantisedWeights) {
  const auto backend = CreateCpuBackend({.threads = 2});
  for (const DataType type : kAllTypes) {
    // As of products with one matrix: activations are rounded to 8 bits for quantised weights.
    TestExpertMatMul(*backend, type, BlockElements(type) == 1 ? 1e-5 : 1e-2);
  }
  TestExpertMatMul(*CreateCpuBackend({.threads = 3, .f32_matmul = true}), DataType::kQ6_K, 1e-5);
}

TEST(ExpertMatMulTest, ARowIsTheSameWhateverElseIsInTheCall) {
  const auto backend = CreateCpuBackend({.threads = 2});
  std::mt19937 random(24);
  const ExpertShape shape{.rows = 77, .experts = 4, .chosen = 2, .columns = 256, .outputs = 80};
  for (const DataType type : kAllTypes) {
    const RandomExperts experts(*backend, type, shape, random);
    DeviceValues device(*backend);
    const auto x = RandomFloats(shape.rows * shape.columns, random);
    const ExpertRoutes routes = device.Routes(shape.rows, shape.experts, shape.chosen);
    backend->Route(device.Put(experts.logits, shape.experts), true, routes);
    const Tensor together = device.Poisoned(shape.rows * shape.chosen, shape.outputs);
    backend->ExpertMatMul(device.Put(x, shape.columns), *experts.matrix, routes, together);
    for (int64_t t = 0; t < shape.rows; ++t) {
      const auto row = [t](const std::vector<float>& values, int64_t columns) {
        return std::vector<float>(values.begin() + t * columns, values.begin() + (t + 1) * columns);
      };
      const ExpertRoutes own = device.Routes(1, shape.experts, shape.chosen);
      backend->Route(device.Put(row(experts.logits, shape.experts), shape.experts), true, own);
      const Tensor alone = device.Poisoned(shape.chosen, shape.outputs);
      backend->ExpertMatMul(device.Put(row(x, shape.columns), shape.columns), *experts.matrix, own,
                            alone);
      const size_t bytes = static_cast<size_t>(shape.chosen * shape.outputs) * sizeof(float);
      ASSERT_EQ(std::memcmp(alone.data, together.Row(t * shape.chosen), bytes), 0)
          << DataTypeName(type) << " row " << t;
    }
  }
}

TEST(AddExpertsTest, EqualsTheDoublePrecisionSum) {
  TestAddExperts(*CreateCpuBackend({.threads = 2}));
}

}  // namespace
}  // namespace winnow::test
