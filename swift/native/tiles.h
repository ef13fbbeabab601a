// Products of rows with panels of bf16. Rows are bf16 on AMX tiles and with AVX-512 BF16, fp32 on other processors.
// Knows no model.
//
// A panel holds 32 columns of a matrix (inputs, columns), in the one layout that all instruction sets read: for every
// block of 32 inputs two tiles, one for each 16 columns, each of (16 pairs of inputs, 16 columns, 2). Inputs are padded
// with zeros to a multiple of 32. Sums are fp32, added in one order whatever the number of rows. docs/native.md draws
// the layouts.
#pragma once

#include "gemm.h"

#if defined(__AMX_BF16__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace tiles {

using gemm::CACHE_LINE;
using gemm::HALF;
using gemm::K_BLOCK;
using gemm::PANEL_BLOCK;
using gemm::PANEL_WIDTH;
using gemm::TILE;
using vectors::bf16;
using vectors::LOG2_E;
using vectors::Vec;

#if defined(__AVX512BF16__)
using Element = bf16; // of rows that are multiplied
#else
using Element = float;
#endif

constexpr int TILE_ROWS = 16;
constexpr int MAX_ROWS = 32; // of one product: two tiles

// x / (1 + e^-x), relative error below 2e-4.
inline Vec silu(Vec x) {
  return x * vectors::reciprocal(vectors::broadcast(1.0f) + vectors::exp2(x * vectors::broadcast(-LOG2_E)));
}

// Adds the products of 32 numbers to the lanes of `sum`.
#if defined(__AVX512BF16__)
inline Vec dot_add(Vec sum, const bf16 *x, const bf16 *y) {
  return {_mm512_dpbf16_ps(sum.all, (__m512bh)_mm512_loadu_si512(x), (__m512bh)_mm512_loadu_si512(y))};
}
#else
inline Vec dot_add(Vec sum, const float *x, const bf16 *y) {
  for (int i = 0; i < K_BLOCK; i += vectors::LANES)
    sum = vectors::fma(vectors::load(x + i), vectors::to_float(y + i), sum);
  return sum;
}
#endif

// 16 numbers of a row, as fp32.
#if defined(__AVX512BF16__)
inline Vec load_elements(const bf16 *x) { return vectors::to_float(x); }
#else
inline Vec load_elements(const float *x) { return vectors::load(x); }
#endif

// Where an input of a row lies in tiled rows: (groups of 16 rows, blocks of 32 inputs, 16, 32), so that a tile is 1 KiB
// in one piece.
inline int64_t tiled_offset(int64_t row, int64_t input, int64_t k_blocks) {
  return (row / TILE_ROWS * k_blocks + input / K_BLOCK) * TILE_ROWS * K_BLOCK + row % TILE_ROWS * K_BLOCK +
         input % K_BLOCK;
}

// What a product uses again soonest and therefore keeps nearest: its rows (few of them), or the panel (many rows).
enum class Reuse { BOTH, ROWS, PANEL };

#if defined(__AMX_BF16__)

constexpr bool HAS_AMX = true;

// Asks Linux for the tile registers, which a process must do once; false where it refuses.
inline bool request_tiles() {
  constexpr long ARCH_REQ_XCOMP_PERM = 0x1023, XFEATURE_XTILEDATA = 18; // asm/prctl.h
  return syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0;
}

// A thread configures its tiles before its products and releases them afterwards; other code may use them in between.
inline void configure() {
  alignas(64) struct {
    uint8_t palette = 1, start = 0, zero[14] = {};
    uint16_t bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
    uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
  } config;
  asm volatile("" : : "r"(&config) : "memory"); // the intrinsic tells GCC of the first 8 bytes alone
  _tile_loadconfig(&config);
}
inline void release() { _tile_release(); }

// A macro, because a tile's number is a constant of the instruction.
#define LOAD_TILE(STREAM, NUMBER, FROM, STRIDE)                                                                        \
  do {                                                                                                                 \
    if (STREAM)                                                                                                        \
      _tile_stream_loadd(NUMBER, FROM, STRIDE);                                                                        \
    else                                                                                                               \
      _tile_loadd(NUMBER, FROM, STRIDE);                                                                               \
  } while (0)

