// Attention that estimates what it does not choose, against a direct float64 transcription of its
// definition (Backend::Attention, kernels/summary.h).

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "tests/kernels/paged_sequence.h"

namespace winnow::test {
namespace {

using Matrix64 = std::vector<std::vector<double>>;

/// Solves a x = b by Gaussian elimination with pivots.
Matrix64 Solve(Matrix64 a, Matrix64 b) {
  const size_t n = a.size();
  for (size_t i = 0; i < n; ++i) {
    size_t pivot = i;
    for (size_t row = i; row < n; ++row) {
      if (std::abs(a[row][i]) > std::abs(a[pivot][i])) pivot = row;
    }
    std::swap(a[i], a[pivot]);
    std::swap(b[i], b[pivot]);
    for (size_t row = 0; row < n; ++row) {
      if (row == i) continue;
      const double factor = a[row][i] / a[i][i];
      for (size_t c = 0; c < n; ++c) a[row][c] -= factor * a[i][c];
      for (size_t c = 0; c < b[i].size(); ++c) b[row][c] -= factor * b[i][c];
    }
  }
  for (size_t i = 0; i < n; ++i) {
    for (double& x : b[i]) x /= a[i][i];
  }
  return b;
}

/// A sequence whose values and keys are partly what its labels say, and that has a summary.
class TailSequence : public Sequence {
 public:
  TailSequence(const Shape& shape, uint32_t seed, float tail = 1) : Sequence(shape, seed) {
    weights.assign(static_cast<size_t>(shape.kv_heads), tail);
    attention.tail_weights = weights.data();
    summary.slot = 1;
    std::mt19937 random(seed + 1);
    const auto slopes = RandomFloats(int64_t{shape.width} * shape.head_dim, random, 0.2f);
    for (int t = 0; t < shape.context; ++t) {
      for (int g = 0; g < shape.kv_heads; ++g) {
        float* key = &qkv[int64_t{t} * shape.columns() + (shape.heads + g) * shape.head_dim];
        float* value = key + shape.kv_heads * shape.head_dim;
        for (int c = 0; c < shape.head_dim; ++c) key[c] += 0.3f;
        for (int i = 0; i < shape.width; ++i) {
          const auto code = static_cast<float>(Code(t, g, i));
          for (int c = 0; c < shape.head_dim; ++c)
            value[c] += slopes[i * shape.head_dim + c] * code;
        }
      }
    }
    Store();
  }

  /// Attends with a summary that has been made for the row alone.
  std::vector<float> AttendAnew(int position, const Selection& selection) {
    summary.tokens = 0;
    return Attend(position, {selection});
  }

  std::vector<float> weights;  ///< LayerAttention::tail_weights

  struct Summary {
    std::vector<double> code, value, key;  // means
    Matrix64 slopes;
  };

  Summary Summarise(int tokens, int g) const {
    const auto width = static_cast<size_t>(shape.width);
    const auto dim = static_cast<size_t>(shape.head_dim);
    Summary of{std::vector<double>(width), std::vector<double>(dim), std::vector<double>(dim), {}};
    const double count = tokens - attention.sinks;
    for (int t = attention.sinks; t < tokens; ++t) {
      for (size_t i = 0; i < width; ++i) of.code[i] += Code(t, g, static_cast<int>(i)) / count;
      for (size_t c = 0; c < dim; ++c) {
        of.value[c] += Value(t, g, static_cast<int>(c)) / count;
        of.key[c] += Key(t, g, static_cast<int>(c)) / count;
      }
    }
    Matrix64 codes(width, std::vector<double>(width)), values(width, std::vector<double>(dim));
    for (int t = attention.sinks; t < tokens; ++t) {
      for (size_t i = 0; i < width; ++i) {
        const double above = Code(t, g, static_cast<int>(i)) - of.code[i];
        for (size_t j = 0; j < width; ++j) {
          codes[i][j] += above * (Code(t, g, static_cast<int>(j)) - of.code[j]) / count;
        }
        for (size_t c = 0; c < dim; ++c) {
          values[i][c] += above * (Value(t, g, static_cast<int>(c)) - of.value[c]) / count;
        }
      }
    }
    double trace = 0;
    for (size_t i = 0; i < width; ++i) trace += codes[i][i];
    for (size_t i = 0; i < width; ++i) codes[i][i] += 0.01 * trace / shape.width;
    of.slopes = Solve(codes, values);
    return of;
  }

  /// Compares a row's output where the selection is no matter of rounding. Returns how many KV
  /// heads were compared.
  int CheckTail(int position, const Selection& selection, const float* out) const {
    int compared = 0;
    for (int g = 0; g < shape.kv_heads; ++g) {
      double margin;
      const std::vector<int> chosen = Select(position, g, selection, &margin);
      if (margin < 1.002) continue;
      ++compared;
      const Summary of = Summarise(position / 64 * 64, g);
      for (int h = g * shape.group(); h < (g + 1) * shape.group(); ++h) {
        CheckHead(position, h, chosen, of, out + h * shape.head_dim);
      }
    }
    return compared;
  }

