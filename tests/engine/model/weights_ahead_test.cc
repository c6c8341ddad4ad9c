#include "engine/model/weights_ahead.h"

#include <gtest/gtest.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/data_type.h"

namespace winnow {
namespace {

constexpr int64_t kColumns = 3000;  // of fp32: several pages
constexpr int64_t kBytes = kColumns * 4;

std::vector<std::string> Names(int count) {
  std::vector<std::string> names;
  for (int i = 0; i < count; ++i) names.push_back(std::to_string(i));
  return names;
}

/// Weights filled with the number that is their name. Odd ones are made when they are asked for.
class NumberedWeights : public WeightSource {
 public:
  explicit NumberedWeights(int count) {
    for (int i = 0; i < count; ++i) stored_.emplace_back(kColumns, static_cast<float>(i));
  }

  HostWeight Weight(std::string_view name) const override {
    const int number = std::stoi(std::string(name));
    const auto bytes = std::as_bytes(std::span(stored_[static_cast<size_t>(number)]));
    HostMatrix matrix{DataType::kF32, 1, kColumns, bytes};
    const int calls = ++calls_;
    if (number % 2 == 0) return matrix;
    if (calls > most_calls_) too_early_ = true;
    std::unique_ptr<std::byte[]> memory(new std::byte[kBytes]);
    std::memcpy(memory.get(), bytes.data(), kBytes);
    matrix.data = {memory.get(), kBytes};
    return {matrix, std::move(memory)};
  }
  void ReleasePages() const override { ++releases_; }

  int calls() const { return calls_; }
  int releases() const { return releases_; }
  /// Weights that are made after that many calls are noted as made too early.
  void set_most_calls(int calls) { most_calls_ = calls; }
  bool too_early() const { return too_early_; }

 private:
  std::vector<std::vector<float>> stored_;
  std::atomic<int> most_calls_ = 1 << 30;
  mutable std::atomic<int> calls_ = 0;
  mutable std::atomic<int> releases_ = 0;
  mutable std::atomic<bool> too_early_ = false;
};

void ExpectNumber(const HostWeight& weight, int number) {
  ASSERT_EQ(weight.matrix.data.size(), kBytes);
  EXPECT_EQ(weight.memory != nullptr, number % 2 == 1);
  float last;
  std::memcpy(&last, weight.matrix.data.data() + kBytes - sizeof(last), sizeof(last));
  EXPECT_EQ(last, static_cast<float>(number));
}

TEST(WeightsAheadTest, EachWeightIsTakenFromTheSourceOnce) {
  const NumberedWeights source(20);
  const WeightsAhead weights(source, Names(20));
  for (int i = 0; i < 20; ++i) ExpectNumber(weights.Weight(std::to_string(i)), i);
  EXPECT_EQ(source.calls(), 20);
  weights.ReleasePages();
  EXPECT_EQ(source.releases(), 1);
}

TEST(WeightsAheadTest, AnyOrderGetsTheSameWeights) {
  const NumberedWeights source(20);
  const WeightsAhead weights(source, Names(16));
  // Skipped ones, those asked for twice, and those that the list does not have.
  for (const int i : {3, 1, 4, 17, 4, 9, 8, 19, 15, 0, 15}) {
    ExpectNumber(weights.Weight(std::to_string(i)), i);
  }
}

TEST(WeightsAheadTest, WeightsAreMadeOnlyWhileThereIsRoom) {
  NumberedWeights source(40);
  source.set_most_calls(4);
  const WeightsAhead weights(source, Names(40), 1);
  for (int i = 0; i < 40; ++i) {
    // The next odd one, before which there may be an even one, once this has been taken.
    source.set_most_calls(i + 3);
    ExpectNumber(weights.Weight(std::to_string(i)), i);
  }
  EXPECT_FALSE(source.too_early());
}

TEST(WeightsAheadTest, EndsWhileItWaitsForRoom) {
  const NumberedWeights source(40);
  const WeightsAhead weights(source, Names(40), 1);
}

}  // namespace
}  // namespace winnow
