#pragma once

namespace winnow::cuda {

inline constexpr float kLog2e = 1.4426950408889634f;

/// 2^x to a relative error of 2^-22; 0 below 2^-126.
__device__ inline float Exp2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

}  // namespace winnow::cuda
