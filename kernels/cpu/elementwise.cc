#include "kernels/cpu/elementwise.h"

#include <cmath>

#include "kernels/float16.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/elementwise.cc"
#include "hwy/foreach_target.h"
// After foreach_target:
#include "hwy/contrib/math/math-inl.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace winnow::cpu {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using F32 = hn::CappedTag<float, 16>;
constexpr int kLanes = static_cast<int>(hn::MaxLanes(F32()));

// 1 / sqrt(mean(x^2) + epsilon)
float NormScale(const float* x, float epsilon, int64_t columns) {
  const F32 d;
  auto squares = hn::Zero(d);
  int64_t c = 0;
  for (; c + kLanes <= columns; c += kLanes) {
    const auto v = hn::LoadU(d, x + c);
    squares = hn::MulAdd(v, v, squares);
  }
  float sum = hn::GetLane(hn::SumOfLanes(d, squares));
  for (int64_t i = c; i < columns; ++i) sum += x[i] * x[i];
  return 1 / std::sqrt(sum / static_cast<float>(columns) + epsilon);
}

void RmsNormRow(const float* x, const float* weight, float epsilon, int64_t columns, float* out) {
  const F32 d;
  const float scale = NormScale(x, epsilon, columns);
  const auto scales = hn::Set(d, scale);
  int64_t c = 0;
  for (; c + kLanes <= columns; c += kLanes) {
    hn::StoreU(hn::Mul(hn::Mul(hn::LoadU(d, x + c), scales), hn::LoadU(d, weight + c)), d, out + c);
  }
  for (; c < columns; ++c) out[c] = x[c] * scale * weight[c];
}

void AddNormalizedRow(const float* x, const float* weight, float epsilon, int64_t columns,
                      float* sum) {
  const F32 d;
  const float scale = NormScale(x, epsilon, columns);
  const auto scales = hn::Set(d, scale);
  int64_t c = 0;
  for (; c + kLanes <= columns; c += kLanes) {
    const auto normed = hn::Mul(hn::Mul(hn::LoadU(d, x + c), scales), hn::LoadU(d, weight + c));
    hn::StoreU(hn::Add(hn::LoadU(d, sum + c), normed), d, sum + c);
  }
  for (; c < columns; ++c) sum[c] += x[c] * scale * weight[c];
}

// For vectors and for single numbers.
struct Silu {
  template <typename V>
  HWY_INLINE V operator()(F32 d, V x) const {
    return hn::Div(x, hn::Add(hn::Set(d, 1.0f), hn::Exp(d, hn::Neg(x))));
  }
  float operator()(float x) const { return x / (1 + std::exp(-x)); }
};

struct GeluTanh {
  static constexpr float kRoot = 0.7978845608f;  // sqrt(2 / pi)
  static constexpr float kCubic = 0.044715f;

  template <typename V>
  HWY_INLINE V operator()(F32 d, V x) const {
    const V half = hn::Mul(x, hn::Set(d, 0.5f));
    const V bent = hn::MulAdd(hn::Mul(hn::Set(d, kCubic), hn::Mul(x, x)), x, x);
    return hn::MulAdd(half, hn::Tanh(d, hn::Mul(hn::Set(d, kRoot), bent)), half);
  }
  float operator()(float x) const {
    return x / 2 * (1 + std::tanh(kRoot * (x + kCubic * x * x * x)));
  }
};

template <typename Function>
HWY_INLINE void GateRowBy(const Function& function, const float* gate, const float* up,
                          int64_t columns, float* out) {
  const F32 d;
  int64_t c = 0;
  for (; c + kLanes <= columns; c += kLanes) {
    const auto activated = function(d, hn::LoadU(d, gate + c));
    hn::StoreU(hn::Mul(activated, hn::LoadU(d, up + c)), d, out + c);
  }
  for (; c < columns; ++c) out[c] = function(gate[c]) * up[c];
}

