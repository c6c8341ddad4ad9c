#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <numeric>
#include <random>
#include <span>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/backend.h"
#include "tests/kernels/device_values.h"
#include "tests/kernels/reference.h"

// Tests of a backend's operators for experts: the same for every backend.

namespace winnow::test {

/// A row's experts, those of the largest logits first, lower ones before equal ones.
inline std::vector<int32_t> LargestLogits(std::span<const float> logits, int chosen) {
  std::vector<int32_t> ids(logits.size());
  std::iota(ids.begin(), ids.end(), 0);
  std::ranges::stable_sort(ids, [&](int32_t a, int32_t b) { return logits[a] > logits[b]; });
  ids.resize(static_cast<size_t>(chosen));
  return ids;
}

/// The groups hold every pair once, with its expert.
inline void ExpectGrouped(DeviceValues& device, const ExpertRoutes& routes) {
  const int64_t pairs = routes.rows * routes.chosen;
  const auto ids = device.Get(routes.ids, pairs);
  const auto order = device.Get(routes.pairs, pairs);
  const auto groups = device.Get(routes.groups, routes.experts);
  std::vector<bool> seen(static_cast<size_t>(pairs));
  int32_t begin = 0;
  int32_t expert_before = -1;
  bool ended = false;
  for (const ExpertGroup& group : groups) {
    ended = ended || group.count == 0;
    if (ended) {
      EXPECT_EQ(group.count, 0);
      continue;
    }
    EXPECT_GT(group.expert, expert_before);
    EXPECT_EQ(group.begin, begin);
    for (int32_t i = 0; i < group.count; ++i) {
      const auto pair = static_cast<size_t>(order[static_cast<size_t>(begin + i)]);
      EXPECT_EQ(ids[pair], group.expert);
      EXPECT_FALSE(seen[pair]) << pair;
      seen[pair] = true;
    }
    begin += group.count;
    expert_before = group.expert;
  }
  EXPECT_EQ(begin, pairs);
}

inline void TestRoute(Backend& backend) {
  struct Shape {
    int64_t rows;
    int experts;
    int chosen;
  };
  std::mt19937 random(21);
  for (const auto& [rows, experts, chosen] :
       {Shape{1, 8, 2}, Shape{5, 8, 2}, Shape{33, 128, 8}, Shape{700, 128, 8}, Shape{3, 5, 5},
        Shape{40, 256, 32}, Shape{2, 1, 1}}) {
    for (const bool normalizes : {false, true}) {
      DeviceValues device(backend);
      // Of steps, so that many are equal.
      auto logits = RandomFloats(rows * experts, random, 2);
      for (float& logit : logits) logit = std::round(logit * 2) / 2;
      const ExpertRoutes routes = device.Routes(rows, experts, chosen);
      backend.Route(device.Put(logits, experts), normalizes, routes);
      const auto ids = device.Get(routes.ids, rows * chosen);
      const auto weights = device.Get(routes.weights, rows * chosen);
      for (int64_t t = 0; t < rows; ++t) {
        const std::span<const float> row(&logits[static_cast<size_t>(t * experts)],
                                         static_cast<size_t>(experts));
        const std::vector<int32_t> want = LargestLogits(row, chosen);
        double sum = 0;
        if (normalizes) {
          for (const int32_t e : want) sum += std::exp(double{row[static_cast<size_t>(e)]});
        } else {
          for (const float logit : row) sum += std::exp(double{logit});
        }
        for (int i = 0; i < chosen; ++i) {
          const auto at = static_cast<size_t>(t * chosen + i);
          const int32_t e = want[static_cast<size_t>(i)];
          ASSERT_EQ(ids[at], e) << experts << " experts, row " << t << ", choice " << i;
          ASSERT_NEAR(weights[at], std::exp(double{row[static_cast<size_t>(e)]}) / sum, 1e-6);
        }
      }
      ExpectGrouped(device, routes);
      const auto groups = device.Get(routes.groups, experts);
      const int64_t reads =
          std::ranges::count_if(groups, [](const ExpertGroup& group) { return group.count > 0; });
      EXPECT_EQ(device.Get(routes.expert_reads, 1)[0], reads);
      backend.Route(device.Put(logits, experts), normalizes, routes);
      EXPECT_EQ(device.Get(routes.expert_reads, 1)[0], 2 * reads);
    }
  }
}

/// Hostile weights make such logits.
inline void TestRouteOfNoNumbers(Backend& backend) {
  DeviceValues device(backend);
  const std::vector<float> logits = {NAN, 1, NAN,      2,         NAN,       NAN,       NAN, NAN,
                                     NAN, 1, INFINITY, -INFINITY, -INFINITY, -INFINITY, NAN, 3};
  const ExpertRoutes routes = device.Routes(4, 4, 3);
  backend.Route(device.Put(logits, 4), /*normalizes=*/true, routes);
  EXPECT_EQ(device.Get(routes.ids, 12), (std::vector<int32_t>{3, 1, 0, 0, 1, 2, 2, 1, 0, 3, 0, 1}));
  ExpectGrouped(device, routes);
}

struct ExpertShape {
  int64_t rows;
  int experts;
  int chosen;
  int64_t columns;
  int64_t outputs;         ///< of an expert
  bool all_alike = false;  ///< all rows choose the same experts
};

/// Random experts of two parts each, as gate and up are, and logits that choose among them.
struct RandomExperts {
  RandomExperts(Backend& backend, DataType type, const ExpertShape& shape, std::mt19937& random)
      : shape(shape), type(type) {
    const int64_t half = shape.outputs / 2;
    for (int part = 0; part < 2 * shape.experts; ++part) {
      data.push_back(RandomWeights(type, half, shape.columns, random));
    }
    std::vector<HostMatrix> parts;
    for (const auto& part : data) parts.push_back({type, half, shape.columns, part});
    auto loaded = backend.LoadMatrix(parts);
    EXPECT_TRUE(loaded.ok()) << loaded.status();
    matrix = *std::move(loaded);
    logits = RandomFloats(shape.rows * shape.experts, random);
    if (!shape.all_alike) return;
    for (int64_t t = 0; t < shape.rows; ++t) {
      for (int e = 0; e < shape.chosen; ++e) {
        logits[static_cast<size_t>(t * shape.experts + shape.experts - 1 - e)] += 100;
      }
    }
  }

