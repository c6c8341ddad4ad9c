#include "engine/bench/step_bench.h"

#include <algorithm>
#include <numeric>
#include <random>
#include <vector>

#include "engine/bench/bench_support.h"
#include "engine/bench/product_bench.h"
#include "kernels/step_batch_builder.h"

namespace winnow {
namespace {

// `count` rows of random tokens for each of `sequences` sequences, from `first` on; sequence s owns
// consecutive blocks of the pools. The last row of each wants logits if `wants_logits`.
StepBatchBuilder RandomRows(int sequences, int first, int count, const KvPools& pools, int vocab,
                            const Selection& selection, bool wants_logits) {
  const int max_blocks = (first + count + pools.block_tokens() - 1) / pools.block_tokens();
  std::vector<int32_t> blocks(static_cast<size_t>(max_blocks));
  std::iota(blocks.begin(), blocks.end(), 0);
  std::mt19937 random(1);
  StepBatchBuilder rows(pools.groups());
  for (int s = 0; s < sequences; ++s) {
    // Summaries are as good as up to date: a step in kSummaryPiece renews one, for little.
    const bool summarised = s < pools.Layer(0).summary_slots;
    rows.BeginSequence(blocks,
                       summarised ? SummarySlot{s, SummarisedTokens(first)} : SummarySlot());
    for (int i = 0; i < count; ++i) {
      rows.AddRow(static_cast<int32_t>(random() % vocab), first + i, selection,
                  wants_logits && i == count - 1);
    }
    for (int32_t& block : blocks) block += max_blocks;
  }
  return rows;
}

// Pairs of a token of a prompt and one that it sees, of all layers together.
double SeenPairs(const ModelConfig& config, int context) {
  double pairs = 0;
  for (const LayerConfig& layer : config.layer) {
    const int window = layer.sliding_window > 0 ? std::min(layer.sliding_window, context) : context;
    pairs += 0.5 * window * (window + 1.0) + static_cast<double>(context - window) * window;
  }
  return pairs;
}

}  // namespace

absl::StatusOr<DecodeBenchResult> BenchDecode(Transformer& transformer, Backend& backend, int batch,
                                              int context, const Selection& selection,
                                              double seconds) {
  const KvPools& pools = transformer.pools();
  const ModelConfig& config = transformer.config();
  StepBatchBuilder rows = RandomRows(batch, context, 1, pools, config.vocab, selection, true);
  const StepBatch step = rows.Build();
  FillPools(pools, batch * step.max_blocks * pools.groups(), backend);
  std::vector<TokenChoice> choices(static_cast<size_t>(batch));
  for (int row = 0; row < batch; ++row) choices[static_cast<size_t>(row)].row = row;
  std::vector<int32_t> tokens(choices.size());
  const absl::StatusOr<int64_t> reads_before = transformer.CountExpertReads();
  if (!reads_before.ok()) return reads_before.status();
  std::vector<double> times;
  const BenchClock::time_point begin = BenchClock::now();
  while (times.size() < 6 || SecondsSince(begin) < seconds) {
    const BenchClock::time_point start = BenchClock::now();
    if (absl::Status status = transformer.ForwardAndChoose(step, choices, tokens, {}, {});
        !status.ok()) {
      return status;
    }
    times.push_back(SecondsSince(start));
  }
  const absl::StatusOr<int64_t> reads = transformer.CountExpertReads();
  if (!reads.ok()) return reads.status();
  const int64_t step_reads = (*reads - *reads_before) / std::ssize(times);
  times.erase(times.begin());  // the first step touches memory for the first time

  DecodeBenchResult result;
  result.step_seconds = Median(times);
  result.tokens_per_second = batch / result.step_seconds;
  result.kv_bytes_read = batch * transformer.Traffic(selection, context + 1).bytes();
  result.experts_read = step_reads;
  result.weight_bytes_read = transformer.weight_bytes() + step_reads * transformer.expert_bytes();
  result.achieved_bytes_per_second =
      static_cast<double>(result.kv_bytes_read + result.weight_bytes_read) / result.step_seconds;
  result.peak_bytes_per_second = backend.MeasureReadBandwidth();
  return result;
}

absl::StatusOr<PrefillBenchResult> BenchPrefill(Transformer& transformer, Backend& backend,
                                                int context, int step_tokens, double seconds) {
  const ModelConfig& config = transformer.config();
  std::vector<StepBatchBuilder> chunks;
  for (int first = 0; first < context; first += step_tokens) {
    chunks.push_back(RandomRows(1, first, std::min(step_tokens, context - first),
                                transformer.pools(), config.vocab, {},
                                first + step_tokens >= context));
  }
  std::vector<float> logits(config.vocab);
  std::vector<double> times;
  const BenchClock::time_point begin = BenchClock::now();
  while (times.size() < 4 || SecondsSince(begin) < seconds) {
    const BenchClock::time_point start = BenchClock::now();
    for (StepBatchBuilder& chunk : chunks) {
      if (absl::Status status = transformer.Forward(chunk.Build(), logits, {}); !status.ok()) {
        return status;
      }
    }
    times.push_back(SecondsSince(start));
  }
  times.erase(times.begin());

  const double projections = static_cast<double>(transformer.layer_weights()) * context +
                             static_cast<double>(config.vocab) * config.hidden;
  const double attention = 2.0 * config.heads * config.head_dim * SeenPairs(config, context);
  PrefillBenchResult result;
  const double median = Median(times);
  result.tokens_per_second = context / median;
  result.achieved_flops_per_second = 2 * (projections + attention) / median;
  const absl::StatusOr<double> peak = MeasureProductRate(backend, context);
  if (!peak.ok()) return peak.status();
  result.peak_flops_per_second = *peak;
  return result;
}

}  // namespace winnow
