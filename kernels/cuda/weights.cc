#include "kernels/cuda/weights.h"

#include <cuda_bf16.h>
#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstring>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "kernels/cuda/status.h"

namespace winnow::cuda {
namespace {

constexpr int64_t kItemBytes = int64_t{256} << 10;  // that a thread converts at once

/// Two halves of pinned memory, of which one is filled while the device copies the other.
class Staging {
 public:
  Staging(PinnedBuffer& memory, cudaStream_t stream) : memory_(memory), stream_(stream) {
    for (cudaEvent_t& event : copied_) {
      Note(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "cudaEventCreate");
    }
  }
  ~Staging() {
    cudaStreamSynchronize(stream_);
    for (cudaEvent_t event : copied_) cudaEventDestroy(event);
  }
  Staging(const Staging&) = delete;
  Staging& operator=(const Staging&) = delete;

  int64_t half_bytes() const { return memory_.bytes() / 2; }

  /// The half that is to be filled next, once the device has done with it.
  std::byte* Next() {
    Note(cudaEventSynchronize(copied_[half_]), "cudaEventSynchronize");
    return memory_.data() + half_ * half_bytes();
  }

  /// Has the device copy the first bytes of that half.
  void Send(std::byte* to, int64_t bytes) {
    Note(cudaMemcpyAsync(to, memory_.data() + half_ * half_bytes(), static_cast<size_t>(bytes),
                         cudaMemcpyHostToDevice, stream_),
         "cudaMemcpyAsync");
    Note(cudaEventRecord(copied_[half_], stream_), "cudaEventRecord");
    half_ = 1 - half_;
  }

  /// Waits until all is there. The first error of all calls.
  absl::Status Finish() {
    Note(cudaStreamSynchronize(stream_), "cudaStreamSynchronize");
    return status_;
  }

 private:
  void Note(cudaError_t error, const char* call) { status_.Update(CudaStatus(error, call)); }

  PinnedBuffer& memory_;
  cudaStream_t stream_;
  cudaEvent_t copied_[2] = {};
  int half_ = 0;
  absl::Status status_;
};

void ToBf16(const HostMatrix& part, int64_t first, int64_t count, std::vector<float>& widened,
            __nv_bfloat16* out) {
  const int64_t row_bytes = RowBytes(part.type, part.columns);
  const std::byte* rows = part.data.data() + first * row_bytes;
  if (part.type == DataType::kBF16) {
    std::memcpy(out, rows, static_cast<size_t>(count * row_bytes));
    return;
  }
  widened.resize(static_cast<size_t>(part.columns));
  for (int64_t row = 0; row < count; ++row, out += part.columns) {
    Dequantize(part.type, rows + row * row_bytes, part.columns, widened.data());
    for (int64_t c = 0; c < part.columns; ++c) out[c] = __float2bfloat16_rn(widened[c]);
  }
}

}  // namespace

absl::StatusOr<std::unique_ptr<DeviceMatrix>> DeviceMatrix::Load(std::span<const HostMatrix> parts,
                                                                 cpu::ThreadPool& pool,
                                                                 PinnedBuffer& staging_memory,
                                                                 cudaStream_t stream) {
  const int64_t columns = parts[0].columns;
  int64_t rows = 0;
  for (const HostMatrix& part : parts) {
    if (part.columns != columns) {
      return absl::InvalidArgumentError(absl::StrCat("matrices of ", columns, " and ", part.columns,
                                                     " columns can't be stacked"));
    }
    rows += part.rows;
  }
  const int64_t row_bytes = columns * static_cast<int64_t>(sizeof(__nv_bfloat16));
  absl::StatusOr<std::unique_ptr<DeviceBuffer>> memory = DeviceBuffer::Create(rows * row_bytes);
  if (!memory.ok()) return memory.status();

  Staging staging(staging_memory, stream);
  if (row_bytes > staging.half_bytes()) {
    return absl::InvalidArgumentError(absl::StrCat("a row has ", columns, " numbers; at most ",
                                                   staging.half_bytes() / 2, " are possible"));
  }
  std::vector<std::vector<float>> widened(pool.threads());
  const int64_t step = staging.half_bytes() / row_bytes;
  const int64_t item_rows = std::max<int64_t>(1, kItemBytes / row_bytes);
  std::byte* next = (*memory)->data();
  for (const HostMatrix& part : parts) {
    for (int64_t first = 0; first < part.rows; first += step) {
      const int64_t count = std::min(step, part.rows - first);
      auto* const half = reinterpret_cast<__nv_bfloat16*>(staging.Next());
      pool.ParallelFor((count + item_rows - 1) / item_rows, [&](int64_t item, int worker) {
        const int64_t row = item * item_rows;
        ToBf16(part, first + row, std::min(item_rows, count - row), widened[worker],
               half + row * columns);
      });
      staging.Send(next, count * row_bytes);
      next += count * row_bytes;
    }
  }
  if (absl::Status status = staging.Finish(); !status.ok()) return status;
  return std::unique_ptr<DeviceMatrix>(new DeviceMatrix(*std::move(memory), rows, columns));
}

}  // namespace winnow::cuda
