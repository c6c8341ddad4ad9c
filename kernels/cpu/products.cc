#include "kernels/cpu/products.h"

#include <algorithm>
#include <cassert>
#include <cstddef>
#include <span>

#include "kernels/cpu/for_rows.h"
#include "kernels/cpu/matmul_amx.h"

namespace winnow::cpu {
namespace {

// Rows of x that a work item of a product covers, so that their codes stay in the L2 cache while
// the item's panels pass by.
constexpr int64_t kItemRows = 128;

int64_t RowItems(int64_t rows) { return (rows + kItemRows - 1) / kItemRows; }

bool HasIntegers(const PackedMatrix& matrix) {
  return std::ranges::any_of(matrix.segments(),
                             [](const Segment& segment) { return IsInteger(segment.format); });
}

}  // namespace

void Products::Reserve(const StepLimits& limits, int64_t segments) {
  int64_t rows = std::max(limits.rows, limits.logit_rows);
  if (limits.experts > 0) {
    const int64_t pairs = int64_t{limits.rows} * limits.chosen_experts;
    rows = std::max(rows, pairs + int64_t{limits.experts} * (kActivationRows - 1));
    rows_.reserve(static_cast<size_t>(rows));
  }
  quantized_.Reserve(rows, limits.columns);
  // Divide makes at most twice as many of a segment as it is asked for.
  items_.reserve(
      static_cast<size_t>(segments * 2 * (pool_.threads() * kItemsPerWorker + RowItems(rows))));
  GrowTileScratch(pool_.threads() * TileScratchLines(limits.columns));
}

void Products::Multiply(const Tensor& x, const PackedMatrix& w, const float* bias, bool accumulate,
                        const Tensor& out) {
  assert(x.columns == w.columns() && out.rows == x.rows);
  const bool has_integers = HasIntegers(w);
  if (has_integers) {
    quantized_.Resize(x.rows, x.columns);
    ForRows(pool_, x.rows, x.columns, [&](int64_t t) { QuantizeRow(x.Row(t), t, &quantized_); });
  }
  items_.clear();
  for (const Segment& segment : w.segments()) {
    Divide({&w, &segment, 0, segment.panels(), 0, x.rows, bias, accumulate, out},
           pool_.threads() * kItemsPerWorker / RowItems(x.rows));
  }
  RunItems(x, has_integers);
}

void Products::MultiplyExperts(const Tensor& x, const PackedMatrix& w, const ExpertRoutes& routes,
                               const Tensor& out) {
  assert(x.columns == w.columns() && out.rows == routes.rows * routes.chosen);
  assert(std::ssize(w.segments()) % routes.experts == 0);
  const int64_t parts = std::ssize(w.segments()) / routes.experts;  // of an expert
  const int64_t expert_rows = w.rows() / routes.experts;
  const auto groups = std::span(routes.groups, static_cast<size_t>(routes.experts));
  const bool has_integers = HasIntegers(w);

  rows_.clear();
  int64_t row_items = 0;
  for (const ExpertGroup& group : groups) {
    rows_.insert(rows_.end(), routes.pairs + group.begin, routes.pairs + group.begin + group.count);
    // Tiles of rows are an expert's own.
    while (rows_.size() % kActivationRows != 0) rows_.push_back(-1);
    row_items += RowItems(group.count);
  }
  if (has_integers) {
    quantized_.Resize(std::ssize(rows_), x.columns);
    ForRows(pool_, std::ssize(rows_), x.columns, [&](int64_t row) {
      const int64_t pair = rows_[static_cast<size_t>(row)];
      if (pair >= 0) QuantizeRow(x.Row(pair * x.rows / out.rows), row, &quantized_);
    });
  }

  items_.clear();
  int64_t first_row = 0;
  for (const ExpertGroup& group : groups) {
    if (group.count == 0) break;
    for (const Segment& segment : w.segments().subspan(group.expert * parts, parts)) {
      Divide({.w = &w,
              .segment = &segment,
              .first_panel = 0,
              .last_panel = segment.panels(),
              .first_row = first_row,
              .last_row = first_row + group.count,
              .bias = nullptr,
              .accumulate = false,
              .out = out,
              .first_output = group.expert * expert_rows,
              .rows = rows_.data()},
             pool_.threads() * kItemsPerWorker / (row_items * parts));
    }
    first_row += (group.count + kActivationRows - 1) / kActivationRows * kActivationRows;
  }
  RunItems(x, has_integers);
}

void Products::Divide(const MatMulItem& whole, int64_t parts) {
  const int64_t step = std::max<int64_t>(1, whole.last_panel / std::max<int64_t>(1, parts));
  for (int64_t panel = 0; panel < whole.last_panel; panel += step) {
    for (int64_t row = whole.first_row; row < whole.last_row; row += kItemRows) {
      MatMulItem& item = items_.emplace_back(whole);
      item.first_panel = panel;
      item.last_panel = std::min(panel + step, whole.last_panel);
      item.first_row = row;
      item.last_row = std::min(row + kItemRows, whole.last_row);
    }
  }
}

void Products::RunItems(const Tensor& x, bool has_integers) {
  const int64_t lines = has_integers ? TileScratchLines(x.columns) : 0;
  GrowTileScratch(pool_.threads() * lines);
  pool_.ParallelFor(std::ssize(items_), [&](int64_t i, int worker) {
    const MatMulItem& item = items_[static_cast<size_t>(i)];
    if (IsInteger(item.segment->format)) {
      MatMulInteger(item, quantized_, tile_scratch_.get() + worker * lines);
    } else {
      MatMulFloat(item, x);
    }
  });
}

// Not initialised: workers touch their part first, which then lies close to them.
void Products::GrowTileScratch(int64_t lines) {
  if (lines <= tile_scratch_lines_) return;
  tile_scratch_.reset(new CacheLine[static_cast<size_t>(lines)]);
  tile_scratch_lines_ = lines;
}

}  // namespace winnow::cpu
