// A product's weight as native.cpp keeps it: panels of bf16, or of numbers rounded to 8 or 4 bits. Knows no model.
#pragma once

#include <type_traits>

#include "tiles.h"

namespace tiles {

inline float single(float x) { return x; }
inline float single(bf16 x) { return vectors::wide(x); }
inline __m256 widened(__m128i x) { return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(x), 16)); }

// 8 bits: a panel's numbers in their order, a byte each, to be multiplied with their column's scale in the end.
// 4 bits: for each depth a byte for every number of the first tile, that of the second in its high half; then 32
// columns' scales and 32 lows in bf16. A number is level x scale + low.
struct Product {
  const uint8_t *weight; // panels
  const float *bias;     // or null
  const float *scale;    // of each output, with 8 bits
  int64_t inputs, outputs, bits;

  int64_t depth_bytes() const { return bits == 16 ? STEP * 2 : bits == 8 ? STEP : STEP / 2 + 2 * PANEL * 2; }
  int64_t panel_bytes() const { return inputs / DEPTH * depth_bytes(); }
};

constexpr int64_t AHEAD = 8192; // bytes that are on their way before they are needed

#if defined(__AVX512BF16__)

using Opened = bf16; // the panel as it is multiplied

inline void open8(const uint8_t *from, bf16 *to) {
  for (int i = 0; i < STEP; i += 32) {
    const __m512i low = _mm512_cvtepi8_epi32(_mm_load_si128((const __m128i *)(from + i)));
    const __m512i high = _mm512_cvtepi8_epi32(_mm_load_si128((const __m128i *)(from + i + 16)));
    _mm512_store_si512(to + i, (__m512i)_mm512_cvtne2ps_pbh(_mm512_cvtepi32_ps(high), _mm512_cvtepi32_ps(low)));
  }
}

inline void open4(const uint8_t *from, bf16 *to) {
  const bf16 *scales = (const bf16 *)(from + STEP / 2), *lows = scales + PANEL;
  const __m512i first = _mm512_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7);
  const __m512i second = _mm512_add_epi32(first, _mm512_set1_epi32(8));
  for (int tile = 0; tile < 2; tile++, to += STEP / 2) {
    const __m512 scale = vectors::wide(scales + tile * 16).all, low = vectors::wide(lows + tile * 16).all;
    const __m512 scale0 = _mm512_permutexvar_ps(first, scale), scale1 = _mm512_permutexvar_ps(second, scale);
    const __m512 low0 = _mm512_permutexvar_ps(first, low), low1 = _mm512_permutexvar_ps(second, low);
    const __m256i mask = _mm256_set1_epi8(15);
    for (int i = 0; i < STEP / 2; i += 32) {
      __m256i levels = _mm256_loadu_si256((const __m256i *)(from + i));
      levels = _mm256_and_si256(tile ? _mm256_srli_epi16(levels, 4) : levels, mask);
      const __m512 a = _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm256_castsi256_si128(levels)));
      const __m512 b = _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm256_extracti128_si256(levels, 1)));
      const __m512bh both = _mm512_cvtne2ps_pbh(_mm512_fmadd_ps(b, scale1, low1), _mm512_fmadd_ps(a, scale0, low0));
      _mm512_store_si512(to + i, (__m512i)both);
    }
  }
}

#else

using Opened = float; // (inputs, 32 columns), as fma.h multiplies it

// The bytes of 8 pairs, so that those of even inputs come before those of odd ones.
inline __m128i apart(__m128i pairs) {
  return _mm_shuffle_epi8(pairs, _mm_setr_epi8(0, 2, 4, 6, 8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15));
}

inline void open8(const uint8_t *from, float *to) {
  for (int tile = 0; tile < 2; tile++)
    for (int pair = 0; pair < 16; pair++)
      for (int eight = 0; eight < 16; eight += 8) {
        const __m128i levels = apart(_mm_load_si128((const __m128i *)(from + tile * 512 + pair * 32 + eight * 2)));
        float *even = to + pair * 64 + tile * 16 + eight;
        _mm256_store_ps(even, _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(levels)));
        _mm256_store_ps(even + 32, _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_srli_si128(levels, 8))));
      }
}

inline void open4(const uint8_t *from, float *to) {
  const bf16 *scales = (const bf16 *)(from + STEP / 2), *lows = scales + PANEL;
  const auto eight = [](const bf16 *x) { return widened(_mm_loadu_si128((const __m128i *)x)); };
  for (int column = 0; column < 32; column += 8) {
    const __m256 scale = eight(scales + column), low = eight(lows + column);
    for (int pair = 0; pair < 16; pair++) {
      __m128i levels = _mm_loadu_si128((const __m128i *)(from + pair * 32 + column % 16 * 2));
      levels = apart(_mm_and_si128(column < 16 ? levels : _mm_srli_epi16(levels, 4), _mm_set1_epi8(15)));
      float *even = to + pair * 64 + column;
      const auto number = [&](__m128i level) {
        return _mm256_fmadd_ps(_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(level)), scale, low);
      };
      _mm256_store_ps(even, number(levels));
      _mm256_store_ps(even + 32, number(_mm_srli_si128(levels, 8)));
    }
  }
}

#endif

// Without products of bf16, 4 bits are multiplied as integers: x in 8 bits, a depth at a time with a scale of its own.
constexpr bool INTEGERS = std::is_same_v<Cell, float>;

struct Eights {
  int8_t x[DEPTH];
  float scale, total; // total: of the numbers before they were rounded
};

