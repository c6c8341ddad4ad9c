#pragma once

#include <cstdint>

namespace winnow::cuda {

// Clusters of blocks that reach each other's shared memory; on devices without them every block is
// a cluster of its own.

__device__ inline int ClusterRank() {
#if __CUDA_ARCH__ >= 900
  uint32_t rank;
  asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return static_cast<int>(rank);
#else
  return 0;
#endif
}

__device__ inline int ClusterSize() {
#if __CUDA_ARCH__ >= 900
  uint32_t size;
  asm("mov.u32 %0, %%cluster_nctarank;" : "=r"(size));
  return static_cast<int>(size);
#else
  return 1;
#endif
}

/// All threads of the cluster wait for each other and see each other's writes.
__device__ inline void SyncCluster() {
#if __CUDA_ARCH__ >= 900
  asm volatile(
      "barrier.cluster.arrive.release.aligned;\n"
      "barrier.cluster.wait.acquire.aligned;" ::
          : "memory");
#else
  __syncthreads();
#endif
}

/// Where a variable in shared memory lies in another block of the cluster.
template <typename T>
__device__ const T* OfRank(const T* shared, int rank) {
#if __CUDA_ARCH__ >= 900
  uint64_t address;
  asm("mapa.u64 %0, %1, %2;" : "=l"(address) : "l"(shared), "r"(rank));
  return reinterpret_cast<const T*>(address);
#else
  return shared;
#endif
}

}  // namespace winnow::cuda
