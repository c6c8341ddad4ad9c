#pragma once

#include <functional>

namespace winnow {

/// Calls body(i) for every i in [0, count) on `threads` threads (0: one per core), in no particular
/// order, and returns when all calls have. REQUIRES: the calls may run at the same time.
void ParallelFor(int count, int threads, const std::function<void(int)>& body);

}  // namespace winnow
