#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#include "kernels/rope.h"
#include "kernels/selection.h"
#include "kernels/tensor.h"

namespace winnow::cuda {

/// Backend::RopeAndStoreKv: what a step's rows leave in the caches. All pointers are to device
/// memory.
struct RopeAndStore {
  Tensor qkv;  ///< fp32 [rows, (heads + 2 kv_heads) head_dim]
  int heads = 0;
  int kv_heads = 0;
  int head_dim = 0;      ///< a multiple of 4, at most 128
  int block_tokens = 0;  ///< a power of two
  Rope rope;
  const int32_t* positions = nullptr;     ///< [rows]
  const int32_t* sequences = nullptr;     ///< [rows] row of `block_tables`
  const int32_t* block_tables = nullptr;  ///< [sequences, max_blocks] as StepBatch::block_tables
  int max_blocks = 0;
  std::byte* kv = nullptr;      ///< the layer's blocks, KvCache::block(layer, 0)
  std::byte* labels = nullptr;  ///< the layer's blocks, LabelCache::block(layer, 0); null: none
  int label_width = 0;
  LabelCodec basis;  ///< `key` and `offset` are read if there are labels
};

/// Queues one kernel that rotates queries and keys in place, stores keys and values as fp16 and
/// quantises the keys' labels. Returns the launch's error.
cudaError_t LaunchRopeAndStore(const RopeAndStore& call, cudaStream_t stream);

}  // namespace winnow::cuda
