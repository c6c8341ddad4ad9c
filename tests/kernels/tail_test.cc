// Attention that estimates what it does not choose, against a direct float64 transcription of its
// definition (Backend::Attention, kernels/summary.h).

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "gtest/gtest.h"
#include "tests/kernels/tail_sequence.h"

namespace winnow::test {
namespace {

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
      std::vector<ProbedMass> probed;
      const auto out = sequence.AttendAnew(position, selection, &probed);
      compared += sequence.CheckTail(position, selection, out.data(), probed.data());
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
