#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <climits>

#include "kernels/cuda/async_copy.cuh"
#include "kernels/cuda/head_sizes.h"
#include "kernels/cuda/math.cuh"
#include "kernels/cuda/prefill_attention.h"
#include "kernels/cuda/prefill_stage.cuh"

// A block of threads takes one tile of rows and one query head, and walks what the rows see of the
// context in stages of kStageKeys tokens, copied to shared memory while the stage before is
// computed. A warp takes 32 of the rows, so that each fragment of keys or values that it loads
// feeds two products, and folds kStepKeys keys at a time into a running softmax. Heads of more
// dimensions than registers hold sums for 32 rows of have 16 rows a warp, and smaller stages.

namespace winnow::cuda {
namespace {

using namespace prefill;  // NOLINT: this is what its parts are for

constexpr int kStepKeys = 32;
constexpr unsigned kFullWarp = 0xffffffff;
// Where maxima of scores begin: below all, but a number, so that what is masked weighs nothing
// beside it.
constexpr float kLeastScore = -1e30f;

__device__ __forceinline__ void LoadTransposed(uint32_t (&out)[4], uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];\n"
               : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
               : "r"(address));
}

// sum += a b: 16 x 8, over 16.
__device__ __forceinline__ void MultiplyAdd(float (&sum)[4], const uint32_t (&a)[4], uint32_t b0,
                                            uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};\n"
      : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

__device__ __forceinline__ uint32_t PackHalves(float low, float high) {
  const __half2 pair = __floats2half2_rn(low, high);
  return reinterpret_cast<const uint32_t&>(pair);
}

__device__ __forceinline__ float QuadMax(float value) {
  value = fmaxf(value, __shfl_xor_sync(kFullWarp, value, 1));
  return fmaxf(value, __shfl_xor_sync(kFullWarp, value, 2));
}

__device__ __forceinline__ float QuadSum(float value) {
  value += __shfl_xor_sync(kFullWarp, value, 1);
  return value + __shfl_xor_sync(kFullWarp, value, 2);
}

struct Arguments {
  PrefillAttention call;
  ScoreCap cap;
};

