// Products with weights of 4 bits as integers, for processors without tiles. Knows no model.
//
// x is rounded to 8 bits, 32 numbers at a time with a scale of their own. A number of a weight is level x scale + low
// (see weights.h), so a depth adds scale x (levels . x) + low x (the sum of x).
#pragma once

#include <type_traits>

#include "weights.h"

namespace tiles {

constexpr bool INTEGERS = !THERE;

struct Eights {
  int8_t x[DEPTH];
  float scale, total; // total: of the numbers before they were rounded
};

inline Eights rounded(const Cell *x) {
  Eights made;
  alignas(64) float near[DEPTH];
  const Vec low = numbers(x), high = numbers(x + 16), none = vectors::zero();
  const float most =
      vectors::largest(vectors::larger(vectors::larger(low, none - low), vectors::larger(high, none - high)));
  made.scale = most / 127, made.total = vectors::total(low + high);
  const Vec by = vectors::every(most > 0 ? 127 / most : 0);
  vectors::store(near, vectors::nearest(low * by)), vectors::store(near + 16, vectors::nearest(high * by));
  for (int i = 0; i < DEPTH; i++) made.x[i] = int8_t(near[i]);
  return made;
}

#if defined(__AVX512VNNI__) && defined(__AVX512BW__)

constexpr int TOGETHER = 6; // rows whose sums stay in registers

// A depth of a panel as it is multiplied: of each tile 8 times 16 columns' levels of 4 inputs.
struct alignas(64) Levels {
  uint8_t of[2][8][64];
  float scale[2][16], low[2][16];
};

inline void open4(const uint8_t *from, Levels &to) {
  // two pairs of inputs of 16 columns each become 16 fours
  const __m512i fours = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6, 21,
                                         5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
  const __m512i mask = _mm512_set1_epi8(15);
#pragma GCC unroll 8
  for (int four = 0; four < 8; four++) {
    const __m512i levels = _mm512_permutexvar_epi16(fours, _mm512_loadu_si512(from + four * 64));
    _mm512_store_si512(to.of[0][four], _mm512_and_si512(levels, mask));
    _mm512_store_si512(to.of[1][four], _mm512_and_si512(_mm512_srli_epi16(levels, 4), mask));
  }
  const bf16 *scales = (const bf16 *)(from + STEP / 2), *lows = scales + PANEL;
  for (int tile = 0; tile < 2; tile++) {
    vectors::store(to.scale[tile], vectors::wide(scales + tile * 16));
    vectors::store(to.low[tile], vectors::wide(lows + tile * 16));
  }
}

// sum (R, 32) of R rows, `next` apart, and some depths of a panel, or that added to it.
template <int R> inline void fours(const Eights *a, long next, const Levels *panel, int depths, float *sum, bool more) {
  Vec sums[R][2];
#pragma GCC unroll 8
  for (int r = 0; r < R; r++)
#pragma GCC unroll 2
    for (int tile = 0; tile < 2; tile++)
      sums[r][tile] = more ? vectors::load(sum + r * PANEL + tile * 16) : vectors::zero();
  for (int d = 0; d < depths; d++, panel++, a++) {
    __m512i each[R][2];
#pragma GCC unroll 8
    for (int r = 0; r < R; r++) each[r][0] = each[r][1] = _mm512_setzero_si512();
#pragma GCC unroll 8
    for (int four = 0; four < 8; four++) {
      __m512i first = _mm512_load_si512(panel->of[0][four]), second = _mm512_load_si512(panel->of[1][four]);
      asm("" : "+v"(first), "+v"(second)); // GCC would load them anew for every row
#pragma GCC unroll 8
      for (int r = 0; r < R; r++) {
        int32_t inputs;
        std::memcpy(&inputs, a[r * next].x + four * 4, 4);
        const __m512i x = _mm512_set1_epi32(inputs);
        each[r][0] = _mm512_dpbusd_epi32(each[r][0], first, x);
        each[r][1] = _mm512_dpbusd_epi32(each[r][1], second, x);
      }
    }
#pragma GCC unroll 2
    for (int tile = 0; tile < 2; tile++) {
      const Vec scale = vectors::load(panel->scale[tile]), low = vectors::load(panel->low[tile]);
#pragma GCC unroll 8
      for (int r = 0; r < R; r++) {
        const Vec product = Vec{_mm512_cvtepi32_ps(each[r][tile])} * vectors::every(a[r * next].scale);
        sums[r][tile] =
            vectors::fma(product, scale, vectors::fma(low, vectors::every(a[r * next].total), sums[r][tile]));
      }
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; r++)
#pragma GCC unroll 2
    for (int tile = 0; tile < 2; tile++) vectors::store(sum + r * PANEL + tile * 16, sums[r][tile]);
}

inline const Levels *levels(const uint8_t *from, int depths, Levels *room) {
  for (int d = 0; d < depths; d++, from += FOURS) {
    for (int line = 0; line < FOURS; line += 64) _mm_prefetch((const char *)(from + AHEAD + line), _MM_HINT_T0);
    open4(from, room[d]);
  }
  return room;
}

#else

constexpr int TOGETHER = 4;
using Levels = uint8_t; // as they are kept

// sum (R, 32) of R rows, `next` apart, and a panel of 4 bits. A level is 15 at most, so that 16 products of it with 8
// bits fit into 16 bits. Sums come out of order, columns 0 to 3 and 8 to 11 before the others, and so do scales and
// lows.
template <int R>
inline void fours(const Eights *a, long next, const uint8_t *panel, int depths, float *sum, bool more) {
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
      const Vec made = {_mm256_permute2f128_ps(parts[0], parts[1], 0x20),
                        _mm256_permute2f128_ps(parts[0], parts[1], 0x31)};
      float *to = sum + r * PANEL + tile * 16;
      vectors::store(to, more ? vectors::load(to) + made : made);
    }
}

inline const Levels *levels(const uint8_t *from, int, Levels *) { return from; }

#endif

template <int R = TOGETHER> inline auto fours_of(int rows) {
  if constexpr (R > 1)
    if (rows < R) return fours_of<R - 1>(rows);
  return fours<R>;
}

// sum (rows, 32) = rows, `next` apart, x a panel of 4 bits: so many depths at a time that they stay in the first-level
// cache, where all rows meet them.
inline void multiply(int64_t rows, const Eights *a, long next, const uint8_t *panel, int depths, float *sum) {
  constexpr int SOME = 24;
  Levels room[sizeof(Levels) > 1 ? SOME : 1];
  const int bytes = sizeof(Levels) > 1 ? sizeof(Levels) : FOURS;
  const int most = std::clamp(int(caches::first() / 2 / bytes), 1, SOME), parts = (depths + most - 1) / most;
  const int deep = (depths + parts - 1) / parts;
  for (int from = 0; from < depths; from += deep) {
    const int here = std::min(deep, depths - from);
    const Levels *of = levels(panel + from * FOURS, here, room);
    for (int64_t row = 0, some; row < rows; row += some) {
      const int64_t groups = (rows - row + TOGETHER - 1) / TOGETHER;
      some = (rows - row + groups - 1) / groups;
      fours_of(int(some))(a + row * next + from, next, of, here, sum + row * PANEL, from > 0);
    }
  }
}

} // namespace tiles
