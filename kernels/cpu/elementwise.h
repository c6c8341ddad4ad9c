#pragma once

#include <cstdint>

namespace winnow::cpu {

/// out[c] = x[c] / sqrt(mean(x^2) + epsilon) * weight[c] for one row of `columns`.
void RmsNormRow(const float* x, const float* weight, float epsilon, int64_t columns, float* out);

/// out[c] = silu(gate[c]) * up[c] for one row of `columns`.
void SwiGluRow(const float* gate, const float* up, int64_t columns, float* out);

/// Rotates one head of `rope_dim` leading dimensions in place; cosines and sines [rope_dim / 2].
void RopeAdjacent(const float* cosines, const float* sines, int rope_dim, float* head);
void RopeHalves(const float* cosines, const float* sines, int rope_dim, float* head);

/// fp32 to fp16, to nearest even.
void ToHalf(const float* x, int64_t count, uint16_t* out);

}  // namespace winnow::cpu
