#pragma once

#include <cstdint>

#include "engine/eval/row_trace.h"

namespace winnow {

// What a cache of rows would have had of a trace. It begins empty. A step asks for all its rows at
// once, and hits are those that are there before it; then all of them are, and others make room.

/// Hits in the steps from `first_step` on of a cache that keeps the `capacity` rows that were
/// selected last; of those of one step, the higher ones. REQUIRES: capacity >=
/// trace.largest_step().
int64_t CountLruHits(const RowTrace& trace, int capacity, int first_step);

/// The same of a cache that keeps the rows that will be selected again soonest, the most that any
/// can have over the whole trace (Belady, "A study of replacement algorithms for a virtual-storage
/// computer", 1966).
int64_t CountBeladyHits(const RowTrace& trace, int capacity, int first_step);

}  // namespace winnow
