#include "tests/engine/model/largest_allocation.h"

#include <algorithm>
#include <cstdlib>
#include <new>

namespace winnow {

size_t largest_allocation = 0;

}  // namespace winnow

void* operator new(size_t bytes) {
  winnow::largest_allocation = std::max(winnow::largest_allocation, bytes);
  if (void* memory = std::malloc(bytes)) return memory;
  throw std::bad_alloc();
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, size_t) noexcept { std::free(memory); }
