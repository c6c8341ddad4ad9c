#pragma once

#include "kernels/cpu/thread_pool.h"

namespace winnow::cpu {

/// Bytes per second that all of the pool's threads together read from memory: the best of several
/// passes over a buffer that no cache holds. Takes about 0.3 seconds.
double MeasureReadBandwidth(ThreadPool& pool);

}  // namespace winnow::cpu
