// Sparse attention of a backend against a direct float64 transcription of its definition
// (Backend::Attention, LabelCodec).

#include "kernels/selection.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <numeric>
#include <set>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/cpu/cpu_backend.h"
#include "kernels/cpu/label_scores.h"
#include "tests/kernels/contracted_budgets.h"
#include "tests/kernels/reference.h"

namespace winnow::test {
namespace {

struct Shape {
  int heads = 6;
  int kv_heads = 2;
  int head_dim = 64;
  int width = 16;
  int context = 700;
  int block_tokens = 32;
  int group() const { return heads / kv_heads; }
  int columns() const { return (heads + 2 * kv_heads) * head_dim; }
};

double AsHalf(float value) { return HalfToFloat(FloatToHalf(value)); }

// One sequence in a pool whose blocks are scattered and poisoned, with keys, values and labels of
// `context` tokens, and its queries.
class Sequence {
 public:
  Sequence(const Shape& shape, uint32_t seed, float key_spread = 1)
      : shape(shape), backend(CreateCpuBackend({.threads = 2})) {
    std::mt19937 random(seed);
    const int used = (shape.context + shape.block_tokens - 1) / shape.block_tokens;
    kv = {{used + 3, shape.kv_heads, shape.block_tokens, shape.head_dim, shape.width}};
    memory = *backend->Allocate(kv.bytes());
    kv.data = memory->data();
    std::memset(kv.data, 0xff, kv.bytes());  // NaNs
    label_memory = *backend->Allocate(kv.label_bytes());
    kv.labels = label_memory->data();
    std::memset(kv.labels, 0xff, kv.label_bytes());
    table.resize(kv.blocks);
    std::iota(table.begin(), table.end(), 0);
    std::shuffle(table.begin(), table.end(), random);

    const int64_t matrix = int64_t{shape.kv_heads} * shape.head_dim * shape.width;
    key_basis = RandomFloats(matrix, random, 2.5f / std::sqrt(static_cast<float>(shape.head_dim)));
    query_basis = RandomFloats(matrix, random, 0.15f);
    offset = RandomFloats(int64_t{shape.kv_heads} * shape.width, random, 1);
    for (float& o : offset) o += 7.5f;
    attention.basis = {key_basis.data(), query_basis.data(), offset.data()};

    qkv = RandomFloats(int64_t{shape.context} * shape.columns(), random);
    for (int64_t i = 0; i < std::ssize(qkv); ++i) {
      const int column = static_cast<int>(i % shape.columns()) / shape.head_dim;
      if (column >= shape.heads && column < shape.heads + shape.kv_heads) qkv[i] *= key_spread;
    }
    tokens.assign(shape.context, 0);
    positions.resize(shape.context);
    std::iota(positions.begin(), positions.end(), 0);
    Store();
  }

  // Writes keys, values and labels of all tokens.
  void Store() {
    const std::vector<int32_t> begin{0, shape.context};
    const std::vector<float> frequencies(shape.head_dim / 2, 0.0f);  // no rotation
    const StepBatch batch{tokens, positions, begin, table, static_cast<int32_t>(table.size()), {}};
    backend->BeginStep(batch);
    backend->RopeAndStoreKv(batch, View(qkv, shape.columns()), shape.heads, kv,
                            {RopePairing::kAdjacent, shape.head_dim, frequencies.data()},
                            attention.basis);
  }

  // Output [rows, heads, head_dim] of rows [first, first + count), with one selection for each;
  // recalls of all their heads if wanted.
  std::vector<float> Attend(int first, const std::vector<Selection>& selections,
                            std::vector<float>* recalls = nullptr) {
    const int count = static_cast<int>(selections.size());
    const std::vector<int32_t> begin{0, count};
    std::vector<RecallProbe> probes;
    for (int row = 0; row < count; ++row) {
      for (int g = 0; g < shape.kv_heads; ++g) probes.push_back({row, 0, g});
    }
    const StepBatch batch{.tokens = std::span(tokens).subspan(first, count),
                          .positions = std::span(positions).subspan(first, count),
                          .query_begin = begin,
                          .block_tables = table,
                          .max_blocks = static_cast<int32_t>(table.size()),
                          .logit_rows = {},
                          .selections = selections,
                          .recall_probes = probes};
    const Tensor rows{qkv.data() + int64_t{first} * shape.columns(), count, shape.columns(),
                      shape.columns()};
    std::vector<float> out(int64_t{count} * shape.heads * shape.head_dim, NAN);
    backend->BeginStep(batch);
    backend->Attention(batch, rows, shape.heads, kv, attention,
                       View(out, int64_t{shape.heads} * shape.head_dim));
    if (recalls != nullptr) {
      recalls->resize(probes.size());
      backend->MeasureRecall(batch, rows, shape.heads, kv, attention, probes, recalls->data());
    }
    return out;
  }

