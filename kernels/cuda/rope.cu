#include <cuda_fp16.h>

#include "kernels/cuda/decode_kernels.h"
#include "kernels/cuda/label_layout.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/rope.h"

// A warp takes one head of one row: it rotates the head in shared memory, from where it is stored
// to the caches and projected to its label. Where something stands between the two, one kernel
// rotates and another stores.

namespace winnow::cuda {
namespace {

constexpr int kWarps = 8;
constexpr int kThreads = 32 * kWarps;
// Heads of at most so many dimensions take fewer registers than larger ones, of at most twice as
// many.
constexpr int kSmallHead = 128;
constexpr unsigned kFullWarp = 0xffffffff;

// Cosine and sine of position * frequency, times the magnitude. The product is reduced to one turn
// in fp64: fp32 would have lost the angle at long contexts.
__device__ float2 Rotation(float frequency, int position, float magnitude) {
  constexpr double kTurnsPerRadian = 0.15915494309189535;
  const double turns = static_cast<double>(frequency) * position * kTurnsPerRadian;
  float2 rotation;
  sincospif(static_cast<float>(2 * (turns - rint(turns))), &rotation.y, &rotation.x);
  return {magnitude * rotation.x, magnitude * rotation.y};
}

// The rotations of a head's pairs that a lane computes: pair 32 i + lane.
template <int kMaxHeadDim, bool kRotates>
struct Rotations {
  static constexpr int kPairs = kMaxHeadDim / 2 / 32;
  float2 of_pair[kPairs];

  __device__ Rotations(const Rope& rope, int position, int lane) {
#pragma unroll
    for (int i = 0; i < kPairs; ++i) {
      const int pair = 32 * i + lane;
      if (pair < rope.dim / 2) {
        of_pair[i] = Rotation(rope.frequencies[pair], position, rope.magnitude);
      }
    }
  }

  __device__ void Apply(const Rope& rope, int lane, float* head) const {
    const bool adjacent = rope.pairing == RopePairing::kAdjacent;
#pragma unroll
    for (int i = 0; i < kPairs; ++i) {
      const int pair = 32 * i + lane;
      if (pair >= rope.dim / 2) break;
      float& first = head[adjacent ? 2 * pair : pair];
      float& second = head[adjacent ? 2 * pair + 1 : pair + rope.dim / 2];
      const float a = first;
      const float b = second;
      // Rounded as written, whatever the compiler makes of the kernels around it.
      first = __fmaf_rn(a, of_pair[i].x, -__fmul_rn(b, of_pair[i].y));
      second = __fmaf_rn(a, of_pair[i].y, __fmul_rn(b, of_pair[i].x));
    }
  }
};

template <int kMaxHeadDim>
struct Rotations<kMaxHeadDim, false> {
  __device__ Rotations(const Rope&, int, int) {}
  __device__ void Apply(const Rope&, int, float*) const {}
};

// A lane's part of a key's label. Lanes that share a dimension of the label divide the key's among
// them. What of the basis the first ones need is read ahead, for no kernel writes it.
template <bool kLabels>
struct LabelPart {
  static constexpr int kAhead = 32;  // dimensions of the key
  int shares;
  int share;
  int first;  // dimension of the label; others follow at steps of 32
  float ahead[kAhead];

  __device__ LabelPart(const RopeAndStore& call, int kv_head, int lane)
      : shares(call.label_width <= 16 ? 32 / call.label_width : 1),
        share(lane / (32 / shares)),
        first(lane % (32 / shares)) {
    const float* basis = Basis(call, kv_head);
#pragma unroll
    for (int j = 0; j < kAhead; ++j) {
      const int c = j * shares + share;
      ahead[j] = first < call.label_width && c < call.head_dim ? basis[c * call.label_width] : 0;
    }
  }

  // Of the lane's first dimension.
  __device__ const float* Basis(const RopeAndStore& call, int kv_head) const {
    return call.basis.key + int64_t{kv_head} * call.head_dim * call.label_width + first;
  }

