#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "kernels/backend.h"
#include "kernels/cpu/matmul.h"
#include "kernels/cpu/packed_matrix.h"
#include "kernels/cpu/quantized_rows.h"
#include "kernels/cpu/thread_pool.h"

namespace winnow::cpu {

/// Backend::MatMul and Backend::ExpertMatMul of the CPU: quantises rows for integer formats, and
/// divides products into work items, each of some panels and rows. Rows with experts are put in
/// the order of their experts first, so that an expert's panels pass by its rows once.
class Products {
 public:
  explicit Products(ThreadPool& pool) : pool_(pool) {}

  /// Makes room for products of the limits' sizes with matrices of up to `segments` segments.
  void Reserve(const StepLimits& limits, int64_t segments);

  void Multiply(const Tensor& x, const PackedMatrix& w, const float* bias, bool accumulate,
                const Tensor& out);

  void MultiplyExperts(const Tensor& x, const PackedMatrix& w, const ExpertRoutes& routes,
                       const Tensor& out);

 private:
  /// Divides a product with one segment: its panels into `parts` or more, and by rows.
  void Divide(const MatMulItem& whole, int64_t parts);
  void RunItems(const Tensor& x, bool has_integers);
  void GrowTileScratch(int64_t lines);

  ThreadPool& pool_;
  QuantizedRows quantized_;
  std::vector<int32_t> rows_;  ///< MatMulItem::rows of experts; -1 where no row is
  std::vector<MatMulItem> items_;
  std::unique_ptr<CacheLine[]> tile_scratch_;  ///< [workers, TileScratchLines]
  int64_t tile_scratch_lines_ = 0;
};

}  // namespace winnow::cpu
