// Vectors of 16 fp32 numbers, one register of AVX-512 or two of AVX2, and their conversion from and to bf16. Knows no
// model.
#pragma once

#include <immintrin.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <initializer_list>

namespace vectors {

using bf16 = uint16_t;

constexpr int LANES = 16;
constexpr float LOG2_E = 1.44269504f;

inline float to_float(bf16 x) {
  uint32_t bits = uint32_t(x) << 16;
  float y;
  std::memcpy(&y, &bits, 4);
  return y;
}

// Transposes 8 x 8 numbers.
inline void transpose(__m256 r[8]) {
  __m256 t[8];
  for (int i = 0; i < 8; i += 2) {
    t[i] = _mm256_unpacklo_ps(r[i], r[i + 1]);
    t[i + 1] = _mm256_unpackhi_ps(r[i], r[i + 1]);
  }
  for (int i = 0; i < 8; i += 4) {
    r[i] = _mm256_shuffle_ps(t[i], t[i + 2], 0x44);
    r[i + 1] = _mm256_shuffle_ps(t[i], t[i + 2], 0xee);
    r[i + 2] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0x44);
    r[i + 3] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0xee);
  }
  for (int i = 0; i < 4; i++) {
    t[i] = _mm256_permute2f128_ps(r[i], r[i + 4], 0x20);
    t[i + 4] = _mm256_permute2f128_ps(r[i], r[i + 4], 0x31);
  }
  std::copy(t, t + 8, r);
}

#if defined(__AVX512F__)

constexpr bool AVX512 = true;

struct Vec {
  __m512 all;
};

inline Vec broadcast(float x) { return {_mm512_set1_ps(x)}; }
inline Vec zero() { return {_mm512_setzero_ps()}; }
inline Vec load(const float *x) { return {_mm512_loadu_ps(x)}; }
inline void store(float *to, Vec x) { _mm512_storeu_ps(to, x.all); }
inline void stream(float *to, Vec x) { _mm512_stream_ps(to, x.all); }
inline Vec operator+(Vec x, Vec y) { return {_mm512_add_ps(x.all, y.all)}; }
inline Vec operator-(Vec x, Vec y) { return {_mm512_sub_ps(x.all, y.all)}; }
inline Vec operator*(Vec x, Vec y) { return {_mm512_mul_ps(x.all, y.all)}; }
inline Vec operator/(Vec x, Vec y) { return {_mm512_div_ps(x.all, y.all)}; }
inline Vec fma(Vec x, Vec y, Vec z) { return {_mm512_fmadd_ps(x.all, y.all, z.all)}; }
inline Vec max(Vec x, Vec y) { return {_mm512_max_ps(x.all, y.all)}; }
inline Vec min(Vec x, Vec y) { return {_mm512_min_ps(x.all, y.all)}; }
inline Vec round(Vec x) { return {_mm512_roundscale_ps(x.all, 0)}; }
inline Vec scale_by_exp2(Vec x, Vec n) { return {_mm512_scalef_ps(x.all, n.all)}; } // x 2^n
inline Vec reciprocal(Vec x) { return {_mm512_rcp14_ps(x.all)}; }                   // relative error below 1e-4
inline void keep_in_register(Vec &x) { asm("" : "+v"(x.all)); }                     // keeps GCC from loading it again
inline float reduce_add(Vec x) { return _mm512_reduce_add_ps(x.all); }
inline float reduce_max(Vec x) { return _mm512_reduce_max_ps(x.all); }
inline bool any_greater(Vec x, Vec y) { return _mm512_cmp_ps_mask(x.all, y.all, _CMP_GT_OQ); }

inline __mmask16 lane_mask(long from, long to) {
  const uint32_t above = from > 0 ? from < LANES ? ~0u << from : 0u : ~0u;
  return __mmask16(to < LANES ? to > 0 ? above & ((1u << to) - 1) : 0u : above);
}
// x in the lanes [from, to), y in the others
inline Vec select(long from, long to, Vec x, Vec y) { return {_mm512_mask_mov_ps(y.all, lane_mask(from, to), x.all)}; }
// the first `count` numbers from memory, y in the other lanes; reads no further
inline Vec load_partial(const float *x, long count, Vec y) {
  return {_mm512_mask_loadu_ps(y.all, lane_mask(0, count), x)};
}

inline Vec to_float(const bf16 *x) {
  return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)x)), 16))};
}

// the first numbers of 16 pairs, and the second
inline Vec even_to_float(const bf16 *pairs) {
  return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_loadu_si512(pairs), 16))};
}
inline Vec odd_to_float(const bf16 *pairs) {
  return {_mm512_castsi512_ps(_mm512_and_si512(_mm512_loadu_si512(pairs), _mm512_set1_epi32(0xffff0000)))};
}

