#pragma once

#include <cuda_fp16.h>

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/attend_shares.cuh"
#include "kernels/cuda/mma.cuh"

// What a warp makes of a tile of tokens: see decode_attend.cu.

namespace winnow::cuda::attend {

__device__ inline uint4 LoadOnce(const std::byte* address) {
  uint4 value;
  asm volatile("ld.global.nc.L1::no_allocate.L2::256B.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(value.x), "=r"(value.y), "=r"(value.z), "=r"(value.w)
               : "l"(address));
  return value;
}

// Where the tokens of a head's tiles lie.
struct Tokens {
  const uint32_t* list;  // the sequence's block table if dense, else entries of what is selected
  bool is_dense;
  int last;
  int block_shift;
  uint32_t kv_heads;
  uint32_t kv_head;

  // Of the token at `index` of the list, or of the context: its entry as of
  // DecodeAttention::selected.
  __device__ uint32_t Entry(int index) const {
    index = min(index, last);
    if (!is_dense) return list[index];
    const uint32_t block = list[index >> block_shift];
    const auto slot = static_cast<uint32_t>(index) & ((1u << block_shift) - 1);
    return ((block * kv_heads + kv_head) << block_shift) + slot;
  }
};

// How lanes read a tile. Where a head does not fill the last load of all lanes, others take zeros.
template <int kDim>
struct Loads {
  static constexpr int kKey = (kDim + 31) / 32;    // of a lane, for each of its keys
  static constexpr int kValue = (kDim + 63) / 64;  // and of its values
  // Those of values that are asked for together with the keys: as many as registers can hold.
  static constexpr int kEarly = kDim <= 128 ? kValue : 1;
};

// A warp's softmax state: of head lane / 4.
template <int kDim>
struct State {
  float max = -INFINITY;
  float sum = 0;                               // over the tokens that this lane's scores are of
  float out[8 * Loads<kDim>::kValue][4] = {};  // as MMA results, whose two rows are to be added
};

template <int kDim>
struct Shared {
  static constexpr int kSteps = 2 * Loads<kDim>::kKey;
  static constexpr int kPaddedDim = kDim + 4;
  uint4 queries[kSteps][32];  // first operands
  float max[kWarps][kMaxGroup];
  float sum[kWarps][kMaxGroup];
  float out[kWarps][kMaxGroup][kPaddedDim];
  const float* tails;  // Arguments::Tails
  bool is_last;
};

// Lane 4 i + j reads 16 bytes of token i's key, numbers 8 j on of every 32: so these, in the order
// in which they lie, are rows 2 j, 2 j + 1, 2 j + 8, 2 j + 9 of two matrix steps. Queries are
// arranged alike, scaled to scores in units of log 2.
template <int kDim>
__device__ inline void ArrangeQueries(const float* queries, const DecodeAttention& call,
                                      Shared<kDim>& shared) {
  const float scale = kLog2e * call.scale;
  for (int i = threadIdx.x; i < Shared<kDim>::kSteps * 32; i += kThreads) {
    const int step = i / 32;
    const int head = i % 32 / 4;
    const int dim = step / 2 * 32 + i % 4 * 8 + step % 2 * 4;
    uint4 operand = {};
    if (head < call.group && (kDim % 32 == 0 || dim < kDim)) {
      const float* q = queries + head * kDim + dim;
      Split(q[0] * scale, q[1] * scale, &operand.x, &operand.y);
      Split(q[2] * scale, q[3] * scale, &operand.z, &operand.w);
    }
    shared.queries[step][i % 32] = operand;
  }
}

// Folds the tile's first `valid` tokens, whose entries the first 16 lanes have, into the state.
template <int kDim>
__device__ inline void AttendTile(const std::byte* kv, uint32_t entry, int valid,
                                  const ScoreCap& cap, const Shared<kDim>& shared,
                                  State<kDim>& state) {
  const int i = threadIdx.x % 32 / 4;
  const int j = threadIdx.x % 4;
  constexpr int kTokenBytes = 2 * kDim * sizeof(__half);
  constexpr int kKeyLoads = Loads<kDim>::kKey;
  constexpr int kValueLoads = Loads<kDim>::kValue;
  const auto token = [&](int index) {
    return kv + int64_t{__shfl_sync(~0u, entry, index)} * kTokenBytes;
  };
  uint4 keys[2][kKeyLoads];
  for (int n = 0; n < 2; ++n) {
    const std::byte* key = token(8 * n + i) + 16 * j;
    for (int c = 0; c < kKeyLoads; ++c) {
      const bool is_there = kDim % 32 == 0 || 32 * c + 8 * j < kDim;
      keys[n][c] = is_there ? LoadOnce(key + 64 * c) : uint4{};
    }
  }
  uint4 values[4][kValueLoads];
  const auto load_values = [&](int first, int end) {
#pragma unroll
    for (int n = 0; n < 4; ++n) {
      const std::byte* value = token(2 * j + n % 2 + n / 2 * 8) + kTokenBytes / 2 + 16 * i;
#pragma unroll
      for (int c = first; c < end; ++c) {
        const bool is_there = kDim % 64 == 0 || 64 * c + 8 * i < kDim;
        values[n][c] = is_there ? LoadOnce(value + 128 * c) : uint4{};
      }
    }
  };
  load_values(0, Loads<kDim>::kEarly);

  float scores[2][4] = {};
  for (int c = 0; c < kKeyLoads; ++c) {
    const uint4 even = shared.queries[2 * c][threadIdx.x % 32];
    const uint4 odd = shared.queries[2 * c + 1][threadIdx.x % 32];
    for (int n = 0; n < 2; ++n) {
      Mma(scores[n], {even.x, even.y, even.z, even.w}, keys[n][c].x, keys[n][c].y);
      Mma(scores[n], {odd.x, odd.y, odd.z, odd.w}, keys[n][c].z, keys[n][c].w);
    }
  }
  load_values(Loads<kDim>::kEarly, kValueLoads);
  float score[4];  // of tokens 2 j, 2 j + 1, 2 j + 8, 2 j + 9
  for (int n = 0; n < 4; ++n) score[n] = scores[n / 2][n % 2] + scores[n / 2][2 + n % 2];
  if (cap.limit > 0) {
    for (float& s : score) s = cap.Apply(s);
  }
  float max = state.max;
  for (int n = 0; n < 4; ++n) {
    if (2 * j + n % 2 + n / 2 * 8 >= valid) score[n] = -INFINITY;
    max = fmaxf(max, score[n]);
  }
  max = fmaxf(max, __shfl_xor_sync(~0u, max, 1));
  max = fmaxf(max, __shfl_xor_sync(~0u, max, 2));
  if (__any_sync(~0u, max > state.max)) {
    const float keep = Exp2(state.max - max);
    state.sum *= keep;
    for (auto& out : state.out) {
      for (float& x : out) x *= keep;
    }
    state.max = max;
  }
  for (float& s : score) {
    s = Exp2(s - max);
    state.sum += s;
  }
  uint32_t weights[4];
  Split(score[0], score[1], &weights[0], &weights[1]);
  Split(score[2], score[3], &weights[2], &weights[3]);
  for (int c = 0; c < kValueLoads; ++c) {
    for (int e = 0; e < 8; ++e) {
      const auto number = [&](int n) {
        const uint4& v = values[n][c];
        return e < 2 ? v.x : e < 4 ? v.y : e < 6 ? v.z : v.w;
      };
      const uint32_t halves = e % 2 == 0 ? 0x5410 : 0x7632;
      Mma(state.out[8 * c + e], weights, __byte_perm(number(0), number(1), halves),
          __byte_perm(number(2), number(3), halves));
    }
  }
}

// Result `e` of matrix column c of lane 4 i + j belongs to head i, numbers 64 c + 16 j + e and 8
// more.
template <int kDim>
__device__ inline void ShareState(State<kDim>& state, int group, Shared<kDim>& shared) {
  const int warp = threadIdx.x / 32;
  const int head = threadIdx.x % 32 / 4;
  const int j = threadIdx.x % 4;
  state.sum += __shfl_xor_sync(~0u, state.sum, 1);
  state.sum += __shfl_xor_sync(~0u, state.sum, 2);
  if (head >= group) return;
  if (j == 0) {
    shared.max[warp][head] = state.max;
    shared.sum[warp][head] = state.sum;
  }
  for (int c = 0; c < Loads<kDim>::kValue; ++c) {
    for (int half = 0; half < 2; ++half) {
      const int dim = 64 * c + 16 * j + 8 * half;
      if (kDim % 64 != 0 && dim >= kDim) break;
      float* out = &shared.out[warp][head][dim];
      for (int e = 0; e < 8; ++e) {
        const auto& x = state.out[8 * c + e];
        out[e] = x[half] + x[2 + half];
      }
    }
  }
}

}  // namespace winnow::cuda::attend
