#pragma once

namespace winnow::cuda {

inline constexpr float kLog2e = 1.4426950408889634f;

/// 2^x to a relative error of 2^-22; 0 below 2^-126.
__device__ inline float Exp2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

/// The soft cap of scores in units of log 2, as a kernel's argument.
struct ScoreCap {
  float limit = 0;  ///< of a score; 0: there is none
  float slope = 0;  ///< of 2 x / log 2, where the score becomes limit tanh(x)

  /// Of LayerAttention::soft_cap, which is in units of 1.
  __host__ __device__ explicit ScoreCap(float soft_cap)
      : limit(kLog2e * soft_cap), slope(soft_cap > 0 ? 2 / soft_cap : 0) {}

  /// REQUIRES: there is one. To an error of limit 2^-20.
  __device__ float Apply(float score) const {
    return limit - __fdividef(2 * limit, 1 + Exp2(slope * score));
  }
};

/// The sum of all lanes' values, for all of them. All 32 lanes take part.
template <typename T>
__device__ __forceinline__ T WarpSum(T value) {
  for (int lane = 16; lane > 0; lane /= 2) value += __shfl_xor_sync(~0u, value, lane);
  return value;
}

}  // namespace winnow::cuda
