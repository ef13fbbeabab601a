// Products of bf16 rows with panels, on AMX tiles or, where the processor has none, AVX-512 BF16. Knows no model.
//
// A panel is 32 columns of a matrix of I inputs (rows of the matrix), laid out as both instruction sets read it: for
// every DEPTH of 32 inputs two tiles, one for 16 columns each, of 16 pairs of inputs x 16 columns x 2. Inputs are a
// multiple of 32; what is missing is zero. Sums are fp32, in one order whatever the number of rows.
#pragma once

#include <immintrin.h>

#include <cmath>
#include <cstdint>
#include <cstring>

#if defined(__AMX_BF16__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace tiles {

using bf16 = uint16_t;

constexpr int ROWS = 16;            // of a tile
constexpr int PANEL = 32;           // columns
constexpr int DEPTH = 32;           // inputs
constexpr int STEP = DEPTH * PANEL; // elements of a panel for one depth
constexpr int MOST = 32;            // rows that go through a product at once

inline float wide(bf16 x) {
  uint32_t bits = uint32_t(x) << 16;
  float y;
  std::memcpy(&y, &bits, 4);
  return y;
}

inline bf16 narrow(float x) { return (bf16)_mm256_extract_epi16((__m256i)_mm512_cvtneps_pbh(_mm512_set1_ps(x)), 0); }

inline __m512 wide(const bf16 *x) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)x)), 16));
}

inline void narrow(bf16 *to, __m512 x) { _mm256_storeu_si256((__m256i *)to, (__m256i)_mm512_cvtneps_pbh(x)); }

// e^x for x <= 0 or so, as 2^n times a polynomial: relative error below 2e-7 (Cephes' coefficients of expf).
inline __m512 exponential(__m512 x) {
  x = _mm512_max_ps(_mm512_min_ps(x, _mm512_set1_ps(88.0f)), _mm512_set1_ps(-87.3f));
  __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(1.44269504f)), 0);
  __m512 r = _mm512_fnmadd_ps(n, _mm512_set1_ps(0.693359375f), x);
  r = _mm512_fnmadd_ps(n, _mm512_set1_ps(-2.12194440e-4f), r);
  __m512 p = _mm512_set1_ps(1.9875691500e-4f);
  for (float c : {1.3981999507e-3f, 8.3334519073e-3f, 4.1665795894e-2f, 1.6666665459e-1f, 5.0000001201e-1f})
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(c));
  p = _mm512_fmadd_ps(_mm512_mul_ps(p, r), r, _mm512_add_ps(r, _mm512_set1_ps(1.0f)));
  return _mm512_scalef_ps(p, n);
}

inline __m512 silu(__m512 x) {
  __m512 e = exponential(_mm512_sub_ps(_mm512_setzero_ps(), x));
  return _mm512_div_ps(x, _mm512_add_ps(_mm512_set1_ps(1.0f), e));
}

#if defined(__AMX_BF16__)

// Asks Linux for the tiles, once a process; false where it refuses.
inline bool permitted() { return syscall(SYS_arch_prctl, 0x1023, 18) == 0; }

// A thread calls these around its products; other code may use the tiles between.
inline void begin() {
  alignas(64) struct {
    uint8_t palette = 1, start = 0, zero[14] = {};
    uint16_t bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
    uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
  } config;
  _tile_loadconfig(&config);
}
inline void end() { _tile_release(); }

template <bool TWO, bool ADD>
inline void multiply_(const bf16 *a, long lda, const bf16 *panel, long stride, int depths, float *sum, long lds,
                      long ahead) {
  if (ADD) {
    _tile_loadd(0, sum, lds * 4);
    _tile_loadd(1, sum + 16, lds * 4);
    if (TWO) {
      _tile_loadd(2, sum + 16 * lds, lds * 4);
      _tile_loadd(3, sum + 16 * lds + 16, lds * 4);
    }
  } else {
    _tile_zero(0);
    _tile_zero(1);
    if (TWO) {
      _tile_zero(2);
      _tile_zero(3);
    }
  }
  for (int d = 0; d < depths; d++, a += DEPTH, panel += stride) {
    if (ahead)
      for (int line = 0; line < STEP; line += 32) _mm_prefetch((const char *)(panel + ahead + line), _MM_HINT_T0);
    _tile_loadd(4, a, lda * 2);
    _tile_loadd(6, panel, 64);
    _tile_dpbf16ps(0, 4, 6);
    _tile_loadd(7, panel + STEP / 2, 64);
    _tile_dpbf16ps(1, 4, 7);
    if (TWO) {
      _tile_loadd(5, a + 16 * lda, lda * 2);
      _tile_dpbf16ps(2, 5, 6);
      _tile_dpbf16ps(3, 5, 7);
    }
  }
  _tile_stored(0, sum, lds * 4);
  _tile_stored(1, sum + 16, lds * 4);
  if (TWO) {
    _tile_stored(2, sum + 16 * lds, lds * 4);
    _tile_stored(3, sum + 16 * lds + 16, lds * 4);
  }
}

