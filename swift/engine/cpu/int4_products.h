// Products with weights of 4 bits as integers, for processors without tiles. Knows no model.
//
// Rows are quantized to 8 bits, each block of 32 inputs with its own scale. A number of the weight is level x scale +
// offset (panel_weight.h), so a block of inputs adds scale x (levels . x) + offset x (the sum of x) to a column.
#pragma once

#include <type_traits>

#include "panel_weight.h"

namespace tiles {

constexpr bool INT8_ROWS = !HAS_AMX; // whether 4 bits are multiplied as integers

struct Int8Block {
  int8_t x[K_BLOCK];
  float scale, sum; // sum: of the numbers before they were quantized
};

inline Int8Block quantize(const Element *x) {
  constexpr float LARGEST = 127; // of 8 bits
  Int8Block made;
  alignas(64) float rounded[K_BLOCK];
  const Vec low = load_elements(x), high = load_elements(x + HALF), zero = vectors::zero();
  const float most = vectors::reduce_max(vectors::max(vectors::max(low, zero - low), vectors::max(high, zero - high)));
  made.scale = most / LARGEST, made.sum = vectors::reduce_add(low + high);
  const Vec by = vectors::broadcast(most > 0 ? LARGEST / most : 0);
  vectors::store(rounded, vectors::round(low * by)), vectors::store(rounded + HALF, vectors::round(high * by));
  for (int i = 0; i < K_BLOCK; i++) made.x[i] = int8_t(rounded[i]);
  return made;
}

#if defined(__AVX512VNNI__) && defined(__AVX512BW__)

constexpr int KERNEL_ROWS = 6; // rows whose sums stay in registers

// A block of a panel as it is multiplied: of each tile 8 times the levels of 4 inputs of 16 columns.
struct alignas(64) UnpackedInt4 {
  uint8_t levels[2][8][64];
  float scale[2][HALF], offset[2][HALF];
};

inline void unpack_int4(const uint8_t *from, UnpackedInt4 &to) {
  // two times a pair of inputs of 16 columns become 16 times four inputs
  const __m512i fours = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6, 21,
                                         5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
  const __m512i mask = _mm512_set1_epi8(15);
#pragma GCC unroll 8
  for (int four = 0; four < 8; four++) {
    const __m512i levels = _mm512_permutexvar_epi16(fours, _mm512_loadu_si512(from + four * 64));
    _mm512_store_si512(to.levels[0][four], _mm512_and_si512(levels, mask));
    _mm512_store_si512(to.levels[1][four], _mm512_and_si512(_mm512_srli_epi16(levels, 4), mask));
  }
  const bf16 *scales = (const bf16 *)(from + INT4_SCALES), *offsets = scales + PANEL_WIDTH;
  for (int tile = 0; tile < 2; tile++) {
    vectors::store(to.scale[tile], vectors::to_float(scales + tile * 16));
    vectors::store(to.offset[tile], vectors::to_float(offsets + tile * 16));
  }
}

// sum (R, 32) = R rows, `row_stride` blocks apart, x some blocks of a panel, or that added to it.
template <int R>
inline void int4_kernel(const Int8Block *a, long row_stride, const UnpackedInt4 *panel, int k_blocks, float *sum,
                        bool accumulate) {
  Vec sums[R][2];
#pragma GCC unroll 8
  for (int r = 0; r < R; r++)
#pragma GCC unroll 2
    for (int tile = 0; tile < 2; tile++)
      sums[r][tile] = accumulate ? vectors::load(sum + r * PANEL_WIDTH + tile * 16) : vectors::zero();
  for (int k = 0; k < k_blocks; k++, panel++, a++) {
    __m512i each[R][2];
#pragma GCC unroll 8
    for (int r = 0; r < R; r++) each[r][0] = each[r][1] = _mm512_setzero_si512();
#pragma GCC unroll 8
    for (int four = 0; four < 8; four++) {
      __m512i first = _mm512_load_si512(panel->levels[0][four]), second = _mm512_load_si512(panel->levels[1][four]);
      asm("" : "+v"(first), "+v"(second)); // GCC would load them anew for every row
#pragma GCC unroll 8
      for (int r = 0; r < R; r++) {
        int32_t inputs;
        std::memcpy(&inputs, a[r * row_stride].x + four * 4, 4);
        const __m512i x = _mm512_set1_epi32(inputs);
        each[r][0] = _mm512_dpbusd_epi32(each[r][0], first, x);
        each[r][1] = _mm512_dpbusd_epi32(each[r][1], second, x);
      }
    }
#pragma GCC unroll 2
    for (int tile = 0; tile < 2; tile++) {
      const Vec scale = vectors::load(panel->scale[tile]), offset = vectors::load(panel->offset[tile]);
#pragma GCC unroll 8
      for (int r = 0; r < R; r++) {
        const Vec product = Vec{_mm512_cvtepi32_ps(each[r][tile])} * vectors::broadcast(a[r * row_stride].scale);
        sums[r][tile] = vectors::fma(product, scale,
                                     vectors::fma(offset, vectors::broadcast(a[r * row_stride].sum), sums[r][tile]));
      }
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; r++)
#pragma GCC unroll 2
    for (int tile = 0; tile < 2; tile++) vectors::store(sum + r * PANEL_WIDTH + tile * 16, sums[r][tile]);
}

inline const UnpackedInt4 *unpacked(const uint8_t *from, int k_blocks, UnpackedInt4 *buffer) {
  for (int k = 0; k < k_blocks; k++, from += INT4_BLOCK_BYTES) {
    for (int line = 0; line < INT4_BLOCK_BYTES; line += CACHE_LINE)
      _mm_prefetch((const char *)(from + PREFETCH_BYTES + line), _MM_HINT_T0);
    unpack_int4(from, buffer[k]);
  }
  return buffer;
}

#else

constexpr int KERNEL_ROWS = 4;
using UnpackedInt4 = uint8_t; // a block as it is stored

// sum (R, 32) = R rows, `row_stride` blocks apart, x some blocks of a panel, or that added to it. A level is 15 at
// most, so 16 products of it with 8 bits fit into 16 bits. Sums come out with columns 0 to 3 and 8 to 11 before the
// others; scales and offsets are permuted alike.
template <int R>
inline void int4_kernel(const Int8Block *a, long row_stride, const uint8_t *panel, int k_blocks, float *sum,
                        bool accumulate) {
  const __m256i mask = _mm256_set1_epi8(15), ones = _mm256_set1_epi16(1);
  __m256 sums[R][2][2];
  for (auto &row : sums)
    for (auto &tile : row) tile[0] = tile[1] = _mm256_setzero_ps();
  for (int k = 0; k < k_blocks; k++, panel += INT4_BLOCK_BYTES) {
    for (int line = 0; line < INT4_BLOCK_BYTES; line += CACHE_LINE)
      _mm_prefetch((const char *)(panel + PREFETCH_BYTES + line), _MM_HINT_T0);
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
          std::memcpy(&two, a[r * row_stride + k].x + pair * 2, 2);
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
      const bf16 *scales = (const bf16 *)(panel + INT4_SCALES) + tile * 16, *offsets = scales + PANEL_WIDTH;
      const __m256 scale[] = {_mm256_permute2f128_ps(eight(scales), eight(scales + 8), 0x20),
                              _mm256_permute2f128_ps(eight(scales), eight(scales + 8), 0x31)};
      const __m256 offset[] = {_mm256_permute2f128_ps(eight(offsets), eight(offsets + 8), 0x20),
                               _mm256_permute2f128_ps(eight(offsets), eight(offsets + 8), 0x31)};
#pragma GCC unroll 4
      for (int r = 0; r < R; r++) {
        const __m256 by = _mm256_set1_ps(a[r * row_stride + k].scale),
                     total = _mm256_set1_ps(a[r * row_stride + k].sum);
        const __m256i first = halves[r][tile][0], second = halves[r][tile][1];
        const __m256i added[] = {_mm256_madd_epi16(_mm256_unpacklo_epi16(first, second), ones),
                                 _mm256_madd_epi16(_mm256_unpackhi_epi16(first, second), ones)};
        for (int part = 0; part < 2; part++) {
          const __m256 product = _mm256_fmadd_ps(_mm256_cvtepi32_ps(added[part]), _mm256_mul_ps(scale[part], by),
                                                 _mm256_mul_ps(offset[part], total));
          sums[r][tile][part] = _mm256_add_ps(sums[r][tile][part], product);
        }
      }
    }
  }
  for (int r = 0; r < R; r++)
    for (int tile = 0; tile < 2; tile++) {
      const __m256 *parts = sums[r][tile];
      const Vec made = {_mm256_permute2f128_ps(parts[0], parts[1], 0x20),
                        _mm256_permute2f128_ps(parts[0], parts[1], 0x31)};
      float *to = sum + r * PANEL_WIDTH + tile * 16;
      vectors::store(to, accumulate ? vectors::load(to) + made : made);
    }
}

inline const UnpackedInt4 *unpacked(const uint8_t *from, int, UnpackedInt4 *) { return from; }

#endif

template <int R = KERNEL_ROWS> inline auto int4_kernel_for(int rows) {
  if constexpr (R > 1)
    if (rows < R) return int4_kernel_for<R - 1>(rows);
  return int4_kernel<R>;
}

// sum (rows, 32) = rows, `row_stride` blocks apart, x a panel of 4 bits: as many blocks at a time as stay in L1 while
// all rows meet them.
inline void multiply(int64_t rows, const Int8Block *a, long row_stride, const uint8_t *panel, int k_blocks,
                     float *sum) {
  constexpr int MAX_PART = 24;
  UnpackedInt4 buffer[sizeof(UnpackedInt4) > 1 ? MAX_PART : 1];
  const int bytes = sizeof(UnpackedInt4) > 1 ? sizeof(UnpackedInt4) : INT4_BLOCK_BYTES;
  const int most = std::clamp(int(caches::l1_bytes() / 2 / bytes), 1, MAX_PART), parts = (k_blocks + most - 1) / most;
  const int part = (k_blocks + parts - 1) / parts;
  for (int from = 0; from < k_blocks; from += part) {
    const int here = std::min(part, k_blocks - from);
    const UnpackedInt4 *of = unpacked(panel + from * INT4_BLOCK_BYTES, here, buffer);
    for (int64_t row = 0, group; row < rows; row += group) {
      const int64_t groups = (rows - row + KERNEL_ROWS - 1) / KERNEL_ROWS;
      group = (rows - row + groups - 1) / groups;
      int4_kernel_for(int(group))(a + row * row_stride + from, row_stride, of, here, sum + row * PANEL_WIDTH, from > 0);
    }
  }
}

} // namespace tiles
