#include "kernels/cpu/summary.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/summary.cc"
#include "hwy/foreach_target.h"
// After foreach_target:
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace winnow::cpu {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// Label widths are multiples of 8.
using F32 = hn::CappedTag<float, 8>;
using F16 = hn::Rebind<hwy::float16_t, F32>;
using VF32 = hn::Vec<F32>;
constexpr int kLanes = static_cast<int>(hn::MaxLanes(F32()));
constexpr int kTileRows = 4;

HWY_INLINE VF32 LoadHalf(const uint16_t* p) {
  return hn::PromoteTo(F32(), hn::LoadU(F16(), reinterpret_cast<const hwy::float16_t*>(p)));
}

HWY_INLINE void Add(VF32 x, float* sum) {
  const F32 d;
  hn::StoreU(hn::Add(hn::LoadU(d, sum), x), d, sum);
}

// Codes and value of each token as floats.
void Unpack(const SummaryShape& shape, const SummaryTokens& tokens, float* rows) {
  const int columns = shape.width + shape.head_dim;
  for (int t = 0; t < tokens.count; ++t) {
    float* row = rows + t * columns;
    const uint8_t* label = tokens.labels[t];
    for (int i = 0; i < shape.width; i += 8, label += 4 * kPanelTokens) {
      for (int j = 0; j < 4; ++j) row[i + j] = static_cast<float>(label[j] & 15);
      for (int j = 0; j < 4; ++j) row[i + 4 + j] = static_cast<float>(label[j] >> 4);
    }
    const uint16_t* value = tokens.keys[t] + shape.head_dim;
    for (int c = 0; c < shape.head_dim; c += kLanes) {
      hn::StoreU(LoadHalf(value + c), F32(), row + shape.width + c);
    }
  }
}

void AddToSummary(const SummaryShape& shape, const SummaryTokens& tokens, SummaryScratch* scratch,
                  float* sums) {
  const F32 d;
  const int columns = shape.width + shape.head_dim;
  float* rows = scratch->tokens.data();
  Unpack(shape, tokens, rows);
  float* totals = sums + shape.totals();
  for (int c = 0; c < columns; c += kLanes) {
    VF32 sum = hn::Zero(d);
    for (int t = 0; t < tokens.count; ++t) sum = hn::Add(sum, hn::LoadU(d, rows + t * columns + c));
    Add(sum, totals + c);
  }
  for (int c = 0; c < shape.head_dim; c += kLanes) {
    VF32 sum = hn::Zero(d);
    for (int t = 0; t < tokens.count; ++t) sum = hn::Add(sum, LoadHalf(tokens.keys[t] + c));
    Add(sum, totals + columns + c);
  }
  float* moments = sums + shape.moments();
  for (int i = 0; i < shape.width; i += kTileRows) {
    for (int c = 0; c < columns; c += kLanes) {
      VF32 products[kTileRows];
      for (VF32& product : products) product = hn::Zero(d);
      for (int t = 0; t < tokens.count; ++t) {
        const float* row = rows + t * columns;
        const VF32 x = hn::LoadU(d, row + c);
        for (int k = 0; k < kTileRows; ++k) {
          products[k] = hn::MulAdd(hn::Set(d, row[i + k]), x, products[k]);
        }
      }
      for (int k = 0; k < kTileRows; ++k) Add(products[k], moments + (i + k) * columns + c);
    }
  }
}

void EstimateTail(const SummaryShape& shape, const float* estimate, const float* query,
                  const LabelQuery& label_query, float scale, const LabelTail& tail,
                  Partial* partial) {
  const F32 d;
  const float* mean_code = estimate;
  const float* mean_value = mean_code + shape.width;
  const float* mean_key = mean_value + shape.head_dim;
  const float* slopes = mean_key + shape.head_dim;
  VF32 dot = hn::Zero(d);
  for (int c = 0; c < shape.head_dim; c += kLanes) {
    dot = hn::MulAdd(hn::LoadU(d, query + c), hn::LoadU(d, mean_key + c), dot);
    hn::StoreU(hn::LoadU(d, mean_value + c), d, partial->out + c);
  }
  double of_mean_label = 0;
  for (int i = 0; i < shape.width; ++i) of_mean_label += label_query.codes[i] * mean_code[i];
  const double log2_sum = tail.log2_sum - label_query.scale * of_mean_label;
  partial->max = scale * hn::GetLane(hn::SumOfLanes(d, dot)) +
                 static_cast<float>(std::numbers::ln2 * log2_sum);
  partial->sum = 1;
  for (int i = 0; i < shape.width; ++i) {
    const VF32 above = hn::Set(d, tail.mean_code[i] - mean_code[i]);
    const float* slope = slopes + i * shape.head_dim;
    for (int c = 0; c < shape.head_dim; c += kLanes) {
      const VF32 value = hn::LoadU(d, partial->out + c);
      hn::StoreU(hn::MulAdd(above, hn::LoadU(d, slope + c), value), d, partial->out + c);
    }
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace winnow::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace winnow::cpu {
namespace {

// The lower factor of a positive definite matrix [n, n], in its place.
void FactorCholesky(int n, double* a) {
  for (int i = 0; i < n; ++i) {
    for (int j = 0; j <= i; ++j) {
      double x = a[i * n + j];
      for (int k = 0; k < j; ++k) x -= a[i * n + k] * a[j * n + k];
      a[i * n + j] = i == j ? std::sqrt(x) : x / a[j * n + j];
    }
  }
}

// Solves (L L^T) x = x in place for `columns` right sides, x [n, columns].
void SolveCholesky(int n, const double* l, int columns, double* x) {
  const auto eliminate = [&](int from, int row, double factor) {
    for (int c = 0; c < columns; ++c) x[row * columns + c] -= factor * x[from * columns + c];
  };
  const auto divide = [&](int row) {
    const double inverse = 1 / l[row * n + row];
    for (int c = 0; c < columns; ++c) x[row * columns + c] *= inverse;
  };
  for (int i = 0; i < n; ++i) {
    for (int k = 0; k < i; ++k) eliminate(k, i, l[i * n + k]);
    divide(i);
  }
  for (int i = n - 1; i >= 0; --i) {
    for (int k = i + 1; k < n; ++k) eliminate(k, i, l[k * n + i]);
    divide(i);
  }
}

}  // namespace

HWY_EXPORT(AddToSummary);
HWY_EXPORT(EstimateTail);

void SummaryScratch::Fit(const SummaryShape& shape) {
  const auto fit = [](auto& vector, int64_t size) {
    if (std::ssize(vector) < size) vector.resize(static_cast<size_t>(size));
  };
  fit(tokens, int64_t{kSummaryPiece} * (shape.width + shape.head_dim));
  fit(covariance, int64_t{shape.width} * shape.width);
  fit(slopes, int64_t{shape.width} * shape.head_dim);
}

void AddToSummary(const SummaryShape& shape, const SummaryTokens& tokens, SummaryScratch* scratch,
                  float* sums) {
  HWY_DYNAMIC_DISPATCH(AddToSummary)(shape, tokens, scratch, sums);
}

void SolveSummary(const SummaryShape& shape, int64_t tokens, const float* sums,
                  SummaryScratch* scratch, float* estimate) {
  const int width = shape.width;
  const int head_dim = shape.head_dim;
  const int columns = width + head_dim;
  const double inverse = 1 / static_cast<double>(tokens);
  const float* totals = sums + shape.totals();
  for (int64_t c = 0; c < shape.rows(); ++c) {
    estimate[c] = static_cast<float>(totals[c] * inverse);
  }
  // Cov(c[i], x) of x = c and v
  const auto covariance = [&](int i, int column) {
    const double moment = sums[shape.moments() + int64_t{i} * columns + column];
    return (moment - totals[i] * inverse * totals[column]) * inverse;
  };
  double* codes = scratch->covariance.data();
  double* slopes = scratch->slopes.data();
  double trace = 0;
  for (int i = 0; i < width; ++i) {
    for (int j = 0; j < width; ++j) codes[i * width + j] = covariance(i, j);
    for (int c = 0; c < head_dim; ++c) slopes[i * head_dim + c] = covariance(i, width + c);
    trace += codes[i * width + i];
  }
  float* out = estimate + shape.rows();
  if (!(trace > 0)) {  // the labels are all the same and say nothing
    std::fill_n(out, int64_t{width} * head_dim, 0.0f);
    return;
  }
  for (int i = 0; i < width; ++i) codes[i * width + i] += kSummaryRidge * trace / width;
  FactorCholesky(width, codes);
  SolveCholesky(width, codes, head_dim, slopes);
  std::transform(slopes, slopes + int64_t{width} * head_dim, out,
                 [](double x) { return static_cast<float>(x); });
}

void EstimateTail(const SummaryShape& shape, const float* estimate, const float* query,
                  const LabelQuery& label_query, float scale, const LabelTail& tail,
                  Partial* partial) {
  HWY_DYNAMIC_DISPATCH(EstimateTail)(shape, estimate, query, label_query, scale, tail, partial);
}

}  // namespace winnow::cpu
#endif  // HWY_ONCE