  double Query(int position, int head, int c) const {
    return qkv[int64_t{position} * shape.columns() + head * shape.head_dim + c];
  }
  double Key(int position, int kv_head, int c) const {
    return AsHalf(static_cast<float>(Query(position, shape.heads + kv_head, c)));
  }
  double Value(int position, int kv_head, int c) const {
    return AsHalf(static_cast<float>(Query(position, shape.heads + shape.kv_heads + kv_head, c)));
  }

  // The code as it is stored.
  int Code(int position, int kv_head, int i) const {
    const uint8_t* labels = kv.head_labels(table[position / shape.block_tokens], kv_head);
    const uint8_t byte =
        labels[cpu::LabelOffset(position % shape.block_tokens, shape.width) + i / 8 * 64 + i % 4];
    return i % 8 < 4 ? byte & 15 : byte >> 4;
  }

  double ExactScore(int position, int head, int j) const {
    double dot = 0;
    for (int c = 0; c < shape.head_dim; ++c) {
      dot += Query(position, head, c) * Key(j, head / shape.group(), c);
    }
    const double cap = attention.soft_cap;
    return cap > 0 ? cap * std::tanh(Scale() * dot / cap) : Scale() * dot;
  }

  double Scale() const {
    return attention.scale != 0 ? attention.scale : 1 / std::sqrt(shape.head_dim);
  }

  // Scores of all tokens up to `position`, exact or from the stored labels with a query of 8 bits.
  std::vector<double> Scores(int position, int head, bool exact) const {
    std::vector<double> scores(position + 1);
    const int g = head / shape.group();
    std::vector<double> w(shape.width, 0.0);
    for (int i = 0; i < shape.width; ++i) {
      for (int c = 0; c < shape.head_dim; ++c) {
        w[i] += Query(position, head, c) *
                query_basis[(int64_t{g} * shape.head_dim + c) * shape.width + i];
      }
    }
    double largest = 0;
    for (const double x : w) largest = std::max(largest, std::abs(x));
    for (double& x : w) x = std::round(x / largest * 127) * largest / 127;
    for (int j = 0; j <= position; ++j) {
      if (exact) {
        scores[j] = ExactScore(position, head, j);
      } else {
        for (int i = 0; i < shape.width; ++i) scores[j] += w[i] * Code(j, g, i);
        scores[j] *= Scale();
      }
    }
    return scores;
  }

  static std::vector<double> Softmax(std::vector<double> scores) {
    const double max = *std::ranges::max_element(scores);
    double sum = 0;
    for (double& score : scores) sum += score = std::exp(score - max);
    for (double& score : scores) score /= sum;
    return scores;
  }

  // What a KV head selects, and by which factor the last chosen token beats the best left out.
  std::vector<int> Select(int position, int kv_head, const Selection& selection,
                          double* margin) const {
    const int context = position + 1;
    const int budget = BudgetTokens(selection, attention, kv_head, context);
    std::vector<int> order(context);
    std::iota(order.begin(), order.end(), 0);
    *margin = std::numeric_limits<double>::infinity();
    if (budget == context) return order;
    std::vector<double> weight(context, 0.0);
    if (selection.kind == SelectionKind::kWindow) {
      for (int j = 0; j < context; ++j) weight[j] = j;
    } else {
      for (int h = 0; h < shape.group(); ++h) {
        const auto p = Softmax(Scores(position, kv_head * shape.group() + h,
                                      selection.kind == SelectionKind::kScores));
        for (int j = 0; j < context; ++j) weight[j] += p[j];
      }
    }
    for (int j = 0; j < context; ++j) {
      if (j < attention.sinks || j >= context - attention.window) weight[j] = INFINITY;
    }
    std::ranges::stable_sort(order, [&](int a, int b) { return weight[a] > weight[b]; });
    if (selection.kind != SelectionKind::kWindow && std::isfinite(weight[order[budget - 1]])) {
      *margin = weight[order[budget - 1]] / weight[order[budget]];
    }
    order.resize(budget);
    std::ranges::sort(order);
    return order;
  }

