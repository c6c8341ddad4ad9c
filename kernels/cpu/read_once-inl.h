// Asking for memory ahead of its use, per SIMD target.

#if defined(WINNOW_READ_ONCE_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef WINNOW_READ_ONCE_INL_H_
#undef WINNOW_READ_ONCE_INL_H_
#else
#define WINNOW_READ_ONCE_INL_H_
#endif

#include "hwy/highway.h"

namespace winnow::cpu {
namespace HWY_NAMESPACE {

// The locality that __builtin_prefetch is told of weights, keys, values and labels, which a step
// reads once. The processors with AVX2 alone are to keep them out of the larger caches: on Zen 1
// they would drive out what is used again (sparse attention 1.09 times, one stream 1.1 times as
// fast). On those with AVX-512 that hint halves the rate at which weights come from memory.
// __builtin_prefetch stands where lines are asked for, not in a function: GCC 12 takes a function
// of nothing else for pure and drops its calls. (Clang rejects target attributes around constants.)
constexpr int kReadOnce = HWY_TARGET == HWY_AVX2 ? 0 : 3;

}  // namespace HWY_NAMESPACE
}  // namespace winnow::cpu

#endif  // per-target include guard
