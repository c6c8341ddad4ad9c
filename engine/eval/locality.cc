#include "engine/eval/locality.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <utility>

#include "engine/eval/label_choice.h"
#include "engine/eval/linear_fit.h"
#include "engine/eval/query_predictor.h"
#include "engine/eval/row_cache.h"
#include "engine/eval/row_trace.h"
#include "engine/model/model_spec.h"

namespace winnow {
namespace {

using RowMajor = LinearMap::RowMajor;

int Times(double size, int64_t rows) {
  return static_cast<int>(std::ceil(size * static_cast<double>(rows)));
}

template <size_t kCount>
void Add(const std::array<int64_t, kCount>& from, std::array<int64_t, kCount>& to) {
  for (size_t i = 0; i < kCount; ++i) to[i] += from[i];
}

// What is known of one layer that selects.
struct SelectingLayer {
  SelectingLayer(LayerSelection chosen, const KvShape& shape, int heads, Backend& backend)
      : selection(std::move(chosen)),
        choice(selection, shape, heads, backend),
        traces(static_cast<size_t>(shape.kv_heads)) {}
  SelectingLayer(const SelectingLayer&) = delete;
  SelectingLayer& operator=(const SelectingLayer&) = delete;

  LayerSelection selection;
  LabelChoice choice;
  std::vector<RowTrace> traces;  // [kv_heads]

  std::unique_ptr<QueryPredictor> predictor;  // null in the first layer
  PredictedQueries predicted;                 // of the step's rows
};

// Watches all layers of a sequence, as a LayerObserver.
class LocalityRecorder {
 public:
  LocalityRecorder(const LocalityModel& model, const LocalityOptions& options)
      : model_(model), options_(options), config_(model.transformer.config()) {
    result_.kv_heads = config_.kv_heads;
    result_.heads.resize(static_cast<size_t>(config_.layers * config_.kv_heads));
  }

  absl::Status Load() {
    absl::StatusOr<ActivationMemory> scratch =
        ActivationMemory::Allocate(config_, options_.step_rows, model_.backend);
    if (!scratch.ok()) return scratch.status();
    scratch_ = *std::move(scratch);
    const ModelSpec spec = ModelSpec::Of(config_);
    for (int l = 0; l < config_.layers; ++l) {
      if (absl::Status status = LoadLayer(l, spec); !status.ok()) return status;
    }
    return absl::OkStatus();
  }

  void Observe(int layer, const Tensor& qkv, const Tensor& residual) {
    RowMajor rows(qkv.rows, qkv.columns);
    model_.backend.CopyToHost(qkv, rows.data());
    SelectingLayer* selecting = layers_[static_cast<size_t>(layer)].get();
    if (selecting != nullptr) {
      AddTokens(rows, *selecting);
      if (is_decoding()) Choose(layer, rows, *selecting);
      if (selecting->predictor && !is_decoding()) {
        selecting->predictor->Fit(normed_before_, residual, model_.backend, Scratch(residual));
      }
    }
    if (layer + 1 == config_.layers || !layers_[static_cast<size_t>(layer) + 1]) return;
    normed_before_ = QueryPredictor::Normed(residual, config_, model_.backend);
    if (!is_decoding()) return;
    SelectingLayer& next = *layers_[static_cast<size_t>(layer) + 1];
    next.predicted = next.predictor->Predict(normed_before_, residual, position_, model_.backend,
                                             Scratch(residual));
  }

  // The rows that follow are further on.
  void Advance(int rows) { position_ += rows; }

  // The rows that follow are decoded.
  void BeginDecoding() {
    for (const std::unique_ptr<SelectingLayer>& layer : layers_) {
      if (layer && layer->predictor) layer->predictor->EndFit();
    }
  }

  LocalityResult Finish() && {
    for (int l = 0; l < config_.layers; ++l) {
      const SelectingLayer* layer = layers_[static_cast<size_t>(l)].get();
      for (int g = 0; layer != nullptr && g < config_.kv_heads; ++g) {
        CountReuse(layer->traces[static_cast<size_t>(g)], Counts(l, g));
      }
    }
    return std::move(result_);
  }

