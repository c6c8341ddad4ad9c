#pragma once

#include <type_traits>

namespace winnow::cuda {

inline constexpr int kMaxHeadDim = 256;

/// Whether there are kernels for heads of so many dimensions.
constexpr bool IsHeadSize(int dim) {
  return dim == 64 || dim == 80 || dim == 96 || dim == 128 || dim == 256;
}

/// body(std::integral_constant<int, head_dim>()). REQUIRES: IsHeadSize(head_dim).
template <typename Body>
auto WithHeadSize(int head_dim, const Body& body) {
  switch (head_dim) {
    case 64:
      return body(std::integral_constant<int, 64>());
    case 80:
      return body(std::integral_constant<int, 80>());
    case 96:
      return body(std::integral_constant<int, 96>());
    case 128:
      return body(std::integral_constant<int, 128>());
    default:
      return body(std::integral_constant<int, 256>());
  }
}

}  // namespace winnow::cuda
