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
// Sizes of heads are multiples of 16.
using Wide = hn::CappedTag<float, 16>;
constexpr int kWideLanes = static_cast<int>(hn::MaxLanes(Wide()));
using F64 = hn::CappedTag<double, 8>;
constexpr int kDoubleLanes = static_cast<int>(hn::MaxLanes(F64()));
// Right sides that are solved together: their sums stay in registers.
constexpr int kSolveColumns = 16;

template <typename D>
HWY_INLINE hn::Vec<D> LoadHalf(D d, const uint16_t* p) {
  const hn::Rebind<hwy::float16_t, D> of_halves;
  return hn::PromoteTo(d, hn::LoadU(of_halves, reinterpret_cast<const hwy::float16_t*>(p)));
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
      hn::StoreU(LoadHalf(F32(), value + c), F32(), row + shape.width + c);
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
    for (int t = 0; t < tokens.count; ++t) sum = hn::Add(sum, LoadHalf(d, tokens.keys[t] + c));
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

// Cov(c[i], x) for `count` columns of x = c or v, from `totals` of them and their moments with
// c[i].
HWY_INLINE void Covariances(const float* moments, const float* totals, double total_of_i,
                            double inverse, int count, double* out) {
  const F64 d;
  const hn::Rebind<float, F64> df;
  const auto mean_of_i = hn::Set(d, total_of_i * inverse);
  for (int c = 0; c < count; c += kDoubleLanes) {
    const auto moment = hn::PromoteTo(d, hn::LoadU(df, moments + c));
    const auto total = hn::PromoteTo(d, hn::LoadU(df, totals + c));
    const auto sum = hn::NegMulAdd(mean_of_i, total, moment);
    hn::StoreU(hn::Mul(sum, hn::Set(d, inverse)), d, out + c);
  }
}

// Makes the upper factor U of a positive definite matrix A = U^T U [n, n] of A's upper half, in its
// place.
HWY_INLINE void FactorCholesky(int n, double* a) {
  const F64 d;
  for (int k = 0; k < n; ++k) {
    double* of_k = a + k * n;
    const double inverse = 1 / std::sqrt(of_k[k]);
    for (int j = k; j < n; ++j) of_k[j] *= inverse;
    for (int i = k + 1; i < n; ++i) {
      const auto factor = hn::Set(d, of_k[i]);
      // What lies before the diagonal is changed with it and not used.
      for (int j = i / kDoubleLanes * kDoubleLanes; j < n; j += kDoubleLanes) {
        double* at = a + i * n + j;
        hn::StoreU(hn::NegMulAdd(factor, hn::LoadU(d, of_k + j), hn::LoadU(d, at)), d, at);
      }
    }
  }
}

// Solves (U^T U) x = x in place for kSolveColumns right sides, x [n, columns].
HWY_INLINE void SolveCholesky(int n, const double* u, int columns, double* x) {
  const F64 d;
  constexpr int kVectors = kSolveColumns / kDoubleLanes;
  // Row i is to become what is left of it without multiples of rows [begin, end), over u[i, i].
  const auto eliminate = [&](int i, int begin, int end, const auto& factor_of) {
    hn::Vec<F64> sums[kVectors];
    for (int v = 0; v < kVectors; ++v) sums[v] = hn::LoadU(d, x + i * columns + v * kDoubleLanes);
    for (int k = begin; k < end; ++k) {
      const auto factor = hn::Set(d, factor_of(k));
      for (int v = 0; v < kVectors; ++v) {
        sums[v] = hn::NegMulAdd(factor, hn::LoadU(d, x + k * columns + v * kDoubleLanes), sums[v]);
      }
    }
    const auto inverse = hn::Set(d, 1 / u[i * n + i]);
    for (int v = 0; v < kVectors; ++v) {
      hn::StoreU(hn::Mul(sums[v], inverse), d, x + i * columns + v * kDoubleLanes);
    }
  };
  for (int i = 0; i < n; ++i) eliminate(i, 0, i, [&](int k) { return u[k * n + i]; });
  for (int i = n - 1; i >= 0; --i) eliminate(i, i + 1, n, [&](int k) { return u[i * n + k]; });
}

// Leaves factor times `count` numbers as fp16, a multiple of kLanes.
template <typename T>
HWY_INLINE void StoreHalves(const T* in, double factor, int64_t count, uint16_t* out) {
  const F32 d;
  constexpr float kLargest = 65504;
  float numbers[kLanes];
  for (int64_t i = 0; i < count; i += kLanes) {
    for (int j = 0; j < kLanes; ++j) numbers[j] = static_cast<float>(factor * in[i + j]);
    const VF32 bounded =
        hn::Clamp(hn::LoadU(d, numbers), hn::Set(d, -kLargest), hn::Set(d, kLargest));
    hn::StoreU(hn::DemoteTo(F16(), bounded), F16(), reinterpret_cast<hwy::float16_t*>(out + i));
  }
}

void SolveSummary(const SummaryShape& shape, int64_t tokens, const float* sums,
                  SummaryScratch* scratch, uint16_t* estimate) {
  const int width = shape.width;
  const int head_dim = shape.head_dim;
  const int columns = width + head_dim;
  const double inverse = 1 / static_cast<double>(tokens);
  const float* totals = sums + shape.totals();
  StoreHalves(totals, inverse, shape.rows(), estimate);
  double* codes = scratch->covariance.data();
  double* slopes = scratch->slopes.data();
  double trace = 0;
  for (int i = 0; i < width; ++i) {
    const float* moments = sums + shape.moments() + int64_t{i} * columns;
    Covariances(moments, totals, totals[i], inverse, width, codes + i * width);
    Covariances(moments + width, totals + width, totals[i], inverse, head_dim,
                slopes + i * head_dim);
    trace += codes[i * width + i];
  }
  uint16_t* out = estimate + shape.rows();
  if (!(trace > 0)) {  // the labels are all the same and say nothing
    std::fill_n(out, int64_t{width} * head_dim, 0);
    return;
  }
  for (int i = 0; i < width; ++i) codes[i * width + i] += kSummaryRidge * trace / width;
  FactorCholesky(width, codes);
  for (int c = 0; c < head_dim; c += kSolveColumns) {
    SolveCholesky(width, codes, head_dim, slopes + c);
  }
  StoreHalves(slopes, 1, int64_t{width} * head_dim, out);
}

// values[c] += sum_i above[i] slopes[i, c] for kVectors vectors of c.
template <int kVectors>
HWY_INLINE void AddSlopes(const SummaryShape& shape, const float* above, const uint16_t* slopes,
                          float* values) {
  const Wide d;
  hn::Vec<Wide> sums[kVectors];
  for (int v = 0; v < kVectors; ++v) sums[v] = hn::LoadU(d, values + v * kWideLanes);
  for (int i = 0; i < shape.width; ++i) {
    const auto factor = hn::Set(d, above[i]);
    for (int v = 0; v < kVectors; ++v) {
      const uint16_t* of_code = slopes + int64_t{i} * shape.head_dim;
      sums[v] = hn::MulAdd(factor, LoadHalf(d, of_code + v * kWideLanes), sums[v]);
    }
  }
  for (int v = 0; v < kVectors; ++v) hn::StoreU(sums[v], d, values + v * kWideLanes);
}

void EstimateTail(const SummaryShape& shape, const uint16_t* estimate, const float* query,
                  const LabelQuery& label_query, float scale, const LabelTail& tail,
                  Partial* partial) {
  const Wide d;
  const uint16_t* mean_code = estimate;
  const uint16_t* mean_value = mean_code + shape.width;
  const uint16_t* mean_key = mean_value + shape.head_dim;
  const uint16_t* slopes = mean_key + shape.head_dim;
  auto dot = hn::Zero(d);
  for (int c = 0; c < shape.head_dim; c += kWideLanes) {
    dot = hn::MulAdd(hn::LoadU(d, query + c), LoadHalf(d, mean_key + c), dot);
    hn::StoreU(LoadHalf(d, mean_value + c), d, partial->out + c);
  }
  const F32 d8;
  float above[kMaxLabelWidth];
  VF32 of_mean_label = hn::Zero(d8);
  for (int i = 0; i < shape.width; i += kLanes) {
    const VF32 mean = LoadHalf(d8, mean_code + i);
    const auto code = hn::LoadU(hn::Rebind<int8_t, F32>(), label_query.codes + i);
    of_mean_label = hn::MulAdd(hn::ConvertTo(d8, hn::PromoteTo(hn::RebindToSigned<F32>(), code)),
                               mean, of_mean_label);
    const VF32 of_tail = tail.mean_code != nullptr ? hn::LoadU(d8, tail.mean_code + i) : mean;
    hn::StoreU(hn::Sub(of_tail, mean), d8, above + i);
  }
  const float log2_sum =
      tail.log2_sum - label_query.scale * hn::GetLane(hn::SumOfLanes(d8, of_mean_label));
  partial->max =
      scale * hn::GetLane(hn::SumOfLanes(d, dot)) + std::numbers::ln2_v<float> * log2_sum;
  partial->sum = 1;
  constexpr int kVectors = 4;
  int c = 0;
  for (; c + kVectors * kWideLanes <= shape.head_dim; c += kVectors * kWideLanes) {
    AddSlopes<kVectors>(shape, above, slopes + c, partial->out + c);
  }
  for (; c < shape.head_dim; c += kWideLanes) {
    AddSlopes<1>(shape, above, slopes + c, partial->out + c);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace winnow::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace winnow::cpu {
HWY_EXPORT(AddToSummary);
HWY_EXPORT(SolveSummary);
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
                  SummaryScratch* scratch, uint16_t* estimate) {
  HWY_DYNAMIC_DISPATCH(SolveSummary)(shape, tokens, sums, scratch, estimate);
}

void EstimateTail(const SummaryShape& shape, const uint16_t* estimate, const float* query,
                  const LabelQuery& label_query, float scale, const LabelTail& tail,
                  Partial* partial) {
  HWY_DYNAMIC_DISPATCH(EstimateTail)(shape, estimate, query, label_query, scale, tail, partial);
}

}  // namespace winnow::cpu
#endif  // HWY_ONCE
