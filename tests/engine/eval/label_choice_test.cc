#include "engine/eval/label_choice.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>
#include <span>
#include <vector>

#include "engine/eval/query_projection.h"
#include "engine/eval/query_rotation.h"
#include "engine/eval/sequence_runner.h"
#include "engine/model/model_spec.h"
#include "gtest/gtest.h"
#include "tests/engine/eval/random_model.h"

namespace winnow {
namespace {

constexpr int kTokens = 120;
constexpr int kDense = 40;  // tokens before those that select

// Queries, keys and inputs of one layer, of all tokens.
struct LayerRows {
  std::vector<std::vector<float>> qkv;  // [tokens] [(heads + 2 kv_heads) head_dim], rotated
  std::vector<std::vector<float>> residual;
};

std::vector<LayerRows> RunModel(RandomModel& model, const Selection& selection,
                                std::span<const RecallProbe> probes, std::span<ProbedMass> probed) {
  Transformer& transformer = model.transformer();
  std::vector<LayerRows> layers(static_cast<size_t>(transformer.config().layers));
  transformer.SetLayerObserver([&](int l, const Tensor& qkv, const Tensor& residual) {
    for (int64_t t = 0; t < qkv.rows; ++t) {
      layers[static_cast<size_t>(l)].qkv.emplace_back(qkv.Row(t), qkv.Row(t) + qkv.columns);
      layers[static_cast<size_t>(l)].residual.emplace_back(residual.Row(t),
                                                           residual.Row(t) + residual.columns);
    }
  });
  SequenceRunner runner(transformer, FirstBlocks(kTokens, RandomModel::kBlockTokens),
                        RandomModel::kStepTokens);
  const std::vector<int32_t> text = RandomModel::Tokens(kTokens);
  EXPECT_TRUE(runner.Compute({.tokens = std::span(text).first(kDense)}).ok());
  EXPECT_TRUE(runner
                  .Compute({.tokens = text,
                            .begin = kDense,
                            .selection = selection,
                            .probes = probes,
                            .probed = probed})
                  .ok());
  return layers;
}

// Mean over the query heads of what the positions hold of the exact softmax.
double MassOf(const ModelConfig& config, const LayerRows& rows, int position,
              std::span<const int32_t> chosen) {
  const auto dim = static_cast<size_t>(config.head_dim);
  const auto row = static_cast<size_t>(position);
  double mass = 0;
  for (size_t h = 0; h < static_cast<size_t>(config.heads); ++h) {
    std::vector<double> weights;
    for (size_t j = 0; j <= row; ++j) {
      const float* query = rows.qkv[row].data() + h * dim;
      const float* key = rows.qkv[j].data() + static_cast<size_t>(config.heads) * dim;
      weights.push_back(
          std::exp(std::inner_product(query, query + dim, key, 0.0) / std::sqrt(dim)));
    }
    double of_head = 0;
    for (const int32_t j : chosen) of_head += weights[static_cast<size_t>(j)];
    mass += of_head / std::accumulate(weights.begin(), weights.end(), 0.0) / config.heads;
  }
  return mass;
}

TEST(LabelChoiceTest, HoldsWhatTheBackendsSelectionHolds) {
  RandomModel model(kTokens);
  const ModelConfig& config = model.transformer().config();
  ASSERT_EQ(config.kv_heads, 1);
  const Selection selection = SelectionOf({.kind = SelectionKind::kLabels, .sparsity = 8});
  std::vector<RecallProbe> probes;
  for (int l = 0; l < config.layers; ++l) {
    for (int position = kDense; position < kTokens; ++position) probes.push_back({position, l, 0});
  }
  std::vector<ProbedMass> probed(probes.size());
  const std::vector<LayerRows> layers = RunModel(model, selection, probes, probed);

  size_t probe = 0;
  int differing = 0;
  for (int l = 0; l < config.layers; ++l) {
    const LayerRows& rows = layers[static_cast<size_t>(l)];
    auto layer = LayerSelection::WithLabels(RandomModel::Options(), config, l, model.labels(),
                                            model.backend());
    ASSERT_TRUE(layer.ok()) << layer.status();
    LabelChoice choice(*layer, model.pools().Layer(l), config.heads, model.backend());
    for (int position = 0; position < kTokens; ++position) {
      const std::span<const float> qkv = rows.qkv[static_cast<size_t>(position)];
      choice.AddToken(qkv.subspan(static_cast<size_t>(config.heads * config.head_dim),
                                  static_cast<size_t>(config.head_dim)));
      if (position < kDense) continue;
      const int context = position + 1;
      const int counts[] = {choice.CountChosen(selection, 0, context)};
      const auto weights = choice.Weigh(0, qkv, context);
      std::vector<int32_t> chosen = LargestWeights(
          weights.first(static_cast<size_t>(choice.end(context))), choice.first(), counts);
      for (int j = 0; j < choice.first(); ++j) chosen.push_back(j);
      for (int j = choice.end(context); j < context; ++j) chosen.push_back(j);
      // Keys of the cache are of fp16. Where a code or a weight is on the edge, a token may differ.
      if (std::abs(MassOf(config, rows, position, chosen) - probed[probe].recall) > 2e-3) {
        ++differing;
      }
      ++probe;
    }
  }
  EXPECT_LE(differing, 2);
}

TEST(LabelChoiceTest, WhereTheBudgetIsTheContextNothingIsChosen) {
  RandomModel model(kTokens);
  const ModelConfig& config = model.transformer().config();
  SelectionOptions options = RandomModel::Options();
  options.min_context = 50;
  auto layer = LayerSelection::WithLabels(options, config, 0, model.labels(), model.backend());
  ASSERT_TRUE(layer.ok());
  const LabelChoice choice(*layer, model.pools().Layer(0), config.heads, model.backend());
  const Selection selection = {.kind = SelectionKind::kLabels, .budget_tokens = 20};
  EXPECT_EQ(choice.CountChosen(selection, 0, 49), 0);
  EXPECT_EQ(choice.CountChosen(selection, 0, 50), 20 - 3);
  EXPECT_EQ(choice.CountChosen({.kind = SelectionKind::kAll}, 0, 50), 0);
}

TEST(LabelChoiceTest, LargestWeightsAreThoseOfASortedList) {
  std::mt19937 random(5);
  for (int round = 0; round < 50; ++round) {
    std::vector<float> weights;
    for (int i = 0; i < 40; ++i) weights.push_back(static_cast<float>(random() % 12));
    const int first = static_cast<int>(random() % 5);
    std::vector<int32_t> sorted(weights.size() - static_cast<size_t>(first));
    std::iota(sorted.begin(), sorted.end(), first);
    std::ranges::stable_sort(sorted, [&](int32_t a, int32_t b) {
      return weights[static_cast<size_t>(a)] > weights[static_cast<size_t>(b)];
    });
    const int counts[] = {4, 9, 9, 35};
    const std::vector<int32_t> largest = LargestWeights(weights, first, counts);
    ASSERT_EQ(largest.size(), 35u);
    for (const int count : counts)
      EXPECT_TRUE(std::is_permutation(largest.begin(), largest.begin() + count, sorted.begin()));
  }
}

// What predicts with these queries has a recall of 1.
TEST(QueryProjectionTest, OfALayersOwnInputItsQueriesAreTheLayers) {
  RandomModel model(kTokens);
  const ModelConfig& config = model.transformer().config();
  const std::vector<LayerRows> layers =
      RunModel(model, SelectionOf({.kind = SelectionKind::kLabels, .sparsity = 8}), {}, {});
  auto scratch = ActivationMemory::Allocate(config, 1, model.backend());
  ASSERT_TRUE(scratch.ok());
  const ModelSpec spec = ModelSpec::Of(config);
  for (int l = 0; l < config.layers; ++l) {
    auto projection = QueryProjection::Load(spec.blocks[static_cast<size_t>(l)].attention, config,
                                            WeightLoader(model.weights(), model.backend()));
    ASSERT_TRUE(projection.ok());
    for (const int position : {0, 1, 50, kTokens - 1}) {
      std::vector<float> x = layers[static_cast<size_t>(l)].residual[static_cast<size_t>(position)];
      const auto hidden = static_cast<int64_t>(x.size());
      std::vector<float> queries = projection->Run(
          model.backend(), {x.data(), 1, hidden, hidden, DataType::kF32}, scratch->OfStep(1));
      RotateHeads(config.ropes[0], position, config.head_dim, queries);
      const std::vector<float>& qkv =
          layers[static_cast<size_t>(l)].qkv[static_cast<size_t>(position)];
      for (size_t i = 0; i < queries.size(); ++i) EXPECT_NEAR(queries[i], qkv[i], 1e-4);
    }
  }
}

}  // namespace
}  // namespace winnow
