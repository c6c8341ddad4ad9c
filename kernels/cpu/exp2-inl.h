// 2^x for weights that only decide what to select, per SIMD target.

#if defined(WINNOW_EXP2_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef WINNOW_EXP2_INL_H_
#undef WINNOW_EXP2_INL_H_
#else
#define WINNOW_EXP2_INL_H_
#endif

#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace winnow::cpu {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// x[i] becomes 2^x[i], for -126 <= x <= 127, to a relative error of 1.3e-4. x is split into the
// nearest integer and a rest, 2^rest is a polynomial whose values at the rests' ends, -1/2 and 1/2,
// are exactly a factor 2 apart: so the whole is continuous and monotonic. Several vectors go
// through it side by side, because each alone would wait for its own results.
template <class V, int kCount>
HWY_INLINE void Exp2(V (&x)[kCount]) {
  const hn::DFromV<V> d;
  const hn::RebindToSigned<decltype(d)> di;
  const V magic = hn::Set(d, 12582912.0f);  // 1.5 * 2^23: the sum's last bit is worth 1
  V shifted[kCount];
  V p[kCount];
  for (int i = 0; i < kCount; ++i) shifted[i] = hn::Add(x[i], magic);
  for (int i = 0; i < kCount; ++i) x[i] = hn::Sub(x[i], hn::Sub(shifted[i], magic));
  for (int i = 0; i < kCount; ++i) {
    p[i] = hn::MulAdd(x[i], hn::Set(d, 0.05549191f), hn::Set(d, 0.24211986f));
  }
  for (int i = 0; i < kCount; ++i) p[i] = hn::MulAdd(x[i], p[i], hn::Set(d, 0.69314700f));
  for (int i = 0; i < kCount; ++i) p[i] = hn::MulAdd(x[i], p[i], hn::Set(d, 1.0f));
  for (int i = 0; i < kCount; ++i) {
    // The integer stands in the lowest bits of `shifted`; the others are shifted out.
    const auto exponent = hn::ShiftLeft<23>(hn::BitCast(di, shifted[i]));
    x[i] = hn::BitCast(d, hn::Add(hn::BitCast(di, p[i]), exponent));
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace winnow::cpu
HWY_AFTER_NAMESPACE();

#endif  // per-target include guard
