#include "kernels/cpu/step_rotations.h"

#include <algorithm>
#include <cmath>

namespace winnow::cpu {

void StepRotations::Reserve(std::span<const Rope> ropes, int64_t rows) {
  int dim = 0;
  for (const Rope& rope : ropes) dim = std::max(dim, rope.dim);
  tables_.resize(std::max(tables_.size(), ropes.size()));
  for (Table& table : tables_) table.values.reserve(static_cast<size_t>(rows * dim));
}

const float* StepRotations::Find(const Rope& rope) const {
  for (size_t i = 0; i < known_; ++i) {
    const Table& table = tables_[i];
    if (table.frequencies == rope.frequencies && table.dim == rope.dim &&
        table.magnitude == rope.magnitude) {
      return table.values.data();
    }
  }
  return nullptr;
}

float* StepRotations::Add(const Rope& rope, int64_t rows) {
  if (known_ == tables_.size()) tables_.emplace_back();
  Table& table = tables_[known_++];
  table.frequencies = rope.frequencies;
  table.dim = rope.dim;
  table.magnitude = rope.magnitude;
  table.values.resize(static_cast<size_t>(rows * rope.dim));
  return table.values.data();
}

void ComputeRotation(const Rope& rope, int position, int64_t row, float* rotations) {
  const int half = rope.dim / 2;
  float* cosines = rotations + row * rope.dim;
  for (int i = 0; i < half; ++i) {
    const double angle = double{rope.frequencies[i]} * position;
    cosines[i] = static_cast<float>(rope.magnitude * std::cos(angle));
    cosines[half + i] = static_cast<float>(rope.magnitude * std::sin(angle));
  }
}

}  // namespace winnow::cpu
