// Products of fp32 rows with panels, for processors that multiply no bf16. Knows no model.
//
// A panel of fp32 is (inputs, 32 columns); one of bf16 is as in tiles.h, and its numbers are widened when they are
// multiplied. Sums are made in one order, however many rows go through together.
#pragma once

#include "vectors.h"

namespace floats {

using vectors::bf16;

#if defined(__AVX512F__)
using Register = __m512;
constexpr int MOST = 8; // rows whose sums stay in registers
inline Register zero() { return _mm512_setzero_ps(); }
inline Register load(const float *x) { return _mm512_loadu_ps(x); }
inline void store(float *to, Register x) { _mm512_storeu_ps(to, x); }
inline Register every(float x) { return _mm512_set1_ps(x); }
inline Register add(Register x, Register y, Register sum) { return _mm512_fmadd_ps(x, y, sum); }
inline Register even(const bf16 *pairs) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_loadu_si512(pairs), 16));
}
inline Register odd(const bf16 *pairs) {
  return _mm512_castsi512_ps(_mm512_and_si512(_mm512_loadu_si512(pairs), _mm512_set1_epi32(0xffff0000)));
}
#else
using Register = __m256;
constexpr int MOST = 6;
inline Register zero() { return _mm256_setzero_ps(); }
inline Register load(const float *x) { return _mm256_loadu_ps(x); }
inline void store(float *to, Register x) { _mm256_storeu_ps(to, x); }
inline Register every(float x) { return _mm256_set1_ps(x); }
inline Register add(Register x, Register y, Register sum) { return _mm256_fmadd_ps(x, y, sum); }
inline Register even(const bf16 *pairs) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_loadu_si256((const __m256i *)pairs), 16));
}
inline Register odd(const bf16 *pairs) {
  return _mm256_castsi256_ps(
      _mm256_and_si256(_mm256_loadu_si256((const __m256i *)pairs), _mm256_set1_epi32(0xffff0000)));
}
#endif
constexpr int LANES = sizeof(Register) / 4;

// One of a pair of inputs, LANES columns from `column` on.
inline Register input(const bf16 *panel, int pair, bool second, int column) {
  const bf16 *at = panel + column / 16 * 512 + pair * 32 + column % 16 * 2;
  return second ? odd(at) : even(at);
}
inline Register input(const float *panel, int pair, bool second, int column) {
  return load(panel + (pair * 2 + second) * 32 + column);
}

// R rows x C registers of columns. Rows are `lda` apart, their pieces of 32 inputs `deep`, the panel's `stride`; of it
// memory `ahead` elements further on is fetched. Of the last depth only `last` pairs of inputs are not zero.
template <int R, int C, class B>
inline void some(const float *a, long lda, long deep, const B *panel, long stride, int depths, int column, float *sum,
                 long lds, bool more, long ahead, int last) {
  Register sums[R][C];
#pragma GCC unroll 8
  for (int r = 0; r < R; r++)
#pragma GCC unroll 8
    for (int c = 0; c < C; c++)
      sums[r][c] = more ? load(sum + r * lds + column + c * LANES) : zero();
  for (int d = 0; d < depths; d++, a += deep, panel += stride)
    for (int which = 0; which < (d + 1 < depths ? 16 : last); which++) {
      if (ahead)
        for (int line = 0; line < int(64 * sizeof(B)); line += 64)
          _mm_prefetch((const char *)(panel + ahead + which * 64) + line, _MM_HINT_T0);
#pragma GCC unroll 8
      for (int odd = 0; odd < 2; odd++) {
        Register of[C];
#pragma GCC unroll 8
        for (int c = 0; c < C; c++) {
          of[c] = input(panel, which, odd, column + c * LANES);
          asm("" : "+v"(of[c])); // GCC would load it anew for every row
        }
#pragma GCC unroll 8
        for (int r = 0; r < R; r++) {
          const Register x = every(a[r * lda + which * 2 + odd]);
#pragma GCC unroll 8
          for (int c = 0; c < C; c++)
            sums[r][c] = add(x, of[c], sums[r][c]);
        }
      }
    }
#pragma GCC unroll 8
  for (int r = 0; r < R; r++)
#pragma GCC unroll 8
    for (int c = 0; c < C; c++)
      store(sum + r * lds + column + c * LANES, sums[r][c]);
}

// sum (R, 32) = a (R, 32 x depths) x panel, or that added to it.
template <int R, class B>
inline void rows(const float *a, long lda, long deep, const B *panel, long stride, int depths, float *sum, long lds,
                 bool more, long ahead, int last) {
  constexpr int C = std::min(32 / LANES, R > 2 ? 2 : 4); // so that there are sums enough to wait for each other
  for (int column = 0; column < 32; column += C * LANES, ahead = 0)
    some<R, C>(a, lda, deep, panel, stride, depths, column, sum, lds, more, ahead, last);
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