#if defined(__AVX512BF16__)
inline __m256i to_bf16(Vec x) { return (__m256i)_mm512_cvtneps_pbh(x.all); }
#else
inline __m256i to_bf16(Vec x) { // rounds to nearest, ties to even
  const __m512i bits = _mm512_castps_si512(x.all),
                lowest = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  const __m512i rounding = _mm512_add_epi32(bits, _mm512_add_epi32(lowest, _mm512_set1_epi32(0x7fff)));
  return _mm512_cvtepi32_epi16(_mm512_srli_epi32(rounding, 16));
}
#endif

// Transposes 16 x 16 elements of 32 bits.
inline void transpose(Vec rows[16]) {
  __m512 t[16], r[16];
  for (int i = 0; i < 16; i++) r[i] = rows[i].all;
  for (int i = 0; i < 16; i += 2) {
    t[i] = _mm512_unpacklo_ps(r[i], r[i + 1]);
    t[i + 1] = _mm512_unpackhi_ps(r[i], r[i + 1]);
  }
  const auto low = [](__m512 x, __m512 y) {
    return _mm512_castpd_ps(_mm512_unpacklo_pd(_mm512_castps_pd(x), _mm512_castps_pd(y)));
  };
  const auto high = [](__m512 x, __m512 y) {
    return _mm512_castpd_ps(_mm512_unpackhi_pd(_mm512_castps_pd(x), _mm512_castps_pd(y)));
  };
  for (int i = 0; i < 16; i += 4) {
    r[i] = low(t[i], t[i + 2]);
    r[i + 1] = high(t[i], t[i + 2]);
    r[i + 2] = low(t[i + 1], t[i + 3]);
    r[i + 3] = high(t[i + 1], t[i + 3]);
  }
  for (int i = 0; i < 4; i++) {
    t[i] = _mm512_shuffle_f32x4(r[i], r[i + 4], 0x88);
    t[i + 4] = _mm512_shuffle_f32x4(r[i], r[i + 4], 0xdd);
    t[i + 8] = _mm512_shuffle_f32x4(r[i + 8], r[i + 12], 0x88);
    t[i + 12] = _mm512_shuffle_f32x4(r[i + 8], r[i + 12], 0xdd);
  }
  for (int i = 0; i < 8; i++) {
    rows[i].all = _mm512_shuffle_f32x4(t[i], t[i + 8], 0x88);
    rows[i + 8].all = _mm512_shuffle_f32x4(t[i], t[i + 8], 0xdd);
  }
}

#else

constexpr bool AVX512 = false;

struct Vec {
  __m256 low, high;
};

inline Vec broadcast(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
inline Vec zero() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
inline Vec load(const float *x) { return {_mm256_loadu_ps(x), _mm256_loadu_ps(x + 8)}; }
inline void store(float *to, Vec x) { _mm256_storeu_ps(to, x.low), _mm256_storeu_ps(to + 8, x.high); }
inline void stream(float *to, Vec x) { _mm256_stream_ps(to, x.low), _mm256_stream_ps(to + 8, x.high); }
inline Vec operator+(Vec x, Vec y) { return {_mm256_add_ps(x.low, y.low), _mm256_add_ps(x.high, y.high)}; }
inline Vec operator-(Vec x, Vec y) { return {_mm256_sub_ps(x.low, y.low), _mm256_sub_ps(x.high, y.high)}; }
inline Vec operator*(Vec x, Vec y) { return {_mm256_mul_ps(x.low, y.low), _mm256_mul_ps(x.high, y.high)}; }
inline Vec operator/(Vec x, Vec y) { return {_mm256_div_ps(x.low, y.low), _mm256_div_ps(x.high, y.high)}; }
inline Vec fma(Vec x, Vec y, Vec z) {
  return {_mm256_fmadd_ps(x.low, y.low, z.low), _mm256_fmadd_ps(x.high, y.high, z.high)};
}
inline Vec max(Vec x, Vec y) { return {_mm256_max_ps(x.low, y.low), _mm256_max_ps(x.high, y.high)}; }
inline Vec min(Vec x, Vec y) { return {_mm256_min_ps(x.low, y.low), _mm256_min_ps(x.high, y.high)}; }
inline Vec round(Vec x) { return {_mm256_round_ps(x.low, 8), _mm256_round_ps(x.high, 8)}; }
inline __m256 scale_by_exp2(__m256 x, __m256 n) {
  const __m256i exponent = _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23);
  return _mm256_mul_ps(x, _mm256_castsi256_ps(exponent));
}
inline Vec scale_by_exp2(Vec x, Vec n) {
  return {scale_by_exp2(x.low, n.low), scale_by_exp2(x.high, n.high)};
} // x 2^n, n from -126 to 127
inline Vec reciprocal(Vec x) { return broadcast(1) / x; }
inline void keep_in_register(Vec &x) { asm("" : "+v"(x.low), "+v"(x.high)); } // keeps GCC from loading it again
inline __m128 fold(__m256 x, bool maximum) {
  const __m128 low = _mm256_castps256_ps128(x), high = _mm256_extractf128_ps(x, 1);
  return maximum ? _mm_max_ps(low, high) : _mm_add_ps(low, high);
}
inline float reduce_add(Vec x) {
  __m128 sum = fold(_mm256_add_ps(x.low, x.high), false);
  sum = _mm_add_ps(sum, _mm_movehl_ps(sum, sum));
  return _mm_cvtss_f32(_mm_add_ss(sum, _mm_movehdup_ps(sum)));
}
inline float reduce_max(Vec x) {
  __m128 most = fold(_mm256_max_ps(x.low, x.high), true);
  most = _mm_max_ps(most, _mm_movehl_ps(most, most));
  return _mm_cvtss_f32(_mm_max_ss(most, _mm_movehdup_ps(most)));
}
inline bool any_greater(Vec x, Vec y) {
  return _mm256_movemask_ps(
      _mm256_or_ps(_mm256_cmp_ps(x.low, y.low, _CMP_GT_OQ), _mm256_cmp_ps(x.high, y.high, _CMP_GT_OQ)));
}

