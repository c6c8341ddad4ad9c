#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace winnow {

/// The rows (keys and values of positions) that one KV head selects, step after step.
class RowTrace {
 public:
  /// REQUIRES: `rows` ascend and are not negative.
  void AddStep(std::span<const int32_t> rows);

  int steps() const { return static_cast<int>(begin_.size()) - 1; }
  std::span<const int32_t> step(int s) const {
    const size_t begin = begin_[static_cast<size_t>(s)];
    return std::span(rows_).subspan(begin, begin_[static_cast<size_t>(s) + 1] - begin);
  }

  /// Rows of the steps from `first_step` on, each counted as often as it is selected.
  int64_t CountRows(int first_step) const;
  /// Of the step that selects the most; 0 without steps.
  int largest_step() const { return largest_step_; }
  /// Behind the highest row; 0 without rows.
  int row_end() const { return row_end_; }

 private:
  std::vector<int32_t> rows_;
  std::vector<size_t> begin_ = {0};  ///< [steps + 1]
  int largest_step_ = 0;
  int row_end_ = 0;
};

}  // namespace winnow
