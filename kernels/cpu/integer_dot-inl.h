// Products of 8-bit codes, per SIMD target. Included once per target by matmul_integer.cc.
//
// The constructors are spelled out because implicit ones would be compiled for the baseline target.
//
// Add pins its sum to a register: left alone, GCC 12 computes the products of a whole block first
// and keeps them on the stack until it sums them up. It pins a variable of its own, because a
// member that an asm writes stays in memory.
//
// A vector of 32-bit lanes stands for as many weight rows. Each lane holds a quad: four consecutive
// codes of its row. A product multiplies them with the same four activation codes, broadcast.
//
// NibbleDots multiplies each lane's quads, those in the low and in the high halves of its bytes,
// with four factors of the lane's own. Its sums are vectors of the compiler's, of the type that the
// instruction has: through others, GCC 12 copies each sum twice for every product.

#if defined(WINNOW_INTEGER_DOT_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef WINNOW_INTEGER_DOT_INL_H_
#undef WINNOW_INTEGER_DOT_INL_H_
#else
#define WINNOW_INTEGER_DOT_INL_H_
#endif

#include <cstdint>
#include <cstring>

#include "hwy/highway.h"
#if HWY_ARCH_X86
#include <immintrin.h>
#endif

#if HWY_TARGET == HWY_AVX3_DL
// Every processor with the instructions of AVX3_DL has VNNI; Highway 1.0 does not name it.
HWY_PUSH_ATTRIBUTES(HWY_TARGET_STR ",avx512vnni")
#else
HWY_BEFORE_NAMESPACE();
#endif
namespace winnow::cpu {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using I32 = hn::ScalableTag<int32_t>;
using VI32 = hn::Vec<I32>;
using U8 = hn::Repartition<uint8_t, I32>;

HWY_INLINE int32_t LoadQuad(const int8_t* codes) {
  int32_t quad;
  std::memcpy(&quad, codes, sizeof(quad));
  return quad;
}

#if HWY_TARGET == HWY_AVX3_DL

// u8 x s8 with 32-bit sums in one instruction.
struct UnsignedDot {  // weight codes 0..15
  __m512i sum;
  HWY_INLINE UnsignedDot() : sum(_mm512_setzero_si512()) {}
  HWY_INLINE void Add(__m512i w, int32_t x) {
    __m512i next = _mm512_dpbusd_epi32(sum, w, _mm512_set1_epi32(x));
    asm("" : "+v"(next));
    sum = next;
  }
  HWY_INLINE VI32 Sum() const { return VI32{sum}; }
};

struct SignedDot {  // weight codes -128..127, offset by 128 to unsigned
  __m512i sum;
  HWY_INLINE SignedDot() : sum(_mm512_setzero_si512()) {}
  HWY_INLINE void Add(__m512i w, int32_t x) {
    w = _mm512_xor_si512(w, _mm512_set1_epi8(static_cast<char>(0x80)));
    __m512i next = _mm512_dpbusd_epi32(sum, w, _mm512_set1_epi32(x));
    asm("" : "+v"(next));
    sum = next;
  }
  HWY_INLINE VI32 Sum(int32_t x_sum) const {
    return VI32{_mm512_sub_epi32(sum, _mm512_set1_epi32(128 * x_sum))};
  }
};

using Raw = __m512i;
HWY_INLINE Raw LoadRaw(const uint8_t* p) { return _mm512_loadu_si512(p); }
HWY_INLINE Raw LowNibbles(Raw v) { return _mm512_and_si512(v, _mm512_set1_epi8(15)); }
HWY_INLINE Raw HighNibbles(Raw v) {
  return _mm512_and_si512(_mm512_srli_epi16(v, 4), _mm512_set1_epi8(15));
}

// Packed codes have all eight bits of the instruction's unsigned side: one sum is of both halves.
struct NibbleDots {
  using Sum = int32_t __attribute__((vector_size(64)));
  Sum all = {};
  Sum high = {};  // 16 times

  HWY_INLINE NibbleDots() {}
  // Factors from 0 to 127.
  HWY_INLINE void Add(hn::Vec<U8> packed, hn::Vec<U8> factors) {
    const __m512i upper = _mm512_and_si512(packed.raw, _mm512_set1_epi8(static_cast<char>(0xf0)));
    all = reinterpret_cast<Sum>(
        _mm512_dpbusd_epi32(reinterpret_cast<__m512i>(all), packed.raw, factors.raw));
    high = reinterpret_cast<Sum>(
        _mm512_dpbusd_epi32(reinterpret_cast<__m512i>(high), upper, factors.raw));
  }
  HWY_INLINE VI32 Low() const { return VI32{reinterpret_cast<__m512i>(all - high)}; }
  HWY_INLINE VI32 High() const { return VI32{reinterpret_cast<__m512i>(high >> 4)}; }
};

#elif HWY_ARCH_X86 && HWY_TARGET == HWY_AVX2

// u8 x s8 to 16-bit sums of pairs. 8 quads of 4-bit codes fit: 8 * 2 * 15 * 127 < 32768.
struct UnsignedDot {
  __m256i sum;
  HWY_INLINE UnsignedDot() : sum(_mm256_setzero_si256()) {}
  HWY_INLINE void Add(__m256i w, int32_t x) {
    __m256i next = _mm256_add_epi16(sum, _mm256_maddubs_epi16(w, _mm256_set1_epi32(x)));
    asm("" : "+x"(next));
    sum = next;
  }
  HWY_INLINE VI32 Sum() const { return VI32{_mm256_madd_epi16(sum, _mm256_set1_epi16(1))}; }
};

// |w| x (x with w's sign): pairs stay below 2 * 128 * 127, but only one pair fits 16 bits.
struct SignedDot {
  __m256i sum;
  HWY_INLINE SignedDot() : sum(_mm256_setzero_si256()) {}
  HWY_INLINE void Add(__m256i w, int32_t x) {
    const __m256i signed_x = _mm256_sign_epi8(_mm256_set1_epi32(x), w);
    const __m256i pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(w), signed_x);
    __m256i next = _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
    asm("" : "+x"(next));
    sum = next;
  }
  HWY_INLINE VI32 Sum(int32_t /*x_sum*/) const { return VI32{sum}; }
};

