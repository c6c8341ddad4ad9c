#include "engine/calibration/calibration_statistics.h"

#include <Eigen/Core>
#include <algorithm>
#include <cassert>
#include <cmath>
#include <numeric>
#include <random>
#include <utility>

#include "absl/status/status.h"
#include "engine/calibration/parallel.h"
#include "engine/calibration/row_matrix.h"
#include "engine/model/fingerprint.h"
#include "engine/model/model_spec.h"
#include "kernels/float16.h"
#include "kernels/step_batch_builder.h"

namespace winnow {
namespace {

// Keys that each query is paired with for the mean of |q_c k_c|: over thousands of queries, enough.
constexpr int kPairsPerQuery = 8;

using Rows = Eigen::Map<const RowMatrix, 0, Eigen::OuterStride<>>;

// Sums over tokens for one KV head, in double, of products that are computed in float per window.
struct Sums {
  explicit Sums(int d)
      : query_moment(Eigen::MatrixXd::Zero(d, d)),
        key_mean(Eigen::VectorXd::Zero(d)),
        key_scatter(Eigen::MatrixXd::Zero(d, d)),
        query_magnitude(Eigen::VectorXd::Zero(d)),
        key_magnitude(Eigen::VectorXd::Zero(d)),
        product_magnitude(Eigen::VectorXd::Zero(d)) {}

