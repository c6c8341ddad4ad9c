#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "kernels/backend.h"
#include "kernels/cpu/packed_matrix.h"
#include "kernels/cpu/quantized_rows.h"

namespace winnow::cpu {

/// Quantises row `row` of x into the same row of `out`.
void QuantizeRow(const float* x, int64_t row, QuantizedRows* out);

/// The part of a matrix product that one work item computes: panels [first_panel, last_panel) of a
/// segment for rows [first_row, last_row) of x.
///   out[t, n] = sum_k x[t, k] w[n, k] (+ bias[n]) (+ out[t, n])
/// Every out[t, n] is accumulated over k in one fixed order, whatever the item's bounds.
struct MatMulItem {
  const PackedMatrix* w;
  const Segment* segment;
  int64_t first_panel;
  int64_t last_panel;
  int64_t first_row;
  int64_t last_row;
  const float* bias;  ///< [w rows] or null
  bool accumulate;
  Tensor out;
  int64_t first_output = 0;       ///< the row of w that makes column 0 of `out`
  const int32_t* rows = nullptr;  ///< where row i of the product goes: rows[i] of `out`; null: i

  int64_t OutRow(int64_t row) const { return rows == nullptr ? row : rows[row]; }
  /// The row of x that makes it, of `x_rows`, which is out.rows or a part: as many of `out` are of
  /// one. Integer formats have it quantised as row `row`.
  int64_t InRow(int64_t row, int64_t x_rows) const {
    return rows == nullptr ? row : rows[row] * x_rows / out.rows;
  }
};

/// Stores a finished tile: `rows` rows of x from `row` on, times the rows of panel `panel`.
inline void StoreTile(const MatMulItem& item, int64_t panel, int64_t row, int rows,
                      const float (*tile)[kPanelRows]) {
  const int64_t in_segment = panel * kPanelRows;
  const int64_t first = item.segment->first_row + in_segment - item.first_output;
  const float* bias = item.bias == nullptr ? nullptr : item.bias + first;
  const auto store = [&](int columns) {
    for (int t = 0; t < rows; ++t) {
      float* out = item.out.Row(item.OutRow(row + t)) + first;
      for (int n = 0; n < columns; ++n) {
        const float value = bias == nullptr ? tile[t][n] : tile[t][n] + bias[n];
        out[n] = item.accumulate ? value + out[n] : value;
      }
    }
  };
  const int64_t columns = std::min<int64_t>(kPanelRows, item.segment->rows - in_segment);
  // A constant number of columns, as in all panels but the last, becomes vectors.
  columns == kPanelRows ? store(kPanelRows) : store(static_cast<int>(columns));
}

struct alignas(64) CacheLine {
  std::byte bytes[64];
};

/// Integer formats, on quantised activations. `scratch` [TileScratchLines(x's columns)].
void MatMulInteger(const MatMulItem& item, const QuantizedRows& x, CacheLine* scratch);

/// Float formats, on fp32 activations.
void MatMulFloat(const MatMulItem& item, const Tensor& x);

}  // namespace winnow::cpu
