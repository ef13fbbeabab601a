// The weight of a linear layer in panels of bf16, 8 bits or 4 bits, and its way back to what is multiplied. Knows no
// model.
#pragma once

#include "tiles.h"

namespace tiles {

// 8 bits: the numbers of a bf16 panel in the same order, a byte each; columns are scaled after the product.
// 4 bits: for each block of inputs a byte for every number of the first tile, with that of the second in its high half,
// then 32 scales and 32 offsets of the columns in bf16. A number is level x scale + offset.
constexpr int INT4_SCALES = PANEL_BLOCK / 2; // where the scales of a block begin, in bytes
constexpr int INT4_BLOCK_BYTES = INT4_SCALES + 2 * PANEL_WIDTH * int(sizeof(bf16));

struct PanelWeight {
  const uint8_t *panels;
  const float *bias;  // (outputs), or null
  const float *scale; // (outputs) with 8 bits, else null
  int64_t inputs, outputs, bits;

  int64_t block_bytes() const {
    return bits == 16 ? PANEL_BLOCK * int64_t(sizeof(bf16)) : bits == 8 ? PANEL_BLOCK : INT4_BLOCK_BYTES;
  }
  int64_t panel_bytes() const { return inputs / K_BLOCK * block_bytes(); }
  const uint8_t *at(int64_t panel, int k_block) const {
    return panels + panel * panel_bytes() + k_block * block_bytes();
  }
};

constexpr int64_t PREFETCH_BYTES = 8192; // how far ahead weights are fetched from memory
constexpr int64_t PREFETCH_DISTANCE = PREFETCH_BYTES / int64_t(sizeof(bf16));

#if defined(__AVX512BF16__)

using Dequantized = bf16; // a panel of bf16, as it is multiplied

inline void dequantize_int8(const uint8_t *from, bf16 *to) {
  for (int i = 0; i < PANEL_BLOCK; i += 32) {
    const __m512i low = _mm512_cvtepi8_epi32(_mm_load_si128((const __m128i *)(from + i)));
    const __m512i high = _mm512_cvtepi8_epi32(_mm_load_si128((const __m128i *)(from + i + 16)));
    _mm512_store_si512(to + i, (__m512i)_mm512_cvtne2ps_pbh(_mm512_cvtepi32_ps(high), _mm512_cvtepi32_ps(low)));
  }
}

inline void dequantize_int4(const uint8_t *from, bf16 *to) {
  const bf16 *scales = (const bf16 *)(from + INT4_SCALES), *offsets = scales + PANEL_WIDTH;
  const __m512i first = _mm512_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7);
  const __m512i second = _mm512_add_epi32(first, _mm512_set1_epi32(8));
  for (int tile = 0; tile < 2; tile++, to += TILE) {
    const __m512 scale = vectors::to_float(scales + tile * HALF).all;
    const __m512 offset = vectors::to_float(offsets + tile * HALF).all;
    const __m512 scale0 = _mm512_permutexvar_ps(first, scale), scale1 = _mm512_permutexvar_ps(second, scale);
    const __m512 offset0 = _mm512_permutexvar_ps(first, offset), offset1 = _mm512_permutexvar_ps(second, offset);
    const __m256i mask = _mm256_set1_epi8(15);
    for (int i = 0; i < TILE; i += 32) {
      __m256i levels = _mm256_loadu_si256((const __m256i *)(from + i));
      levels = _mm256_and_si256(tile ? _mm256_srli_epi16(levels, 4) : levels, mask);
      const __m512 a = _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm256_castsi256_si128(levels)));
      const __m512 b = _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm256_extracti128_si256(levels, 1)));
      const __m512bh both =
          _mm512_cvtne2ps_pbh(_mm512_fmadd_ps(b, scale1, offset1), _mm512_fmadd_ps(a, scale0, offset0));
      _mm512_store_si512(to + i, (__m512i)both);
    }
  }
}

inline void dequantize_block(int64_t bits, const uint8_t *from, bf16 *to) {
  bits == 8 ? dequantize_int8(from, to) : dequantize_int4(from, to);
}

#else

using Dequantized = float; // a panel of fp32, (inputs, 32 columns), as gemm.h multiplies it

// The bytes of 8 pairs, those of even inputs before those of odd ones.
inline __m128i deinterleave(__m128i pairs) {
  return _mm_shuffle_epi8(pairs, _mm_setr_epi8(0, 2, 4, 6, 8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15));
}

// 8 bits alone: 4 bits are multiplied as integers (int4_products.h).
inline void dequantize_block(int64_t, const uint8_t *from, float *to) {
  for (int tile = 0; tile < 2; tile++)
    for (int pair = 0; pair < gemm::PAIRS; pair++)
      for (int column = 0; column < HALF; column += 8) {
        const __m128i levels =
            deinterleave(_mm_load_si128((const __m128i *)(from + tile * TILE + pair * 2 * HALF + column * 2)));
        float *even = to + pair * 2 * PANEL_WIDTH + tile * HALF + column;
        _mm256_store_ps(even, _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(levels)));
        _mm256_store_ps(even + PANEL_WIDTH, _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_srli_si128(levels, 8))));
      }
}

#endif

// Some blocks of a panel of 8 or 4 bits as they are multiplied, in `buffer`.
inline const Dequantized *dequantized(const PanelWeight &w, const uint8_t *from, int k_blocks, Dequantized *buffer) {
  const int64_t bytes = w.block_bytes();
  for (int k = 0; k < k_blocks; k++, from += bytes) {
    for (int64_t line = 0; line < bytes; line += CACHE_LINE)
      _mm_prefetch((const char *)(from + PREFETCH_BYTES + line), _MM_HINT_T0);
    dequantize_block(w.bits, from, buffer + k * PANEL_BLOCK);
  }
  return buffer;
}

} // namespace tiles
