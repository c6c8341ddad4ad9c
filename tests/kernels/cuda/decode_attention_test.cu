#include <gtest/gtest.h>

#include <algorithm>
#include <climits>
#include <random>
#include <string>
#include <vector>

#include "kernels/cuda/budgets.cuh"
#include "kernels/cuda/decode_attention.h"
#include "tests/kernels/cuda/decode_problem.cuh"

namespace winnow::cuda {
namespace {

Row RandomRow(std::mt19937& random, int max_context, SelectionKind kind) {
  Row row = {.context = std::uniform_int_distribution<int>(1, max_context)(random),
             .selection = {.kind = kind}};
  // Small budgets, which are the usual ones, as often as those up to everything.
  const int most = std::max(2, random() % 2 == 0 ? row.context : row.context / 8);
  const int budget = std::uniform_int_distribution<int>(1, most)(random);
  if (random() % 2 == 0) {
    row.selection.budget_tokens = budget;
  } else {
    row.selection.fraction = static_cast<float>(budget) / static_cast<float>(row.context);
  }
  return row;
}

constexpr SelectionKind kAllKinds[] = {SelectionKind::kAll, SelectionKind::kLabels,
                                       SelectionKind::kWindow, SelectionKind::kScores};

constexpr int kHeadDims[] = {64, 80, 96, 128, 256};

std::vector<Row> MixedRows(std::mt19937& random, int count, int max_context) {
  std::vector<Row> rows;
  for (int i = 0; i < count; ++i) {
    rows.push_back(RandomRow(random, max_context, kAllKinds[(i + 1) % 4]));
  }
  return rows;
}

uint32_t Seed() {
  static const uint32_t seed = std::random_device()();
  return seed;
}

class DecodeAttentionTest : public ::testing::Test {
 protected:
  DecodeAttentionTest() : random_(Seed()) { RecordProperty("seed", std::to_string(Seed())); }
  void Verify(const Shape& shape, const std::vector<Row>& rows) {
    SCOPED_TRACE("seed " + std::to_string(Seed()) + " group " + std::to_string(shape.group) +
                 " head_dim " + std::to_string(shape.head_dim) + " width " +
                 std::to_string(shape.width) + " scale " + std::to_string(shape.scale) + " cap " +
                 std::to_string(shape.soft_cap) + " sliding window " +
                 std::to_string(shape.sliding_window));
    Problem problem(shape, rows, random_());
    problem.Run();
    problem.CheckAll();
  }
  std::mt19937 random_;
};

TEST_F(DecodeAttentionTest, MixedRowsAgreeWithFloat64AtEveryGroupHeadSizeAndWidth) {
  for (int group = 1; group <= kMaxGroup; ++group) {
    for (const int head_dim : kHeadDims) {
      for (const int width : {4, 8, 16, 24, 32}) {
        Verify({.group = group, .head_dim = head_dim, .width = width}, MixedRows(random_, 5, 700));
        if (HasFailure()) return;
      }
    }
  }
}

TEST_F(DecodeAttentionTest, ScalesAndSoftCapsAreTheLayers) {
  for (const int head_dim : kHeadDims) {
    for (const int group : {1, 4}) {
      for (const float scale : {0.04f, 0.25f}) {
        for (const float cap : {0.0f, 2.0f, 50.0f}) {
          Verify({.group = group, .head_dim = head_dim, .scale = scale, .soft_cap = cap},
                 MixedRows(random_, 4, 700));
          if (HasFailure()) return;
        }
      }
    }
  }
}

TEST_F(DecodeAttentionTest, RowsOfASlidingWindowSeeNothingBeforeIt) {
  for (const int head_dim : kHeadDims) {
    for (const int window : {1, 15, 33, 500, 2000}) {
      std::vector<Row> rows = MixedRows(random_, 4, 1500);
      rows.push_back({window, {}});
      rows.push_back({window + 1, {}});
      for (const int group : {1, 7}) {
        Verify({.group = group,
                .head_dim = head_dim,
                .block_tokens = 16,
                .soft_cap = group == 7 ? 30.0f : 0.0f,
                .sliding_window = window},
               rows);
        if (HasFailure()) return;
      }
    }
  }
}

TEST_F(DecodeAttentionTest, SmallMixedRowsAgree) {
  for (const int group : {1, 3}) {
    Verify({.group = group, .head_dim = 64, .block_tokens = 16}, MixedRows(random_, 4, 300));
  }
}

TEST_F(DecodeAttentionTest, EqualLabelsAreChosenByPosition) {
  for (const int group : {1, 2, 5}) {
    for (const int width : {4, 8}) {
      Verify({.group = group, .width = width, .codes = 2},
             {RandomRow(random_, 5000, SelectionKind::kLabels),
              RandomRow(random_, 5000, SelectionKind::kLabels)});
    }
  }
  // All equal.
  Verify({.group = 4, .codes = 1}, {RandomRow(random_, 3000, SelectionKind::kLabels)});
  Verify({.group = 1, .codes = 1}, {RandomRow(random_, 3000, SelectionKind::kLabels)});
}

TEST_F(DecodeAttentionTest, ScoresOfAnyRangeAreWeighed) {
  for (const float range : {0.03125f, 16.0f, 64.0f}) {
    Verify({.group = 4, .width = 32, .query_range = range},
           {RandomRow(random_, 2000, SelectionKind::kLabels)});
  }
}

TEST_F(DecodeAttentionTest, BudgetsFromTheLeastToAllButOne) {
  std::vector<Row> rows;
  for (const int context : {21, 30, 31, 128, 129, 2048, 2049}) {
    for (const int budget : {1, 20, 21, 36, context - 1, context}) {
      rows.push_back({context, {SelectionKind::kLabels, 1, budget}});
    }
  }
  Verify({.group = 1}, rows);
  Verify({.group = 4, .head_dim = 64}, rows);
}

TEST_F(DecodeAttentionTest, NoHeadListsMoreThanThereIsRoomFor) {
  std::vector<Row> rows;
  for (const SelectionKind kind :
       {SelectionKind::kLabels, SelectionKind::kWindow, SelectionKind::kScores}) {
    for (const int context : {100, 1500, 3000}) {
      rows.push_back({context, {kind, 1, 90}});
      rows.push_back({context, {kind, 0.25f, 0}});
    }
  }
  for (const int group : {1, 4}) {
    Verify({.group = group, .most_selected = 57}, rows);
  }
}

TEST_F(DecodeAttentionTest, NumbersThatAreNotFiniteStillSelectTokensOfTheContext) {
  std::vector<Row> rows;
  for (const SelectionKind kind : {SelectionKind::kLabels, SelectionKind::kScores}) {
    for (const int context : {100, 1500}) rows.push_back({context, {kind, 1, 60}});
    rows.push_back({20000, {kind, 0.5f, 0}});
  }
  for (const int group : {1, 2, 4, 8}) {
    for (const int one_in : {1, 5, 300}) {
      Problem problem({.group = group, .head_dim = 64, .spoilt_keys = one_in}, rows, random_());
      problem.Run();
      problem.CheckPositions();
    }
    for (const float query : {NAN, INFINITY, 1e38f, 1e-40f}) {
      Problem problem({.group = group, .head_dim = 64, .spoilt_queries = query}, rows, random_());
      problem.Run();
      problem.CheckPositions();
    }
  }
}

struct Question {
  Selection selection;
  float weight;
  int32_t context;
};

__global__ void AnswerBudgets(const Question* questions, int count, int32_t* budgets) {
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (i >= count) return;
  DecodeAttention call;
  call.contexts = &questions[i].context;
  call.selections = &questions[i].selection;
  call.max_selected = INT_MAX;
  BudgetWeights weights;
  weights.of_head[0] = questions[i].weight;
  budgets[i] = BudgetOf(call, weights, 0, 0);
}

TEST_F(DecodeAttentionTest, BudgetsAreThoseOfTheHost) {
  std::vector<Question> questions = {{{SelectionKind::kLabels, 1, 4853}, 0.2109f, 100000}};
  for (int i = 0; i < 1000000; ++i) {
    Question question;
    question.selection = {SelectionKind::kLabels, 1, 0};
    question.weight = static_cast<float>(random_() % 40000 + 1) / 10000;
    question.context = static_cast<int32_t>(random_() % 200000 + 1);
    if (i % 2 == 0) {
      question.selection.fraction = 1 / (static_cast<float>(random_() % 512 + 16) / 16);
    } else {
      question.selection.budget_tokens = static_cast<int32_t>(random_() % 20000 + 1);
    }
    questions.push_back(question);
  }
  const int count = static_cast<int>(questions.size());
  DeviceArray<Question> asked(questions);
  DeviceArray<int32_t> answers(questions.size());
  AnswerBudgets<<<(count + 255) / 256, 256>>>(asked.data(), count, answers.data());
  Check(cudaDeviceSynchronize());
  const std::vector<int32_t> budgets = answers.Get();
  for (int i = 0; i < count; ++i) {
    LayerAttention attention;
    attention.budget_weights = &questions[i].weight;
    attention.sinks = DecodeAttention().sinks;
    attention.window = DecodeAttention().window;
    attention.min_context = DecodeAttention().min_context;
    ASSERT_EQ(budgets[i], BudgetTokens(questions[i].selection, attention, 0, questions[i].context))
        << "seed " << Seed() << ", weight " << questions[i].weight << ", fraction "
        << questions[i].selection.fraction << ", tokens " << questions[i].selection.budget_tokens
        << ", context " << questions[i].context;
  }
}

TEST_F(DecodeAttentionTest, LongContextsOfOneSequence) {
  Verify({.kv_heads = 1, .group = 1, .head_dim = 64}, {{50001, {SelectionKind::kLabels, 1, 3000}}});
  Verify({.kv_heads = 1, .group = 2, .head_dim = 64, .width = 16},
         {{40000, {SelectionKind::kLabels, 1, 2500}}});
  Verify({.kv_heads = 1, .group = 4}, {{30000, {}}});
}

TEST_F(DecodeAttentionTest, ContextsTooLongForSharedMemory) {
  Verify({.kv_heads = 1, .head_dim = 64}, {{500000, {SelectionKind::kLabels, 1, 5000}}});
}

TEST_F(DecodeAttentionTest, ManyShortRows) {
  std::vector<Row> rows;
  for (int i = 0; i < 150; ++i) {
    rows.push_back(RandomRow(random_, 60, kAllKinds[random_() % 2]));
  }
  Verify({.kv_heads = 8, .group = 2, .head_dim = 64}, rows);
}

TEST_F(DecodeAttentionTest, WritesBf16) {
  Verify({.group = 4, .out_type = OutType::kBf16}, MixedRows(random_, 4, 900));
}

TEST_F(DecodeAttentionTest, ReplayedGraphServesOtherContexts) {
  for (const int group : {1, 4}) {
    for (const int window : {0, 700}) {
      Problem problem({.group = group, .sliding_window = window}, MixedRows(random_, 6, 3000),
                      random_());
      problem.RunCaptured();
      problem.CheckAll();
    }
  }
}

TEST_F(DecodeAttentionTest, SameCallGivesTheSameBits) {
  for (const int group : {1, 4}) {
    Problem problem({.group = group}, MixedRows(random_, 6, 6000), random_());
    problem.Run();
    const std::vector<uint8_t> first = problem.result();
    problem.Run();
    EXPECT_EQ(problem.result(), first);
  }
}

}  // namespace
}  // namespace winnow::cuda
