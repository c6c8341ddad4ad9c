#include <cuda_fp16.h>

#include <cstdint>

#include "kernels/cuda/async_copy.cuh"
#include "kernels/cuda/decode_kernels.h"
#include "kernels/cuda/label_layout.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/math.cuh"
#include "kernels/cuda/renew_summaries.h"

namespace winnow::cuda {
namespace {

// One block renews the summary of one KV head of one sequence. Its sums lie in shared memory, each
// of them one thread's. The tokens' keys and values come in steps of one panel of labels, whose
// sums are added to them; of wide heads fewer steps are asked for ahead, since a block's shared
// memory may be 99 KiB in all.

constexpr int kThreads = 256;
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
    return Sums() + (static_cast<int>(shape.means()) * 4 + 15) / 16 * 16;
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

// Replaces the covariances of codes, [width, width + 1], by the lower factor of their ridge
// regression's matrix, with the inverses of its diagonal. All zeros, if codes do not vary. By one
// warp, of which lane i has row i.
template <int kWidth>
__device__ void Factorise(float* matrix) {
  const int lane = threadIdx.x % 32;
  float* const mine = matrix + min(lane, kWidth - 1) * (kWidth + 1);
  const float trace = WarpSum(lane < kWidth ? mine[lane] : 0.0f);
  constexpr auto kRidge = static_cast<float>(kSummaryRidge / kWidth);
  float row[kWidth];
#pragma unroll
  for (int j = 0; j < kWidth; ++j) {
    row[j] = mine[j] + (j == lane ? kRidge * trace : 0);
  }
  float inverse = 0;
#pragma unroll
  for (int k = 0; k < kWidth; ++k) {
    const float of_pivot = rsqrtf(__shfl_sync(~0u, row[k], k));
    if (lane == k) inverse = of_pivot;
    row[k] *= of_pivot;
#pragma unroll
    for (int j = k + 1; j < kWidth; ++j) row[j] -= row[k] * __shfl_sync(~0u, row[k], j);
  }
  if (lane >= kWidth) return;
#pragma unroll
  for (int j = 0; j < kWidth; ++j) {
    const float value = j < lane ? row[j] : j == lane ? inverse : 0;
    mine[j] = trace > 0 ? value : 0;
  }
}

// Makes means and slopes, `estimate`, of totals and moments of so many tokens: covariances, which
// are differences of large sums, in fp64, and what the ridge keeps well-conditioned in fp32. All
// threads take part; what they summed is there to be seen by all.
template <int kWidth>
__device__ void Solve(const SummaryShape& shape, int tokens, const float* sums, float* factor,
                      float* estimate) {
  const double inverse = 1.0 / tokens;
  const float* const totals = sums + shape.totals();
  const int rows = static_cast<int>(shape.rows());
  for (int c = threadIdx.x; c < rows; c += kThreads) {
    estimate[c] = static_cast<float>(totals[c] * inverse);
  }
  const auto covariance = [&](int i, int column) {
    const double moment = sums[shape.moments() + i * (kWidth + shape.head_dim) + column];
    return static_cast<float>((moment - totals[i] * inverse * totals[column]) * inverse);
  };
  for (int x = threadIdx.x; x < kWidth * kWidth; x += kThreads) {
    factor[x / kWidth * (kWidth + 1) + x % kWidth] = covariance(x / kWidth, x % kWidth);
  }
  __syncthreads();
  if (threadIdx.x < 32) Factorise<kWidth>(factor);
  __syncthreads();
  // Read again where it is used again: there are not as many registers.
  const volatile float* const read_factor = factor;
  const auto of_factor = [&](int i, int j) { return read_factor[i * (kWidth + 1) + j]; };
  static_assert(kThreads >= 256, "a thread has at most one column");
  const int c = threadIdx.x;
  if (c >= shape.head_dim) return;
  float x[kWidth];
#pragma unroll
  for (int i = 0; i < kWidth; ++i) x[i] = covariance(i, kWidth + c);
#pragma unroll
  for (int k = 0; k < kWidth; ++k) {
    x[k] *= of_factor(k, k);
#pragma unroll
    for (int i = k + 1; i < kWidth; ++i) x[i] -= of_factor(i, k) * x[k];
  }
#pragma unroll
  for (int k = kWidth - 1; k >= 0; --k) {
    x[k] *= of_factor(k, k);
#pragma unroll
    for (int i = 0; i < k; ++i) x[i] -= of_factor(k, i) * x[k];
  }
#pragma unroll
  for (int i = 0; i < kWidth; ++i) {
    estimate[rows + i * shape.head_dim + c] = x[i];
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
  const int sum_count = static_cast<int>(shape.means());
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
    float* estimate = summary + shape.means();
    if (summarised == task.tokens) {
      for (int i = threadIdx.x; i < sum_count; i += kThreads) summary[i] = sums[i];
    } else {
      const int64_t index = task.longer + (summarised - task.tokens) / kSummaryPiece - 1;
      estimate = call.longer + (index * call.kv_heads + kv_head) * shape.read_floats();
    }
    const int count = summarised - call.sinks;
    if (count > 0) Solve<kWidth>(shape, count, sums, factor, estimate);
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
