#include "engine/model/attention_mixer.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <utility>

namespace winnow {

AttentionMixer::AttentionMixer(const AttentionSettings& settings, LayerSelection selection)
    : settings_(settings), selection_(std::move(selection)) {}

absl::StatusOr<std::unique_ptr<Mixer>> AttentionMixer::Load(const AttentionSpec& spec,
                                                            const AttentionSettings& settings,
                                                            LayerSelection selection,
                                                            const WeightLoader& loader) {
  std::unique_ptr<AttentionMixer> mixer(new AttentionMixer(settings, std::move(selection)));
  absl::StatusOr<RmsNorm> norm = RmsNorm::Load(spec.norm, settings.norm_epsilon, loader);
  if (!norm.ok()) return norm.status();
  absl::StatusOr<Linear> qkv = Linear::Load(spec.qkv, loader);
  if (!qkv.ok()) return qkv.status();
  absl::StatusOr<ModuleOutput> output =
      ModuleOutput::Load(spec.output, spec.post_norm, settings.norm_epsilon, loader);
  if (!output.ok()) return output.status();
  mixer->norm_ = *std::move(norm);
  mixer->qkv_ = *std::move(qkv);
  mixer->output_ = *std::move(output);
  if (spec.query_norm.empty()) return mixer;
  absl::StatusOr<DeviceFloats> query_norm = loader.LoadVector({&spec.query_norm, 1});
  if (!query_norm.ok()) return query_norm.status();
  absl::StatusOr<DeviceFloats> key_norm = loader.LoadVector({&spec.key_norm, 1});
  if (!key_norm.ok()) return key_norm.status();
  mixer->query_norm_ = *std::move(query_norm);
  mixer->key_norm_ = *std::move(key_norm);
  return mixer;
}

void AttentionMixer::Run(const StepContext& context, Tensor x) const {
  Backend& backend = context.backend;
  const StepBatch& batch = context.batch;
  const Activations& a = context.activations;
  const KvView& kv = context.pools.Layer(settings_.layer);
  const LayerAttention& attention = selection_.attention();
  const int heads = settings_.heads;

  norm_.Run(backend, x, a.normed);
  qkv_.Run(backend, a.normed, a.qkv);
  if (query_norm_.data() != nullptr) {
    backend.NormalizeHeads(a.qkv, heads, kv, query_norm_.data(), key_norm_.data(),
                           settings_.norm_epsilon);
  }
  backend.RopeAndStoreKv(batch, a.qkv, heads, kv, settings_.rope, attention.basis);
  if (context.observer) context.observer(settings_.layer, a.qkv, x);
  backend.Attention(batch, a.qkv, heads, kv, attention, a.attended);
  MeasureRecall(context, kv);
  output_.AddTo(context, a.attended, x);
}

void AttentionMixer::MeasureRecall(const StepContext& context, const KvView& kv) const {
  const std::span<const RecallProbe> probes = context.batch.recall_probes;
  const auto first =
      std::ranges::lower_bound(probes, settings_.layer, std::less(), &RecallProbe::layer);
  const auto last =
      std::ranges::upper_bound(probes, settings_.layer, std::less(), &RecallProbe::layer);
  if (first == last) return;
  const auto begin = static_cast<size_t>(first - probes.begin());
  context.backend.MeasureRecall(
      context.batch, context.activations.qkv, settings_.heads, kv, selection_.attention(),
      probes.subspan(begin, static_cast<size_t>(last - first)), &context.probed[begin]);
}

// Of a token's key and value in one KV head.
int64_t AttentionMixer::token_bytes() const {
  return int64_t{2} * settings_.head_dim * static_cast<int64_t>(sizeof(uint16_t));
}

void AttentionMixer::AddTraffic(const Selection& selection, int context, KvTraffic* traffic) const {
  const int64_t tokens = SeenTokens(selection_.attention(), context);
  for (int g = 0; g < settings_.kv_heads; ++g) {
    const int64_t budget = BudgetTokens(selection, selection_.attention(), g, context);
    traffic->attended_tokens += budget;
    if (budget == tokens) {
      traffic->dense_bytes += tokens * token_bytes();
      continue;
    }
    traffic->row_bytes += budget * token_bytes();
    if (selection.kind == SelectionKind::kLabels) {
      traffic->label_bytes += tokens * selection_.label_width() / 2;
      if (TailWeight(selection, selection_.attention(), g, context) > 0) {
        const SummaryShape summary = {selection_.label_width(), settings_.head_dim};
        traffic->summary_bytes += summary.estimate_bytes();
      }
    } else if (selection.kind == SelectionKind::kScores) {
      traffic->dense_bytes += tokens * token_bytes() / 2;  // all keys
    }
  }
  traffic->heads += settings_.kv_heads;
  traffic->context_tokens += settings_.kv_heads * tokens;
  traffic->equivalent_bytes += settings_.kv_heads * tokens * token_bytes();
}

void AttentionMixer::AddPromptTraffic(int begin, int end, KvTraffic* traffic) const {
  const int first = begin + 1 - SeenTokens(selection_.attention(), begin + 1);
  const int64_t bytes = settings_.kv_heads * (end - first) * token_bytes();
  traffic->dense_bytes += bytes;
  traffic->equivalent_bytes += bytes;
}

WeightTotals AttentionMixer::totals() const {
  WeightTotals totals = qkv_.totals();
  totals += output_.totals();
  return totals;
}

}  // namespace winnow
