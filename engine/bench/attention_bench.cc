#include "engine/bench/attention_bench.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <numeric>
#include <random>
#include <span>
#include <vector>

#include "engine/bench/bench_support.h"
#include "engine/cache/kv_pools.h"
#include "kernels/step_batch_builder.h"

namespace winnow {
namespace {

// More than caches hold.
constexpr int64_t kColdBytes = int64_t{256} << 20;
constexpr int kMaxLayers = 64;

std::vector<float> RandomFloats(int64_t count, std::mt19937& random) {
  std::normal_distribution<float> normal;
  std::vector<float> values(count);
  for (float& value : values) value = normal(random);
  return values;
}

// Layers that attend one after another, and the sequences whose rows they are given.
class AttentionLayers {
 public:
  AttentionLayers(Backend& backend, const AttentionBenchOptions& options)
      : backend_(backend), options_(options), random_(1) {}

  // Fills memory with random numbers.
  absl::Status Allocate();

  // Attends with all layers once, with a row of each sequence at `position`, whose summary holds
  // its first `summarised` tokens.
  absl::Status Run(int position, int summarised);

  // The same again and again: median seconds of one layer.
  absl::StatusOr<double> Time(int position, int summarised, double seconds);

  // Bytes that the rows of one layer read at `position`.
  int64_t Bytes(int position) const;

 private:
  int max_blocks() const {
    return (options_.context + options_.block_tokens - 1) / options_.block_tokens;
  }
  StepBatch Lay(int position, int summarised);
  void Attend(const StepBatch& batch);

