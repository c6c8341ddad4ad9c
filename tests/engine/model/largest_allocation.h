#pragma once

#include <cstddef>

namespace winnow {

/// The most bytes that one allocation through operator new asked for since a test last set this to
/// zero. Linking largest_allocation.cc replaces the program's operator new.
extern size_t largest_allocation;

}  // namespace winnow
