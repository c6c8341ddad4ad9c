#pragma once

#include <chrono>
#include <cstdint>
#include <vector>

#include "engine/cache/kv_pools.h"
#include "engine/model/config.h"
#include "engine/model/label_file.h"
#include "kernels/backend.h"

namespace winnow {

using BenchClock = std::chrono::steady_clock;

double SecondsSince(BenchClock::time_point start);

double Median(std::vector<double> values);

/// Evenly distributed numbers of mean 0 and this standard deviation, made fast.
std::vector<uint16_t> RandomBf16(int64_t count, float deviation);

/// Fills the first `blocks` blocks of every layer with normally distributed keys and values, and
/// random codes for labels. REQUIRES: the layers are of the same shape.
void FillPools(const KvPools& pools, int blocks, Backend& backend);

/// A basis of random numbers, for measurements of speed, which does not depend on them.
LabelFile RandomLabels(const ModelConfig& config, int width);

}  // namespace winnow