template <int kDim>
__global__ void __launch_bounds__(Traits<kDim>::kThreads, Traits<kDim>::kBlocks)
    Attend(const __grid_constant__ Arguments arguments) {
  extern __shared__ __align__(128) std::byte shared[];
  constexpr int kThreads = Traits<kDim>::kThreads;
  constexpr int kStageKeys = Traits<kDim>::kStageKeys;
  constexpr int kStageBytes = Traits<kDim>::kStageBytes;
  constexpr int kWarpRows = Traits<kDim>::kWarpRows;
  constexpr int kRowTiles = Traits<kDim>::kRowTiles;
  const PrefillAttention& call = arguments.call;
  const auto queries = static_cast<uint32_t>(__cvta_generic_to_shared(shared));
  const uint32_t stages = queries + Traits<kDim>::kQueryBytes;

  const PrefillTile tile = call.tile[blockIdx.y];
  const int head = blockIdx.x;
  const int kv_head = head / (call.heads / call.kv_heads);
  const int head_halves = call.block_tokens * 2 * kDim;
  const Context context{.head = reinterpret_cast<const __half*>(call.kv) + kv_head * head_halves,
                        .block_halves = int64_t{call.kv_heads} * head_halves,
                        .table = call.block_tables + int64_t{tile.sequence} * call.max_blocks,
                        .block_shift = 31 - __clz(call.block_tokens),
                        .first = max(0, tile.first_position - call.sliding_window + 1),
                        .tokens = tile.first_position + tile.rows};
  const int stage_count = (context.tokens + kStageKeys - 1) / kStageKeys;
  const int first_stage = context.first / kStageKeys;
  const uint32_t first_keys = stages + first_stage % 2 * 2 * kStageBytes;
  CopyStage<kDim>(context, first_stage * kStageKeys, first_keys, first_keys + kStageBytes);

  // Queries, scaled so that softmax weights are powers of two.
  const float scale = kLog2e * call.scale;
  constexpr int kQuads = kDim / 4;
  for (int i = threadIdx.x; i < kPrefillTileRows * kQuads; i += kThreads) {
    const int row = i / kQuads;
    const int quad = i % kQuads;
    float4 q = {0, 0, 0, 0};
    if (row < tile.rows) {
      const float* rows = static_cast<const float*>(call.qkv.data);
      q = reinterpret_cast<const float4*>(rows + (tile.first_row + row) * call.qkv.stride +
                                          head * kDim)[quad];
    }
    auto* to = reinterpret_cast<uint2*>(shared + Piece<kDim>(row, quad / 2) + quad % 2 * 8);
    *to = {PackHalves(q.x * scale, q.y * scale), PackHalves(q.z * scale, q.w * scale)};
  }

  const int lane = threadIdx.x % 32;
  const int first_row = threadIdx.x / 32 * kWarpRows;  // of the warp, in the tile
  const int first_position = tile.first_position + first_row;
  const int last_position = first_position + kWarpRows - 1;
  const int first_seen = first_position - call.sliding_window + 1;  // by the first row

  float out[kRowTiles][kDim / 8][4] = {};
  float max[kRowTiles][2];
  float sum[kRowTiles][2];
#pragma unroll
  for (int m = 0; m < kRowTiles; ++m) {
    max[m][0] = max[m][1] = kLeastScore;
    sum[m][0] = sum[m][1] = 0;
  }

  for (int stage = first_stage; stage < stage_count; ++stage) {
    const uint32_t keys = stages + stage % 2 * 2 * kStageBytes;
    const uint32_t values = keys + kStageBytes;
    if (stage + 1 < stage_count) {
      const uint32_t next = stages + (stage + 1) % 2 * 2 * kStageBytes;
      CopyStage<kDim>(context, (stage + 1) * kStageKeys, next, next + kStageBytes);
      WaitForCopies<1>();
    } else {
      WaitForCopies<0>();
    }
    __syncthreads();

#pragma unroll 1
    for (int step = 0; step < kStageKeys / kStepKeys; ++step) {
      const int first_slot = step * kStepKeys;
      const int first_key = stage * kStageKeys + first_slot;
      if (first_key > last_position) break;
      if (first_key + kStepKeys <= first_seen) continue;

      float scores[kRowTiles][kStepKeys / 8][4] = {};
#pragma unroll
      for (int k = 0; k < kDim / 16; ++k) {
        uint32_t q[kRowTiles][4];
#pragma unroll
        for (int m = 0; m < kRowTiles; ++m) {
          LoadMatrices(q[m],
                       queries + Piece<kDim>(first_row + m * 16 + lane % 16, 2 * k + lane / 16));
        }
#pragma unroll
        for (int n = 0; n < kStepKeys / 16; ++n) {
          uint32_t key[4];
          LoadMatrices(key, keys + Piece<kDim>(first_slot + n * 16 + lane / 16 * 8 + lane % 8,
                                               2 * k + lane / 8 % 2));
#pragma unroll
          for (int m = 0; m < kRowTiles; ++m) {
            MultiplyAdd(scores[m][2 * n], q[m], key[0], key[1]);
            MultiplyAdd(scores[m][2 * n + 1], q[m], key[2], key[3]);
          }
        }
      }

      if (arguments.cap.limit > 0) {
#pragma unroll
        for (int m = 0; m < kRowTiles; ++m) {
#pragma unroll
          for (int n = 0; n < kStepKeys / 8; ++n) {
#pragma unroll
            for (float& score : scores[m][n]) score = arguments.cap.Apply(score);
          }
        }
      }
      if (first_key + kStepKeys - 1 > first_position ||
          first_key <= last_position - call.sliding_window) {
#pragma unroll
        for (int m = 0; m < kRowTiles; ++m) {
#pragma unroll
          for (int n = 0; n < kStepKeys / 8; ++n) {
#pragma unroll
            for (int i = 0; i < 4; ++i) {
              const int key = first_key + n * 8 + lane % 4 * 2 + i % 2;
              const int position = first_position + m * 16 + lane / 4 + i / 2 * 8;
              if (key > position || key <= position - call.sliding_window) {
                scores[m][n][i] = -INFINITY;
              }
            }
          }
        }
      }

      bool grown = false;
      float larger[kRowTiles][2];
#pragma unroll
      for (int m = 0; m < kRowTiles; ++m) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          float largest = max[m][half];
#pragma unroll
          for (int n = 0; n < kStepKeys / 8; ++n) {
            largest = fmaxf(largest, fmaxf(scores[m][n][2 * half], scores[m][n][2 * half + 1]));
          }
          larger[m][half] = QuadMax(largest);
          grown |= larger[m][half] > max[m][half];
        }
      }
      // Most keys leave all maxima as they are.
      if (__any_sync(kFullWarp, grown)) {
#pragma unroll
        for (int m = 0; m < kRowTiles; ++m) {
#pragma unroll
          for (int half = 0; half < 2; ++half) {
            const float factor = Exp2(max[m][half] - larger[m][half]);
            max[m][half] = larger[m][half];
            sum[m][half] *= factor;
#pragma unroll
            for (int n = 0; n < kDim / 8; ++n) {
              out[m][n][2 * half] *= factor;
              out[m][n][2 * half + 1] *= factor;
            }
          }
        }
      }

      // Two tiles of scores of 8 keys have the layout of one factor of 16.
      uint32_t weights[kRowTiles][kStepKeys / 16][4];
#pragma unroll
      for (int m = 0; m < kRowTiles; ++m) {
#pragma unroll
        for (int n = 0; n < kStepKeys / 8; ++n) {
#pragma unroll
          for (int half = 0; half < 2; ++half) {
            const float low = Exp2(scores[m][n][2 * half] - max[m][half]);
            const float high = Exp2(scores[m][n][2 * half + 1] - max[m][half]);
            sum[m][half] += low + high;
            weights[m][n / 2][n % 2 * 2 + half] = PackHalves(low, high);
          }
        }
      }
#pragma unroll
      for (int k = 0; k < kStepKeys / 16; ++k) {
#pragma unroll
        for (int n = 0; n < kDim / 16; ++n) {
          uint32_t value[4];
          LoadTransposed(value,
                         values + Piece<kDim>(first_slot + k * 16 + lane % 16, 2 * n + lane / 16));
#pragma unroll
          for (int m = 0; m < kRowTiles; ++m) {
            MultiplyAdd(out[m][2 * n], weights[m][k], value[0], value[1]);
            MultiplyAdd(out[m][2 * n + 1], weights[m][k], value[2], value[3]);
          }
        }
      }
    }
    __syncthreads();  // before the next copy overwrites this stage
  }