  /// Row `output` of an expert's matrix, as activations of `activation_type` are rounded on a
  /// device that keeps weights like them.
  std::vector<double> Row(int expert, int64_t output, DataType activation_type) const {
    const int64_t half = shape.outputs / 2;
    const auto& part = data[static_cast<size_t>(2 * expert + output / half)];
    std::vector<float> row(static_cast<size_t>(shape.columns));
    Dequantize(type, part.data() + output % half * RowBytes(type, shape.columns), shape.columns,
               row.data());
    std::vector<double> rounded;
    for (const float value : row) rounded.push_back(DeviceValues::Rounded(value, activation_type));
    return rounded;
  }

  const ExpertShape shape;
  const DataType type;
  std::vector<std::vector<std::byte>> data;
  std::unique_ptr<Matrix> matrix;
  std::vector<float> logits;
};

/// Of many rows every fifth output is computed, others for each expert. `tolerance` is of the root
/// of the mean square of fp32 results.
inline void TestExpertMatMul(Backend& backend, DataType type, double tolerance) {
  const int64_t columns = BlockElements(type) == 1 ? 200 : 512;
  std::mt19937 random(22);
  for (const ExpertShape& shape :
       {ExpertShape{1, 8, 2, columns, 48}, ExpertShape{8, 8, 2, columns, 136},
        ExpertShape{40, 128, 8, columns, 48}, ExpertShape{40, 16, 2, columns, 48, true},
        ExpertShape{3, 4, 4, columns, 48}, ExpertShape{200, 4, 2, columns, 136},
        ExpertShape{100, 8, 2, columns, 144, true}, ExpertShape{300, 2, 1, columns, 48},
        ExpertShape{300, 2, 2, columns, 144}}) {
    const RandomExperts experts(backend, type, shape, random);
    DeviceValues device(backend);
    const DataType activation = backend.activation_type();
    const ExpertRoutes routes = device.Routes(shape.rows, shape.experts, shape.chosen);
    backend.Route(device.Put(experts.logits, shape.experts), true, routes);
    const int64_t pairs = shape.rows * shape.chosen;
    const auto ids = device.Get(routes.ids, pairs);
    for (const bool of_pairs : {false, true}) {
      const int64_t x_rows = of_pairs ? pairs : shape.rows;
      const auto x = RandomFloats(x_rows * columns, random);
      std::vector<double> factors;
      for (const float value : x) factors.push_back(DeviceValues::Rounded(value, activation));
      const Tensor in = device.Put(x, columns, activation);
      const Tensor out = device.Poisoned(pairs, shape.outputs);
      const Tensor rounded = device.Poisoned(pairs, shape.outputs, activation);
      backend.ExpertMatMul(in, *experts.matrix, routes, out);
      backend.ExpertMatMul(in, *experts.matrix, routes, rounded);
      const auto got = device.Get(out);
      const auto got_rounded = device.Get(rounded);
      double error = 0;
      double rounded_error = 0;
      double scale = 0;
      for (int e = 0; e < shape.experts; ++e) {
        const int64_t stride = shape.rows < 40 ? 1 : 5;
        for (int64_t n = e % stride; n < shape.outputs; n += stride) {
          const std::vector<double> row = experts.Row(e, n, activation);
          for (int64_t pair = 0; pair < pairs; ++pair) {
            if (ids[static_cast<size_t>(pair)] != e) continue;
            const auto factor = factors.begin() + pair * x_rows / pairs * columns;
            const double product = std::inner_product(row.begin(), row.end(), factor, 0.0);
            const auto at = static_cast<size_t>(pair * shape.outputs + n);
            error += std::pow(got[at] - product, 2);
            rounded_error += std::pow(got_rounded[at] - product, 2);
            scale += product * product;
          }
        }
      }
      EXPECT_LT(std::sqrt(error / scale), tolerance)
          << DataTypeName(type) << ", " << shape.rows << " rows, " << shape.experts << " experts";
      const double rounding = activation == DataType::kBF16 ? 0x1p-8 : 0;
      EXPECT_LT(std::sqrt(rounded_error / scale), tolerance + rounding);
    }
  }
}

inline void TestAddExperts(Backend& backend) {
  std::mt19937 random(23);
  for (const int64_t columns : {16, 1000, 4096}) {
    for (const auto& [rows, chosen] : {std::pair<int64_t, int>{1, 2}, {7, 8}, {300, 2}}) {
      DeviceValues device(backend);
      const auto x = RandomFloats(rows * chosen * columns, random);
      const auto before = RandomFloats(rows * columns, random);
      const ExpertRoutes routes = device.Routes(rows, 8, chosen);
      backend.Route(device.Put(RandomFloats(rows * 8, random), 8), true, routes);
      const auto weights = device.Get(routes.weights, rows * chosen);
      const Tensor sum = device.Put(before, columns);
      backend.AddExperts(device.Put(x, columns), routes, sum);
      const auto got = device.Get(sum);
      for (int64_t t = 0; t < rows; ++t) {
        for (int64_t c = 0; c < columns; ++c) {
          double want = before[static_cast<size_t>(t * columns + c)];
          for (int64_t pair = t * chosen; pair < (t + 1) * chosen; ++pair) {
            want += double{weights[static_cast<size_t>(pair)]} *
                    x[static_cast<size_t>(pair * columns + c)];
          }
          ASSERT_NEAR(got[static_cast<size_t>(t * columns + c)], want, 3e-6) << columns;
        }
      }
    }
  }
}

}  // namespace winnow::test