void GateRow(Activation activation, const float* gate, const float* up, int64_t columns,
             float* out) {
  switch (activation) {
    case Activation::kSilu:
      return GateRowBy(Silu(), gate, up, columns, out);
    case Activation::kGeluTanh:
      return GateRowBy(GeluTanh(), gate, up, columns, out);
  }
}

void SoftCapRow(float cap, int64_t columns, float* x) {
  const F32 d;
  const auto caps = hn::Set(d, cap);
  const auto inverse = hn::Set(d, 1 / cap);
  int64_t c = 0;
  for (; c + kLanes <= columns; c += kLanes) {
    const auto scaled = hn::Mul(hn::LoadU(d, x + c), inverse);
    hn::StoreU(hn::Mul(caps, hn::Tanh(d, scaled)), d, x + c);
  }
  for (; c < columns; ++c) x[c] = cap * std::tanh(x[c] / cap);
}

void RopeAdjacent(const float* cosines, const float* sines, int rope_dim, float* head) {
  for (int i = 0; i < rope_dim / 2; ++i) {
    const float a = head[2 * i];
    const float b = head[2 * i + 1];
    head[2 * i] = a * cosines[i] - b * sines[i];
    head[2 * i + 1] = a * sines[i] + b * cosines[i];
  }
}

void RopeHalves(const float* cosines, const float* sines, int rope_dim, float* head) {
  float* second = head + rope_dim / 2;
  for (int i = 0; i < rope_dim / 2; ++i) {
    const float a = head[i];
    const float b = second[i];
    head[i] = a * cosines[i] - b * sines[i];
    second[i] = a * sines[i] + b * cosines[i];
  }
}

void ToHalf(const float* x, int64_t count, uint16_t* out) {
  const F32 d;
  const hn::Rebind<hwy::float16_t, F32> d16;
  int64_t c = 0;
  for (; c + kLanes <= count; c += kLanes) {
    hn::StoreU(hn::DemoteTo(d16, hn::LoadU(d, x + c)), d16,
               reinterpret_cast<hwy::float16_t*>(out + c));
  }
  for (; c < count; ++c) out[c] = FloatToHalf(x[c]);
}

}  // namespace HWY_NAMESPACE
}  // namespace winnow::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace winnow::cpu {

HWY_EXPORT(RmsNormRow);
HWY_EXPORT(AddNormalizedRow);
HWY_EXPORT(GateRow);
HWY_EXPORT(SoftCapRow);
HWY_EXPORT(RopeAdjacent);
HWY_EXPORT(RopeHalves);
HWY_EXPORT(ToHalf);

void RmsNormRow(const float* x, const float* weight, float epsilon, int64_t columns, float* out) {
  HWY_DYNAMIC_DISPATCH(RmsNormRow)(x, weight, epsilon, columns, out);
}
void AddNormalizedRow(const float* x, const float* weight, float epsilon, int64_t columns,
                      float* sum) {
  HWY_DYNAMIC_DISPATCH(AddNormalizedRow)(x, weight, epsilon, columns, sum);
}
void GateRow(Activation activation, const float* gate, const float* up, int64_t columns,
             float* out) {
  HWY_DYNAMIC_DISPATCH(GateRow)(activation, gate, up, columns, out);
}
void SoftCapRow(float cap, int64_t columns, float* x) {
  HWY_DYNAMIC_DISPATCH(SoftCapRow)(cap, columns, x);
}
void RopeAdjacent(const float* cosines, const float* sines, int rope_dim, float* head) {
  HWY_DYNAMIC_DISPATCH(RopeAdjacent)(cosines, sines, rope_dim, head);
}
void RopeHalves(const float* cosines, const float* sines, int rope_dim, float* head) {
  HWY_DYNAMIC_DISPATCH(RopeHalves)(cosines, sines, rope_dim, head);
}
void ToHalf(const float* x, int64_t count, uint16_t* out) {
  HWY_DYNAMIC_DISPATCH(ToHalf)(x, count, out);
}

}  // namespace winnow::cpu
#endif  // HWY_ONCE
