#pragma once

#include <span>

#include "engine/model/config.h"

namespace winnow {

/// Rotates the heads of one row, [heads, head_dim] in host memory, to its position, in place:
/// Backend::ApplyRope for queries that are of no step.
void RotateHeads(const RopeConfig& rope, int position, int head_dim, std::span<float> row);

}  // namespace winnow
