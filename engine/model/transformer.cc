#include "engine/model/transformer.h"

#include <algorithm>
#include <cstddef>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "engine/model/build_blocks.h"
#include "engine/model/layer_selection.h"
#include "engine/model/model_spec.h"
#include "engine/model/weight_loader.h"

namespace winnow {

absl::StatusOr<std::unique_ptr<Transformer>> Transformer::Load(const WeightSource& weights,
                                                               const ModelConfig& config,
                                                               Backend& backend, KvPools& pools,
                                                               const TransformerOptions& options) {
  for (int layer = 0; layer < pools.layers(); ++layer) {
    const LayerSelection selection(options.selection, config, layer);
    absl::Status status =
        backend.CheckAttention(config.heads, pools.Layer(layer), selection.attention());
    if (!status.ok()) return status;
  }
  if (config.mixture.experts > 0) {
    absl::Status status = backend.CheckExperts(config.hidden, config.mixture.ffn);
    if (!status.ok()) return status;
  }
  std::unique_ptr<Transformer> transformer(new Transformer(config, backend, pools));
  if (absl::Status status = transformer->LoadModules(weights, options); !status.ok()) return status;
  if (absl::Status status = transformer->TakeStepMemory(options); !status.ok()) return status;
  weights.ReleasePages();
  return transformer;
}

absl::Status Transformer::LoadModules(const WeightSource& weights,
                                      const TransformerOptions& options) {
  const ModelSpec spec = ModelSpec::Of(config_);
  const WeightLoader loader(weights, backend_);
  if (absl::Status status = LoadRopes(); !status.ok()) return status;
  absl::StatusOr<std::unique_ptr<Matrix>> embedding = loader.LoadEmbedding(spec.embedding);
  if (!embedding.ok()) return embedding.status();
  embedding_ = *std::move(embedding);

  const BlockOptions block_options = {
      .config = config_, .ropes = ropes_, .selection = options.selection, .labels = options.labels};
  absl::StatusOr<std::vector<Block>> blocks = BuildBlocks(spec, block_options, loader, backend_);
  if (!blocks.ok()) return blocks.status();
  blocks_ = *std::move(blocks);

  absl::StatusOr<RmsNorm> norm = RmsNorm::Load(spec.output_norm, config_.norm_epsilon, loader);
  if (!norm.ok()) return norm.status();
  output_norm_ = *std::move(norm);
  absl::StatusOr<Linear> output = Linear::Load(spec.output, loader);
  if (!output.ok()) return output.status();
  output_ = *std::move(output);
  return absl::OkStatus();
}

absl::Status Transformer::LoadRopes() {
  for (const RopeConfig& rope : config_.ropes) {
    const std::vector<float> numbers(rope.frequencies.begin(), rope.frequencies.end());
    absl::StatusOr<DeviceFloats> frequencies = DeviceFloats::Upload(numbers, backend_);
    if (!frequencies.ok()) return frequencies.status();
    ropes_.push_back(
        {rope.pairing, rope.dim, frequencies->data(), static_cast<float>(rope.magnitude)});
    rope_frequencies_.push_back(*std::move(frequencies));
  }
  return absl::OkStatus();
}

absl::Status Transformer::TakeStepMemory(const TransformerOptions& options) {
  std::vector<KvShape> layers;
  for (int layer = 0; layer < pools_.layers(); ++layer) layers.push_back(pools_.Layer(layer));
  const int pool_tokens = layers[0].blocks / pools_.groups() * layers[0].block_tokens;
  const int rows = options.max_step_tokens;
  const StepLimits limits = {
      .rows = rows,
      .sequences = options.max_sequences > 0 ? std::min(options.max_sequences, rows) : rows,
      .context = options.max_context > 0 ? options.max_context : pool_tokens,
      .logit_rows = ActivationMemory::kLogitRows,
      .heads = config_.heads,
      .layers = layers,
      .ropes = ropes_,
      .columns = std::max(
          {config_.hidden, config_.heads * config_.head_dim, config_.ffn, config_.mixture.ffn}),
      .experts = config_.mixture.experts,
      .chosen_experts = config_.mixture.chosen,
      .vocab = config_.vocab};
  absl::StatusOr<ActivationMemory> activations =
      ActivationMemory::Allocate(config_, rows, backend_);
  const absl::Status status = activations.ok() ? backend_.Reserve(limits) : activations.status();
  if (!status.ok()) {
    return absl::Status(status.code(), absl::StrCat("memory for steps of ", rows, " tokens, of ",
                                                    limits.sequences, " sequences of up to ",
                                                    limits.context, ": ", status.message()));
  }
  activations_ = *std::move(activations);
  return absl::OkStatus();
}

absl::Status Transformer::Forward(const StepBatch& batch, std::span<float> logits,
                                  std::span<ProbedMass> probed) {
  Compute(batch, probed, [&](int first, const Tensor& rows) {
    backend_.CopyToHost(rows, logits.data() + int64_t{first} * config_.vocab);
  });
  return backend_.Synchronize();
}

absl::Status Transformer::ForwardAndChoose(const StepBatch& batch,
                                           std::span<const TokenChoice> choices,
                                           std::span<int32_t> tokens,
                                           std::span<TokenDescription> descriptions,
                                           std::span<ProbedMass> probed) {
  size_t next = 0;
  Compute(batch, probed, [&](int first, const Tensor& rows) {
    const size_t begin = next;
    while (next < choices.size() && choices[next].row < first + rows.rows) ++next;
    const auto of_rows = choices.subspan(begin, next - begin);
    backend_.ChooseTokens(rows, first, of_rows, &tokens[begin]);
    if (descriptions.empty()) return;
    backend_.DescribeTokens(rows, first, of_rows, &tokens[begin], &descriptions[begin]);
  });
  return backend_.Synchronize();
}

// Lets `take` have the logits, some rows at a time, with the first one's place in batch.logit_rows.
void Transformer::Compute(const StepBatch& batch, std::span<ProbedMass> probed,
                          absl::FunctionRef<void(int first, const Tensor& logits)> take) {
  const StepContext context = {.backend = backend_,
                               .batch = batch,
                               .pools = pools_,
                               .activations = activations_.OfStep(batch.rows()),
                               .probed = probed,
                               .observer = observer_};
  backend_.BeginStep(batch);
  if (observer_ || !batch.recall_probes.empty()) {  // these touch host memory
    RunBlocks(context);
  } else {
    backend_.Replay(batch, &recordings_, [&] { RunBlocks(context); });
  }
  const auto wanted = static_cast<int>(batch.logit_rows.size());
  for (int first = 0; first < wanted; first += ActivationMemory::kLogitRows) {
    const LogitActivations rows =
        activations_.OfLogits(std::min(ActivationMemory::kLogitRows, wanted - first));
    backend_.GatherLogitRows(batch, first, context.activations.residual, rows.residual);
    output_norm_.Run(backend_, rows.residual, rows.normed);
    output_.Run(backend_, rows.normed, rows.logits);
    if (config_.logit_soft_cap > 0) backend_.SoftCap(rows.logits, config_.logit_soft_cap);
    take(first, rows.logits);
  }
}

// Leaves the residual stream after the last block.
void Transformer::RunBlocks(const StepContext& context) {
  const Tensor x = context.activations.residual;
  backend_.Embed(context.batch, *embedding_, config_.embedding_scale, x);
  for (const Block& block : blocks_) block.Run(context, x);
}

AttentionShape Transformer::attention_shape() const {
  AttentionShape shape = {.layers = config_.layers, .kv_heads = config_.kv_heads};
  shape.group_windows.resize(static_cast<size_t>(pools_.groups()));
  for (int layer = 0; layer < config_.layers; ++layer) {
    const KvShape& kv = pools_.Layer(layer);
    const int window = config_.layer[static_cast<size_t>(layer)].sliding_window;
    if (window > 0) shape.windowed.push_back(layer);
    shape.group_windows[static_cast<size_t>(kv.group)] = window;
    shape.summary_slots = std::max(shape.summary_slots, kv.summary_slots);
  }
  return shape;
}

KvTraffic Transformer::Traffic(const Selection& selection, int context) const {
  KvTraffic traffic;
  for (const Block& block : blocks_) block.mixer->AddTraffic(selection, context, &traffic);
  return traffic;
}

KvTraffic Transformer::PromptTraffic(int begin, int end) const {
  KvTraffic traffic;
  for (const Block& block : blocks_) block.mixer->AddPromptTraffic(begin, end, &traffic);
  return traffic;
}

WeightTotals Transformer::layer_totals() const {
  WeightTotals totals;
  for (const Block& block : blocks_) {
    totals += block.mixer->totals();
    totals += block.feed_forward->totals();
  }
  return totals;
}

int64_t Transformer::weight_bytes() const { return output_.totals().bytes + layer_totals().bytes; }

int64_t Transformer::layer_weights() const { return layer_totals().weights; }

int64_t Transformer::expert_bytes() const {
  const int64_t experts = int64_t{config_.layers} * config_.mixture.experts;
  return experts == 0 ? 0 : layer_totals().expert_bytes / experts;
}

absl::StatusOr<int64_t> Transformer::CountExpertReads() {
  int64_t reads = 0;
  backend_.Copy(reinterpret_cast<std::byte*>(&reads),
                reinterpret_cast<const std::byte*>(activations_.OfStep(0).routes.expert_reads),
                sizeof(reads));
  if (absl::Status status = backend_.Synchronize(); !status.ok()) return status;
  return reads;
}

}  // namespace winnow
