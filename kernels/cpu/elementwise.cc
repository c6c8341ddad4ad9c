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

void RmsNormRow(const float* x, const float* weight, float epsilon, int64_t columns, float* out) {
  const F32 d;
  auto squares = hn::Zero(d);
  int64_t c = 0;
  for (; c + kLanes <= columns; c += kLanes) {
    const auto v = hn::LoadU(d, x + c);
    squares = hn::MulAdd(v, v, squares);
  }
  float sum = hn::GetLane(hn::SumOfLanes(d, squares));
  for (int64_t i = c; i < columns; ++i) sum += x[i] * x[i];
  const float scale = 1 / std::sqrt(sum / static_cast<float>(columns) + epsilon);
  const auto scales = hn::Set(d, scale);
  for (int64_t i = 0; i < c; i += kLanes) {
    hn::StoreU(hn::Mul(hn::Mul(hn::LoadU(d, x + i), scales), hn::LoadU(d, weight + i)), d, out + i);
  }
  for (int64_t i = c; i < columns; ++i) out[i] = x[i] * scale * weight[i];
}

void SwiGluRow(const float* gate, const float* up, int64_t columns, float* out) {
  const F32 d;
  const auto one = hn::Set(d, 1.0f);
  int64_t c = 0;
  for (; c + kLanes <= columns; c += kLanes) {
    const auto g = hn::LoadU(d, gate + c);
    const auto silu = hn::Div(g, hn::Add(one, hn::Exp(d, hn::Neg(g))));
    hn::StoreU(hn::Mul(silu, hn::LoadU(d, up + c)), d, out + c);
  }
  for (; c < columns; ++c) out[c] = gate[c] / (1 + std::exp(-gate[c])) * up[c];
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
HWY_EXPORT(SwiGluRow);
HWY_EXPORT(RopeAdjacent);
HWY_EXPORT(RopeHalves);
HWY_EXPORT(ToHalf);

void RmsNormRow(const float* x, const float* weight, float epsilon, int64_t columns, float* out) {
  HWY_DYNAMIC_DISPATCH(RmsNormRow)(x, weight, epsilon, columns, out);
}
void SwiGluRow(const float* gate, const float* up, int64_t columns, float* out) {
  HWY_DYNAMIC_DISPATCH(SwiGluRow)(gate, up, columns, out);
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
