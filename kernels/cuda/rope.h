#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#include "kernels/rope.h"
#include "kernels/selection.h"
#include "kernels/tensor.h"

namespace winnow::cuda {

/// Backend::ApplyRope, StoreKv and RopeAndStoreKv: what a step's rows leave in the caches. All
/// pointers are to device memory.
struct RopeAndStore {
  bool rotates = false;  ///< queries and keys, in place
  bool stores = false;   ///< keys, values and the keys' labels
  Tensor qkv;            ///< fp32 [rows, (heads + 2 kv_heads) head_dim]
  int heads = 0;
  int kv_heads = 0;
  int head_dim = 0;                       ///< a multiple of 8, at most 256
  int block_tokens = 0;                   ///< a power of two
  Rope rope;                              ///< if it rotates
  const int32_t* positions = nullptr;     ///< [rows]
  const int32_t* sequences = nullptr;     ///< [rows] row of `block_tables`
  const int32_t* block_tables = nullptr;  ///< [sequences, max_blocks] as StepBatch::block_tables
  int max_blocks = 0;
  std::byte* kv = nullptr;      ///< KvView::data
  std::byte* labels = nullptr;  ///< KvView::labels; null: none
  int label_width = 0;
  LabelCodec basis;  ///< `key` and `offset` are read if there are labels
};

/// Queues one kernel that rotates queries and keys, or stores keys and values as fp16 and quantises
/// the keys' labels, or does both: the same numbers, bit for bit. Returns the launch's error.
/// REQUIRES: call.rotates or call.stores.
cudaError_t LaunchRopeAndStore(const RopeAndStore& call, cudaStream_t stream);

}  // namespace winnow::cuda
