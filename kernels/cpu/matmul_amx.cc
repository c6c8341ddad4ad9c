#include "kernels/cpu/matmul_amx.h"

#if defined(__x86_64__) && defined(__linux__)

#include <cpuid.h>
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cassert>

// Functions are compiled for these instructions one by one: what headers define inline must stay
// fit for any processor.
#define WINNOW_AMX __attribute__((target("avx512f,avx512bw,amx-tile,amx-int8")))

namespace winnow::cpu {
namespace {

// Fewer rows are not faster by tiles: vectors multiply weights as they arrive from memory.
constexpr int64_t kLeastTileRows = 32;
constexpr int kTileRows = kActivationRows;
constexpr int kQuads = kActivationBlock / 4;
constexpr int kAheadBytes = 1600;  // as for vectors

// What a tile instruction is given for the shapes of the eight tile registers.
struct alignas(64) TileShapes {
  uint8_t palette = 1;
  uint8_t start_row = 0;
  uint8_t reserved[14] = {};
  uint16_t row_bytes[16] = {};
  uint8_t rows[16] = {};
};

// The codes of one panel, a byte each: per block, the quads' 64 bytes below one another, which is
// how a tile wants its right operand.
struct alignas(64) CodeBlock {
  uint8_t quads[kQuads][64];
};

// Sums of code products of one block: [rows of x, panel rows].
struct alignas(64) DotBlock {
  int32_t sums[kTileRows][kPanelRows];
};

bool SystemGrantsTiles() {
  unsigned eax = 0;
  unsigned ebx = 0;
  unsigned ecx = 0;
  unsigned edx = 0;
  constexpr unsigned kTileAndInt8 = (1u << 24) | (1u << 25);
  if (__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) == 0 ||
      (edx & kTileAndInt8) != kTileAndInt8 || !__builtin_cpu_supports("avx512bw")) {
    return false;
  }
  // Linux saves tiles of processes that asked for them only.
  constexpr int kRequestPermission = 0x1023;  // ARCH_REQ_XCOMP_PERM
  constexpr int kTileData = 18;               // XFEATURE_XTILEDATA
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}

// Tiles 0 to 3 hold sums, 4 and 5 rows of x, 6 and 7 weights.
WINNOW_AMX void ShapeTiles(int rows) {
  TileShapes shapes;
  const auto shape = [&](int tile, int tile_rows, int row_bytes) {
    shapes.rows[tile] = static_cast<uint8_t>(tile_rows);
    shapes.row_bytes[tile] = static_cast<uint16_t>(row_bytes);
  };
  for (const int tile : {0, 1, 2, 3}) shape(tile, rows, kPanelRows * sizeof(int32_t));
  for (const int tile : {4, 5}) shape(tile, rows, kActivationBlock);
  for (const int tile : {6, 7}) shape(tile, kQuads, kPanelRows * 4);
  // GCC's intrinsic claims to read the first eight bytes only.
  asm volatile("" : : "r"(&shapes) : "memory");
  _tile_loadconfig(&shapes);
}

template <PanelFormat kFormat>
WINNOW_AMX void UnpackPanel(const uint8_t* panel, int64_t blocks, CodeBlock* out) {
  const __m512i low = _mm512_set1_epi8(15);
  for (const CodeBlock* end = out + blocks; out != end; ++out) {
    for (int i = 0; i < PanelBlockBytes(kFormat); i += 64) {
      _mm_prefetch(reinterpret_cast<const char*>(panel) + kAheadBytes + i, _MM_HINT_T0);
    }
    const uint8_t* codes = panel + kPanelRows * (HasMinimum(kFormat) ? 4 : 2);
    if constexpr (kFormat == PanelFormat::kU4) {
      for (int pair = 0; pair < kQuads / 2; ++pair) {
        const __m512i packed = _mm512_loadu_si512(codes + pair * 64);
        _mm512_store_si512(out->quads[2 * pair], _mm512_and_si512(packed, low));
        _mm512_store_si512(out->quads[2 * pair + 1],
                           _mm512_and_si512(_mm512_srli_epi16(packed, 4), low));
      }
    } else {
      for (int quad = 0; quad < kQuads; ++quad) {
        _mm512_store_si512(out->quads[quad], _mm512_loadu_si512(codes + quad * 64));
      }
    }
    panel += PanelBlockBytes(kFormat);
  }
  // The compiler does not know that tiles are loaded from what was stored here.
  asm volatile("" ::: "memory");
}

// Code products of two blocks. A tile's sums are ready some 50 cycles after the product began and
// nothing else can be put into it meanwhile, so pairs take turns with two sets of tiles. Tile
// numbers are part of the instructions.
template <bool kOdd>
WINNOW_AMX inline void DotPair(const ActivationBlock* x, const CodeBlock* w, DotBlock* dots) {
  _tile_loadd(4, x[0].codes, kActivationBlock);
  _tile_loadd(6, w[0].quads, 64);
  _tile_loadd(5, x[1].codes, kActivationBlock);
  _tile_loadd(7, w[1].quads, 64);
  if constexpr (kOdd) {
    _tile_zero(2);
    _tile_dpbssd(2, 4, 6);
    _tile_zero(3);
    _tile_dpbssd(3, 5, 7);
    _tile_stored(2, dots[0].sums, sizeof(dots[0].sums[0]));
    _tile_stored(3, dots[1].sums, sizeof(dots[1].sums[0]));
  } else {
    _tile_zero(0);
    _tile_dpbssd(0, 4, 6);
    _tile_zero(1);
    _tile_dpbssd(1, 5, 7);
    _tile_stored(0, dots[0].sums, sizeof(dots[0].sums[0]));
    _tile_stored(1, dots[1].sums, sizeof(dots[1].sums[0]));
  }
}

WINNOW_AMX inline void DotLast(const ActivationBlock* x, const CodeBlock* w, DotBlock* dots) {
  _tile_loadd(4, x->codes, kActivationBlock);
  _tile_loadd(6, w->quads, 64);
  _tile_zero(0);
  _tile_dpbssd(0, 4, 6);
  _tile_stored(0, dots->sums, sizeof(dots->sums[0]));
}

// GCC 12 takes the unmasked conversions to read what is not initialised. A mask of all ones costs
// nothing.
constexpr __mmask16 kAllLanes = 0xffff;

WINNOW_AMX inline __m512 LoadHalves(const uint8_t* p) {
  return _mm512_maskz_cvtph_ps(kAllLanes, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}

// Scales a block's products and adds them to the totals, in the order in which vectors do it.
template <PanelFormat kFormat, int kRows>
WINNOW_AMX inline void Accumulate(const ActivationBlock& x, const uint8_t* panel_block,
                                  const DotBlock& dots, __m512 (&totals)[kRows]) {
  const __m512 w_scale = LoadHalves(panel_block);
#pragma GCC unroll 16
  for (int t = 0; t < kRows; ++t) {
    const __m512 scale = _mm512_mul_ps(w_scale, _mm512_set1_ps(x.scales[t]));
    const __m512 dot = _mm512_maskz_cvtepi32_ps(kAllLanes, _mm512_load_si512(dots.sums[t]));
    totals[t] = _mm512_fmadd_ps(dot, scale, totals[t]);
  }
  if constexpr (HasMinimum(kFormat)) {
    const __m512 w_min = LoadHalves(panel_block + 2 * kPanelRows);
#pragma GCC unroll 16
    for (int t = 0; t < kRows; ++t) {
      totals[t] = _mm512_fmadd_ps(w_min, _mm512_set1_ps(x.sums[t]), totals[t]);
    }
  }
}

// One panel times kRows rows of x: out[t, 16 panel rows]. Vectors wait until what a tile stored has
// reached the cache, so products run a pair of blocks ahead of sums.
template <PanelFormat kFormat, int kRows>
WINNOW_AMX void PanelTile(const uint8_t* panel, const CodeBlock* w, const ActivationBlock* x,
                          int64_t blocks, float (*out)[kPanelRows]) {
  constexpr int64_t kBytes = PanelBlockBytes(kFormat);
  DotBlock dots[2][2];
  __m512 totals[kRows];
#pragma GCC unroll 16
  for (int t = 0; t < kRows; ++t) totals[t] = _mm512_setzero_ps();
  const int64_t pairs = blocks / 2;
  if (pairs > 0) DotPair<false>(x, w, dots[0]);
  for (int64_t pair = 0; pair < pairs; ++pair) {
    const int64_t ahead = pair + 1;
    if (ahead < pairs) {
      if (ahead % 2 != 0) {
        DotPair<true>(x + 2 * ahead, w + 2 * ahead, dots[1]);
      } else {
        DotPair<false>(x + 2 * ahead, w + 2 * ahead, dots[0]);
      }
    }
    for (int i = 0; i < 2; ++i) {
      Accumulate<kFormat, kRows>(x[2 * pair + i], panel + (2 * pair + i) * kBytes,
                                 dots[pair % 2][i], totals);
    }
  }
  if (blocks % 2 != 0) {
    const int64_t last = blocks - 1;
    DotLast(x + last, w + last, dots[0]);
    Accumulate<kFormat, kRows>(x[last], panel + last * kBytes, dots[0][0], totals);
  }
#pragma GCC unroll 16
  for (int t = 0; t < kRows; ++t) _mm512_storeu_ps(out[t], totals[t]);
}

template <PanelFormat kFormat>
void MatMulFormat(const MatMulItem& item, const QuantizedRows& x, CodeBlock* codes) {
  constexpr int kHalf = kTileRows / 2;
  for (int64_t p = item.first_panel; p < item.last_panel; ++p) {
    const uint8_t* panel = item.w->panel(*item.segment, p);
    UnpackPanel<kFormat>(panel, x.blocks(), codes);
    int shaped = 0;
    for (int64_t row = item.first_row; row < item.last_row; row += kTileRows) {
      const int rows = static_cast<int>(std::min<int64_t>(kTileRows, item.last_row - row));
      const int tile_rows = rows <= kHalf ? kHalf : kTileRows;
      if (shaped != tile_rows) ShapeTiles(tile_rows);
      shaped = tile_rows;
      float tile[kTileRows][kPanelRows];
      // Rows of the tile that x does not have hold anything, and are not stored.
      if (tile_rows == kHalf) {
        PanelTile<kFormat, kHalf>(panel, codes, x.tile(row), x.blocks(), tile);
      } else {
        PanelTile<kFormat, kTileRows>(panel, codes, x.tile(row), x.blocks(), tile);
      }
      StoreTile(item, p, row, rows, tile);
    }
  }
}

WINNOW_AMX void ReleaseTiles() { _tile_release(); }

bool HasTiles() {
  static const bool granted = SystemGrantsTiles();
  return granted;
}

}  // namespace

int64_t TileScratchLines(int64_t columns) {
  static_assert(sizeof(CodeBlock) % sizeof(CacheLine) == 0);
  constexpr int64_t kLines = sizeof(CodeBlock) / sizeof(CacheLine);
  return HasTiles() ? columns / kActivationBlock * kLines : 0;
}

bool PaysWithTiles(const MatMulItem& item) {
  return HasTiles() && item.last_row - item.first_row >= kLeastTileRows &&
         BlockColumns(item.segment->format) == kActivationBlock;
}

void MatMulTiles(const MatMulItem& item, const QuantizedRows& x, CacheLine* scratch) {
  auto* codes = reinterpret_cast<CodeBlock*>(scratch);
  assert(item.first_row % kActivationRows == 0);
  switch (item.segment->format) {
    case PanelFormat::kU4:
      MatMulFormat<PanelFormat::kU4>(item, x, codes);
      break;
    case PanelFormat::kS8:
      MatMulFormat<PanelFormat::kS8>(item, x, codes);
      break;
    default:
      MatMulFormat<PanelFormat::kS8Min>(item, x, codes);
      break;
  }
  ReleaseTiles();
}

}  // namespace winnow::cpu

#else

namespace winnow::cpu {

bool PaysWithTiles(const MatMulItem&) { return false; }
int64_t TileScratchLines(int64_t) { return 0; }
void MatMulTiles(const MatMulItem&, const QuantizedRows&, CacheLine*) {}

}  // namespace winnow::cpu

#endif
