#pragma once

#include <cstdint>

namespace winnow::cuda {

/// Starts copying 16 bytes from global to shared memory, past the first-level cache; zeros instead
/// where they are not valid.
__device__ __forceinline__ void CopyAsync(uint32_t to, const void* from, bool valid) {
  const int bytes = valid ? 16 : 0;  // the rest is filled with zeros
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;\n" ::"r"(to), "l"(from), "r"(bytes)
               : "memory");
}

/// Makes a group of the copies that this thread has started since the last one.
__device__ __forceinline__ void CommitCopies() {
  asm volatile("cp.async.commit_group;\n" ::: "memory");
}

/// Waits until all but the last kPending groups of this thread are there: to be seen by it.
template <int kPending>
__device__ __forceinline__ void WaitForCopies() {
  asm volatile("cp.async.wait_group %0;\n" ::"n"(kPending) : "memory");
}

/// Four 8 x 8 matrices of 16-bit numbers from shared memory: lane 8 i + j has the address of row j
/// of the i-th one, and gets its columns 2 (lane % 4) + {0, 1} of row lane / 4 of each.
__device__ __forceinline__ void LoadMatrices(uint32_t (&out)[4], uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];\n"
               : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
               : "r"(address)
               : "memory");
}

}  // namespace winnow::cuda