 private:
  bool is_decoding() const {
    return position_ >= options_.context - options_.steps - options_.warm_up;
  }
  bool is_counted(int position) const { return position >= options_.context - options_.steps; }
  LocalityCounts& Counts(int layer, int kv_head) {
    return result_.heads[static_cast<size_t>(layer * config_.kv_heads + kv_head)];
  }

  absl::Status LoadLayer(int l, const ModelSpec& spec) {
    layers_.emplace_back();
    if (model_.labels.layers[static_cast<size_t>(l)].empty()) return absl::OkStatus();
    absl::StatusOr<LayerSelection> selection =
        LayerSelection::WithLabels(model_.selection, config_, l, model_.labels, model_.backend);
    if (!selection.ok()) return selection.status();
    layers_.back() = std::make_unique<SelectingLayer>(
        *std::move(selection), model_.transformer.pools().Layer(l), config_.heads, model_.backend);
    if (l == 0) return absl::OkStatus();
    absl::StatusOr<QueryPredictor> predictor =
        QueryPredictor::Load(spec.blocks[static_cast<size_t>(l)].attention, config_, l,
                             WeightLoader(model_.weights, model_.backend));
    if (!predictor.ok()) return predictor.status();
    layers_.back()->predictor = std::make_unique<QueryPredictor>(*std::move(predictor));
    return absl::OkStatus();
  }

  Activations Scratch(const Tensor& rows) const {
    return scratch_.OfStep(static_cast<int>(rows.rows));
  }

  int query_columns() const { return config_.heads * config_.head_dim; }

  void AddTokens(const RowMajor& qkv, SelectingLayer& layer) {
    const auto keys = static_cast<size_t>(config_.kv_heads * config_.head_dim);
    for (Eigen::Index t = 0; t < qkv.rows(); ++t) {
      layer.choice.AddToken({qkv.row(t).data() + query_columns(), keys});
    }
  }

  std::span<const float> Queries(const RowMajor& rows, Eigen::Index row) const {
    return {rows.row(row).data(), static_cast<size_t>(query_columns())};
  }

  // Notes what the step's rows choose, and what of it was predicted.
  void Choose(int l, const RowMajor& qkv, SelectingLayer& layer) {
    for (Eigen::Index t = 0; t < qkv.rows(); ++t) {
      const int context = position_ + static_cast<int>(t) + 1;
      for (int g = 0; g < config_.kv_heads; ++g) {
        RowTrace& trace = layer.traces[static_cast<size_t>(g)];
        const int chosen[] = {layer.choice.CountChosen(options_.selection, g, context)};
        if (chosen[0] == 0) {
          trace.AddStep({});
          continue;
        }
        const std::span<const float> weights = layer.choice.Weigh(g, Queries(qkv, t), context);
        std::vector<int32_t> rows =
            LargestWeights(weights.first(static_cast<size_t>(layer.choice.end(context))),
                           layer.choice.first(), chosen);
        std::ranges::sort(rows);
        trace.AddStep(rows);
        if (!layer.predictor || !is_counted(context - 1)) continue;
        LocalityCounts& counts = Counts(l, g);
        counts.predictable_rows += std::ssize(rows);
        CountPredicted(layer.choice, g, Queries(layer.predicted.own, t), context, rows,
                       &counts.own_hits);
        CountPredicted(layer.choice, g, Queries(layer.predicted.fitted, t), context, rows,
                       &counts.fitted_hits);
      }
    }
  }

