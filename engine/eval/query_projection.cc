#include "engine/eval/query_projection.h"

#include <cstddef>
#include <utility>

namespace winnow {

absl::StatusOr<QueryProjection> QueryProjection::Load(const AttentionSpec& spec,
                                                      const ModelConfig& config,
                                                      const WeightLoader& loader) {
  QueryProjection projection(config);
  absl::StatusOr<RmsNorm> norm = RmsNorm::Load(spec.norm, config.norm_epsilon, loader);
  if (!norm.ok()) return norm.status();
  projection.norm_ = *std::move(norm);
  absl::StatusOr<Linear> qkv = Linear::Load(spec.qkv, loader);
  if (!qkv.ok()) return qkv.status();
  projection.qkv_ = *std::move(qkv);
  if (spec.query_norm.empty()) return projection;
  absl::StatusOr<DeviceFloats> query_norm = loader.LoadVector({&spec.query_norm, 1});
  if (!query_norm.ok()) return query_norm.status();
  projection.query_norm_ = *std::move(query_norm);
  absl::StatusOr<DeviceFloats> key_norm = loader.LoadVector({&spec.key_norm, 1});
  if (!key_norm.ok()) return key_norm.status();
  projection.key_norm_ = *std::move(key_norm);
  return projection;
}

std::vector<float> QueryProjection::Run(Backend& backend, const Tensor& residual,
                                        const Activations& scratch) const {
  norm_.Run(backend, residual, scratch.normed);
  qkv_.Run(backend, scratch.normed, scratch.qkv);
  if (query_norm_.data() != nullptr) {
    backend.NormalizeHeads(scratch.qkv, heads_, kv_, query_norm_.data(), key_norm_.data(),
                           epsilon_);
  }
  Tensor queries = scratch.qkv;
  queries.columns = int64_t{heads_} * kv_.head_dim;
  std::vector<float> host(static_cast<size_t>(queries.rows * queries.columns));
  backend.CopyToHost(queries, host.data());
  return host;
}

}  // namespace winnow