 private:
  void CheckHead(int position, int h, const std::vector<int>& chosen, const Summary& of,
                 const float* out) const {
    const int g = h / shape.group();
    const std::vector<double> by_labels = Scores(position, h, false);
    double of_mean_key = 0;
    for (int c = 0; c < shape.head_dim; ++c) {
      of_mean_key += Scale() * Query(position, h, c) * of.key[static_cast<size_t>(c)];
    }
    // The mean over the summarised tokens of what is linear in the codes.
    double of_mean_label = 0;
    const int tokens = position / 64 * 64;
    for (int t = attention.sinks; t < tokens; ++t) {
      of_mean_label += by_labels[static_cast<size_t>(t)] / (tokens - attention.sinks);
    }
    double tail = 0;
    std::vector<double> code(of.code.size());
    for (int j = 0; j <= position; ++j) {
      if (std::ranges::binary_search(chosen, j)) continue;
      const double weight =
          weights[static_cast<size_t>(g)] *
          std::exp(by_labels[static_cast<size_t>(j)] + of_mean_key - of_mean_label);
      tail += weight;
      for (size_t i = 0; i < code.size(); ++i) {
        code[i] += weight * Code(j, g, static_cast<int>(i));
      }
    }
    double sum = tail;
    std::vector<double> want(static_cast<size_t>(shape.head_dim));
    for (size_t c = 0; c < want.size(); ++c) {
      want[c] = of.value[c];
      for (size_t i = 0; i < code.size(); ++i) {
        want[c] += (code[i] / tail - of.code[i]) * of.slopes[i][c];
      }
      want[c] *= tail;
    }
    for (const int j : chosen) {
      const double weight = std::exp(ExactScore(position, h, j));
      sum += weight;
      for (size_t c = 0; c < want.size(); ++c) want[c] += weight * Value(j, g, static_cast<int>(c));
    }
    for (size_t c = 0; c < want.size(); ++c) {
      EXPECT_NEAR(out[c], want[c] / sum, 1e-3) << "position " << position << " head " << h;
    }
  }
};

constexpr Selection kSparse = {.kind = SelectionKind::kLabels, .fraction = 1.0f / 4};

TEST(TailTest, IsWhatSummaryAndLabelsSayInDoublePrecision) {
  int compared = 0;
  int rows = 0;
  uint32_t seed = 60;
  for (const Shape& shape :
       {Shape{}, Shape{.heads = 4, .kv_heads = 4, .head_dim = 128, .width = 32, .context = 300},
        Shape{.heads = 8, .kv_heads = 1, .head_dim = 48, .width = 8, .context = 2500},
        Shape{.heads = 9, .kv_heads = 3, .width = 64, .context = 1100, .block_tokens = 16},
        Shape{.heads = 10, .kv_heads = 2, .width = 24, .block_tokens = 256}}) {
    TailSequence sequence(shape, ++seed, shape.width == 24 ? 0.25f : 1.0f);
    for (const float fraction : {0.22f, 0.25f, 0.5f}) {
      const Selection selection{.kind = SelectionKind::kLabels, .fraction = fraction};
      const int position = shape.context - 1;
      const auto out = sequence.AttendAnew(position, selection);
      compared += sequence.CheckTail(position, selection, out.data());
      rows += shape.kv_heads;
    }
  }
  EXPECT_GT(compared, rows / 2);
}

TEST(TailTest, MovesTheOutputByMoreThanTestsTolerate) {
  TailSequence sequence({}, 70);
  const auto with = sequence.AttendAnew(699, kSparse);
  sequence.attention.tail_weights = nullptr;
  const auto without = sequence.AttendAnew(699, kSparse);
  float most = 0;
  for (size_t i = 0; i < with.size(); ++i) most = std::max(most, std::abs(with[i] - without[i]));
  EXPECT_GT(most, 0.1f);
}

TEST(TailTest, ARowIsTheSameAloneOrAmongOthersWhateverHasBeenSummarised) {
  TailSequence sequence({}, 71);
  constexpr int kFirst = 250;
  const std::vector<Selection> selections(700 - kFirst, kSparse);
  sequence.summary.tokens = 0;
  const auto together = sequence.Attend(kFirst, selections);
  const size_t columns = together.size() / selections.size();
  for (int position = kFirst; position < 700; position += 37) {
    const auto alone = sequence.AttendAnew(position, kSparse);
    const float* row = &together[static_cast<size_t>(position - kFirst) * columns];
    EXPECT_EQ(std::memcmp(alone.data(), row, columns * sizeof(float)), 0) << position;
  }
}

// A prefix hit, a fork or a sequence that is computed anew finds an empty slot and filled blocks.
TEST(TailTest, ASummaryIsTheSameGrownStepByStepOrMadeAtOnce) {
  TailSequence sequence({}, 72);
  const auto contents = [&] {
    const auto* begin = reinterpret_cast<const char*>(sequence.kv.summary(1, 0));
    const int64_t bytes = sequence.kv.summary_bytes() / 2;
    return std::vector<char>(begin, begin + bytes);
  };
  sequence.AttendAnew(680, kSparse);
  const std::vector<char> at_once = contents();
  sequence.summary.tokens = 0;
  for (const int position : {30, 100, 127, 128, 129, 400, 639, 640, 680}) {
    sequence.Attend(position, {kSparse});
    sequence.summary.tokens = SummarisedTokens(position);
  }
  EXPECT_EQ(contents(), at_once);
  // Rows that lie further on leave no trace.
  sequence.summary.tokens = 0;
  sequence.Attend(300, std::vector<Selection>(200, kSparse));
  sequence.summary.tokens = SummarisedTokens(300);
  sequence.Attend(500, std::vector<Selection>(180, Selection{}));
  sequence.summary.tokens = SummarisedTokens(500);
  sequence.Attend(680, {kSparse});
  EXPECT_EQ(contents(), at_once);
}

TEST(TailTest, ASummaryIsOfTheBlocksOfTheLayersGroup) {
  TailSequence sequence({}, 76);
  const auto of_first_group = sequence.AttendAnew(699, kSparse);
  sequence.kv.group = 2;
  EXPECT_EQ(sequence.AttendAnew(699, kSparse), of_first_group);
}

TEST(TailTest, NothingIsEstimatedOfWhatIsChosen) {
  TailSequence sequence({}, 73);
  const Selection all{.kind = SelectionKind::kLabels, .fraction = 1};
  EXPECT_EQ(sequence.AttendAnew(699, all), sequence.Attend(699, {Selection{}}));
}

TEST(TailTest, WithoutASummaryWhatIsNotChosenIsLeftOut) {
  TailSequence sequence({}, 74);
  sequence.attention.tail_weights = nullptr;
  const auto published = sequence.AttendAnew(699, kSparse);
  sequence.attention.tail_weights = sequence.weights.data();
  EXPECT_NE(sequence.AttendAnew(699, kSparse), published);
  sequence.summary.slot = -1;
  EXPECT_EQ(sequence.AttendAnew(699, kSparse), published);
  // Too early for a summary, which is not of sinks.
  const Selection most{.kind = SelectionKind::kLabels, .budget_tokens = 120};
  for (const int sinks : {64, 100}) {
    sequence.attention.sinks = sinks;
    sequence.summary.slot = 1;
    const auto early = sequence.AttendAnew(127, most);
    sequence.summary.slot = -1;
    EXPECT_EQ(sequence.AttendAnew(127, most), early) << sinks;
  }
}

TEST(TailTest, AHeadOfWeightZeroIsWhatItIsWithoutATail) {
  TailSequence sequence({}, 77);
  const auto with = sequence.AttendAnew(699, kSparse);
  sequence.attention.tail_weights = nullptr;
  const auto without = sequence.AttendAnew(699, kSparse);
  sequence.weights = {1, 0};
  sequence.attention.tail_weights = sequence.weights.data();
  const auto mixed = sequence.AttendAnew(699, kSparse);
  const size_t half = mixed.size() / 2;  // of each KV head
  EXPECT_EQ(std::memcmp(&mixed[0], &with[0], half * sizeof(float)), 0);
  EXPECT_EQ(std::memcmp(&mixed[half], &without[half], half * sizeof(float)), 0);
  EXPECT_NE(std::memcmp(&with[half], &without[half], half * sizeof(float)), 0);
}

TEST(TailTest, BudgetsBelowTheEvenPartLeaveOutWhatIsNotChosen) {
  TailSequence sequence({}, 78);
  const auto tail_matters = [&](const Selection& selection) {
    const auto with = sequence.AttendAnew(699, selection);
    sequence.attention.tail_weights = nullptr;
    const auto without = sequence.AttendAnew(699, selection);
    sequence.attention.tail_weights = sequence.weights.data();
    return with != without;
  };
  const auto kLabels = SelectionKind::kLabels;
  EXPECT_FALSE(tail_matters({.kind = kLabels, .budget_tokens = 63}));
  EXPECT_TRUE(tail_matters({.kind = kLabels, .budget_tokens = 64}));
  EXPECT_FALSE(tail_matters({.kind = kLabels, .fraction = 63.0f / 700}));
  EXPECT_TRUE(tail_matters({.kind = kLabels, .fraction = 65.0f / 700}));
}

TEST(TailTest, LabelsThatAreAllTheSameLeaveTheMeanValue) {
  TailSequence sequence({.context = 300}, 75);
  std::fill_n(sequence.key_basis.begin(), sequence.key_basis.size(), 0.0f);
  sequence.Store();
  for (const float x : sequence.AttendAnew(299, kSparse)) EXPECT_TRUE(std::isfinite(x));
}

}  // namespace
}  // namespace winnow::test
