#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/decode_attention.h"

namespace winnow::cuda {

/// Copies on the device of rows (a token's key and value for one KV head) of one layer that lie in
/// host memory. The layer's KV is one range of addresses: blocks of the device, blocks of the host,
/// then blocks in which copies lie. A copy is named as any other row, by an entry
/// (DecodeAttention::selected), so whoever attends need not know of it.
///
/// Each KV head has `copy_blocks` block_tokens rows for its copies. Room for new ones is found by a
/// clock (Corbato, "A paging experiment with the Multics system", 1968): its hand takes the next
/// row that the step does not need and that no step has used since the hand was there last.
struct RowCache {
  int32_t first_host_block = 0;
  int32_t host_blocks = 0;
  int32_t copy_blocks = 0;  ///< behind the host's
  /// RowCacheBytes, all zero before the first use: then no row has a copy.
  std::byte* memory = nullptr;
};

/// Bytes of RowCache::memory.
int64_t RowCacheBytes(const RowCache& cache, int kv_heads, int block_tokens);

/// Bytes of FetchRows' scratch for calls of so many rows.
int64_t FetchScratchBytes(int rows, int kv_heads, int max_selected);

/// Counts of all calls since `memory` was zero.
struct RowCacheCounts {
  uint64_t selected = 0;  ///< rows of the host that heads have selected
  uint64_t fetched = 0;   ///< of them, that were copied
  uint64_t direct = 0;    ///< of them, that there was no room for: they are read where they lie
};

/// Where the counts lie in RowCache::memory.
const RowCacheCounts* CountsOf(const RowCache& cache);

/// Queues, between choosing and attending: every row of the host in the lists of `call` becomes its
/// copy, which is made where there is none; where there is no room for more, it stays what it is.
/// Two launches, neither of which allocates or waits. `scratch` is FetchScratchBytes, zero before
/// the first use. What has been copied is forgotten when ForgetRows says so: before blocks are
/// written again. Returns the first launch error.
cudaError_t LaunchFetchRows(const DecodeAttention& call, const RowCache& cache, std::byte* scratch,
                            cudaStream_t stream);

/// Queues forgetting the copies of the rows of `count` host blocks, whose ids are in device memory.
cudaError_t LaunchForgetRows(const RowCache& cache, int kv_heads, int block_tokens,
                             const int32_t* blocks, int count, cudaStream_t stream);

}  // namespace winnow::cuda
