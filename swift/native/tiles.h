// Products of rows with panels of bf16: rows are bf16 on AMX tiles and AVX-512 BF16, fp32 where the processor has
// neither. Knows no model.
//
// A panel is 32 columns of a matrix of I inputs (rows of the matrix), laid out as all instruction sets read it: for
// every DEPTH of 32 inputs two tiles, one for 16 columns each, of 16 pairs of inputs x 16 columns x 2. Inputs are a
// multiple of 32; what is missing is zero. Sums are fp32, in one order whatever the number of rows.
#pragma once

#include "gemm.h"

#if defined(__AMX_BF16__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace tiles {

using vectors::bf16;
using vectors::LOG2_E;
using vectors::Vec;

#if defined(__AVX512BF16__)
using Cell = bf16; // what rows are made of
#else
using Cell = float;
#endif

constexpr int ROWS = 16;            // of a tile
constexpr int PANEL = 32;           // columns
constexpr int DEPTH = 32;           // inputs
constexpr int STEP = DEPTH * PANEL; // elements of a panel for one depth
constexpr int MOST = 32;            // rows that go through a product at once

// x / (1 + e^-x), relative error below 2e-4.
inline Vec silu(Vec x) {
  return x * vectors::inverse(vectors::every(1.0f) + vectors::power(x * vectors::every(-LOG2_E)));
}

// sum + x y of 32 numbers, in each lane a part of it.
#if defined(__AVX512BF16__)
inline Vec add_products(Vec sum, const bf16 *x, const bf16 *y) {
  return {_mm512_dpbf16_ps(sum.all, (__m512bh)_mm512_loadu_si512(x), (__m512bh)_mm512_loadu_si512(y))};
}
#else
inline Vec add_products(Vec sum, const float *x, const bf16 *y) {
  for (int i = 0; i < 32; i += vectors::LANES) sum = vectors::fma(vectors::load(x + i), vectors::wide(y + i), sum);
  return sum;
}
#endif

// 16 numbers of a row.
#if defined(__AVX512BF16__)
inline Vec numbers(const bf16 *x) { return vectors::wide(x); }
#else
inline Vec numbers(const float *x) { return vectors::load(x); }
#endif

// Rows of many inputs are quickest read in tiles: for every 16 rows all depths, of each 16 x 32 numbers.
inline int64_t place(int64_t row, int64_t input, int64_t depths) {
  return (row / ROWS * depths + input / DEPTH) * ROWS * DEPTH + row % ROWS * DEPTH + input % DEPTH;
}

#if defined(__AMX_BF16__)

constexpr bool THERE = true;

// Asks Linux for the tiles, once a process; false where it refuses.
inline bool permitted() { return syscall(SYS_arch_prctl, 0x1023, 18) == 0; }

// A thread calls these around its products; other code may use the tiles between.
inline void begin() {
  alignas(64) struct {
    uint8_t palette = 1, start = 0, zero[14] = {};
    uint16_t bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
    uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
  } config;
  asm volatile("" : : "r"(&config) : "memory"); // the intrinsic tells GCC of the first 8 bytes alone
  _tile_loadconfig(&config);
}
inline void end() { _tile_release(); }

// What is used once more soonest stays nearest: the rows' tiles (few rows), or the panel (many).
enum class Keep { BOTH, ROWS, PANEL };

// A macro because a tile is a constant of the instruction.
#define TILES_LOAD(ONCE, TILE, FROM, BYTES)                                                                            \
  do {                                                                                                                 \
    if (ONCE)                                                                                                          \
      _tile_stream_loadd(TILE, FROM, BYTES);                                                                           \
    else                                                                                                               \
      _tile_loadd(TILE, FROM, BYTES);                                                                                  \
  } while (0)

