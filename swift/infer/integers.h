// Products with weights of 4 bits as integers, for processors that do not multiply bf16. Knows no model.
//
// x is rounded to 8 bits, 32 numbers at a time with a scale of their own. A number of a weight is level x scale + low
// (see weights.h), so a depth adds scale x (levels . x) + low x (the sum of x).
#pragma once

#include <type_traits>

#include "weights.h"

namespace tiles {

constexpr bool INTEGERS = std::is_same_v<Cell, float>;

struct Eights {
  int8_t x[DEPTH];
  float scale, total; // total: of the numbers before they were rounded
};

inline Eights rounded(const float *x) {
  Eights made;
  alignas(64) float numbers[DEPTH];
  const Vec low = vectors::load(x), high = vectors::load(x + 16), none = vectors::zero();
  const float most =
      vectors::largest(vectors::larger(vectors::larger(low, none - low), vectors::larger(high, none - high)));
  made.scale = most / 127, made.total = vectors::total(low + high);
  const Vec by = vectors::every(most > 0 ? 127 / most : 0);
  vectors::store(numbers, vectors::nearest(low * by)), vectors::store(numbers + 16, vectors::nearest(high * by));
  for (int i = 0; i < DEPTH; i++) made.x[i] = int8_t(numbers[i]);
  return made;
}

// sum (R, 32) of R rows, `next` apart, and a panel of 4 bits. A level is 15 at most, so that 16 products of it with 8
// bits fit into 16 bits. Sums come out of order, columns 0 to 3 and 8 to 11 before the others, and so do scales and
// lows.
template <int R> inline void fours(const Eights *a, long next, const uint8_t *panel, int depths, float *sum) {
  const __m256i mask = _mm256_set1_epi8(15), ones = _mm256_set1_epi16(1);
  __m256 sums[R][2][2];
  for (auto &row : sums)
    for (auto &tile : row) tile[0] = tile[1] = _mm256_setzero_ps();
  for (int d = 0; d < depths; d++, panel += FOURS) {
    for (int line = 0; line < FOURS; line += 64) _mm_prefetch((const char *)(panel + AHEAD + line), _MM_HINT_T0);
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
    const auto eight = [](const bf16 *x) {
      return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)x)), 16));
    };
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

} // namespace tiles
