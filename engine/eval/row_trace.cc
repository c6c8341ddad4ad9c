#include "engine/eval/row_trace.h"

#include <algorithm>

namespace winnow {

void RowTrace::AddStep(std::span<const int32_t> rows) {
  rows_.insert(rows_.end(), rows.begin(), rows.end());
  begin_.push_back(rows_.size());
  largest_step_ = std::max(largest_step_, static_cast<int>(rows.size()));
  if (!rows.empty()) row_end_ = std::max(row_end_, rows.back() + 1);
}

int64_t RowTrace::CountRows(int first_step) const {
  return static_cast<int64_t>(rows_.size() - begin_[static_cast<size_t>(first_step)]);
}

}  // namespace winnow
