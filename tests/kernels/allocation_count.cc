#include "tests/kernels/allocation_count.h"

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <new>

namespace winnow::test {

std::atomic<int64_t> allocation_count = 0;
std::atomic<size_t> most_allocated_bytes = SIZE_MAX;

namespace {

void* Allocate(size_t bytes, size_t alignment) {
  ++allocation_count;
  void* const memory =
      bytes > most_allocated_bytes
          ? nullptr
          : std::aligned_alloc(alignment, (bytes + alignment - 1) / alignment * alignment);
  if (memory == nullptr) throw std::bad_alloc();
  return memory;
}

}  // namespace
}  // namespace winnow::test

void* operator new(size_t bytes) {
  return winnow::test::Allocate(bytes, __STDCPP_DEFAULT_NEW_ALIGNMENT__);
}
void* operator new(size_t bytes, std::align_val_t alignment) {
  return winnow::test::Allocate(bytes, static_cast<size_t>(alignment));
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, size_t) noexcept { std::free(memory); }
void operator delete(void* memory, std::align_val_t) noexcept { std::free(memory); }
void operator delete(void* memory, size_t, std::align_val_t) noexcept { std::free(memory); }
