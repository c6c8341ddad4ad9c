#include "engine/eval/row_cache.h"

#include <algorithm>
#include <limits>
#include <span>
#include <vector>

namespace winnow {
namespace {

constexpr int32_t kNever = std::numeric_limits<int32_t>::max();

// Rows that are cached, in an order that is the policy's.
class CachedRows {
 public:
  explicit CachedRows(const RowTrace& trace) : is_cached_(static_cast<size_t>(trace.row_end())) {}

  int64_t CountHits(std::span<const int32_t> rows) const {
    return std::ranges::count_if(rows,
                                 [&](int32_t row) { return is_cached_[static_cast<size_t>(row)]; });
  }
  // Those that are not of the step, in their order.
  std::vector<int32_t> Others(std::span<const int32_t> step) const {
    std::vector<int32_t> others;
    for (const int32_t row : rows_) {
      if (!std::ranges::binary_search(step, row)) others.push_back(row);
    }
    return others;
  }
  // The step's rows, the higher ones first, and behind them `others`.
  void Replace(std::span<const int32_t> step, std::span<const int32_t> others) {
    for (const int32_t row : rows_) is_cached_[static_cast<size_t>(row)] = false;
    rows_.assign(step.rbegin(), step.rend());
    rows_.insert(rows_.end(), others.begin(), others.end());
    for (const int32_t row : rows_) is_cached_[static_cast<size_t>(row)] = true;
  }

 private:
  std::vector<int32_t> rows_;
  std::vector<bool> is_cached_;  // [rows]
};

size_t RoomBeside(std::span<const int32_t> step, int capacity, size_t others) {
  return std::min(others, static_cast<size_t>(capacity) - step.size());
}

// [steps] [rows of it]: the step that selects the row next, or kNever.
std::vector<std::vector<int32_t>> NextUses(const RowTrace& trace) {
  std::vector<std::vector<int32_t>> uses(static_cast<size_t>(trace.steps()));
  std::vector<int32_t> next(static_cast<size_t>(trace.row_end()), kNever);
  for (int s = trace.steps() - 1; s >= 0; --s) {
    for (const int32_t row : trace.step(s)) {
      uses[static_cast<size_t>(s)].push_back(next[static_cast<size_t>(row)]);
      next[static_cast<size_t>(row)] = s;
    }
  }
  return uses;
}

}  // namespace

int64_t CountLruHits(const RowTrace& trace, int capacity, int first_step) {
  int64_t hits = 0;
  CachedRows cache(trace);  // the last used first
  for (int s = 0; s < trace.steps(); ++s) {
    const std::span<const int32_t> rows = trace.step(s);
    if (s >= first_step) hits += cache.CountHits(rows);
    std::vector<int32_t> others = cache.Others(rows);
    others.resize(RoomBeside(rows, capacity, others.size()));
    cache.Replace(rows, others);
  }
  return hits;
}

int64_t CountBeladyHits(const RowTrace& trace, int capacity, int first_step) {
  const std::vector<std::vector<int32_t>> uses = NextUses(trace);
  std::vector<int32_t> next(static_cast<size_t>(trace.row_end()), kNever);  // of cached rows
  int64_t hits = 0;
  CachedRows cache(trace);
  for (int s = 0; s < trace.steps(); ++s) {
    const std::span<const int32_t> rows = trace.step(s);
    if (s >= first_step) hits += cache.CountHits(rows);
    std::vector<int32_t> others = cache.Others(rows);
    const size_t room = RoomBeside(rows, capacity, others.size());
    std::ranges::nth_element(others, others.begin() + static_cast<std::ptrdiff_t>(room),
                             [&](int32_t a, int32_t b) {
                               return next[static_cast<size_t>(a)] < next[static_cast<size_t>(b)];
                             });
    others.resize(room);
    cache.Replace(rows, others);
    for (size_t i = 0; i < rows.size(); ++i) {
      next[static_cast<size_t>(rows[i])] = uses[static_cast<size_t>(s)][i];
    }
  }
  return hits;
}

}  // namespace winnow
