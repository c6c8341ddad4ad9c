#include "engine/bench/product_bench.h"

#include <memory>
#include <span>
#include <vector>

#include "engine/bench/bench_support.h"
#include "kernels/step_batch_builder.h"

namespace winnow {
namespace {

constexpr int64_t kColumns = 4096;
constexpr int64_t kOutputs = 11008;
constexpr int kRounds = 6;

}  // namespace

absl::StatusOr<double> MeasureProductRate(Backend& backend, int rows) {
  const std::vector<uint16_t> numbers = RandomBf16(kOutputs * kColumns, 0.02f);
  const HostMatrix weights{DataType::kBF16, kOutputs, kColumns, std::as_bytes(std::span(numbers))};
  const auto matrix = backend.LoadMatrix({&weights, 1});
  if (!matrix.ok()) return matrix.status();
  const auto table = backend.LoadEmbedding(weights);
  if (!table.ok()) return table.status();

  const DataType type = backend.activation_type();
  const int64_t embedded_bytes = rows * RowBytes(DataType::kF32, kColumns);
  const int64_t normed_bytes = rows * RowBytes(type, kColumns);
  const int64_t norm_bytes = RowBytes(DataType::kF32, kColumns);
  const auto memory = backend.Allocate(embedded_bytes + normed_bytes + norm_bytes +
                                       rows * RowBytes(type, kOutputs));
  if (!memory.ok()) return memory.status();
  std::byte* const data = (*memory)->data();
  const Tensor embedded{data, rows, kColumns, kColumns};
  const Tensor normed{data + embedded_bytes, rows, kColumns, kColumns, type};
  std::byte* const norm = data + embedded_bytes + normed_bytes;
  const Tensor out{norm + norm_bytes, rows, kOutputs, kOutputs, type};

  // Activations as a model has them: embedded tokens, normed.
  const std::vector<float> ones(kColumns, 1.0f);
  backend.Copy(norm, reinterpret_cast<const std::byte*>(ones.data()), norm_bytes);
  StepBatchBuilder step;
  const int32_t block = 0;
  step.BeginSequence({&block, 1});
  for (int row = 0; row < rows; ++row) {
    step.AddRow(row % static_cast<int>(kOutputs), row, Selection{}, /*wants_logits=*/false);
  }
  const StepBatch batch = step.Build();
  backend.BeginStep(batch);
  backend.Embed(batch, **table, /*scale=*/1, embedded);
  backend.RmsNorm(embedded, reinterpret_cast<const float*>(norm), 1e-5f, normed);
  if (absl::Status status = backend.Synchronize(); !status.ok()) return status;

  std::vector<double> times;
  for (int round = 0; round < kRounds; ++round) {
    const BenchClock::time_point start = BenchClock::now();
    backend.MatMul(normed, **matrix, nullptr, /*accumulate=*/false, out);
    if (absl::Status status = backend.Synchronize(); !status.ok()) return status;
    times.push_back(SecondsSince(start));
  }
  times.erase(times.begin());  // the first one warms up
  return 2.0 * rows * kColumns * kOutputs / Median(times);
}

}  // namespace winnow