  // Compares one row's output, where the selection is not a matter of rounding; returns how many KV
  // heads were compared.
  int Check(int position, const Selection& selection, const float* out, const float* recalls) {
    int compared = 0;
    for (int g = 0; g < shape.kv_heads; ++g) {
      double margin;
      const std::vector<int> chosen = Select(position, g, selection, &margin);
      if (margin < 1.002) continue;
      ++compared;
      double recall = 0;
      for (int h = g * shape.group(); h < (g + 1) * shape.group(); ++h) {
        std::vector<double> scores(chosen.size());
        for (size_t i = 0; i < chosen.size(); ++i) scores[i] = ExactScore(position, h, chosen[i]);
        const auto p = Softmax(scores);
        for (int c = 0; c < shape.head_dim; ++c) {
          double want = 0;
          for (size_t i = 0; i < chosen.size(); ++i) want += p[i] * Value(chosen[i], g, c);
          EXPECT_NEAR(out[h * shape.head_dim + c], want, 3e-5)
              << "position " << position << " head " << h << " dim " << c;
        }
        const auto all = Softmax(Scores(position, h, true));
        for (const int j : chosen) recall += all[j] / shape.group();
      }
      EXPECT_NEAR(recalls[g], recall, 5e-4);
    }
    return compared;
  }