  Backend& backend_;
  const AttentionBenchOptions& options_;
  std::mt19937 random_;
  std::unique_ptr<KvPools> pools_;
  std::unique_ptr<Buffer> inputs_;
  std::unique_ptr<Buffer> outputs_;
  std::vector<float> tail_weights_;
  LayerAttention attention_;
  Tensor qkv_;
  Tensor out_;
  std::vector<int32_t> blocks_;
  StepBatchBuilder rows_;
};

absl::Status AttentionLayers::Allocate() {
  KvShape shape{.blocks = options_.batch * max_blocks(),
                .kv_heads = options_.kv_heads,
                .block_tokens = options_.block_tokens,
                .head_dim = options_.head_dim,
                .label_width = options_.label_width};
  if (options_.tail) {
    shape.summary_slots = options_.batch;
    tail_weights_.assign(options_.kv_heads, 1.0f);
    attention_.tail_weights = tail_weights_.data();
  }
  if (absl::Status s = backend_.CheckAttention(options_.heads, shape, attention_); !s.ok()) {
    return s;
  }
  const auto layers =
      static_cast<int>(std::clamp<int64_t>(kColdBytes / shape.bytes(), 1, kMaxLayers));
  auto pools = KvPools::Allocate(backend_, std::vector<KvShape>(layers, shape));
  if (!pools.ok()) return pools.status();
  pools_ = *std::move(pools);
  FillPools(*pools_, shape.blocks, backend_);

  const int columns = (options_.heads + 2 * options_.kv_heads) * options_.head_dim;
  const int out_columns = options_.heads * options_.head_dim;
  const int64_t matrix = int64_t{options_.kv_heads} * options_.head_dim * options_.label_width;
  std::vector<float> host = RandomFloats(int64_t{options_.batch} * columns, random_);
  // Scores of a few units, as trained heads have them.
  auto basis = RandomFloats(matrix, random_);
  for (float& value : basis) value /= std::sqrt(static_cast<float>(options_.head_dim));
  host.insert(host.end(), basis.begin(), basis.end());
  const auto host_bytes = static_cast<int64_t>(host.size() * sizeof(float));
  auto inputs = backend_.Allocate(host_bytes);
  if (!inputs.ok()) return inputs.status();
  inputs_ = *std::move(inputs);
  auto outputs = backend_.Allocate(int64_t{options_.batch} * out_columns *
                                   static_cast<int64_t>(sizeof(float)));
  if (!outputs.ok()) return outputs.status();
  outputs_ = *std::move(outputs);
  backend_.Copy(inputs_->data(), reinterpret_cast<const std::byte*>(host.data()), host_bytes);
  auto* floats = reinterpret_cast<float*>(inputs_->data());
  qkv_ = {floats, options_.batch, columns, columns};
  out_ = {outputs_->data(), options_.batch, out_columns, out_columns, backend_.activation_type()};
  attention_.basis.query = floats + int64_t{options_.batch} * columns;

  blocks_.resize(shape.blocks);
  std::iota(blocks_.begin(), blocks_.end(), 0);
  std::shuffle(blocks_.begin(), blocks_.end(), random_);  // as after long use
  return absl::OkStatus();
}

StepBatch AttentionLayers::Lay(int position, int summarised) {
  rows_.Clear();
  for (int s = 0; s < options_.batch; ++s) {
    const SummarySlot summary = {.slot = options_.tail ? s : -1, .tokens = summarised};
    rows_.BeginSequence(std::span(blocks_).subspan(s * max_blocks(), max_blocks()), summary);
    rows_.AddRow(0, position, options_.selection, /*wants_logits=*/false);
  }
  return rows_.Build();
}

void AttentionLayers::Attend(const StepBatch& batch) {
  for (int layer = 0; layer < pools_->layers(); ++layer) {
    backend_.Attention(batch, qkv_, options_.heads, pools_->Layer(layer), attention_, out_);
  }
}

absl::Status AttentionLayers::Run(int position, int summarised) {
  const StepBatch batch = Lay(position, summarised);
  backend_.BeginStep(batch);
  Attend(batch);
  return backend_.Synchronize();
}

absl::StatusOr<double> AttentionLayers::Time(int position, int summarised, double seconds) {
  const StepBatch batch = Lay(position, summarised);
  std::vector<double> times;
  std::unique_ptr<Recordings> recordings;
  const BenchClock::time_point begin = BenchClock::now();
  while (times.size() < 6 || SecondsSince(begin) < seconds) {
    const BenchClock::time_point start = BenchClock::now();
    backend_.BeginStep(batch);
    backend_.Replay(batch, &recordings, [&] { Attend(batch); });
    if (absl::Status status = backend_.Synchronize(); !status.ok()) return status;
    times.push_back(SecondsSince(start) / pools_->layers());
  }
  times.erase(times.begin());  // the first round touches memory for the first time
  return Median(times);
}

int64_t AttentionLayers::Bytes(int position) const {
  const int context = position + 1;
  const int64_t budget = BudgetTokens(options_.selection, attention_, 0, context);
  int64_t head_bytes = budget * 2 * options_.head_dim * static_cast<int64_t>(sizeof(uint16_t));
  if (options_.selection.kind == SelectionKind::kLabels && budget < context) {
    head_bytes += int64_t{context} * options_.label_width / 2;
    if (TailWeight(options_.selection, attention_, 0, context) > 0) {
      const SummaryShape summary = {options_.label_width, options_.head_dim};
      head_bytes += summary.estimate_bytes();
    }
  }
  return int64_t{options_.batch} * options_.kv_heads * head_bytes;
}

}  // namespace

absl::StatusOr<AttentionBenchResult> BenchAttention(Backend& backend,
                                                    const AttentionBenchOptions& options) {
  AttentionLayers layers(backend, options);
  if (absl::Status status = layers.Allocate(); !status.ok()) return status;
  const int position = options.context - 1;
  const int summarised = SummarisedTokens(position);
  double renewal = 0;
  if (options.tail && summarised > 0) {
    const int first = std::min(position, 2 * kSummaryPiece - 1);  // row with one piece before it
    const auto with = layers.Time(first, 0, options.seconds / 8);
    if (!with.ok()) return with.status();
    const auto without = layers.Time(first, kSummaryPiece, options.seconds / 8);
    if (!without.ok()) return without.status();
    renewal = *with - *without;
    if (absl::Status status = layers.Run(position, 0); !status.ok()) return status;
  }
  const auto seconds = layers.Time(position, summarised, options.seconds);
  if (!seconds.ok()) return seconds.status();

  AttentionBenchResult result;
  result.seconds = *seconds + std::max(0.0, renewal) / kSummaryPiece;
  result.bytes = layers.Bytes(position);
  result.achieved_bytes_per_second = static_cast<double>(result.bytes) / result.seconds;
  return result;
}

}  // namespace winnow
