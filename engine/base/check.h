#pragma once

#include <cstdio>
#include <cstdlib>

/// Ends the process if `condition` is false, in every build: for invariants whose breach could mix
/// up one user's data with another's.
#define WINNOW_CHECK(condition)                                                              \
  do {                                                                                       \
    if (!(condition)) {                                                                      \
      std::fprintf(stderr, "%s:%d: invariant broken: %s\n", __FILE__, __LINE__, #condition); \
      std::abort();                                                                          \
    }                                                                                        \
  } while (false)
