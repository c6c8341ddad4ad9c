#pragma once

#include <cuda_fp16.h>

#include <cstdint>

namespace winnow::cuda {

/// Two halves in a register, the first in the low half.
__device__ inline uint32_t Pack(__half first, __half second) {
  return static_cast<uint32_t>(__half_as_ushort(first)) |
         static_cast<uint32_t>(__half_as_ushort(second)) << 16;
}

/// The pair that two floats round to, and the pair of what that rounding left.
__device__ inline void Split(float first, float second, uint32_t* high, uint32_t* low) {
  const __half a = __half(first);
  const __half b = __half(second);
  *high = Pack(a, b);
  *low = Pack(__half(first - float(a)), __half(second - float(b)));
}

/// c[16, 8] += a[16, 16] b[16, 8] of a warp, fp32 sums. Of lane 4 i + j: a[] = rows i, i + 8, i,
/// i + 8 at columns 2 j + {0, 1}, the last two at 8 more; b[] = column i at rows 2 j + {0, 1}, then
/// 8 more; c[] = row i at columns 2 j + {0, 1}, then row i + 8.
__device__ inline void Mma(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/// c[16, 8] += a[16, 32] b[32, 8] of a warp, of unsigned bytes. Of lane 4 i + j: a[] = rows i, i +
/// 8, i, i + 8 at columns 4 j to 4 j + 3, the last two at 16 more; b[] = column i at rows 4 j to 4
/// j + 3, then 16 more; c[] as above.
__device__ inline void MmaBytes(int (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm("mma.sync.aligned.m16n8k32.row.col.s32.u8.u8.s32 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/// The same as Mma of bf16 factors.
__device__ inline void MmaBf16(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

}  // namespace winnow::cuda
