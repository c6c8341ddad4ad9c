#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

namespace winnow::test {

// Linking allocation_count.cc replaces the program's operator new.

/// Calls of operator new, by any thread, since a test last set this to zero.
extern std::atomic<int64_t> allocation_count;

/// Calls for more bytes fail. All that there are, until a test sets it.
extern std::atomic<size_t> most_allocated_bytes;

}  // namespace winnow::test
