#pragma once

#include <cstddef>
#include <new>
#include <vector>

namespace winnow::cpu {

/// Allocates at cache lines, which vectors of floats that begin there do not cross.
template <typename T>
struct LineAllocator {
  using value_type = T;

  LineAllocator() = default;
  template <typename Other>
  explicit LineAllocator(const LineAllocator<Other>&) {}

  T* allocate(size_t count) { return static_cast<T*>(::operator new(count * sizeof(T), kLine)); }
  void deallocate(T* first, size_t) { ::operator delete(first, kLine); }

  bool operator==(const LineAllocator&) const { return true; }

 private:
  static constexpr std::align_val_t kLine{64};
};

using AlignedFloats = std::vector<float, LineAllocator<float>>;

}  // namespace winnow::cpu
