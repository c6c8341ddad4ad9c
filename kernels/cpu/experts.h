#pragma once

#include <cstdint>
#include <span>

#include "kernels/expert_routes.h"

namespace winnow::cpu {

/// Backend::Route of one row: writes as many experts as `ids` holds, and their weights.
void ChooseExperts(std::span<const float> logits, bool normalizes, std::span<int32_t> ids,
                   float* weights);

/// Fills in pairs and groups from ids; the pairs of an expert are in ascending order.
void GroupPairs(const ExpertRoutes& routes);

/// sum[c] += weight x[c].
void AddScaled(const float* x, float weight, int64_t columns, float* sum);

}  // namespace winnow::cpu
