#include "engine/bench/step_bench.h"

#include <algorithm>
#include <numeric>
#include <random>
#include <vector>

#include "engine/bench/bench_support.h"
#include "engine/bench/product_bench.h"

namespace winnow {
namespace {

// Arrays behind a StepBatch in which sequence s owns consecutive blocks and all have the same rows.
struct BenchBatch {
  BenchBatch(int sequences, int first_position, int rows_each, int block_tokens, int vocab) {
    max_blocks = (first_position + rows_each + block_tokens - 1) / block_tokens;
    block_tables.resize(static_cast<size_t>(sequences) * max_blocks);
    std::iota(block_tables.begin(), block_tables.end(), 0);
    std::mt19937 random(1);
    for (int s = 0; s < sequences; ++s) {
      query_begin.push_back(s * rows_each);
      for (int i = 0; i < rows_each; ++i) {
        tokens.push_back(static_cast<int32_t>(random() % vocab));
        positions.push_back(first_position + i);
      }
      logit_rows.push_back((s + 1) * rows_each - 1);
    }
    query_begin.push_back(sequences * rows_each);
  }

  StepBatch View() const {
    return {tokens, positions, query_begin, block_tables, max_blocks, logit_rows};
  }

  std::vector<int32_t> tokens;
  std::vector<int32_t> positions;
  std::vector<int32_t> query_begin;
  std::vector<int32_t> block_tables;
  std::vector<int32_t> logit_rows;
  int max_blocks;
};

}  // namespace

absl::StatusOr<DecodeBenchResult> BenchDecode(Transformer& transformer, Backend& backend, int batch,
                                              int context, const Selection& selection,
                                              double seconds) {
  const KvCache& cache = transformer.kv_cache();
  const ModelConfig& config = transformer.config();
  const BenchBatch arrays(batch, context, 1, cache.block_tokens, config.vocab);
  FillKvPool(cache, batch * arrays.max_blocks, backend);
  if (transformer.label_cache().data != nullptr) {
    FillLabelPool(transformer.label_cache(), batch * arrays.max_blocks, backend);
  }
  const std::vector<Selection> selections(static_cast<size_t>(batch), selection);
  StepBatch view = arrays.View();
  view.selections = selections;
  std::vector<TokenChoice> choices(static_cast<size_t>(batch));
  for (int row = 0; row < batch; ++row) choices[static_cast<size_t>(row)].row = row;
  std::vector<int32_t> tokens(choices.size());
  std::vector<double> times;
  const BenchClock::time_point begin = BenchClock::now();
  while (times.size() < 6 || SecondsSince(begin) < seconds) {
    const BenchClock::time_point start = BenchClock::now();
    if (absl::Status status = transformer.ForwardAndChoose(view, choices, tokens, {}, {});
        !status.ok()) {
      return status;
    }
    times.push_back(SecondsSince(start));
  }
  times.erase(times.begin());  // the first step touches memory for the first time

  DecodeBenchResult result;
  result.step_seconds = Median(times);
  result.tokens_per_second = batch / result.step_seconds;
  result.kv_bytes_read = batch * transformer.Traffic(selection, context + 1).bytes();
  result.weight_bytes_read = transformer.weight_bytes();
  result.achieved_bytes_per_second =
      static_cast<double>(result.kv_bytes_read + result.weight_bytes_read) / result.step_seconds;
  result.peak_bytes_per_second = backend.MeasureReadBandwidth();
  return result;
}

absl::StatusOr<PrefillBenchResult> BenchPrefill(Transformer& transformer, Backend& backend,
                                                int context, int step_tokens, double seconds) {
  const KvCache& cache = transformer.kv_cache();
  const ModelConfig& config = transformer.config();
  std::vector<BenchBatch> chunks;
  for (int first = 0; first < context; first += step_tokens) {
    chunks.emplace_back(1, first, std::min(step_tokens, context - first), cache.block_tokens,
                        config.vocab);
    if (first + step_tokens < context) chunks.back().logit_rows.clear();
  }
  std::vector<float> logits(config.vocab);
  std::vector<double> times;
  const BenchClock::time_point begin = BenchClock::now();
  while (times.size() < 4 || SecondsSince(begin) < seconds) {
    const BenchClock::time_point start = BenchClock::now();
    for (const BenchBatch& chunk : chunks) {
      if (absl::Status status = transformer.Forward(chunk.View(), logits, {}); !status.ok()) {
        return status;
      }
    }
    times.push_back(SecondsSince(start));
  }
  times.erase(times.begin());

  const double projections = static_cast<double>(transformer.layer_weights()) * context +
                             static_cast<double>(config.vocab) * config.hidden;
  const double attention = static_cast<double>(config.layers) * config.heads * config.head_dim *
                           (static_cast<double>(context) * (context + 1));
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