  // Adds how many of `rows`, ascending, prefetching has that goes by the queries.
  static void CountPredicted(LabelChoice& choice, int kv_head, std::span<const float> queries,
                             int context, const std::vector<int32_t>& rows,
                             std::array<int64_t, kPrefetchSizes.size()>* hits) {
    const int candidates = choice.end(context) - choice.first();
    std::array<int, kPrefetchSizes.size()> counts = {};
    for (size_t i = 0; i < counts.size(); ++i) {
      counts[i] = std::min(candidates, Times(kPrefetchSizes[i], std::ssize(rows)));
    }
    const std::span<const float> weights = choice.Weigh(kv_head, queries, context - 1);
    const std::vector<int32_t> prefetched = LargestWeights(
        weights.first(static_cast<size_t>(choice.end(context))), choice.first(), counts);
    int64_t found = 0;
    int next = 0;
    for (size_t i = 0; i < counts.size(); ++i) {
      for (; next < counts[i]; ++next) {
        found += std::ranges::binary_search(rows, prefetched[static_cast<size_t>(next)]) ? 1 : 0;
      }
      (*hits)[i] += found;
    }
  }

  void CountReuse(const RowTrace& trace, LocalityCounts& counts) const {
    const int first = options_.warm_up;
    counts.rows = trace.CountRows(first);
    counts.heads = counts.rows > 0 ? 1 : 0;
    counts.overlap = CountOverlap(trace, first);
    for (size_t i = 0; i < kCacheSizes.size(); ++i) {
      counts.lru_hits[i] = CountLruHits(trace, Times(kCacheSizes[i], trace.largest_step()), first);
    }
    counts.best_hits = CountBeladyHits(trace, Times(kBestCacheSize, trace.largest_step()), first);
    counts.ages = CountAges(trace, first);
  }

  const LocalityModel& model_;
  const LocalityOptions& options_;
  const ModelConfig& config_;
  ActivationMemory scratch_;
  std::vector<std::unique_ptr<SelectingLayer>> layers_;  // null: the layer keeps no labels
  int position_ = 0;                                     // of the step's first row
  RowMajor normed_before_;                               // of the step: inputs of the layer before
  LocalityResult result_;
};

}  // namespace

LocalityCounts& LocalityCounts::operator+=(const LocalityCounts& other) {
  heads += other.heads;
  rows += other.rows;
  overlap += other.overlap;
  Add(other.lru_hits, lru_hits);
  best_hits += other.best_hits;
  ages.by_age.resize(std::max(ages.by_age.size(), other.ages.by_age.size()));
  for (size_t i = 0; i < other.ages.by_age.size(); ++i) ages.by_age[i] += other.ages.by_age[i];
  ages.never += other.ages.never;
  predictable_rows += other.predictable_rows;
  Add(other.own_hits, own_hits);
  Add(other.fitted_hits, fitted_hits);
  return *this;
}

LocalityCounts LocalityResult::Layer(int layer) const {
  LocalityCounts sum;
  for (int g = 0; g < kv_heads; ++g) sum += head(layer, g);
  return sum;
}

LocalityCounts LocalityResult::Total() const {
  LocalityCounts sum;
  for (const LocalityCounts& head : heads) sum += head;
  return sum;
}

absl::StatusOr<LocalityResult> EvalLocality(const LocalityModel& model,
                                            std::span<const int32_t> text,
                                            const LocalityOptions& options,
                                            const RowsObserver& observer) {
  LocalityRecorder recorder(model, options);
  if (absl::Status status = recorder.Load(); !status.ok()) return status;
  SequenceRunner runner(model.transformer, FirstBlocks(options.context, options.block_tokens),
                        options.step_rows);
  runner.set_observer([&](int rows) {
    recorder.Advance(rows);
    if (observer) observer(rows);
  });
  model.transformer.SetLayerObserver([&](int layer, const Tensor& qkv, const Tensor& residual) {
    recorder.Observe(layer, qkv, residual);
  });
  const int dense = options.context - options.steps - options.warm_up;
  absl::Status status = runner.Compute({.tokens = text.first(static_cast<size_t>(dense))});
  if (status.ok()) {
    recorder.BeginDecoding();
    status = runner.Compute({.tokens = text.first(static_cast<size_t>(options.context)),
                             .begin = dense,
                             .selection = options.selection});
  }
  model.transformer.SetLayerObserver(nullptr);
  if (!status.ok()) return status;
  return std::move(recorder).Finish();
}

}  // namespace winnow