  // Codes of the label of `key`, as of LabelCodec, to `codes` [width].
  __device__ void Quantise(const RopeAndStore& call, int kv_head, const float* key,
                           int* codes) const {
    const int width = call.label_width;
    const float* basis = Basis(call, kv_head);
    const int dims = call.head_dim / shares;
    for (int i = first; i - first < width; i += 32, basis += 32) {
      float label = 0;
      if (i < width) {
        const bool is_first = i == first;
#pragma unroll
        for (int j = 0; j < kAhead; ++j) {
          if (is_first && j < dims) label = __fmaf_rn(ahead[j], key[j * shares + share], label);
        }
#pragma unroll 16
        for (int j = is_first ? kAhead : 0; j < dims; ++j) {
          const int c = j * shares + share;
          label = __fmaf_rn(basis[c * width], key[c], label);
        }
      }
      for (int step = 32 / shares; step < 32; step *= 2) {
        label += __shfl_xor_sync(kFullWarp, label, step);
      }
      if (i < width && share == 0) {
        label += call.basis.offset[kv_head * width + i];
        codes[i] = min(max(__float2int_rn(label), 0), 15);
      }
    }
  }
};

template <>
struct LabelPart<false> {
  __device__ LabelPart(const RopeAndStore&, int, int) {}
};

__device__ void StoreLabel(const int* codes, int width, int slot, int lane, std::byte* block) {
  if (width == 4) {
    const auto label =
        static_cast<uint16_t>(codes[0] | codes[1] << 8 | codes[2] << 4 | codes[3] << 12);
    if (lane == 0) reinterpret_cast<uint16_t*>(block)[slot] = label;
  } else if (lane < width / 8) {
    int word[8];
#pragma unroll
    for (int i = 0; i < 8; ++i) word[i] = codes[lane * 8 + i];
    *reinterpret_cast<uint32_t*>(block + LabelOffset(slot, width, lane)) = PackLabel(word);
  }
}

struct Call : RopeAndStore {
  int first_head;  ///< among a row's queries, keys and values
  int end_head;
  int pieces;  ///< of a row, each a block
};

// body(i) for the numbers 4 i, ... of the head that the lane moves.
template <int kMaxHeadDim, typename Body>
__device__ void ForQuads(int quads, int lane, const Body& body) {
#pragma unroll
  for (int i = 0; i < kMaxHeadDim / 128; ++i) {
    if (32 * i + lane < quads) body(32 * i + lane);
  }
}

template <int kMaxHeadDim, bool kRotates, bool kStores, bool kLabels>
__global__ void __launch_bounds__(kThreads) RotateAndStore(const __grid_constant__ Call call) {
  __shared__ __align__(16) float heads[kWarps][kMaxHeadDim];
  __shared__ int labels[kWarps][kMaxLabelWidth];
  LetNextKernelStart();
  const int warp = threadIdx.x / 32;
  const int lane = threadIdx.x % 32;
  const int row = blockIdx.x / call.pieces;
  const int index = call.first_head + blockIdx.x % call.pieces * kWarps + warp;
  if (index >= call.end_head) return;
  const int head_dim = call.head_dim;
  const int quads = head_dim / 4;
  float* head = heads[warp];
  auto* memory = reinterpret_cast<float4*>(static_cast<float*>(call.qkv.data) +
                                           row * call.qkv.stride + index * head_dim);
  const bool is_query = index < call.heads;
  const bool is_value = index >= call.heads + call.kv_heads;
  const int position = call.positions[row];
  const int block = kStores ? call.block_tables[int64_t{call.sequences[row]} * call.max_blocks +
                                                position / call.block_tokens]
                            : 0;
  const int kv_head = is_query ? 0 : (index - call.heads) % call.kv_heads;
  const Rotations<kMaxHeadDim, kRotates> rotations(call.rope, position, lane);
  const LabelPart<kLabels> part(call, kv_head, lane);
  WaitForPreviousKernel();
  ForQuads<kMaxHeadDim>(quads, lane,
                        [&](int i) { reinterpret_cast<float4*>(head)[i] = memory[i]; });
  __syncwarp();
  if (kRotates && !is_value) {
    rotations.Apply(call.rope, lane, head);
    __syncwarp();
    ForQuads<kMaxHeadDim>(quads, lane,
                          [&](int i) { memory[i] = reinterpret_cast<const float4*>(head)[i]; });
  }
  if (!kStores || is_query) return;

  const int slot = position % call.block_tokens;
  const int64_t head_block = int64_t{block} * call.kv_heads + kv_head;
  ForQuads<kMaxHeadDim>(quads, lane, [&](int i) {
    const float4 x = reinterpret_cast<const float4*>(head)[i];
    const __half2 low = __floats2half2_rn(x.x, x.y);
    const __half2 high = __floats2half2_rn(x.z, x.w);
    __half* stored = reinterpret_cast<__half*>(call.kv) +
                     (head_block * call.block_tokens + slot) * 2 * head_dim +
                     (is_value ? head_dim : 0);
    reinterpret_cast<uint2*>(stored)[i] = {reinterpret_cast<const uint32_t&>(low),
                                           reinterpret_cast<const uint32_t&>(high)};
  });
  if constexpr (kLabels) {
    if (is_value) return;
    part.Quantise(call, kv_head, head, labels[warp]);
    __syncwarp();
    StoreLabel(labels[warp], call.label_width, slot, lane,
               call.labels + head_block * (call.block_tokens * call.label_width / 2));
  }
}

template <int kMaxHeadDim>
auto KernelOf(const RopeAndStore& call) {
  auto* kernel = RotateAndStore<kMaxHeadDim, true, false, false>;
  if (call.stores && call.labels != nullptr) {
    kernel = call.rotates ? RotateAndStore<kMaxHeadDim, true, true, true>
                          : RotateAndStore<kMaxHeadDim, false, true, true>;
  } else if (call.stores) {
    kernel = call.rotates ? RotateAndStore<kMaxHeadDim, true, true, false>
                          : RotateAndStore<kMaxHeadDim, false, true, false>;
  }
  return kernel;
}

}  // namespace

cudaError_t LaunchRopeAndStore(const RopeAndStore& call, cudaStream_t stream) {
  // Values are not rotated, queries not stored.
  const int first = call.rotates ? 0 : call.heads;
  const int end = call.heads + (call.stores ? 2 : 1) * call.kv_heads;
  const int pieces = (end - first + kWarps - 1) / kWarps;
  return LaunchEarly(
      call.head_dim <= kSmallHead ? KernelOf<kSmallHead>(call) : KernelOf<2 * kSmallHead>(call),
      {.blocks = static_cast<int>(call.qkv.rows) * pieces, .threads = kThreads},
      CurrentDeviceTraits().capability_major, stream, Call{call, first, end, pieces});
}

}  // namespace winnow::cuda
