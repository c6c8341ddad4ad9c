#include <algorithm>
#include <cmath>

#include "kernels/cpu/matmul.h"
#include "kernels/cpu/matmul_amx.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/matmul_integer.cc"
#include "hwy/foreach_target.h"
// After foreach_target:
#include "hwy/highway.h"
#include "kernels/cpu/integer_dot-inl.h"
#include "kernels/cpu/read_once-inl.h"

#if HWY_TARGET == HWY_AVX3_DL
HWY_PUSH_ATTRIBUTES(HWY_TARGET_STR ",avx512vnni")
#else
HWY_BEFORE_NAMESPACE();
#endif
namespace winnow::cpu {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using F32 = hn::CappedTag<float, kPanelRows>;
using F16 = hn::Rebind<hwy::float16_t, F32>;
using VF32 = hn::Vec<F32>;
constexpr int kLanes = static_cast<int>(hn::MaxLanes(F32()));
constexpr int kVectors = kPanelRows / kLanes;
// Rows of x that share one pass over a panel: as many as registers hold sums for. Divides
// kActivationRows.
constexpr int kTileRows = HWY_CAP_GE512 ? 8 : 4;
// How many bytes ahead of their use weights are asked for: the processor's own prefetching stops at
// every page.
constexpr int kAheadBytes = HWY_TARGET == HWY_AVX2 ? 800 : 1600;

HWY_INLINE VF32 LoadHalves(const uint8_t* p) {
  return hn::PromoteTo(F32(), hn::LoadU(F16(), reinterpret_cast<const hwy::float16_t*>(p)));
}

// Keeps the compiler from loading the activations of a whole block ahead of their use, which costs
// more registers than there are.
HWY_INLINE void LoadInOrder() { asm volatile("" ::: "memory"); }

// Adds code products of one block for one vector of weight rows and kRows rows of x:
// sums[t] = sum_k code_w[lanes, k] code_x[t, k]; half_sums are of the columns in question.
template <PanelFormat kFormat, int kRows>
HWY_INLINE void BlockDot(const uint8_t* codes, const int8_t (*x)[kActivationBlock],
                         const int32_t (*half_sums)[kActivationRows], VI32 (&sums)[kRows]) {
  constexpr int kQuads = BlockColumns(kFormat) / 4;
  if constexpr (kFormat == PanelFormat::kU4) {
    UnsignedDot dots[kRows];
#pragma GCC unroll 4
    for (int pair = 0; pair < kQuads / 2; ++pair) {
      LoadInOrder();
      const Raw packed = LoadRaw(codes + pair * 64);
      const Raw even = LowNibbles(packed);
      const Raw odd = HighNibbles(packed);
      for (int t = 0; t < kRows; ++t) dots[t].Add(even, LoadQuad(x[t] + pair * 8));
      for (int t = 0; t < kRows; ++t) dots[t].Add(odd, LoadQuad(x[t] + pair * 8 + 4));
    }
    for (int t = 0; t < kRows; ++t) sums[t] = dots[t].Sum();
  } else {
    SignedDot dots[kRows];
#pragma GCC unroll 8
    for (int quad = 0; quad < kQuads; ++quad) {
      LoadInOrder();
      const Raw w = LoadRaw(codes + quad * 64);
      for (int t = 0; t < kRows; ++t) dots[t].Add(w, LoadQuad(x[t] + quad * 4));
    }
    for (int t = 0; t < kRows; ++t) {
      sums[t] = dots[t].Sum(kQuads == 8 ? half_sums[0][t] + half_sums[1][t] : half_sums[0][t]);
    }
  }
}

// One panel times kRows rows of x, those from `first` on of a tile: out[t, 16 panel rows]. The
// panel streams from memory when the first rows meet it; the others find it in the cache.
template <PanelFormat kFormat, int kRows>
void PanelTile(const uint8_t* panel, const ActivationBlock* x, int64_t blocks, int first,
               bool streams, float (*out)[kPanelRows]) {
  constexpr int kColumns = BlockColumns(kFormat);
  const F32 d;
  VF32 total[kRows][kVectors];
#pragma GCC unroll 8
  for (int t = 0; t < kRows; ++t) {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) total[t][v] = hn::Zero(d);
  }
  for (const ActivationBlock* end = x + blocks; x != end; ++x) {
    for (int column = 0; column < kActivationBlock; column += kColumns) {
      if (streams) {
        for (int i = 0; i < PanelBlockBytes(kFormat); i += 64) {
          __builtin_prefetch(panel + kAheadBytes + i, 0, kReadOnce);
        }
      }
      const uint8_t* w_codes = panel + kPanelRows * (HasMinimum(kFormat) ? 4 : 2);
      const auto* codes =
          reinterpret_cast<const int8_t(*)[kActivationBlock]>(x->codes[first] + column);
      const auto* half_sums =
          reinterpret_cast<const int32_t(*)[kActivationRows]>(x->half_sums[column / 16] + first);
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) {
        VI32 dots[kRows];
        BlockDot<kFormat, kRows>(w_codes + v * 4 * kLanes, codes, half_sums, dots);
        LoadInOrder();
        const VF32 w_scale = LoadHalves(panel + v * 2 * kLanes);
#pragma GCC unroll 8
        for (int t = 0; t < kRows; ++t) {
          const VF32 scale = hn::Mul(w_scale, hn::Set(d, x->scales[first + t]));
          total[t][v] = hn::MulAdd(hn::ConvertTo(d, dots[t]), scale, total[t][v]);
        }
        if constexpr (HasMinimum(kFormat)) {
          const VF32 w_min = LoadHalves(panel + 2 * kPanelRows + v * 2 * kLanes);
#pragma GCC unroll 8
          for (int t = 0; t < kRows; ++t) {
            total[t][v] = hn::MulAdd(w_min, hn::Set(d, x->sums[first + t]), total[t][v]);
          }
        }
      }
      panel += PanelBlockBytes(kFormat);
    }
  }