  Shape shape;
  std::unique_ptr<Backend> backend;
  std::unique_ptr<Buffer> memory;
  std::unique_ptr<Buffer> label_memory;
  KvView kv;
  LayerAttention attention;
  std::vector<int32_t> table;
  std::vector<float> key_basis, query_basis, offset;
  std::vector<float> qkv;
  std::vector<int32_t> tokens, positions;
};

constexpr Selection kSparse = {.kind = SelectionKind::kLabels, .fraction = 1.0f / 8};

TEST(LabelsTest, AreTheRoundedProjectionsOfTheKeys) {
  for (const int width : {8, 16, 24, 32, 64}) {
    const Sequence sequence({.width = width, .context = 100}, 1);
    int unequal = 0;
    for (int t = 0; t < 100; ++t) {
      for (int g = 0; g < 2; ++g) {
        for (int i = 0; i < width; ++i) {
          double z = sequence.offset[g * width + i];
          for (int c = 0; c < 64; ++c) {
            z += sequence.Query(t, 6 + g, c) * sequence.key_basis[(g * 64 + c) * width + i];
          }
          z = std::clamp(z, 0.0, 15.0);
          EXPECT_NEAR(sequence.Code(t, g, i), z, 0.5 + 1e-4);
          if (sequence.Code(t, g, i) != std::nearbyint(z)) ++unequal;
        }
      }
    }
    EXPECT_LE(unequal, 2) << "of width " << width;  // those that lie between two codes
  }
}

TEST(SelectionTest, AttendsToTheBestApproximateScores) {
  int compared = 0;
  int rows = 0;
  uint32_t seed = 10;
  for (const Shape& shape :
       {Shape{}, Shape{.heads = 4, .kv_heads = 4, .head_dim = 128, .width = 32, .context = 300},
        Shape{.heads = 8, .kv_heads = 1, .head_dim = 48, .width = 8, .context = 2500},
        Shape{.heads = 9, .kv_heads = 3, .width = 64, .context = 5000, .block_tokens = 16},
        Shape{.heads = 10, .kv_heads = 2, .width = 24, .block_tokens = 256}}) {
    Sequence sequence(shape, ++seed);
    for (const float fraction : {0.02f, 1.0f / 16, 0.125f, 0.5f, 0.97f}) {
      const Selection selection{.kind = SelectionKind::kLabels, .fraction = fraction};
      std::vector<float> recalls;
      const int row = shape.context - 1;
      const auto out = sequence.Attend(row, {selection}, &recalls);
      compared += sequence.Check(row, selection, out.data(), recalls.data());
      rows += shape.kv_heads;
    }
  }
  EXPECT_GT(compared, rows / 2);
}

TEST(SelectionTest, AttendsToTheBestExactScores) {
  Sequence sequence({}, 20, /*key_spread=*/2);
  int compared = 0;
  for (const float fraction : {0.05f, 0.1f, 0.3f}) {
    const Selection selection{.kind = SelectionKind::kScores, .fraction = fraction};
    std::vector<float> recalls;
    const auto out = sequence.Attend(699, {selection}, &recalls);
    compared += sequence.Check(699, selection, out.data(), recalls.data());
  }
  EXPECT_GE(compared, 3);
}

TEST(SelectionTest, LayersMayScaleAndCapTheirScores) {
  int compared = 0;
  for (const SelectionKind kind : {SelectionKind::kLabels, SelectionKind::kScores}) {
    Sequence sequence({.head_dim = 256}, 29, /*key_spread=*/2);
    sequence.attention.scale = 0.2f;
    sequence.attention.soft_cap = 4;
    const Selection selection{.kind = kind, .fraction = 0.1f};
    std::vector<float> recalls;
    const auto out = sequence.Attend(699, {selection}, &recalls);
    compared += sequence.Check(699, selection, out.data(), recalls.data());
  }
  EXPECT_GE(compared, 3);
}

TEST(SelectionTest, LayersWithASlidingWindowAreDenseWithinItWhateverRowsSelect) {
  Sequence sequence({}, 30);
  sequence.attention.sliding_window = 100;
  const auto dense = sequence.Attend(699, {Selection{}});
  for (const SelectionKind kind :
       {SelectionKind::kLabels, SelectionKind::kScores, SelectionKind::kWindow}) {
    std::vector<float> recalls;
    EXPECT_EQ(sequence.Attend(699, {{.kind = kind, .fraction = 0.1f}}, &recalls), dense);
    EXPECT_EQ(recalls, (std::vector<float>{1, 1}));
  }
}

TEST(SelectionTest, WindowTakesTheFirstAndTheLastTokens) {
  Sequence sequence({}, 21);
  const Selection selection{.kind = SelectionKind::kWindow, .fraction = 0.1f};
  std::vector<float> recalls;
  const auto out = sequence.Attend(650, {selection, selection}, &recalls);
  EXPECT_EQ(sequence.Check(650, selection, out.data(), recalls.data()), 2);
  EXPECT_EQ(sequence.Check(651, selection, out.data() + 6 * 64, recalls.data() + 2), 2);
}

TEST(SelectionTest, EqualScoresAreTakenInOrderOfPosition) {
  Shape shape{.context = 400};
  Sequence sequence(shape, 22);
  for (int t = 0; t < shape.context; ++t) {  // all keys alike
    std::copy_n(&sequence.qkv[int64_t{shape.heads} * 64], 2 * 64,
                &sequence.qkv[int64_t{t} * shape.columns() + shape.heads * 64]);
  }
  sequence.Store();
  const Selection selection{.kind = SelectionKind::kLabels, .budget_tokens = 50};
  const auto out = sequence.Attend(399, {selection});
  for (int h = 0; h < shape.heads; ++h) {
    for (int c = 0; c < 64; ++c) {
      double want = 0;  // the mean over positions 0 to 33 and 384 to 399
      for (int j = 0; j < 400; ++j) {
        if (j < 34 || j >= 384) want += sequence.Value(j, h / 3, c) / 50;
      }
      ASSERT_NEAR(out[h * 64 + c], want, 1e-5);
    }
  }
}

TEST(SelectionTest, ABudgetOfTheWholeContextEqualsDenseAttentionExactly) {
  Sequence sequence({}, 23);
  for (const int position : {0, 18, 31, 255, 256, 600, 699}) {
    const auto dense = sequence.Attend(position, {Selection{}});
    for (const SelectionKind kind :
         {SelectionKind::kLabels, SelectionKind::kScores, SelectionKind::kWindow}) {
      std::vector<float> recalls;
      EXPECT_EQ(sequence.Attend(position, {{.kind = kind, .fraction = 1}}, &recalls), dense);
      EXPECT_EQ(recalls, (std::vector<float>{1, 1}));
      EXPECT_EQ(sequence.Attend(position, {{.kind = kind, .budget_tokens = 700}}), dense);
    }
  }
}

TEST(SelectionTest, OneTokenLessThanTheContextIsNearlyDense) {
  Sequence sequence({}, 24);
  const Selection selection{.kind = SelectionKind::kScores, .budget_tokens = 699};
  std::vector<float> recalls;
  sequence.Attend(699, {selection}, &recalls);
  for (const float recall : recalls) EXPECT_GT(recall, 0.999f);
}

TEST(SelectionTest, ARowIsTheSameAloneAndAmongOthers) {
  Sequence sequence({.heads = 9, .kv_heads = 3}, 25);
  constexpr int kFirst = 540;
  std::vector<Selection> selections;
  for (int i = 0; i < 150; ++i) {
    switch (i % 5) {
      case 0:
        selections.push_back({});
        break;
      case 1:
        selections.push_back({.kind = SelectionKind::kWindow, .fraction = 0.2f});
        break;
      default:
        selections.push_back({.kind = SelectionKind::kLabels, .fraction = 0.02f * (i % 60 + 1)});
    }
  }
  const auto together = sequence.Attend(kFirst, selections);
  constexpr int kRow = 9 * 64;
  for (int i = 0; i < 150; ++i) {
    const auto alone = sequence.Attend(kFirst + i, {selections[i]});
    ASSERT_EQ(std::memcmp(alone.data(), &together[i * kRow], kRow * sizeof(float)), 0) << i;
  }
}

TEST(SelectionTest, NumbersThatAreNotFiniteStillSelectTokensOfTheContext) {
  // With a group of one and of several, among few tokens and many.
  for (const Shape& shape : {Shape{.heads = 2, .kv_heads = 2, .context = 3000}, Shape{}}) {
    for (const float broken : {NAN, -NAN, INFINITY}) {
      for (const int spoilt : {1, 7, shape.context}) {  // rows
        Sequence sequence(shape, 29);
        std::mt19937 random(30);
        for (int i = 0; i < spoilt; ++i) {
          const int row = spoilt == shape.context ? i : static_cast<int>(random() % shape.context);
          std::fill_n(&sequence.qkv[int64_t{row} * shape.columns()], shape.columns(), broken);
        }
        sequence.Store();
        for (const SelectionKind kind : {SelectionKind::kLabels, SelectionKind::kScores}) {
          for (const float fraction : {0.05f, 0.5f}) {
            // Recalls are measured over what was selected, which must lie in the context.
            std::vector<float> recalls;
            sequence.Attend(shape.context - 2, {{kind, fraction, 0}, {kind, fraction, 0}},
                            &recalls);
            for (const float recall : recalls) EXPECT_TRUE(std::isnan(recall) || recall <= 1);
          }
        }
      }
    }
  }
}

TEST(SelectionTest, RowsOfMoreContextThanIsComputedAtOnceAreTheSame) {
  const Shape shape{.heads = 16, .kv_heads = 16, .head_dim = 16, .width = 8, .context = 5000};
  Sequence sequence(shape, 31);
  constexpr int kRows = 110;  // times the heads and the context: more than 2^23 tokens
  std::vector<Selection> selections;
  for (int i = 0; i < kRows; ++i) {
    selections.push_back(i % 3 == 0 ? Selection{.kind = SelectionKind::kLabels, .fraction = 1}
                                    : Selection{.kind = SelectionKind::kLabels,
                                                .fraction = 0.01f * static_cast<float>(i + 1)});
  }
  std::vector<float> recalls;
  const auto together = sequence.Attend(shape.context - kRows, selections, &recalls);
  const size_t row = size_t{16} * 16;
  for (int i = 0; i < kRows; i += 7) {
    std::vector<float> own_recalls;
    const auto alone = sequence.Attend(shape.context - kRows + i, {selections[i]}, &own_recalls);
    EXPECT_EQ(std::memcmp(alone.data(), &together[i * row], row * sizeof(float)), 0) << i;
    EXPECT_TRUE(std::equal(own_recalls.begin(), own_recalls.end(), recalls.begin() + i * 16)) << i;
  }
}

TEST(SelectionTest, HeadsHaveBudgetsOfTheirOwn) {
  Sequence sequence({}, 27);
  const float weights[] = {0.5f, 4.0f};
  sequence.attention.budget_weights = weights;
  std::vector<float> recalls;
  const auto out = sequence.Attend(699, {kSparse}, &recalls);
  EXPECT_GE(sequence.Check(699, kSparse, out.data(), recalls.data()), 1);
  EXPECT_LT(recalls[0], recalls[1]);
}

TEST(BudgetTokensTest, IsTheShareOfTheContextWithinItsLimits) {
  LayerAttention layer;  // 4 sinks, a window of 16
  const Selection sixteenth{.kind = SelectionKind::kLabels, .fraction = 1.0f / 16};
  EXPECT_EQ(BudgetTokens(sixteenth, layer, 0, 1600), 100);
  EXPECT_EQ(BudgetTokens(sixteenth, layer, 0, 1601), 101);
  EXPECT_EQ(BudgetTokens(sixteenth, layer, 0, 100), 20);
  EXPECT_EQ(BudgetTokens(sixteenth, layer, 0, 12), 12);
  EXPECT_EQ(BudgetTokens({}, layer, 0, 1600), 1600);
  const Selection count{.kind = SelectionKind::kLabels, .budget_tokens = 64};
  EXPECT_EQ(BudgetTokens(count, layer, 0, 1600), 64);
  EXPECT_EQ(BudgetTokens(count, layer, 0, 50), 50);
  // Of 100 tokens, 64 are the same for all heads.
  const float weights[] = {3, 1e30f, 0.25f};
  layer.budget_weights = weights;
  EXPECT_EQ(BudgetTokens(sixteenth, layer, 0, 1600), 64 + 3 * 36);
  EXPECT_EQ(BudgetTokens(sixteenth, layer, 1, 1600), 1600);
  EXPECT_EQ(BudgetTokens(sixteenth, layer, 2, 1600), 64 + 9);
  EXPECT_EQ(BudgetTokens(sixteenth, layer, 2, 800), 50);
  EXPECT_EQ(BudgetTokens(count, layer, 0, 1600), 64);
  EXPECT_EQ(BudgetTokens(count, layer, 2, 1600), 64);
  const Selection window{.kind = SelectionKind::kWindow, .fraction = 1.0f / 16};
  EXPECT_EQ(BudgetTokens(window, layer, 0, 1600), 100);
  layer.min_context = 1601;
  EXPECT_EQ(BudgetTokens(sixteenth, layer, 0, 1600), 1600);
  layer.sliding_window = 500;
  EXPECT_EQ(BudgetTokens({}, layer, 0, 1600), 500);
  EXPECT_EQ(BudgetTokens(sixteenth, layer, 0, 2000), 500);
  EXPECT_EQ(BudgetTokens(window, layer, 0, 499), 499);
}

// A device's compiler contracts products and sums, the host's does not: were the budgets others,
// the device would write past the lists that the host has made room for.
TEST(BudgetTokensTest, IsTheSameHoweverCompilersRoundWhatTheyMayContract) {
#if defined(__x86_64__)
  if (!__builtin_cpu_supports("fma")) GTEST_SKIP() << "the processor fuses nothing";
#endif
  const auto budget = [](const BudgetQuestion& question) {
    LayerAttention layer;
    layer.budget_weights = &question.weight;
    return BudgetTokens({SelectionKind::kLabels, question.fraction, question.budget_tokens}, layer,
                        0, question.context);
  };
  const BudgetQuestion known{.weight = 0.2109f, .budget_tokens = 4853, .context = 100000};
  EXPECT_EQ(budget(known), ContractedBudget(known));
  std::mt19937 random(28);
  int unequal = 0;
  for (int i = 0; i < 1000000; ++i) {
    BudgetQuestion question;
    // As label files have them, with four decimals.
    question.weight = static_cast<float>(random() % 40000 + 1) / 10000;
    question.context = static_cast<int32_t>(random() % 200000 + 1);
    if (i % 2 == 0) {
      question.fraction = 1 / (static_cast<float>(random() % 512 + 16) / 16);
    } else {
      question.budget_tokens = static_cast<int32_t>(random() % 20000 + 1);
    }
    unequal += budget(question) != ContractedBudget(question);
  }
  EXPECT_EQ(unequal, 0);
}

}  // namespace
}  // namespace winnow::test
