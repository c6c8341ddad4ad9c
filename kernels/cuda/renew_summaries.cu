#include <cuda_fp16.h>

#include <cstdint>

#include "kernels/cuda/async_copy.cuh"
#include "kernels/cuda/decode_kernels.h"
#include "kernels/cuda/label_layout.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/renew_summaries.h"
#include "kernels/cuda/solve_summary.cuh"

namespace winnow::cuda {
namespace {

// One block renews the summary of one KV head of one sequence. Its sums lie in shared memory, each
// of them one thread's. The tokens' keys and values come in steps of one panel of labels, whose
// sums are added to them; of wide heads fewer steps are asked for ahead, since a block's shared
// memory may be 99 KiB in all.

constexpr int kThreads = 256;  // at least as many as a head has dimensions
constexpr int kStep = kPanelTokens;
static_assert(kSummaryPiece % kStep == 0);
constexpr int kUnitRows = 8;  // of the moments that a thread adds to at once: a word of labels

__host__ __device__ constexpr int StagesOf(int head_dim) { return head_dim <= 128 ? 4 : 2; }

// How a block's shared memory is used. All begins are multiples of 16 bytes.
struct Layout {
  SummaryShape shape;

  __host__ __device__ constexpr int Stages() const { return StagesOf(shape.head_dim); }
  // Bytes of what is copied of a step's tokens: keys and values, labels.
  __host__ __device__ constexpr int RowBytes() const { return kStep * 4 * shape.head_dim; }
  __host__ __device__ constexpr int PanelBytes() const { return kStep * shape.width / 2; }
  __host__ __device__ constexpr int StageBytes() const { return RowBytes() + PanelBytes(); }
  __host__ __device__ constexpr int Sums() const { return Stages() * StageBytes(); }
  // Codes as floats, [kStep, width].
  __host__ __device__ constexpr int Codes() const {
    return Sums() + (static_cast<int>(shape.sums()) * 4 + 15) / 16 * 16;
  }
  // [width, width + 1] floats, against conflicts of banks.
  __host__ __device__ constexpr int Factor() const { return Codes() + kStep * shape.width * 4; }
  __host__ __device__ constexpr int Bytes() const {
    return Factor() + shape.width * (shape.width + 1) * 4;
  }
};

// A head's tokens from `begin` on.
struct Tokens {
  const RenewSummaries& call;
  const int32_t* block_table;
  int kv_head;
  int begin;
  int steps;