inline Eights rounded(const Cell *x) {
  Eights made;
  alignas(64) float numbers[DEPTH];
  for (int i = 0; i < DEPTH; i++) numbers[i] = single(x[i]);
  const Vec low = vectors::load(numbers), high = vectors::load(numbers + 16), none = vectors::zero();
  const float most =
      vectors::largest(vectors::larger(vectors::larger(low, none - low), vectors::larger(high, none - high)));
  made.scale = most / 127, made.total = vectors::total(low + high);
  const Vec by = vectors::every(most > 0 ? 127 / most : 0);
  vectors::store(numbers, vectors::nearest(low * by)), vectors::store(numbers + 16, vectors::nearest(high * by));
  for (int i = 0; i < DEPTH; i++) made.x[i] = int8_t(numbers[i]);
  return made;
}

// sum (R, 32) of R rows, `next` apart, and a panel of 4 bits. A level is 15 at most, so that 16 products of it with 8
// bits fit into 16 bits; these come out of order; so do scales and lows that they meet.
template <int R> inline void fours(const Eights *a, long next, const uint8_t *panel, int depths, float *sum) {
  constexpr int BYTES = STEP / 2 + 2 * PANEL * 2;
  const __m256i mask = _mm256_set1_epi8(15), ones = _mm256_set1_epi16(1);
  __m256 sums[R][2][2];
  for (auto &row : sums)
    for (auto &tile : row) tile[0] = tile[1] = _mm256_setzero_ps();
  for (int d = 0; d < depths; d++, panel += BYTES) {
    for (int line = 0; line < BYTES; line += 64) _mm_prefetch((const char *)(panel + AHEAD + line), _MM_HINT_T0);
    __m256i halves[R][2][2]; // [tile][which 16 inputs]
    for (int half = 0; half < 2; half++) {
      __m256i each[R][2];
      for (auto &row : each) row[0] = row[1] = _mm256_setzero_si256();
      for (int pair = half * 8; pair < half * 8 + 8; pair++) {
        const __m256i levels = _mm256_loadu_si256((const __m256i *)(panel + pair * 32));
        const __m256i low = _mm256_and_si256(levels, mask), high = _mm256_and_si256(_mm256_srli_epi16(levels, 4), mask);
#pragma GCC unroll 4
        for (int r = 0; r < R; r++) {
          int16_t two;
          std::memcpy(&two, a[r * next + d].x + pair * 2, 2);
          const __m256i x = _mm256_set1_epi16(two);
          each[r][0] = _mm256_add_epi16(each[r][0], _mm256_maddubs_epi16(low, x));
          each[r][1] = _mm256_add_epi16(each[r][1], _mm256_maddubs_epi16(high, x));
        }
      }
      for (int r = 0; r < R; r++) halves[r][0][half] = each[r][0], halves[r][1][half] = each[r][1];
    }
    const auto eight = [](const bf16 *x) { return widened(_mm_loadu_si128((const __m128i *)x)); };
    for (int tile = 0; tile < 2; tile++) {
      const bf16 *scales = (const bf16 *)(panel + STEP / 2) + tile * 16, *lows = scales + PANEL;
      const __m256 scale[] = {_mm256_permute2f128_ps(eight(scales), eight(scales + 8), 0x20),
                              _mm256_permute2f128_ps(eight(scales), eight(scales + 8), 0x31)};
      const __m256 low[] = {_mm256_permute2f128_ps(eight(lows), eight(lows + 8), 0x20),
                            _mm256_permute2f128_ps(eight(lows), eight(lows + 8), 0x31)};
#pragma GCC unroll 4
      for (int r = 0; r < R; r++) {
        const __m256 by = _mm256_set1_ps(a[r * next + d].scale), total = _mm256_set1_ps(a[r * next + d].total);
        const __m256i first = halves[r][tile][0], second = halves[r][tile][1];
        const __m256i added[] = {_mm256_madd_epi16(_mm256_unpacklo_epi16(first, second), ones),
                                 _mm256_madd_epi16(_mm256_unpackhi_epi16(first, second), ones)};
        for (int part = 0; part < 2; part++) {
          const __m256 more = _mm256_fmadd_ps(_mm256_cvtepi32_ps(added[part]), _mm256_mul_ps(scale[part], by),
                                              _mm256_mul_ps(low[part], total));
          sums[r][tile][part] = _mm256_add_ps(sums[r][tile][part], more);
        }
      }
    }
  }
  for (int r = 0; r < R; r++)
    for (int tile = 0; tile < 2; tile++) {
      const __m256 *parts = sums[r][tile];
      _mm256_storeu_ps(sum + r * PANEL + tile * 16, _mm256_permute2f128_ps(parts[0], parts[1], 0x20));
      _mm256_storeu_ps(sum + r * PANEL + tile * 16 + 8, _mm256_permute2f128_ps(parts[0], parts[1], 0x31));
    }
}

inline void multiply(int rows, const Eights *a, long next, const uint8_t *panel, int depths, float *sum) {
  for (int some; rows; rows -= some, a += some * next, sum += some * PANEL) {
    some = std::min(rows, 4);
    const auto compute = some == 4 ? fours<4> : some == 3 ? fours<3> : some == 2 ? fours<2> : fours<1>;
    compute(a, next, panel, depths, sum);
  }
}

// So many depths of a panel of 8 or 4 bits, opened in `room`.
inline const Opened *opened(const Product &w, const uint8_t *from, int depths, Opened *room) {
  const int64_t bytes = w.depth_bytes();
  for (int d = 0; d < depths; d++, from += bytes) {
    for (int64_t line = 0; line < bytes; line += 64) _mm_prefetch((const char *)(from + AHEAD + line), _MM_HINT_T0);
    w.bits == 8 ? open8(from, room + d * STEP) : open4(from, room + d * STEP);
  }
  return room;
}

} // namespace tiles
