// Panels from blocks and from frozen weights, and transposed. Knows no product.
#pragma once

#include "blocks.h"

namespace block {

// A block as 32 inputs of a panel: its rows are the inputs, of which the first `rows` count and the others are zero.
// Writes the first `planes` alone.
inline void panel_of_rows(bf16 *to, const bf16 *from, long rows = SIDE, int planes = PLANES) {
  for (int plane = 0; plane < planes; plane++)
    for (int pair = 0; pair < SIDE / 2; pair++) {
      const bf16 *two = from + plane * PLANE_SIZE + 2 * pair * SIDE;
      Bf16x32 row0 = 2 * pair < rows ? load_bf16(two) : zero_bf16();
      Bf16x32 row1 = 2 * pair + 1 < rows ? load_bf16(two + SIDE) : zero_bf16();
      interleave(to + plane * PLANE_SIZE + pair * 2 * HALF, row0, row1);
    }
}
inline void panel_of_rows(float *to, const float *from, long rows = SIDE) {
  rows = std::min<long>(rows, SIDE);
  std::memcpy(to, from, rows * SIDE * sizeof(float));
  std::memset(to + rows * SIDE, 0, (SIDE - rows) * SIDE * sizeof(float));
}

// Transposes a block of 32 x 32 elements of 32 bits; rows from `rows` on count as zero.
inline void transpose(float *to, const float *from, long rows = SIDE) {
  for (int low = 0; low < SIDE; low += HALF) // rows
    for (int left = 0; left < SIDE; left += HALF) {
      Vec r[HALF];
      for (int i = 0; i < HALF; i++) r[i] = low + i < rows ? vectors::load(from + (low + i) * SIDE + left) : zero();
      vectors::transpose(r);
      for (int i = 0; i < HALF; i++) vectors::store(to + (left + i) * SIDE + low, r[i]);
    }
}

// A block as 32 inputs of a panel: its rows are the columns.
inline void panel_of_columns(bf16 *to, const bf16 *from, int planes = PLANES) {
  for (long tile = 0; tile < planes * PLANE_SIZE; tile += TILE) {
    Vec r[HALF]; // pairs of inputs
    for (int i = 0; i < HALF; i++) r[i] = vectors::load((const float *)(from + tile + i * SIDE));
    vectors::transpose(r);
    for (int i = 0; i < HALF; i++) vectors::store((float *)(to + tile + i * SIDE), r[i]);
  }
}
inline void panel_of_columns(float *to, const float *from) { transpose(to, from); }

#if defined(__AVX512BF16__)
// Transposes a block of bf16; rows from `rows` on count as zero.
inline void transpose(bf16 *to, const bf16 *from, long rows = SIDE) {
  const __m512i even = _mm512_set_epi16(62, 60, 58, 56, 54, 52, 50, 48, 46, 44, 42, 40, 38, 36, 34, 32, 30, 28, 26, 24,
                                        22, 20, 18, 16, 14, 12, 10, 8, 6, 4, 2, 0);
  const __m512i odd = _mm512_add_epi16(even, _mm512_set1_epi16(1));
  for (int plane = 0; plane < PLANES; plane++, to += PLANE_SIZE, from += PLANE_SIZE) {
    Vec half[2][HALF];
    for (int h = 0; h < 2; h++) {
      for (int i = 0; i < HALF; i++)
        half[h][i] = h * HALF + i < rows ? vectors::load((const float *)(from + (h * HALF + i) * SIDE)) : zero();
      vectors::transpose(half[h]);
    }
    const auto picked = [&](int i, __m512i which) {
      return _mm512_permutex2var_epi16(_mm512_castps_si512(half[0][i].all), which, _mm512_castps_si512(half[1][i].all));
    };
    for (int i = 0; i < HALF; i++) {
      _mm512_storeu_si512(to + 2 * i * SIDE, picked(i, even));
      _mm512_storeu_si512(to + (2 * i + 1) * SIDE, picked(i, odd));
    }
  }
}
#endif

// A block of a frozen weight (outputs, inputs) as 32 inputs of a panel whose columns are the outputs; row(i) loads 32
// inputs of an output. A number takes the memory of `planes` bf16.
template <class LoadRow> inline void weight_panel(bf16 *panel, int planes, LoadRow row) {
  const auto make = [&](auto *block, auto *to, auto... planes) {
    for (long i = 0; i < SIDE; i++) store(block + i * SIDE, row(i));
    panel_of_columns(to, block, planes...);
  };
  alignas(64) bf16 in_bf16[BLOCK_SIZE];
  alignas(64) float in_fp32[FP32_BLOCKS ? PLANE_SIZE : 1];
  if (!FP32_BLOCKS || planes == 1)
    make(in_bf16, panel, planes);
  else
    make(in_fp32, (float *)panel);
}

// One number of such a block.
inline float weight_at(const bf16 *panel, int planes, long output, long input) {
  if (FP32_BLOCKS && planes > 1) return ((const float *)panel)[input * SIDE + output];
  float sum = 0;
  for (int plane = planes - 1; plane >= 0; plane--)
    sum += vectors::to_float(
        panel[plane * PLANE_SIZE + output / HALF * TILE + input / 2 * 2 * HALF + output % HALF * 2 + input % 2]);
  return sum;
}

// The same block for a product with the transpose of the weight: a panel whose columns are the inputs.
#if defined(__AVX512BF16__)
inline void transpose_panel(bf16 *to, const bf16 *from, int planes) {
  // within 8 bytes: two outputs of two inputs -> two inputs of two outputs
  const __m512i swap = _mm512_broadcast_i32x4(_mm_set_epi8(15, 14, 11, 10, 13, 12, 9, 8, 7, 6, 3, 2, 5, 4, 1, 0));
  const auto lines = [](const bf16 *at, long row) { // 16 bytes of every second row
    __m512i x = _mm512_castsi128_si512(_mm_loadu_si128((const __m128i *)(at + row * SIDE)));
    const auto line = [&](int i) { return _mm_loadu_si128((const __m128i *)(at + (row + 2 * i) * SIDE)); };
    x = _mm512_mask_broadcast_i32x4(x, 0x00f0, line(1));
    x = _mm512_mask_broadcast_i32x4(x, 0x0f00, line(2));
    return _mm512_mask_broadcast_i32x4(x, 0xf000, line(3));
  };
  for (int plane = 0; plane < planes; plane++, to += PLANE_SIZE, from += PLANE_SIZE)
    for (int half = 0; half < 2; half++)       // of the outputs
      for (int eight = 0; eight < 2; eight++)  // pairs of inputs
        for (int four = 0; four < 4; four++) { // outputs
          const bf16 *at = from + half * TILE + eight * 8 * SIDE + four * 8;
          const __m512i even = lines(at, 0), odd = lines(at, 1);
          bf16 *pair = to + eight * TILE + (half * 8 + four * 2) * SIDE;
          _mm512_storeu_si512(pair, _mm512_shuffle_epi8(_mm512_unpacklo_epi64(even, odd), swap));
          _mm512_storeu_si512(pair + SIDE, _mm512_shuffle_epi8(_mm512_unpackhi_epi64(even, odd), swap));
        }
}
#endif
inline void transpose_panel(float *to, const bf16 *from, int planes) {
  alignas(64) float in_fp32[PLANE_SIZE];
  for (int pair = 0; pair < SIDE / 2 && planes == 1; pair++)
    for (int half = 0; half < 2; half++) {
      const bf16 *at = from + half * TILE + pair * 2 * HALF;
      vectors::store(in_fp32 + pair * 2 * SIDE + half * HALF, vectors::even_to_float(at));
      vectors::store(in_fp32 + (pair * 2 + 1) * SIDE + half * HALF, vectors::odd_to_float(at));
    }
  transpose(to, planes == 1 ? in_fp32 : (const float *)from);
}

} // namespace block
