// Products of fp32 rows with panels, for processors that multiply no bf16. Knows no model.
//
// A panel of fp32 is (inputs, 32 columns); one of bf16 is as in tiles.h, and its numbers are widened when they are
// multiplied. Sums are made in one order, however many rows go through together.
#pragma once

#include "vectors.h"

namespace fma_ {

using vectors::bf16;

#if defined(__AVX512F__)
using Register = __m512;
constexpr int MOST = 8; // rows whose sums stay in registers
inline Register zero() { return _mm512_setzero_ps(); }
inline Register load(const float *x) { return _mm512_loadu_ps(x); }
inline void store(float *to, Register x) { _mm512_storeu_ps(to, x); }
inline Register every(float x) { return _mm512_set1_ps(x); }
inline Register add(Register x, Register y, Register sum) { return _mm512_fmadd_ps(x, y, sum); }
inline void both(const bf16 *pairs, Register &even, Register &odd) {
  const __m512i bits = _mm512_loadu_si512(pairs);
  even = _mm512_castsi512_ps(_mm512_slli_epi32(bits, 16));
  odd = _mm512_castsi512_ps(_mm512_and_si512(bits, _mm512_set1_epi32(0xffff0000)));
}
#else
using Register = __m256;
constexpr int MOST = 6;
inline Register zero() { return _mm256_setzero_ps(); }
inline Register load(const float *x) { return _mm256_loadu_ps(x); }
inline void store(float *to, Register x) { _mm256_storeu_ps(to, x); }
inline Register every(float x) { return _mm256_set1_ps(x); }
inline Register add(Register x, Register y, Register sum) { return _mm256_fmadd_ps(x, y, sum); }
inline void both(const bf16 *pairs, Register &even, Register &odd) {
  const __m256i bits = _mm256_loadu_si256((const __m256i *)pairs);
  even = _mm256_castsi256_ps(_mm256_slli_epi32(bits, 16));
  odd = _mm256_castsi256_ps(_mm256_and_si256(bits, _mm256_set1_epi32(0xffff0000)));
}
#endif
constexpr int LANES = sizeof(Register) / 4;

// Two inputs of LANES columns from `column` on.
inline void pair(const bf16 *panel, int which, int column, Register &even, Register &odd) {
  both(panel + column / 16 * 512 + which * 32 + column % 16 * 2, even, odd);
}
inline void pair(const float *panel, int which, int column, Register &even, Register &odd) {
  even = load(panel + which * 64 + column), odd = load(panel + which * 64 + 32 + column);
}

// R rows x C registers of columns. Rows are `lda` apart, their pieces of 32 inputs `deep`, the panel's `stride`; of it
// memory `ahead` elements further on is fetched.
template <int R, int C, class B>
inline void some(const float *a, long lda, long deep, const B *panel, long stride, int depths, int column, float *sum,
                 long lds, bool more, long ahead) {
  Register sums[R][C];
  for (int r = 0; r < R; r++)
    for (int c = 0; c < C; c++)
      sums[r][c] = more ? load(sum + r * lds + column + c * LANES) : zero();
  for (int d = 0; d < depths; d++, a += deep, panel += stride)
    for (int which = 0; which < 16; which++) {
      if (ahead)
        for (int line = 0; line < int(64 * sizeof(B)); line += 64)
          _mm_prefetch((const char *)(panel + ahead + which * 64) + line, _MM_HINT_T0);
      Register even[C], odd[C];
      for (int c = 0; c < C; c++)
        pair(panel, which, column + c * LANES, even[c], odd[c]);
      for (int r = 0; r < R; r++) {
        const Register x = every(a[r * lda + which * 2]);
        for (int c = 0; c < C; c++)
          sums[r][c] = add(x, even[c], sums[r][c]);
      }
      for (int r = 0; r < R; r++) {
        const Register x = every(a[r * lda + which * 2 + 1]);
        for (int c = 0; c < C; c++)
          sums[r][c] = add(x, odd[c], sums[r][c]);
      }
    }
  for (int r = 0; r < R; r++)
    for (int c = 0; c < C; c++)
      store(sum + r * lds + column + c * LANES, sums[r][c]);
}

// sum (R, 32) = a (R, 32 x depths) x panel, or that added to it.
template <int R, class B>
inline void rows(const float *a, long lda, long deep, const B *panel, long stride, int depths, float *sum, long lds,
                 bool more, long ahead = 0) {
  constexpr int C = std::min(32 / LANES, R > 2 ? 2 : 4); // so that there are sums enough to wait for each other
  for (int column = 0; column < 32; column += C * LANES, ahead = 0)
    some<R, C>(a, lda, deep, panel, stride, depths, column, sum, lds, more, ahead);
}

// The same for any number of rows.
template <class B>
inline void multiply(int count, const float *a, long lda, long deep, const B *panel, long stride, int depths,
                     float *sum, long lds, bool more, long ahead = 0) {
  for (int left; count; count -= left) {
    const int groups = (count + MOST - 1) / MOST;
    left = (count + groups - 1) / groups;
    const auto compute = left == 8   ? rows<8, B>
                         : left == 7 ? rows<7, B>
                         : left == 6 ? rows<6, B>
                         : left == 5 ? rows<5, B>
                         : left == 4 ? rows<4, B>
                         : left == 3 ? rows<3, B>
                         : left == 2 ? rows<2, B>
                                     : rows<1, B>;
    compute(a, lda, deep, panel, stride, depths, sum, lds, more, ahead);
    a += left * lda, sum += left * lds, ahead = 0;
  }
}

} // namespace fma_