  // Keys and values of a step's tokens lie together, as its labels do.
  __device__ int64_t HeadToken(int position) const {
    const int64_t block = __ldg(&block_table[position / call.block_tokens]);
    return (block * call.kv_heads + kv_head) * call.block_tokens + position % call.block_tokens;
  }
};

// Starts copying step `step` of the tokens, if there is one. Sinks' keys and values become zeros.
__device__ void Stage(const Layout& layout, const Tokens& tokens, int step, std::byte* stage) {
  if (step < tokens.steps) {
    constexpr int kCopy = 16;  // bytes
    const int position = tokens.begin + step * kStep;
    const int64_t head_token = tokens.HeadToken(position);
    const int token_bytes = 4 * layout.shape.head_dim;
    const std::byte* const rows = tokens.call.kv + head_token * token_bytes;
    const std::byte* const panel = tokens.call.labels + head_token * layout.shape.width / 2;
    const auto to = static_cast<uint32_t>(__cvta_generic_to_shared(stage));
    for (int at = threadIdx.x * kCopy; at < layout.RowBytes(); at += kThreads * kCopy) {
      CopyAsync(to + at, rows + at, position + at / token_bytes >= tokens.call.sinks);
    }
    for (int at = threadIdx.x * kCopy; at < layout.PanelBytes(); at += kThreads * kCopy) {
      CopyAsync(to + layout.RowBytes() + at, panel + at, true);
    }
  }
  CommitCopies();
}

// Codes of the step's tokens as floats; sinks' are zeros.
__device__ void UnpackCodes(const SummaryShape& shape, int position, int sinks,
                            const std::byte* panel, float* codes) {
  for (int i = threadIdx.x; i < kStep * shape.width / 8; i += kThreads) {
    const int token = i % kStep;
    const int piece = i / kStep;
    uint32_t word = reinterpret_cast<const uint32_t*>(panel)[i];
    if (position + token < sinks) word = 0;
    float* const eight = codes + token * shape.width + 8 * piece;
    for (int d = 0; d < 4; ++d) {
      eight[d] = static_cast<float>(word >> (8 * d) & 15);
      eight[4 + d] = static_cast<float>(word >> (8 * d + 4) & 15);
    }
  }
}

// Adds a step's sums to totals and moments. Columns are those of the totals, in pairs: of codes,
// values and keys.
__device__ void AddStep(const SummaryShape& shape, const std::byte* rows, const float* codes,
                        float* sums) {
  const int code_pairs = shape.width / 2;
  const int value_pairs = shape.head_dim / 2;
  const auto pair_of = [&](int token, int pair) {
    if (pair < code_pairs) {
      return reinterpret_cast<const float2*>(codes)[token * code_pairs + pair];
    }
    // Of a token's halves its key comes first.
    const int of_row =
        pair - code_pairs + (pair < code_pairs + value_pairs ? value_pairs : -value_pairs);
    return __half22float2(reinterpret_cast<const __half2*>(rows)[token * 2 * value_pairs + of_row]);
  };
  const int pairs = code_pairs + value_pairs;  // of moments
  const int units = shape.width / kUnitRows * pairs;
  for (int unit = threadIdx.x; unit < units + pairs + value_pairs; unit += kThreads) {
    if (unit >= units) {
      const int pair = unit - units;
      float2 sum = {0, 0};
#pragma unroll 4
      for (int token = 0; token < kStep; ++token) {
        const float2 x = pair_of(token, pair);
        sum.x += x.x;
        sum.y += x.y;
      }
      float* const totals = sums + shape.totals() + 2 * pair;
      totals[0] += sum.x;
      totals[1] += sum.y;
      continue;
    }
    const int piece = unit / pairs;
    const int pair = unit % pairs;
    float2 products[kUnitRows] = {};
#pragma unroll 4
    for (int token = 0; token < kStep; ++token) {
      const float2 x = pair_of(token, pair);
      const auto* const eight =
          reinterpret_cast<const float4*>(codes + token * shape.width + kUnitRows * piece);
      const float4 low = eight[0];
      const float4 high = eight[1];
      const float of_row[kUnitRows] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
#pragma unroll
      for (int i = 0; i < kUnitRows; ++i) {
        products[i].x = fmaf(of_row[i], x.x, products[i].x);
        products[i].y = fmaf(of_row[i], x.y, products[i].y);
      }
    }
#pragma unroll
    for (int i = 0; i < kUnitRows; ++i) {
      float* const moments =
          sums + shape.moments() + (kUnitRows * piece + i) * 2 * pairs + 2 * pair;
      moments[0] += products[i].x;
      moments[1] += products[i].y;
    }
  }
}

template <int kWidth>
__global__ void __launch_bounds__(kThreads) Renew(const __grid_constant__ RenewSummaries call) {
  extern __shared__ uint4 shared_memory[];
  LetNextKernelStart();
  const SummaryTask task = call.task[blockIdx.x / call.kv_heads];
  const int kv_head = blockIdx.x % call.kv_heads;
  WaitForPreviousKernel();
  if (task.sequence < 0) return;

  const Layout layout = {{kWidth, call.head_dim}};
  const SummaryShape& shape = layout.shape;
  auto* const memory = reinterpret_cast<std::byte*>(shared_memory);
  auto* const sums = reinterpret_cast<float*>(memory + layout.Sums());
  auto* const codes = reinterpret_cast<float*>(memory + layout.Codes());
  auto* const factor = reinterpret_cast<float*>(memory + layout.Factor());
  const Tokens tokens = {call, call.block_tables + int64_t{task.sequence} * call.max_blocks,
                         kv_head, task.held, (task.last - task.held) / kStep};
  const int stages = layout.Stages();
  const auto stage = [&](int step) { return memory + step % stages * layout.StageBytes(); };
  for (int step = 0; step < stages - 1; ++step) Stage(layout, tokens, step, stage(step));

  float* const summary =
      call.summaries + (int64_t{task.slot} * call.kv_heads + kv_head) * shape.floats();
  const int sum_count = static_cast<int>(shape.sums());
  for (int i = threadIdx.x; i < sum_count; i += kThreads) sums[i] = task.held > 0 ? summary[i] : 0;
  for (int step = 0; step < tokens.steps; ++step) {
    if (stages == 4) {
      WaitForCopies<2>();
    } else {
      WaitForCopies<0>();
    }
    __syncthreads();  // the step is there, and all are done with the one before
    Stage(layout, tokens, step + stages - 1, stage(step + stages - 1));
    const int position = task.held + step * kStep;
    const std::byte* const rows = stage(step);
    UnpackCodes(shape, position, call.sinks, rows + layout.RowBytes(), codes);
    __syncthreads();
    AddStep(shape, rows, codes, sums);

    const int summarised = position + kStep;
    if (summarised < task.tokens || summarised % kSummaryPiece != 0) continue;
    __syncthreads();
    auto* estimate = reinterpret_cast<__half*>(summary + shape.sums());
    if (summarised == task.tokens) {
      for (int i = threadIdx.x; i < sum_count; i += kThreads) summary[i] = sums[i];
    } else {
      const int64_t index = task.longer + (summarised - task.tokens) / kSummaryPiece - 1;
      estimate = reinterpret_cast<__half*>(call.longer) +
                 (index * call.kv_heads + kv_head) * shape.estimate_halves();
    }
    const int count = summarised - call.sinks;
    if (count > 0) SolveSummary<kWidth>(shape, count, sums, factor, estimate);
  }
}

template <int kWidth>
cudaError_t Launch(const RenewSummaries& call, cudaStream_t stream) {
  const LaunchShape shape = {.blocks = call.tasks * call.kv_heads,
                             .threads = kThreads,
                             .shared_bytes = Layout{{kWidth, call.head_dim}}.Bytes()};
  return LaunchEarly(Renew<kWidth>, shape, CurrentDeviceTraits().capability_major, stream, call);
}

}  // namespace

cudaError_t LaunchRenewSummaries(const RenewSummaries& call, cudaStream_t stream) {
  switch (call.label_width) {
    case 8:
      return Launch<8>(call, stream);
    case 16:
      return Launch<16>(call, stream);
    case 24:
      return Launch<24>(call, stream);
    case 32:
      return Launch<32>(call, stream);
    default:
      return cudaErrorInvalidValue;
  }
}

}  // namespace winnow::cuda