  double keys = 0;
  double queries = 0;
  double pairs = 0;
  Eigen::MatrixXd query_moment;
  Eigen::VectorXd key_mean;
  Eigen::MatrixXd key_scatter;  // sum of (k - mean)(k - mean)^T
  Eigen::VectorXd query_magnitude;
  Eigen::VectorXd key_magnitude;
  Eigen::VectorXd product_magnitude;
};

// Row by row, as the memory lies.
void AddMagnitudes(const Rows& rows, Eigen::VectorXd& magnitude) {
  for (Eigen::Index t = 0; t < rows.rows(); ++t) {
    magnitude += rows.row(t).cwiseAbs().cast<double>().transpose();
  }
}

void AddQueries(const Rows& q, Sums& sums) {
  const RowMatrix moment = q.transpose() * q;
  sums.query_moment += moment.cast<double>();
  AddMagnitudes(q, sums.query_magnitude);
  sums.queries += static_cast<double>(q.rows());
}

// Each window's scatter is taken about its own mean and then moved to the common one: E[kk^T] minus
// the square of the mean would lose what keys with a large common offset differ in.
void AddKeys(const Rows& k, Sums& sums) {
  const auto count = static_cast<double>(k.rows());
  Eigen::VectorXd mean = Eigen::VectorXd::Zero(k.cols());
  for (Eigen::Index t = 0; t < k.rows(); ++t) mean += k.row(t).cast<double>().transpose();
  mean /= count;
  const RowMatrix centred = k.rowwise() - mean.cast<float>().transpose();
  const RowMatrix scatter = centred.transpose() * centred;
  const double total = sums.keys + count;
  const Eigen::VectorXd shift = mean - sums.key_mean;
  sums.key_scatter += scatter.cast<double>();
  sums.key_scatter += (sums.keys * count / total) * shift * shift.transpose();
  sums.key_mean += shift * (count / total);
  AddMagnitudes(k, sums.key_magnitude);
  sums.keys = total;
}

// Pairs every query with random keys at or before it.
void AddPairs(const Rows& q, const Rows& k, uint32_t seed, Sums& sums) {
  std::mt19937 random(seed);
  Eigen::VectorXf products = Eigen::VectorXf::Zero(q.cols());
  for (Eigen::Index t = 0; t < q.rows(); ++t) {
    for (int i = 0; i < kPairsPerQuery; ++i) {
      const auto past = static_cast<Eigen::Index>(random() % static_cast<uint64_t>(t + 1));
      products += q.row(t).cwiseProduct(k.row(past)).cwiseAbs().transpose();
    }
  }
  sums.product_magnitude += products.cast<double>();
  sums.pairs += static_cast<double>(q.rows()) * kPairsPerQuery;
}

std::vector<double> ToVector(const Eigen::MatrixXd& matrix) {
  return {matrix.data(), matrix.data() + matrix.size()};
}

// Appends every `stride`-th row from `first` on.
void AppendHalves(const Rows& rows, int64_t first, int64_t stride, std::vector<uint16_t>& halves) {
  for (int64_t t = first; t < rows.rows(); t += stride) {
    for (int64_t c = 0; c < rows.cols(); ++c) halves.push_back(FloatToHalf(rows(t, c)));
  }
}

bool AllFinite(const std::vector<uint16_t>& halves) {
  constexpr uint16_t kExponent = 0x7c00;
  return std::none_of(halves.begin(), halves.end(),
                      [](uint16_t half) { return (half & kExponent) == kExponent; });
}

bool AllFinite(const std::vector<double>& values) {
  return std::all_of(values.begin(), values.end(),
                     [](double value) { return std::isfinite(value); });
}

// Whether everything can be computed with: a broken model file makes infinities and NaN, and keys
// may be too large for the fp16 of the KV cache.
bool AllFinite(const CalibrationStatistics& statistics) {
  for (const CalibrationStatistics::Head& head : statistics.groups) {
    if (!AllFinite(head.query_moment) || !AllFinite(head.key_covariance) || !AllFinite(head.keys)) {
      return false;
    }
  }
  for (const CalibrationStatistics::Window& window : statistics.windows) {
    for (const CalibrationStatistics::Window::Layer& layer : window.layers) {
      if (!std::isfinite(layer.residual_energy) || !AllFinite(layer.keys) ||
          !AllFinite(layer.values)) {
        return false;
      }
    }
  }
  return true;
}

// Of `count` things, which `chosen` lie evenly spaced.
std::vector<int> EvenlySpaced(int count, int chosen) {
  std::vector<int> indices;
  for (int i = 0; i < std::min(count, chosen); ++i) {
    indices.push_back(static_cast<int>((2 * int64_t{i} + 1) * count / (2 * chosen)));
  }
  return indices;
}

class Gatherer {
 public:
  Gatherer(const ModelConfig& config, Backend& backend, const GatherOptions& options,
           int64_t text_tokens)
      : config_(config), backend_(backend), options_(options) {
    key_stride_ = std::max<int64_t>(
        1, (text_tokens + options.key_samples - 1) / std::max(1, options.key_samples));
    const int groups = config.layers * config.kv_heads;
    sums_.assign(groups, Sums(config.head_dim));
    statistics_.architecture = config.architecture;
    statistics_.model_name = config.name;
    statistics_.layers = config.layers;
    statistics_.heads = config.heads;
    statistics_.kv_heads = config.kv_heads;
    statistics_.head_dim = config.head_dim;
    statistics_.attention.scale = config.attention_scale;
    statistics_.attention.soft_cap = config.attention_soft_cap;
    statistics_.groups.resize(groups);
  }

  // The layers that follow are those of a window of that many tokens.
  void BeginWindow(int index, int tokens, bool measured) {
    window_index_ = index;
    text_begin_ += window_tokens_;
    window_tokens_ = tokens;
    measured_ = measured;
    statistics_.window_tokens = std::max(statistics_.window_tokens, tokens);
    if (!measured) return;
    CalibrationStatistics::Window window;
    window.tokens = tokens;
    const int half = tokens / 2;
    for (const int i : EvenlySpaced(tokens - half, options_.queries_per_window)) {
      window.query_positions.push_back(half + i);
    }
    window.layers.resize(config_.layers);
    statistics_.windows.push_back(std::move(window));
  }

  void Observe(int layer, const Tensor& qkv, const Tensor& residual) {
    if (!Selects(layer)) return;
    const int64_t columns = qkv.columns;
    qkv_.resize(qkv.rows * columns);
    backend_.CopyToHost(qkv, qkv_.data());
    ParallelFor(config_.kv_heads, options_.threads, [&](int g) { AddHead(layer, g); });
    if (!measured_) return;
    residual_.resize(residual.rows * residual.columns);
    backend_.CopyToHost(residual, residual_.data());
    KeepLayer(statistics_.windows.back().layers[layer], residual.columns);
  }

