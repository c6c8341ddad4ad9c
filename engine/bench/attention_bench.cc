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

}  // namespace

absl::StatusOr<AttentionBenchResult> BenchAttention(Backend& backend,
                                                    const AttentionBenchOptions& options) {
  const int max_blocks = (options.context + options.block_tokens - 1) / options.block_tokens;
  const KvShape shape{.blocks = options.batch * max_blocks,
                      .kv_heads = options.kv_heads,
                      .block_tokens = options.block_tokens,
                      .head_dim = options.head_dim,
                      .label_width = options.label_width};
  const auto layers =
      static_cast<int>(std::clamp<int64_t>(kColdBytes / shape.bytes(), 1, kMaxLayers));
  const auto pools = KvPools::Allocate(backend, std::vector<KvShape>(layers, shape));
  if (!pools.ok()) return pools.status();
  FillPools(**pools, shape.blocks, backend);

  std::mt19937 random(1);
  const int columns = (options.heads + 2 * options.kv_heads) * options.head_dim;
  const int out_columns = options.heads * options.head_dim;
  const int64_t matrix = int64_t{options.kv_heads} * options.head_dim * options.label_width;
  std::vector<float> host = RandomFloats(int64_t{options.batch} * columns, random);
  // Scores of a few units, as trained heads have them.
  auto basis = RandomFloats(matrix, random);
  for (float& value : basis) value /= std::sqrt(static_cast<float>(options.head_dim));
  host.insert(host.end(), basis.begin(), basis.end());
  const auto host_bytes = static_cast<int64_t>(host.size() * sizeof(float));
  auto inputs = backend.Allocate(host_bytes);
  if (!inputs.ok()) return inputs.status();
  auto outputs =
      backend.Allocate(int64_t{options.batch} * out_columns * static_cast<int64_t>(sizeof(float)));
  if (!outputs.ok()) return outputs.status();
  backend.Copy((*inputs)->data(), reinterpret_cast<const std::byte*>(host.data()), host_bytes);
  auto* floats = reinterpret_cast<float*>((*inputs)->data());
  const Tensor qkv{floats, options.batch, columns, columns};
  const Tensor out{(*outputs)->data(), options.batch, out_columns, out_columns,
                   backend.activation_type()};
  LayerAttention attention;
  attention.basis.query = floats + int64_t{options.batch} * columns;

  std::vector<int32_t> blocks(shape.blocks);
  std::iota(blocks.begin(), blocks.end(), 0);
  std::shuffle(blocks.begin(), blocks.end(), random);  // as after long use
  StepBatchBuilder rows;
  for (int s = 0; s < options.batch; ++s) {
    rows.BeginSequence(std::span(blocks).subspan(s * max_blocks, max_blocks));
    rows.AddRow(0, options.context - 1, options.selection, /*wants_logits=*/false);
  }
  const StepBatch batch = rows.Build();

  std::vector<double> times;
  std::unique_ptr<Recordings> recordings;
  const BenchClock::time_point begin = BenchClock::now();
  while (times.size() < 6 || SecondsSince(begin) < options.seconds) {
    const BenchClock::time_point start = BenchClock::now();
    backend.BeginStep(batch);
    backend.Replay(batch, &recordings, [&] {
      for (int layer = 0; layer < layers; ++layer) {
        backend.Attention(batch, qkv, options.heads, (*pools)->Layer(layer), attention, out);
      }
    });
    if (absl::Status status = backend.Synchronize(); !status.ok()) return status;
    times.push_back(SecondsSince(start) / layers);
  }
  times.erase(times.begin());  // the first round touches memory for the first time

  AttentionBenchResult result;
  result.seconds = Median(times);
  const int64_t budget = BudgetTokens(options.selection, attention, 0, options.context);
  int64_t head_bytes = budget * 2 * options.head_dim * static_cast<int64_t>(sizeof(uint16_t));
  if (options.selection.kind == SelectionKind::kLabels && budget < options.context) {
    head_bytes += int64_t{options.context} * options.label_width / 2;
  }
  result.bytes = int64_t{options.batch} * options.kv_heads * head_bytes;
  result.achieved_bytes_per_second = static_cast<double>(result.bytes) / result.seconds;
  return result;
}

}  // namespace winnow
