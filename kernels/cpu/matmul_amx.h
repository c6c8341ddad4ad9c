#pragma once

#include "kernels/cpu/matmul.h"

namespace winnow::cpu {

/// Whether the product of this item is done by tiles of AMX (Intel's matrix extensions, 8-bit
/// integers): the processor has them, the system grants them to this process (asked once), the
/// format's blocks have 32 columns, and there are rows enough for tiles to pay.
bool PaysWithTiles(const MatMulItem& item);

/// Lines of scratch that MatMulTiles needs for products over so many columns; 0 where there are no
/// tiles.
int64_t TileScratchLines(int64_t columns);

/// MatMulInteger by tiles: the same sums in the same order, so the same bits.
/// REQUIRES: PaysWithTiles(item); item.first_row a multiple of kActivationRows.
void MatMulTiles(const MatMulItem& item, const QuantizedRows& x, CacheLine* scratch);

}  // namespace winnow::cpu
