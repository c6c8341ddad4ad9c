#include <algorithm>

#include "kernels/cpu/matmul.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/matmul_float.cc"
#include "hwy/foreach_target.h"
// After foreach_target:
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace winnow::cpu {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using F32 = hn::CappedTag<float, kPanelRows>;
using VF32 = hn::Vec<F32>;
constexpr int kLanes = static_cast<int>(hn::MaxLanes(F32()));
constexpr int kVectors = kPanelRows / kLanes;
constexpr int kTileRows = 4;

template <PanelFormat kFormat>
HWY_INLINE VF32 LoadWeights(const uint8_t* p, int64_t index) {
  const F32 d;
  if constexpr (kFormat == PanelFormat::kF32) {
    return hn::LoadU(d, reinterpret_cast<const float*>(p) + index);
  } else if constexpr (kFormat == PanelFormat::kF16) {
    const hn::Rebind<hwy::float16_t, F32> d16;
    return hn::PromoteTo(d, hn::LoadU(d16, reinterpret_cast<const hwy::float16_t*>(p) + index));
  } else {
    const hn::Rebind<hwy::bfloat16_t, F32> d16;
    return hn::PromoteTo(d, hn::LoadU(d16, reinterpret_cast<const hwy::bfloat16_t*>(p) + index));
  }
}

// One panel times kRows rows of `columns` numbers: out[t, 16 panel rows], summed over k in order.
template <PanelFormat kFormat, int kRows>
void PanelTile(const uint8_t* panel, const float* const* rows, int64_t columns,
               float (*out)[kPanelRows]) {
  const F32 d;
  VF32 total[kRows][kVectors];
  for (auto& row : total) std::fill(std::begin(row), std::end(row), hn::Zero(d));
  for (int64_t k = 0; k < columns; ++k) {
    VF32 w[kVectors];
    for (int v = 0; v < kVectors; ++v) {
      w[v] = LoadWeights<kFormat>(panel, k * kPanelRows + v * kLanes);
    }
    for (int t = 0; t < kRows; ++t) {
      const VF32 factor = hn::Set(d, rows[t][k]);
      for (int v = 0; v < kVectors; ++v) total[t][v] = hn::MulAdd(w[v], factor, total[t][v]);
    }
  }
  for (int t = 0; t < kRows; ++t) {
    for (int v = 0; v < kVectors; ++v) hn::StoreU(total[t][v], d, out[t] + v * kLanes);
  }
}

template <PanelFormat kFormat>
void PanelTileRows(int count, const uint8_t* panel, const float* const* rows, int64_t columns,
                   float (*out)[kPanelRows]) {
  switch (count) {
    case 1:
      return PanelTile<kFormat, 1>(panel, rows, columns, out);
    case 2:
      return PanelTile<kFormat, 2>(panel, rows, columns, out);
    case 3:
      return PanelTile<kFormat, 3>(panel, rows, columns, out);
    case 4:
      return PanelTile<kFormat, 4>(panel, rows, columns, out);
  }
}

void MatMulFloat(const MatMulItem& item, const Tensor& x) {
  for (int64_t p = item.first_panel; p < item.last_panel; ++p) {
    const uint8_t* panel = item.w->panel(*item.segment, p);
    for (int64_t row = item.first_row; row < item.last_row; row += kTileRows) {
      const int count = static_cast<int>(std::min<int64_t>(kTileRows, item.last_row - row));
      const float* rows[kTileRows];
      for (int t = 0; t < count; ++t) rows[t] = x.Row(item.InRow(row + t, x.rows));
      float tile[kTileRows][kPanelRows];
      switch (item.segment->format) {
        case PanelFormat::kF16:
          PanelTileRows<PanelFormat::kF16>(count, panel, rows, x.columns, tile);
          break;
        case PanelFormat::kBF16:
          PanelTileRows<PanelFormat::kBF16>(count, panel, rows, x.columns, tile);
          break;
        default:
          PanelTileRows<PanelFormat::kF32>(count, panel, rows, x.columns, tile);
          break;
      }
      StoreTile(item, p, row, count, tile);
    }
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace winnow::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace winnow::cpu {

HWY_EXPORT(MatMulFloat);

void MatMulFloat(const MatMulItem& item, const Tensor& x) {
  HWY_DYNAMIC_DISPATCH(MatMulFloat)(item, x);
}

}  // namespace winnow::cpu
#endif  // HWY_ONCE