inline __m256i lane_mask(long from, long to) {
  const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  const __m256i first = _mm256_set1_epi32(int(std::clamp(from, -1L, 16L))),
                end = _mm256_set1_epi32(int(std::clamp(to, -1L, 16L)));
  return _mm256_andnot_si256(_mm256_cmpgt_epi32(first, lane), _mm256_cmpgt_epi32(end, lane));
}
// x in the lanes [from, to), y in the others
inline Vec select(long from, long to, Vec x, Vec y) {
  return {_mm256_blendv_ps(y.low, x.low, _mm256_castsi256_ps(lane_mask(from, to))),
          _mm256_blendv_ps(y.high, x.high, _mm256_castsi256_ps(lane_mask(from - 8, to - 8)))};
}
// the first `count` numbers from memory, y in the other lanes; reads no further
inline Vec load_partial(const float *x, long count, Vec y) {
  return select(0, count,
                {_mm256_maskload_ps(x, lane_mask(0, count)), _mm256_maskload_ps(x + 8, lane_mask(0, count - 8))}, y);
}

inline __m256 to_float(__m128i x) { return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(x), 16)); }
inline Vec to_float(const bf16 *x) {
  return {to_float(_mm_loadu_si128((const __m128i *)x)), to_float(_mm_loadu_si128((const __m128i *)(x + 8)))};
}

// the first numbers of 16 pairs, and the second
inline Vec even_to_float(const bf16 *pairs) {
  const auto eight = [&](int at) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_loadu_si256((const __m256i *)(pairs + at)), 16));
  };
  return {eight(0), eight(16)};
}
inline Vec odd_to_float(const bf16 *pairs) {
  const auto eight = [&](int at) {
    const __m256i both = _mm256_loadu_si256((const __m256i *)(pairs + at));
    return _mm256_castsi256_ps(_mm256_and_si256(both, _mm256_set1_epi32(0xffff0000)));
  };
  return {eight(0), eight(16)};
}

inline __m256i to_bf16(Vec x) { // rounds to nearest, ties to even
  const auto rounded = [](__m256 half) {
    const __m256i bits = _mm256_castps_si256(half),
                  lowest = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    return _mm256_srli_epi32(_mm256_add_epi32(bits, _mm256_add_epi32(lowest, _mm256_set1_epi32(0x7fff))), 16);
  };
  return _mm256_permute4x64_epi64(_mm256_packus_epi32(rounded(x.low), rounded(x.high)), 0xd8);
}

// Transposes 16 x 16 elements of 32 bits.
inline void transpose(Vec rows[16]) {
  __m256 quarter[4][8];
  for (int i = 0; i < 8; i++) {
    quarter[0][i] = rows[i].low, quarter[1][i] = rows[i].high;
    quarter[2][i] = rows[i + 8].low, quarter[3][i] = rows[i + 8].high;
  }
  for (auto &each : quarter) transpose(each);
  for (int i = 0; i < 8; i++) rows[i] = {quarter[0][i], quarter[2][i]}, rows[i + 8] = {quarter[1][i], quarter[3][i]};
}

#endif

inline void store(bf16 *to, Vec x) { _mm256_storeu_si256((__m256i *)to, to_bf16(x)); }

// 2^x by its Taylor series. Relative error below 5e-5 (bf16 has 4e-3), or below 1e-6 where PRECISE. x is clamped to
// [-126, 127].
template <bool PRECISE = false> inline Vec exp2(Vec x) {
  x = max(min(x, broadcast(127.0f)), broadcast(-126.0f));
  const Vec n = round(x), r = x - n;
  Vec p = broadcast(PRECISE ? 1.5403530e-4f : 9.6181291e-3f);
  if (PRECISE)
    for (float c : {1.3333558e-3f, 9.6181291e-3f}) p = fma(p, r, broadcast(c));
  for (float c : {5.5504109e-2f, 2.4022651e-1f, 6.9314718e-1f, 1.0f}) p = fma(p, r, broadcast(c));
  return scale_by_exp2(p, n);
}

} // namespace vectors
