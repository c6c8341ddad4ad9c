#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#include "kernels/tensor.h"

namespace winnow::cuda {

/// Query rows of a tile, at most.
inline constexpr int kPrefillTileRows = 128;

/// Consecutive rows of one sequence, at consecutive positions, that walk the context together.
struct PrefillTile {
  int32_t first_row;  ///< of the step
  int32_t rows;
  int32_t first_position;
  int32_t sequence;
};

/// Dense causal attention of tiles of rows. All pointers are to device memory.
struct PrefillAttention {
  int heads = 0;
  int kv_heads = 0;                       ///< divides heads
  int head_dim = 0;                       ///< IsHeadSize
  int block_tokens = 0;                   ///< a power of two
  float scale = 0;                        ///< of q . k
  float soft_cap = 0;                     ///< LayerAttention::soft_cap
  int32_t sliding_window = 0;             ///< LayerAttention::sliding_window
  const std::byte* kv = nullptr;          ///< KvView::data
  const int32_t* block_tables = nullptr;  ///< [sequences, max_blocks] as StepBatch::block_tables
  int max_blocks = 0;
  int tiles = 0;
  const PrefillTile* tile = nullptr;  ///< [tiles]; the longest contexts first spread work best
  Tensor qkv;                         ///< fp32, of all rows of the step: queries first, rotated
  Tensor out;                         ///< bf16 [rows, heads head_dim]
};

/// Queues out[t, h, :] = sum_j softmax_j(cap(scale q[t, h] . k[j, g])) v[j, g] over all positions j
/// that the row sees; g = h kv_heads / heads. Queries and softmax weights are rounded to fp16 for
/// the tensor cores, sums are fp32. Returns the launch's error.
cudaError_t LaunchPrefillAttention(const PrefillAttention& call, cudaStream_t stream);

/// Shared memory that a block of it takes.
int PrefillSharedBytes(int head_dim);

}  // namespace winnow::cuda
