#pragma once

#include <cuda_fp16.h>

#include <cstdint>

#include "kernels/cuda/async_copy.cuh"
#include "kernels/cuda/prefill_attention.h"

// What a block of threads keeps in shared memory, and how keys and values get there: see
// prefill_attention.cu.

namespace winnow::cuda::prefill {

template <int kDim>
struct Traits {
  static constexpr int kRowTiles = kDim <= 128 ? 2 : 1;  // of a warp: the tensor cores' 16 rows
  static constexpr int kWarpRows = 16 * kRowTiles;
  static constexpr int kThreads = 32 * kPrefillTileRows / kWarpRows;
  static constexpr int kBlocks = kDim <= 128 ? 2 : 1;  // of a multiprocessor
  static constexpr int kStageKeys = kDim <= 128 ? 64 : 32;
  static constexpr int kStageBytes = kStageKeys * kDim * 2;  // of keys, or of values
  static constexpr int kQueryBytes = kPrefillTileRows * kDim * 2;
  static constexpr int kSharedBytes = kQueryBytes + 2 * 2 * kStageBytes;
};

// Rows of kDim halves in shared memory, whose pieces of 16 bytes are swapped about so that eight
// rows' pieces of one column lie in different banks. kSpread rows do so by themselves.
template <int kDim>
__device__ __forceinline__ uint32_t Piece(int row, int piece) {
  constexpr int kPieces = kDim / 8;
  constexpr uint32_t kSwapped = kPieces % 8 == 0 ? 8 : kPieces % 4 == 0 ? 4 : 2;
  constexpr uint32_t kSpread = 8 / kSwapped;
  const auto swap = static_cast<uint32_t>(row) / kSpread % kSwapped;
  return row * kDim * 2 + (static_cast<uint32_t>(piece) ^ swap) * 16;
}

// Keys and values of one KV head of a sequence, in blocks.
struct Context {
  const __half* head;  // the head's part of block 0
  int64_t block_halves;
  const int32_t* table;
  int block_shift;
  int first;  // token that is seen
  int tokens;
};

// Starts copying tokens [first, first + kStageKeys) to `keys` and `values`, those that are seen.
template <int kDim>
__device__ __forceinline__ void CopyStage(const Context& context, int first, uint32_t keys,
                                          uint32_t values) {
  constexpr int kThreads = Traits<kDim>::kThreads;
  constexpr int kPieces = kDim / 8;  // of a key
  constexpr int kStagePieces = Traits<kDim>::kStageKeys * 2 * kPieces;
  static_assert(kStagePieces % kThreads == 0);
#pragma unroll
  for (int i = 0; i < kStagePieces / kThreads; ++i) {
    const uint32_t at = i * kThreads + threadIdx.x;
    const int slot = static_cast<int>(at / (2 * kPieces));
    const int piece = static_cast<int>(at % (2 * kPieces));
    const uint32_t to = piece < kPieces ? keys : values;
    const int token = first + slot;
    const bool valid = token >= context.first && token < context.tokens;
    const int block = valid ? context.table[token >> context.block_shift] : 0;
    const int in_block = token & ((1 << context.block_shift) - 1);
    const __half* from =
        context.head + block * context.block_halves + in_block * 2 * kDim + piece * 8;
    CopyAsync(to + Piece<kDim>(slot, piece % kPieces), from, valid);
  }
  CommitCopies();
}

}  // namespace winnow::cuda::prefill