using Raw = __m256i;
HWY_INLINE Raw LoadRaw(const uint8_t* p) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
}
HWY_INLINE Raw LowNibbles(Raw v) { return _mm256_and_si256(v, _mm256_set1_epi8(15)); }
HWY_INLINE Raw HighNibbles(Raw v) {
  return _mm256_and_si256(_mm256_srli_epi16(v, 4), _mm256_set1_epi8(15));
}

struct NibbleDots {
  __m256i low, high;
  HWY_INLINE NibbleDots() : low(_mm256_setzero_si256()), high(_mm256_setzero_si256()) {}
  // Factors from 0 to 127.
  HWY_INLINE void Add(hn::Vec<U8> packed, hn::Vec<U8> factors) {
    low = _mm256_add_epi32(low, Quads(LowNibbles(packed.raw), factors.raw));
    high = _mm256_add_epi32(high, Quads(HighNibbles(packed.raw), factors.raw));
  }
  HWY_INLINE VI32 Low() const { return VI32{low}; }
  HWY_INLINE VI32 High() const { return VI32{high}; }

 private:
  static HWY_INLINE __m256i Quads(__m256i codes, __m256i factors) {
    return _mm256_madd_epi16(_mm256_maddubs_epi16(codes, factors), _mm256_set1_epi16(1));
  }
};

#else  // any other target: plain 32-bit arithmetic

using Raw = hn::Vec<hn::Repartition<uint8_t, I32> >;
HWY_INLINE Raw LoadRaw(const uint8_t* p) { return hn::LoadU(hn::Repartition<uint8_t, I32>(), p); }
HWY_INLINE Raw LowNibbles(Raw v) {
  return hn::And(v, hn::Set(hn::Repartition<uint8_t, I32>(), 15));
}
HWY_INLINE Raw HighNibbles(Raw v) {
  const hn::Repartition<uint8_t, I32> d8;
  const hn::Repartition<uint16_t, I32> d16;
  return hn::And(hn::BitCast(d8, hn::ShiftRight<4>(hn::BitCast(d16, v))), hn::Set(d8, 15));
}

struct SignedDot {
  VI32 sum;
  HWY_INLINE SignedDot() : sum(hn::Zero(I32())) {}
  HWY_INLINE void Add(Raw w, int32_t x) {
    const I32 d;
    const VI32 lanes = hn::BitCast(d, w);
    const auto code = [](int32_t quad, int i) { return static_cast<int8_t>(quad >> (8 * i)); };
    const VI32 w0 = hn::ShiftRight<24>(hn::ShiftLeft<24>(lanes));
    const VI32 w1 = hn::ShiftRight<24>(hn::ShiftLeft<16>(lanes));
    const VI32 w2 = hn::ShiftRight<24>(hn::ShiftLeft<8>(lanes));
    const VI32 w3 = hn::ShiftRight<24>(lanes);
    sum = hn::Add(
        sum,
        hn::Add(hn::Add(hn::Mul(w0, hn::Set(d, code(x, 0))), hn::Mul(w1, hn::Set(d, code(x, 1)))),
                hn::Add(hn::Mul(w2, hn::Set(d, code(x, 2))), hn::Mul(w3, hn::Set(d, code(x, 3))))));
  }
  HWY_INLINE VI32 Sum(int32_t /*x_sum*/) const { return sum; }
};

struct UnsignedDot {  // 0..15 is within the signed range
  SignedDot dot;
  HWY_INLINE void Add(Raw w, int32_t x) { dot.Add(w, x); }
  HWY_INLINE VI32 Sum() const { return dot.sum; }
};

struct NibbleDots {
  VI32 low, high;
  HWY_INLINE NibbleDots() : low(hn::Zero(I32())), high(hn::Zero(I32())) {}
  // Factors from 0 to 127.
  HWY_INLINE void Add(hn::Vec<U8> packed, hn::Vec<U8> factors) {
    low = hn::Add(low, Quads(LowNibbles(packed), factors));
    high = hn::Add(high, Quads(HighNibbles(packed), factors));
  }
  HWY_INLINE VI32 Low() const { return low; }
  HWY_INLINE VI32 High() const { return high; }

 private:
  static HWY_INLINE VI32 Quads(Raw codes, Raw factors) {
    const I32 d;
    const VI32 byte = hn::Set(d, 255);
    const VI32 x = hn::BitCast(d, codes);
    const VI32 y = hn::BitCast(d, factors);
    const VI32 first = hn::Mul(hn::And(x, byte), hn::And(y, byte));
    const VI32 second =
        hn::Mul(hn::And(hn::ShiftRight<8>(x), byte), hn::And(hn::ShiftRight<8>(y), byte));
    const VI32 third =
        hn::Mul(hn::And(hn::ShiftRight<16>(x), byte), hn::And(hn::ShiftRight<16>(y), byte));
    const VI32 fourth = hn::Mul(hn::ShiftRight<24>(x), hn::ShiftRight<24>(y));
    return hn::Add(hn::Add(first, second), hn::Add(third, fourth));
  }
};

#endif

}  // namespace HWY_NAMESPACE
}  // namespace winnow::cpu
HWY_AFTER_NAMESPACE();

#endif  // per-target include guard
