#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "kernels/rope.h"

namespace winnow::cpu {

/// Cosines and sines of a step's positions, [rows, 2, rope.dim / 2] of each frequency table. They
/// are computed once a step: most layers share a table, and layers with different ones may take
/// turns. Memory is kept from step to step.
class StepRotations {
 public:
  /// Makes room for steps of up to `rows` rows by these tables.
  void Reserve(std::span<const Rope> ropes, int64_t rows);

  /// Forgets all tables: the rows are those of another step from now on.
  void Clear() { known_ = 0; }

  /// The table's rotations, or null if Add has not been called for it since Clear.
  const float* Find(const Rope& rope) const;

  /// Room for the table's rotations of `rows` rows, to be filled in by ComputeRotation. Valid until
  /// Clear.
  float* Add(const Rope& rope, int64_t rows);

 private:
  struct Table {
    const float* frequencies = nullptr;
    int dim = 0;
    float magnitude = 1;
    std::vector<float> values;
  };
  std::vector<Table> tables_;  ///< the first `known_` are of this step
  size_t known_ = 0;
};

/// The part of row `row`, at `position` of its sequence, of the table's rotations.
void ComputeRotation(const Rope& rope, int position, int64_t row, float* rotations);

}  // namespace winnow::cpu
