// A product's weight as native.cpp keeps it: panels of bf16, or of numbers rounded to 8 or 4 bits. Knows no model.
#pragma once

#include "tiles.h"

namespace tiles {

// 8 bits: a panel's numbers in their order, a byte each, to be multiplied with their column's scale in the end.
// 4 bits: for each depth a byte for every number of the first tile, that of the second in its high half; then 32
// columns' scales and 32 lows in bf16. A number is level x scale + low.
constexpr int FOURS = STEP / 2 + 2 * PANEL * 2; // bytes of a depth of 4 bits

struct Product {
  const uint8_t *weight; // panels
  const float *bias;     // or null
  const float *scale;    // of each output, with 8 bits
  int64_t inputs, outputs, bits;

  int64_t depth_bytes() const { return bits == 16 ? STEP * 2 : bits == 8 ? STEP : FOURS; }
  int64_t panel_bytes() const { return inputs / DEPTH * depth_bytes(); }
  const uint8_t *at(int64_t panel, int depth) const { return weight + panel * panel_bytes() + depth * depth_bytes(); }
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

inline void open(int64_t bits, const uint8_t *from, bf16 *to) { bits == 8 ? open8(from, to) : open4(from, to); }

#else

using Opened = float; // (inputs, 32 columns), as gemm.h multiplies it

// The bytes of 8 pairs, so that those of even inputs come before those of odd ones.
inline __m128i apart(__m128i pairs) {
  return _mm_shuffle_epi8(pairs, _mm_setr_epi8(0, 2, 4, 6, 8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15));
}

inline void open(int64_t, const uint8_t *from, float *to) { // 8 bits: those of 4 are never opened (integers.h)
  for (int tile = 0; tile < 2; tile++)
    for (int pair = 0; pair < 16; pair++)
      for (int eight = 0; eight < 16; eight += 8) {
        const __m128i levels = apart(_mm_load_si128((const __m128i *)(from + tile * 512 + pair * 32 + eight * 2)));
        float *even = to + pair * 64 + tile * 16 + eight;
        _mm256_store_ps(even, _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(levels)));
        _mm256_store_ps(even + 32, _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_srli_si128(levels, 8))));
      }
}

#endif

// So many depths of a panel of few bits, opened in `room`.
inline const Opened *opened(const Product &w, const uint8_t *from, int depths, Opened *room) {
  const int64_t bytes = w.depth_bytes();
  for (int d = 0; d < depths; d++, from += bytes) {
    for (int64_t line = 0; line < bytes; line += 64) _mm_prefetch((const char *)(from + AHEAD + line), _MM_HINT_T0);
    open(w.bits, from, room + d * STEP);
  }
  return room;
}

} // namespace tiles