  // Adds what the output projection makes of a head's error.
  void AddOutputProjections(const WeightSource& weights) {
    const int group_columns = config_.heads / config_.kv_heads * config_.head_dim;
    const ModelSpec spec = ModelSpec::Of(config_);
    ParallelFor(config_.layers, options_.threads, [&](int layer) {
      if (!Selects(layer)) return;
      const HostWeight stored = weights.Weight(spec.blocks[layer].attention.output.weights[0]);
      const auto& [type, rows, columns, data] = stored.matrix;
      RowMatrix weight(rows, columns);
      for (int64_t row = 0; row < rows; ++row) {
        Dequantize(type, data.data() + row * RowBytes(type, columns), columns,
                   weight.data() + row * columns);
      }
      for (int g = 0; g < config_.kv_heads; ++g) {
        const auto part = weight.middleCols(g * group_columns, group_columns);
        const RowMatrix gram = part.transpose() * part;
        group(layer, g).output_gram.assign(gram.data(), gram.data() + gram.size());
      }
    });
  }

  CalibrationStatistics Finish() && {
    for (size_t i = 0; i < sums_.size(); ++i) {
      if (!Selects(static_cast<int>(i) / config_.kv_heads)) continue;
      const Sums& sums = sums_[i];
      CalibrationStatistics::Head& head = statistics_.groups[i];
      head.query_moment = ToVector(sums.query_moment / sums.queries);
      head.key_covariance = ToVector(sums.key_scatter / sums.keys);
      head.query_magnitude = ToVector(sums.query_magnitude / sums.queries);
      head.key_magnitude = ToVector(sums.key_magnitude / sums.keys);
      head.product_magnitude = ToVector(sums.product_magnitude / sums.pairs);
    }
    return std::move(statistics_);
  }

 private:
  bool Selects(int layer) const {
    return config_.layer[static_cast<size_t>(layer)].sliding_window == 0;
  }

  CalibrationStatistics::Head& group(int layer, int g) {
    return statistics_.groups[layer * config_.kv_heads + g];
  }

  // The rows of one head of the layer's Q, K and V, heads counted through all three.
  Rows HeadRows(int head) const {
    const int64_t columns = int64_t{config_.heads + 2 * config_.kv_heads} * config_.head_dim;
    return {qkv_.data() + int64_t{head} * config_.head_dim, window_tokens_, config_.head_dim,
            Eigen::OuterStride<>(columns)};
  }

  void AddHead(int layer, int g) {
    Sums& sums = sums_[layer * config_.kv_heads + g];
    const Rows k = HeadRows(config_.heads + g);
    AddKeys(k, sums);
    const int group_heads = config_.heads / config_.kv_heads;
    for (int h = g * group_heads; h < (g + 1) * group_heads; ++h) {
      const Rows q = HeadRows(h);
      AddQueries(q, sums);
      AddPairs(q, k,
               static_cast<uint32_t>((window_index_ * config_.layers + layer) * config_.heads + h),
               sums);
    }
    const int64_t first = (key_stride_ - text_begin_ % key_stride_) % key_stride_;
    AppendHalves(k, first, key_stride_, group(layer, g).keys);
  }

  void KeepLayer(CalibrationStatistics::Window::Layer& layer, int64_t hidden) {
    const int half = window_tokens_ / 2;
    const Eigen::Map<const RowMatrix> residual(residual_.data(), window_tokens_, hidden);
    layer.residual_energy =
        residual.bottomRows(window_tokens_ - half).rowwise().squaredNorm().cast<double>().mean();
    for (const int position : statistics_.windows.back().query_positions) {
      const int64_t columns = int64_t{config_.heads} * config_.head_dim;
      const int64_t stride = columns + int64_t{2} * config_.kv_heads * config_.head_dim;
      const auto row = qkv_.begin() + position * stride;
      layer.queries.insert(layer.queries.end(), row, row + columns);
    }
    for (int g = 0; g < config_.kv_heads; ++g) {
      AppendHalves(HeadRows(config_.heads + g), 0, 1, layer.keys);
      AppendHalves(HeadRows(config_.heads + config_.kv_heads + g), 0, 1, layer.values);
    }
  }