template <bool TWO, Keep KEEP, typename Between>
inline void multiply_(const bf16 *a, const bf16 *second, long lda, long deep, const bf16 *panel, long stride,
                      int depths, float *sum, long lds, long ahead, const Between &between) {
  _tile_zero(0);
  _tile_zero(1);
  if (TWO) {
    _tile_zero(2);
    _tile_zero(3);
  }
  for (int d = 0; d < depths; d++, a += deep, second += deep, panel += stride) {
    if (ahead)
      for (int line = 0; line < STEP; line += 32) _mm_prefetch((const char *)(panel + ahead + line), _MM_HINT_T0);
    TILES_LOAD(KEEP == Keep::PANEL, 4, a, lda * 2);
    TILES_LOAD(KEEP == Keep::ROWS, 6, panel, 64);
    _tile_dpbf16ps(0, 4, 6);
    TILES_LOAD(KEEP == Keep::ROWS, 7, panel + STEP / 2, 64);
    _tile_dpbf16ps(1, 4, 7);
    if (TWO) {
      TILES_LOAD(KEEP == Keep::PANEL, 5, second, lda * 2);
      _tile_dpbf16ps(2, 5, 6);
      _tile_dpbf16ps(3, 5, 7);
    }
    between(d);
  }
  _tile_stored(0, sum, lds * 4);
  _tile_stored(1, sum + 16, lds * 4);
  if (TWO) {
    _tile_stored(2, sum + 16 * lds, lds * 4);
    _tile_stored(3, sum + 16 * lds + 16, lds * 4);
  }
}

#undef TILES_LOAD

template <Keep KEEP, typename Between>
inline void any(int rows, const bf16 *a, const bf16 *second, long lda, long deep, const bf16 *panel, long stride,
                int depths, float *sum, long lds, long ahead, const Between &between) {
  if (rows > ROWS)
    multiply_<true, KEEP>(a, second, lda, deep, panel, stride, depths, sum, lds, ahead, between);
  else
    multiply_<false, KEEP>(a, second, lda, deep, panel, stride, depths, sum, lds, ahead, between);
}

#else

constexpr bool THERE = false;

inline bool permitted() { return true; }
inline void begin() {}
inline void end() {}

enum class Keep { BOTH, ROWS, PANEL };

template <Keep, typename B, typename Between>
inline void any(int rows, const Cell *a, const Cell *second, long lda, long deep, const B *panel, long stride,
                int depths, float *sum, long lds, long ahead, const Between &between) {
  const bool apart = second != a + ROWS * lda;
  const int first = apart ? std::min(rows, ROWS) : rows;
  gemm::multiply(first, a, lda, deep, panel, stride, depths, sum, lds, false, ahead);
  if (first < rows)
    gemm::multiply(rows - first, second, lda, deep, panel, stride, depths, sum + ROWS * lds, lds, false);
  for (int d = 0; d < depths; d++) between(d);
}

#endif

// sum (rows, 32) = a (rows, 32 x depths) x panel. At most MOST rows, but `a` and `sum` can be read and written up to
// the next multiple of 16. `stride`: elements of the panel from a depth to the next, STEP where it lies in one piece.
// `ahead`: how many elements ahead of the product memory is fetched; 0 for not at all.
inline void multiply(int rows, const Cell *a, long lda, const bf16 *panel, long stride, int depths, float *sum,
                     long lds, long ahead) {
  any<Keep::BOTH>(rows, a, a + ROWS * lda, lda, DEPTH, panel, stride, depths, sum, lds, ahead, [](int) {});
}

// The same for rows that lie in tiles (see place; `next` elements between two blocks of 16 rows), while between(depth)
// does other work.
template <Keep KEEP, typename B, typename Between>
inline void multiply_tiles(int rows, const Cell *a, long next, const B *panel, long stride, int depths, float *sum,
                           long lds, long ahead, const Between &between) {
  any<KEEP>(rows, a, a + next, DEPTH, ROWS * DEPTH, panel, stride, depths, sum, lds, ahead, between);
}

} // namespace tiles
