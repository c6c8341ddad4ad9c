#include "kernels/cuda/weights.h"

#include <cuda_bf16.h>
#include <cuda_runtime_api.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "kernels/cuda/status.h"

namespace winnow::cuda {
namespace {

// Rows that are converted and copied together.
constexpr int64_t kChunkElements = int64_t{16} << 20;

void ToBf16(const HostMatrix& part, int64_t row, std::vector<float>* widened, __nv_bfloat16* out) {
  widened->resize(part.columns);
  Dequantize(part.type, part.data.data() + row * RowBytes(part.type, part.columns), part.columns,
             widened->data());
  for (int64_t c = 0; c < part.columns; ++c) out[c] = __float2bfloat16_rn((*widened)[c]);
}

}  // namespace

absl::StatusOr<std::unique_ptr<DeviceMatrix>> DeviceMatrix::Load(std::span<const HostMatrix> parts,
                                                                 cpu::ThreadPool& pool) {
  const int64_t columns = parts[0].columns;
  int64_t rows = 0;
  for (const HostMatrix& part : parts) {
    if (part.columns != columns) {
      return absl::InvalidArgumentError(absl::StrCat("matrices of ", columns, " and ", part.columns,
                                                     " columns can't be stacked"));
    }
    rows += part.rows;
  }
  absl::StatusOr<std::unique_ptr<DeviceBuffer>> memory =
      DeviceBuffer::Create(rows * columns * static_cast<int64_t>(sizeof(__nv_bfloat16)));
  if (!memory.ok()) return memory.status();

  std::vector<std::vector<float>> widened(pool.threads());
  std::vector<__nv_bfloat16> chunk;
  std::byte* next = (*memory)->data();
  for (const HostMatrix& part : parts) {
    const int64_t step = std::max<int64_t>(1, kChunkElements / columns);
    for (int64_t first = 0; first < part.rows; first += step) {
      const int64_t count = std::min(step, part.rows - first);
      const int64_t bytes = count * columns * static_cast<int64_t>(sizeof(__nv_bfloat16));
      const void* source = part.data.data() + first * RowBytes(part.type, columns);
      if (part.type != DataType::kBF16) {
        chunk.resize(count * columns);
        pool.ParallelFor(count, [&](int64_t row, int worker) {
          ToBf16(part, first + row, &widened[worker], chunk.data() + row * columns);
        });
        source = chunk.data();
      }
      const absl::Status status =
          CudaStatus(cudaMemcpy(next, source, static_cast<size_t>(bytes), cudaMemcpyHostToDevice),
                     "cudaMemcpy");
      if (!status.ok()) return status;
      next += bytes;
    }
  }
  return std::unique_ptr<DeviceMatrix>(new DeviceMatrix(*std::move(memory), rows, columns));
}

}  // namespace winnow::cuda
