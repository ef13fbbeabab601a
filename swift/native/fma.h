// Products of fp32 rows with panels, for processors that multiply no bf16. Knows no model.
//
// A panel of fp32 is (inputs, 32 columns); one of bf16 is as in tiles.h, and its numbers are widened when they are
// multiplied. Sums are made in one order, however many rows go through together.
#pragma once

#include "vectors.h"

namespace floats {

using vectors::bf16;
using vectors::Vec;

constexpr int MOST = vectors::AVX512 ? 8 : 6; // rows whose sums stay in registers

// One of a pair of inputs, of 16 columns.
inline Vec input(const bf16 *panel, int pair, bool second, int half) {
  const bf16 *at = panel + half * 512 + pair * 32;
  return second ? vectors::odd(at) : vectors::even(at);
}
inline Vec input(const float *panel, int pair, bool second, int half) {
  return vectors::load(panel + (pair * 2 + second) * 32 + half * 16);
}

// R rows x H halves of a panel. Rows are `lda` apart, their pieces of 32 inputs `deep`, the panel's `stride`; of it
// memory `ahead` elements further on is fetched. Of the last depth only `last` pairs of inputs are not zero.
template <int R, int H, class B>
inline void some(const float *a, long lda, long deep, const B *panel, long stride, int depths, int half, float *sum,
                 long lds, bool more, long ahead, int last) {
  Vec sums[R][H];
#pragma GCC unroll 8
  for (int r = 0; r < R; r++)
#pragma GCC unroll 8
    for (int h = 0; h < H; h++)
      sums[r][h] = more ? vectors::load(sum + r * lds + (half + h) * 16) : vectors::zero();
  for (int d = 0; d < depths; d++, a += deep, panel += stride)
    for (int which = 0; which < (d + 1 < depths ? 16 : last); which++) {
      if (ahead)
        for (int line = 0; line < int(64 * sizeof(B)); line += 64)
          _mm_prefetch((const char *)(panel + ahead + which * 64) + line, _MM_HINT_T0);
#pragma GCC unroll 8
      for (int odd = 0; odd < 2; odd++) {
        Vec of[H];
#pragma GCC unroll 8
        for (int h = 0; h < H; h++) {
          of[h] = input(panel, which, odd, half + h);
          vectors::hold(of[h]); // GCC would load it anew for every row
        }
#pragma GCC unroll 8
        for (int r = 0; r < R; r++) {
          const Vec x = vectors::every(a[r * lda + which * 2 + odd]);
#pragma GCC unroll 8
          for (int h = 0; h < H; h++)
            sums[r][h] = vectors::fma(x, of[h], sums[r][h]);
        }
      }
    }
#pragma GCC unroll 8
  for (int r = 0; r < R; r++)
#pragma GCC unroll 8
    for (int h = 0; h < H; h++)
      vectors::store(sum + r * lds + (half + h) * 16, sums[r][h]);
}

// sum (R, 32) = a (R, 32 x depths) x panel, or that added to it.
template <int R, class B>
inline void rows(const float *a, long lda, long deep, const B *panel, long stride, int depths, float *sum, long lds,
                 bool more, long ahead, int last) {
  constexpr int H = vectors::AVX512 || R <= 2 ? 2 : 1; // so that there are sums enough to wait for each other
  for (int half = 0; half < 2; half += H, ahead = 0)
    some<R, H>(a, lda, deep, panel, stride, depths, half, sum, lds, more, ahead, last);
}

template <class B, int R = MOST> inline auto rows_of(int count) {
  if constexpr (R > 1)
    if (count < R)
      return rows_of<B, R - 1>(count);
  return rows<R, B>;
}

// The same for any number of rows.
template <class B>
inline void multiply(int count, const float *a, long lda, long deep, const B *panel, long stride, int depths,
                     float *sum, long lds, bool more, long ahead = 0, int last = 16) {
  for (int some; count; count -= some) {
    const int groups = (count + MOST - 1) / MOST;
    some = (count + groups - 1) / groups;
    rows_of<B>(some)(a, lda, deep, panel, stride, depths, sum, lds, more, ahead, last);
    a += some * lda, sum += some * lds, ahead = 0;
  }
}

} // namespace floats
