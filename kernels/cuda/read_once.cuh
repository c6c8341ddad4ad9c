#pragma once

#include <cuda_bf16.h>

namespace winnow::cuda {

/// Eight numbers that no kernel writes, read past the first-level cache, for they are read once.
__device__ __forceinline__ uint4 ReadOnce(const __nv_bfloat16* at) {
  uint4 value;
  asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];\n"
               : "=r"(value.x), "=r"(value.y), "=r"(value.z), "=r"(value.w)
               : "l"(at));
  return value;
}

}  // namespace winnow::cuda