#pragma unroll
  for (int m = 0; m < kRowTiles; ++m) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float inverse = 1 / QuadSum(sum[m][half]);
      const int row = first_row + m * 16 + lane / 4 + half * 8;
      if (row >= tile.rows) continue;
      auto* to = static_cast<__nv_bfloat16*>(call.out.data) +
                 (tile.first_row + row) * call.out.stride + head * kDim + lane % 4 * 2;
#pragma unroll
      for (int n = 0; n < kDim / 8; ++n) {
        *reinterpret_cast<__nv_bfloat162*>(to + n * 8) =
            __floats2bfloat162_rn(out[m][n][2 * half] * inverse, out[m][n][2 * half + 1] * inverse);
      }
    }
  }
}

template <int kDim>
cudaError_t Launch(const Arguments& arguments, cudaStream_t stream) {
  constexpr int kSharedBytes = Traits<kDim>::kSharedBytes;
  static const cudaError_t configured =
      cudaFuncSetAttribute(Attend<kDim>, cudaFuncAttributeMaxDynamicSharedMemorySize, kSharedBytes);
  if (configured != cudaSuccess) return configured;
  const dim3 grid(arguments.call.heads, arguments.call.tiles);
  Attend<kDim><<<grid, Traits<kDim>::kThreads, kSharedBytes, stream>>>(arguments);
  return cudaGetLastError();
}

}  // namespace

int PrefillSharedBytes(int head_dim) {
  return WithHeadSize(head_dim, [](auto dim) { return Traits<dim.value>::kSharedBytes; });
}

cudaError_t LaunchPrefillAttention(const PrefillAttention& call, cudaStream_t stream) {
  Arguments arguments = {call, ScoreCap(call.soft_cap)};
  // Every row sees all before it.
  if (call.sliding_window == 0) arguments.call.sliding_window = INT_MAX / 2;
  return WithHeadSize(call.head_dim,
                      [&](auto dim) { return Launch<dim.value>(arguments, stream); });
}

}  // namespace winnow::cuda
