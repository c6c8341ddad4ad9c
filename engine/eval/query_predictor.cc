#include "engine/eval/query_predictor.h"

#include <cmath>
#include <cstddef>
#include <utility>
#include <vector>

#include "engine/eval/query_rotation.h"

namespace winnow {
namespace {

// Of the fit. From 1e-4 to 1e-2 it hardly matters (docs/offload.md).
constexpr double kRidge = 1e-3;

}  // namespace

QueryPredictor::QueryPredictor(QueryProjection projection, const ModelConfig& config, int layer)
    : projection_(std::move(projection)),
      config_(&config),
      layer_(layer),
      fit_(std::make_unique<LinearFit>(config.hidden, columns())) {}

absl::StatusOr<QueryPredictor> QueryPredictor::Load(const AttentionSpec& spec,
                                                    const ModelConfig& config, int layer,
                                                    const WeightLoader& loader) {
  absl::StatusOr<QueryProjection> projection = QueryProjection::Load(spec, config, loader);
  if (!projection.ok()) return projection.status();
  return QueryPredictor(*std::move(projection), config, layer);
}

LinearMap::RowMajor QueryPredictor::Normed(const Tensor& inputs, const ModelConfig& config,
                                           Backend& backend) {
  LinearMap::RowMajor rows(inputs.rows, inputs.columns);
  backend.CopyToHost(inputs, rows.data());
  for (Eigen::Index t = 0; t < rows.rows(); ++t) {
    const float mean_square = rows.row(t).squaredNorm() / static_cast<float>(rows.cols());
    rows.row(t) /= std::sqrt(mean_square + config.norm_epsilon);
  }
  return rows;
}

void QueryPredictor::Fit(const LinearMap::RowMajor& normed_before, const Tensor& residual,
                         Backend& backend, const Activations& scratch) {
  fit_->Add(normed_before, Project(residual, backend, scratch));
}

void QueryPredictor::EndFit() {
  map_ = fit_->Solve(kRidge);
  fit_.reset();
}

PredictedQueries QueryPredictor::Predict(const LinearMap::RowMajor& normed_before,
                                         const Tensor& residual_before, int position,
                                         Backend& backend, const Activations& scratch) const {
  PredictedQueries queries = {Project(residual_before, backend, scratch), map_.Run(normed_before)};
  Rotate(position, &queries.own);
  Rotate(position, &queries.fitted);
  return queries;
}

LinearMap::RowMajor QueryPredictor::Project(const Tensor& residual, Backend& backend,
                                            const Activations& scratch) const {
  const std::vector<float> queries = projection_.Run(backend, residual, scratch);
  return Eigen::Map<const LinearMap::RowMajor>(queries.data(), residual.rows, columns());
}

void QueryPredictor::Rotate(int position, LinearMap::RowMajor* queries) const {
  const auto rope = static_cast<size_t>(config_->layer[static_cast<size_t>(layer_)].rope);
  for (Eigen::Index t = 0; t < queries->rows(); ++t) {
    RotateHeads(config_->ropes[rope], position + static_cast<int>(t), config_->head_dim,
                {queries->row(t).data(), static_cast<size_t>(columns())});
  }
}

}  // namespace winnow
