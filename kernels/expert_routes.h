#pragma once

#include <cstdint>

namespace winnow {

/// What backends compute at most of: experts of a layer, and experts that a row chooses.
inline constexpr int kMaxExperts = 256;
inline constexpr int kMaxChosenExperts = 32;

/// The pairs of one expert: ExpertRoutes::pairs[begin, begin + count).
struct ExpertGroup {
  int32_t expert = 0;
  int32_t begin = 0;
  int32_t count = 0;
};

/// Which experts compute the rows of a step, as Backend::Route finds it. In device memory. Pair
/// row * chosen + i is a row with its i-th expert: products with experts compute a row for each.
struct ExpertRoutes {
  int64_t rows = 0;
  int experts = 0;
  int chosen = 0;            ///< experts of a row
  int32_t* ids = nullptr;    ///< [rows, chosen]: a row's experts, the largest logit first
  float* weights = nullptr;  ///< [rows, chosen]: what their results are multiplied with
  int32_t* pairs = nullptr;  ///< [rows chosen]: all pairs, those of one expert side by side
  /// [experts]: first those that have pairs, in ascending order; the others' count is 0.
  ExpertGroup* groups = nullptr;
  /// Grows by the number of experts that have pairs: how often an expert's weights were read.
  int64_t* expert_reads = nullptr;
};

}  // namespace winnow