#else

inline bool permitted() { return true; }
inline void begin() {}
inline void end() {}

template <int R, bool ADD>
inline void few(const bf16 *a, long lda, const bf16 *panel, long stride, int depths, float *sum, long lds, long ahead) {
  __m512 low[R], high[R];
  for (int r = 0; r < R; r++) {
    low[r] = ADD ? _mm512_loadu_ps(sum + r * lds) : _mm512_setzero_ps();
    high[r] = ADD ? _mm512_loadu_ps(sum + r * lds + 16) : _mm512_setzero_ps();
  }
  for (int d = 0; d < depths; d++, a += DEPTH, panel += stride) {
    for (int pair = 0; pair < 16; pair++) {
      if (ahead) {
        _mm_prefetch((const char *)(panel + ahead + pair * 64), _MM_HINT_T0);
        _mm_prefetch((const char *)(panel + ahead + pair * 64 + 32), _MM_HINT_T0);
      }
      __m512bh b0 = (__m512bh)_mm512_loadu_si512(panel + pair * 32);
      __m512bh b1 = (__m512bh)_mm512_loadu_si512(panel + STEP / 2 + pair * 32);
      for (int r = 0; r < R; r++) {
        int two;
        std::memcpy(&two, a + r * lda + pair * 2, 4);
        __m512bh x = (__m512bh)_mm512_set1_epi32(two);
        low[r] = _mm512_dpbf16_ps(low[r], x, b0);
        high[r] = _mm512_dpbf16_ps(high[r], x, b1);
      }
    }
  }
  for (int r = 0; r < R; r++) {
    _mm512_storeu_ps(sum + r * lds, low[r]);
    _mm512_storeu_ps(sum + r * lds + 16, high[r]);
  }
}

template <bool ADD>
inline void any(int rows, const bf16 *a, long lda, const bf16 *panel, long stride, int depths, float *sum, long lds,
                long ahead) {
  for (; rows >= 8; rows -= 8, a += 8 * lda, sum += 8 * lds, ahead = 0)
    few<8, ADD>(a, lda, panel, stride, depths, sum, lds, ahead);
  if (rows >= 4) {
    few<4, ADD>(a, lda, panel, stride, depths, sum, lds, ahead);
    rows -= 4, a += 4 * lda, sum += 4 * lds, ahead = 0;
  }
  for (; rows > 0; rows--, a += lda, sum += lds, ahead = 0)
    few<1, ADD>(a, lda, panel, stride, depths, sum, lds, ahead);
}

#endif

// sum (rows, 32) = a (rows, 32 x depths) x panel, or that added to it. At most MOST rows, but `a` and `sum` can be read
// and written up to the next multiple of 16. `stride`: elements of the panel from a depth to the next, STEP where it
// lies in one piece. `ahead`: how many elements ahead of the product memory is fetched; 0 for not at all.
inline void multiply(int rows, const bf16 *a, long lda, const bf16 *panel, long stride, int depths, float *sum, long lds,
                     bool add = false, long ahead = 0) {
#if defined(__AMX_BF16__)
  if (rows > ROWS)
    add ? multiply_<true, true>(a, lda, panel, stride, depths, sum, lds, ahead)
        : multiply_<true, false>(a, lda, panel, stride, depths, sum, lds, ahead);
  else
    add ? multiply_<false, true>(a, lda, panel, stride, depths, sum, lds, ahead)
        : multiply_<false, false>(a, lda, panel, stride, depths, sum, lds, ahead);
#else
  add ? any<true>(rows, a, lda, panel, stride, depths, sum, lds, ahead)
      : any<false>(rows, a, lda, panel, stride, depths, sum, lds, ahead);
#endif
}

} // namespace tiles
