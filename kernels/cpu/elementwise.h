#pragma once

#include <cstdint>

#include "kernels/activation.h"

namespace winnow::cpu {

/// out[c] = x[c] / sqrt(mean(x^2) + epsilon) * weight[c] for one row of `columns`.
void RmsNormRow(const float* x, const float* weight, float epsilon, int64_t columns, float* out);

/// sum[c] += x[c] / sqrt(mean(x^2) + epsilon) * weight[c] for one row of `columns`.
void AddNormalizedRow(const float* x, const float* weight, float epsilon, int64_t columns,
                      float* sum);

/// out[c] = activation(gate[c]) * up[c] for one row of `columns`.
void GateRow(Activation activation, const float* gate, const float* up, int64_t columns,
             float* out);

/// x[c] = cap tanh(x[c] / cap) for one row of `columns`.
void SoftCapRow(float cap, int64_t columns, float* x);

/// Rotates one head of `rope_dim` leading dimensions in place; cosines and sines [rope_dim / 2].
void RopeAdjacent(const float* cosines, const float* sines, int rope_dim, float* head);
void RopeHalves(const float* cosines, const float* sines, int rope_dim, float* head);

/// fp32 to fp16, to nearest even.
void ToHalf(const float* x, int64_t count, uint16_t* out);

}  // namespace winnow::cpu
