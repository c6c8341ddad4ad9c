#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "engine/eval/linear_fit.h"
#include "engine/eval/query_projection.h"
#include "engine/model/activations.h"
#include "engine/model/config.h"
#include "engine/model/model_spec.h"
#include "engine/model/weight_loader.h"
#include "kernels/backend.h"
#include "kernels/tensor.h"

namespace winnow {

/// Queries for a layer that were made a layer ahead: [rows, heads head_dim], rotated to the rows'
/// positions.
struct PredictedQueries {
  LinearMap::RowMajor own;     ///< by the layer's own matrix
  LinearMap::RowMajor fitted;  ///< by the map that was fitted
};

/// Predicts one layer's queries from x, the input of the layer before: the residual stream that its
/// attention norms. The own queries are W_q norm_l(x), the layer's matrix of x under its own norm,
/// as if the layer before had added nothing. The fitted ones are W n(x) + b, n(x) = x / sqrt(mean
/// x^2 + epsilon), W and b by ridge regression (linear_fit.h) from rows whose queries are known.
class QueryPredictor {
 public:
  /// For `layer`, of which `spec` are the tensors. `config` outlives the result. The errors of
  /// WeightLoader.
  static absl::StatusOr<QueryPredictor> Load(const AttentionSpec& spec, const ModelConfig& config,
                                             int layer, const WeightLoader& loader);

  /// n(x) of inputs [rows, hidden].
  static LinearMap::RowMajor Normed(const Tensor& inputs, const ModelConfig& config,
                                    Backend& backend);

  /// Adds rows to what the map is fitted to: n(x) of the layer before's inputs [rows, hidden], and
  /// `residual`, this layer's. `scratch` are overwritten. REQUIRES: EndFit has not been called.
  void Fit(const LinearMap::RowMajor& normed_before, const Tensor& residual, Backend& backend,
           const Activations& scratch);

  /// Fits the map; the rows' moments are freed.
  void EndFit();

  /// Of consecutive rows, the first at `position`: `residual_before` are the inputs of the layer
  /// before, `normed_before` n of them. REQUIRES: EndFit has been called.
  PredictedQueries Predict(const LinearMap::RowMajor& normed_before, const Tensor& residual_before,
                           int position, Backend& backend, const Activations& scratch) const;

 private:
  QueryPredictor(QueryProjection projection, const ModelConfig& config, int layer);

  LinearMap::RowMajor Project(const Tensor& residual, Backend& backend,
                              const Activations& scratch) const;
  void Rotate(int position, LinearMap::RowMajor* queries) const;
  int columns() const { return config_->heads * config_->head_dim; }

  QueryProjection projection_;
  const ModelConfig* config_;
  int layer_;
  std::unique_ptr<LinearFit> fit_;  ///< until EndFit
  LinearMap map_;                   ///< from then on
};

}  // namespace winnow