// Sums are tiles 0 to 3, rows 4 and 5, the two halves of the panel 6 and 7.
template <bool BOTH_TILES, Reuse REUSE, typename Interleaved>
inline void tile_kernel(const bf16 *a, const bf16 *a_high, long row_stride, long a_block_stride, const bf16 *panel,
                        long panel_stride, int k_blocks, float *sum, long sum_stride, long distance,
                        const Interleaved &interleaved) {
  const long row_bytes = row_stride * long(sizeof(bf16)), sum_bytes = sum_stride * long(sizeof(float));
  constexpr long PAIR_BYTES = 2 * HALF * sizeof(bf16); // from a pair of inputs to the next
  _tile_zero(0);
  _tile_zero(1);
  if (BOTH_TILES) {
    _tile_zero(2);
    _tile_zero(3);
  }
  for (int k = 0; k < k_blocks; k++, a += a_block_stride, a_high += a_block_stride, panel += panel_stride) {
    if (distance)
      for (int line = 0; line < PANEL_BLOCK; line += CACHE_LINE / int(sizeof(bf16)))
        _mm_prefetch((const char *)(panel + distance + line), _MM_HINT_T0);
    LOAD_TILE(REUSE == Reuse::PANEL, 4, a, row_bytes);
    LOAD_TILE(REUSE == Reuse::ROWS, 6, panel, PAIR_BYTES);
    _tile_dpbf16ps(0, 4, 6);
    LOAD_TILE(REUSE == Reuse::ROWS, 7, panel + TILE, PAIR_BYTES);
    _tile_dpbf16ps(1, 4, 7);
    if (BOTH_TILES) {
      LOAD_TILE(REUSE == Reuse::PANEL, 5, a_high, row_bytes);
      _tile_dpbf16ps(2, 5, 6);
      _tile_dpbf16ps(3, 5, 7);
    }
    interleaved(k);
  }
  _tile_stored(0, sum, sum_bytes);
  _tile_stored(1, sum + HALF, sum_bytes);
  if (BOTH_TILES) {
    _tile_stored(2, sum + TILE_ROWS * sum_stride, sum_bytes);
    _tile_stored(3, sum + TILE_ROWS * sum_stride + HALF, sum_bytes);
  }
}

#undef LOAD_TILE

template <Reuse REUSE, typename Interleaved>
inline void multiply_rows(int rows, const bf16 *a, const bf16 *a_high, long row_stride, long a_block_stride,
                          const bf16 *panel, long panel_stride, int k_blocks, float *sum, long sum_stride,
                          long distance, const Interleaved &interleaved) {
  if (rows > TILE_ROWS)
    tile_kernel<true, REUSE>(a, a_high, row_stride, a_block_stride, panel, panel_stride, k_blocks, sum, sum_stride,
                             distance, interleaved);
  else
    tile_kernel<false, REUSE>(a, a_high, row_stride, a_block_stride, panel, panel_stride, k_blocks, sum, sum_stride,
                              distance, interleaved);
}

#else

constexpr bool HAS_AMX = false;

inline bool request_tiles() { return true; }
inline void configure() {}
inline void release() {}

template <Reuse, typename B, typename Interleaved>
inline void multiply_rows(int rows, const Element *a, const Element *a_high, long row_stride, long a_block_stride,
                          const B *panel, long panel_stride, int k_blocks, float *sum, long sum_stride, long distance,
                          const Interleaved &interleaved) {
  const bool apart = a_high != a + TILE_ROWS * row_stride;
  const int low = apart ? std::min(rows, TILE_ROWS) : rows;
  gemm::Operands<Element, B> of{a, row_stride, a_block_stride, panel, panel_stride, k_blocks, gemm::PAIRS};
  gemm::multiply(low, of, sum, sum_stride, false, distance);
  of.a = a_high;
  if (low < rows) gemm::multiply(rows - low, of, sum + TILE_ROWS * sum_stride, sum_stride, false);
  for (int k = 0; k < k_blocks; k++) interleaved(k);
}

#endif

// sum (rows, 32) = a (rows, 32 x k_blocks) x panel, for rows of a plain matrix. At most MAX_ROWS rows; `a` and `sum`
// have memory up to the next multiple of 16 rows. Strides and `distance`, which is how far ahead the panel is
// prefetched (0: not at all), are in elements.
inline void multiply(int rows, const Element *a, long row_stride, const bf16 *panel, long panel_stride, int k_blocks,
                     float *sum, long sum_stride, long distance) {
  multiply_rows<Reuse::BOTH>(rows, a, a + TILE_ROWS * row_stride, row_stride, K_BLOCK, panel, panel_stride, k_blocks,
                             sum, sum_stride, distance, [](int) {});
}

// The same for tiled rows (see tiled_offset), whose groups of 16 are `group_stride` apart. interleaved(k) does other
// work while the tiles multiply.
template <Reuse REUSE, typename B, typename Interleaved>
inline void multiply_tiled(int rows, const Element *a, long group_stride, const B *panel, long panel_stride,
                           int k_blocks, float *sum, long sum_stride, long distance, const Interleaved &interleaved) {
  multiply_rows<REUSE>(rows, a, a + group_stride, K_BLOCK, TILE_ROWS * K_BLOCK, panel, panel_stride, k_blocks, sum,
                       sum_stride, distance, interleaved);
}

} // namespace tiles