  const ModelConfig& config_;
  Backend& backend_;
  const GatherOptions& options_;
  int64_t key_stride_ = 1;  // every so many tokens of the text, a key is kept
  CalibrationStatistics statistics_;
  std::vector<Sums> sums_;  // [layers, kv_heads]
  int window_index_ = 0;
  int window_tokens_ = 0;
  int64_t text_begin_ = 0;  // tokens of the windows before
  bool measured_ = false;
  std::vector<float> qkv_;       // one layer's
  std::vector<float> residual_;  // one layer's
};

// Removes the observer when gathering ends, however it does.
class ObserverScope {
 public:
  ObserverScope(Transformer& transformer, LayerObserver observer) : transformer_(transformer) {
    transformer.SetLayerObserver(std::move(observer));
  }
  ~ObserverScope() { transformer_.SetLayerObserver(nullptr); }
  ObserverScope(const ObserverScope&) = delete;
  ObserverScope& operator=(const ObserverScope&) = delete;

 private:
  Transformer& transformer_;
};

// One window as a step: a single sequence from position 0 in the first blocks of the pool.
absl::Status RunWindow(Transformer& transformer, std::span<const int32_t> tokens) {
  const auto count = static_cast<int32_t>(tokens.size());
  const int block_tokens = transformer.pools().block_tokens();
  std::vector<int32_t> blocks((count + block_tokens - 1) / block_tokens);
  std::iota(blocks.begin(), blocks.end(), 0);
  StepBatchBuilder rows(transformer.pools().groups());
  rows.BeginSequence(blocks);
  for (int32_t position = 0; position < count; ++position) {
    rows.AddRow(tokens[position], position, Selection{}, /*wants_logits=*/false);
  }
  return transformer.Forward(rows.Build(), {}, {});
}

}  // namespace

absl::StatusOr<CalibrationStatistics> GatherStatistics(
    Transformer& transformer, Backend& backend, const Checkpoint& checkpoint,
    std::span<const std::vector<int32_t>> windows, const GatherOptions& options,
    const CalibrationProgress& progress) {
  const ModelConfig& config = transformer.config();
  if (std::ranges::all_of(config.layer,
                          [](const LayerConfig& layer) { return layer.sliding_window > 0; })) {
    return absl::FailedPreconditionError(
        "all layers of the model have sliding windows, which are dense: there is nothing to "
        "select");
  }
  const auto count = static_cast<int>(windows.size());
  int64_t text_tokens = 0;
  for (const std::vector<int32_t>& window : windows) {
    text_tokens += static_cast<int64_t>(window.size());
  }
  Gatherer gatherer(config, backend, options, text_tokens);
  int window_index = 0;
  const ObserverScope scope(transformer, [&](int layer, const Tensor& qkv, const Tensor& residual) {
    gatherer.Observe(layer, qkv, residual);
    if (progress) {
      progress((window_index + (layer + 1.0) / config.layers) / count);
    }
  });
  const std::vector<int> measured = EvenlySpaced(count, options.measured_windows);
  for (; window_index < count; ++window_index) {
    const std::vector<int32_t>& tokens = windows[window_index];
    gatherer.BeginWindow(window_index, static_cast<int>(tokens.size()),
                         std::binary_search(measured.begin(), measured.end(), window_index));
    if (absl::Status status = RunWindow(transformer, tokens); !status.ok()) return status;
  }
  if (!measured.empty()) gatherer.AddOutputProjections(checkpoint.weights());
  CalibrationStatistics statistics = std::move(gatherer).Finish();
  if (!AllFinite(statistics)) {
    return absl::InvalidArgumentError(
        "the model computes keys, values or queries that are not finite in fp16");
  }
  statistics.model_fingerprint = ModelFingerprint(checkpoint);
  return statistics;
}

}  // namespace winnow