#pragma GCC unroll 8
  for (int t = 0; t < kRows; ++t) {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) hn::StoreU(total[t][v], d, out[t] + v * kLanes);
  }
}

template <PanelFormat kFormat>
void PanelTileRows(int rows, const uint8_t* panel, const QuantizedRows& x, int64_t row,
                   bool streams, float (*out)[kPanelRows]) {
  const ActivationBlock* tile = x.tile(row);
  const auto first = static_cast<int>(row % kActivationRows);
  switch (rows) {
    case 1:
      return PanelTile<kFormat, 1>(panel, tile, x.blocks(), first, streams, out);
    case 2:
      return PanelTile<kFormat, 2>(panel, tile, x.blocks(), first, streams, out);
    case 3:
      return PanelTile<kFormat, 3>(panel, tile, x.blocks(), first, streams, out);
    case 4:
      return PanelTile<kFormat, 4>(panel, tile, x.blocks(), first, streams, out);
#if HWY_CAP_GE512
    case 5:
      return PanelTile<kFormat, 5>(panel, tile, x.blocks(), first, streams, out);
    case 6:
      return PanelTile<kFormat, 6>(panel, tile, x.blocks(), first, streams, out);
    case 7:
      return PanelTile<kFormat, 7>(panel, tile, x.blocks(), first, streams, out);
    case 8:
      return PanelTile<kFormat, 8>(panel, tile, x.blocks(), first, streams, out);
#endif
  }
}

void MatMulInteger(const MatMulItem& item, const QuantizedRows& x) {
  for (int64_t p = item.first_panel; p < item.last_panel; ++p) {
    const uint8_t* panel = item.w->panel(*item.segment, p);
    for (int64_t row = item.first_row; row < item.last_row; row += kTileRows) {
      const int rows = static_cast<int>(std::min<int64_t>(kTileRows, item.last_row - row));
      const bool streams = row == item.first_row;
      float tile[kTileRows][kPanelRows];
      switch (item.segment->format) {
        case PanelFormat::kU4:
          PanelTileRows<PanelFormat::kU4>(rows, panel, x, row, streams, tile);
          break;
        case PanelFormat::kS8:
          PanelTileRows<PanelFormat::kS8>(rows, panel, x, row, streams, tile);
          break;
        case PanelFormat::kS8Min:
          PanelTileRows<PanelFormat::kS8Min>(rows, panel, x, row, streams, tile);
          break;
        default:
          PanelTileRows<PanelFormat::kS8Half>(rows, panel, x, row, streams, tile);
          break;
      }
      StoreTile(item, p, row, rows, tile);
    }
  }
}

// code = round(x / scale), scale = max |x| / 127 per block.
void QuantizeRow(const float* x, int64_t row, QuantizedRows* out) {
  const hn::CappedTag<float, 16> d;
  const hn::Rebind<int32_t, decltype(d)> d32;
  const hn::Rebind<int8_t, decltype(d)> d8;
  constexpr int kStep = static_cast<int>(hn::MaxLanes(d));
  ActivationBlock* block = out->tile(row);
  const auto r = row % kActivationRows;
  for (const ActivationBlock* end = block + out->blocks(); block != end;
       ++block, x += kActivationBlock) {
    auto largest = hn::Zero(d);
    for (int i = 0; i < kActivationBlock; i += kStep) {
      largest = hn::Max(largest, hn::Abs(hn::LoadU(d, x + i)));
    }
    const float scale = hn::GetLane(hn::MaxOfLanes(d, largest)) / 127;
    const auto inverse = hn::Set(d, scale > 0 ? 1 / scale : 0);
    const auto most = hn::Set(d, 127.0f);
    for (int half = 0; half < 2; ++half) {
      auto sum = hn::Zero(d32);
      for (int i = half * 16; i < half * 16 + 16; i += kStep) {
        // Clamped for activations that are no numbers, as weights of any bytes make them.
        const auto scaled = hn::Mul(hn::LoadU(d, x + i), inverse);
        const auto code = hn::NearestInt(hn::Max(hn::Min(scaled, most), hn::Neg(most)));
        hn::StoreU(hn::DemoteTo(d8, code), d8, block->codes[r] + i);
        sum = hn::Add(sum, code);
      }
      block->half_sums[half][r] = hn::GetLane(hn::SumOfLanes(d32, sum));
    }
    block->scales[r] = scale;
    block->sums[r] = scale * static_cast<float>(block->half_sums[0][r] + block->half_sums[1][r]);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace winnow::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace winnow::cpu {

HWY_EXPORT(MatMulInteger);
HWY_EXPORT(QuantizeRow);

void MatMulInteger(const MatMulItem& item, const QuantizedRows& x, CacheLine* scratch) {
  // Highway 1.0 has no target for tiles.
  if (PaysWithTiles(item)) return MatMulTiles(item, x, scratch);
  HWY_DYNAMIC_DISPATCH(MatMulInteger)(item, x);
}

void QuantizeRow(const float* x, int64_t row, QuantizedRows* out) {
  HWY_DYNAMIC_DISPATCH(QuantizeRow)(x, row, out);
}

}  // namespace winnow::cpu
#endif  // HWY_ONCE
