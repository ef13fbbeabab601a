// Products of matrices that are laid out in blocks, with what surrounds them. Knows no model.
//
// A matrix in blocks is (rows / 32, columns / 32, planes, 32, 32): what a tile reads lies together, whatever the width.
// Rows are filled up to whole blocks; what stands in the added ones is arbitrary. Panels are those of tiles.h, one piece
// for every 32 columns.
//
// Numbers of fp32 are three of bf16 that add up to them exactly (8 + 8 + 8 bits of 24; arXiv 1904.06376), each in a
// plane of its own, so what multiplies bf16 multiplies them too: by a weight that is bf16 all the same, as published
// ones are, in three products, by another fp32 in six (what three more would add is below fp32's last bit).
#pragma once

#include <algorithm>
#include <initializer_list>
#include <type_traits>

#include "tiles.h"

#ifndef PLANES
#define PLANES 1 // of a number: 1 for bf16, 3 for fp32
#endif

namespace block {

using tiles::bf16;
using tiles::narrow;
using tiles::wide;

using Number = std::conditional_t<PLANES == 1, bf16, float>; // in matrices that are not in blocks

constexpr int SIDE = 32;
constexpr int SQUARE = SIDE * SIDE;
constexpr int AREA = SQUARE * PLANES; // elements of a block
constexpr int DEPTHS = 20;       // of a panel at a time
constexpr long MOST = 16;        // blocks of rows that go through a panel together
constexpr long NEAR = 800 << 10; // bytes of rows that go through all panels together: within a second-level cache

inline long blocks(long rows) { return (rows + SIDE - 1) / SIDE; }
inline long whole(long rows) { return blocks(rows) * SIDE; }

// Where a row begins; its pieces of 32 elements are AREA apart, in a matrix of fp32 sums SQUARE.
inline long at(long row, long width, long planes = PLANES) {
  return row / SIDE * SIDE * width * planes + row % SIDE * SIDE;
}

// Aligned memory from the front of what is left.
template <class T> inline T *take(char *&room, long count) {
  T *taken = (T *)room;
  room += (count * sizeof(T) + 63) / 64 * 64;
  return taken;
}

// Memory for a matrix in blocks.
inline bf16 *take_blocks(char *&room, long rows, long width) { return take<bf16>(room, rows * width * PLANES); }

struct Pair {
  __m512 low, high;
};
inline Pair load(const float *x) { return {_mm512_loadu_ps(x), _mm512_loadu_ps(x + 16)}; }
inline void store(float *to, Pair x) {
  _mm512_storeu_ps(to, x.low);
  _mm512_storeu_ps(to + 16, x.high);
}
inline Pair operator*(Pair x, Pair y) { return {_mm512_mul_ps(x.low, y.low), _mm512_mul_ps(x.high, y.high)}; }
inline Pair operator+(Pair x, Pair y) { return {_mm512_add_ps(x.low, y.low), _mm512_add_ps(x.high, y.high)}; }
inline Pair operator-(Pair x, Pair y) { return {_mm512_sub_ps(x.low, y.low), _mm512_sub_ps(x.high, y.high)}; }
inline Pair operator*(Pair x, float y) { return x * Pair{_mm512_set1_ps(y), _mm512_set1_ps(y)}; }
inline Pair load(const bf16 *x) {
  Pair sum{wide(x + (PLANES - 1) * SQUARE), wide(x + (PLANES - 1) * SQUARE + 16)};
  for (int plane = PLANES - 2; plane >= 0; plane--)
    sum = sum + Pair{wide(x + plane * SQUARE), wide(x + plane * SQUARE + 16)};
  return sum;
}
// 32 numbers as the planes have them.
struct Split {
  __m512i plane[PLANES];
};
inline Split split(Pair x) {
  Split made;
  for (int plane = 0;; plane++) {
    made.plane[plane] = (__m512i)_mm512_cvtne2ps_pbh(x.high, x.low);
    if (plane + 1 == PLANES)
      return made;
    __m512i low = _mm512_cvtepu16_epi32(_mm512_castsi512_si256(made.plane[plane]));
    __m512i high = _mm512_cvtepu16_epi32(_mm512_extracti64x4_epi64(made.plane[plane], 1));
    x = x - Pair{_mm512_castsi512_ps(_mm512_slli_epi32(low, 16)), _mm512_castsi512_ps(_mm512_slli_epi32(high, 16))};
  }
}
inline void store(bf16 *to, const Split &x) {
  for (int plane = 0; plane < PLANES; plane++)
    _mm512_storeu_si512(to + plane * SQUARE, x.plane[plane]);
}
inline void store(bf16 *to, Pair x) { store(to, split(x)); }
// past the caches, for what is read much later
inline void stream(bf16 *to, Pair x) {
  const Split made = split(x);
  for (int plane = 0; plane < PLANES; plane++)
    _mm512_stream_si512((__m512i *)(to + plane * SQUARE), made.plane[plane]);
}
inline float total(Pair x) { return _mm512_reduce_add_ps(_mm512_add_ps(x.low, x.high)); }

// Some depths of a product: 32 rows of blocks `step` elements apart, and as many depths of a panel.
struct Run {
  const bf16 *a;
  long step;
  const bf16 *panel;
  int depths;
  int planes = PLANES; // of the panel
};

// sum (32, 32) = the runs' products, or these added to it. Where `high` is false only 16 rows count. `ahead`: so many
// lines of 64 bytes at each depth of the first run are fetched from there.
#if defined(__AMX_BF16__)
template <bool HIGH> inline void kernel_(Run one, Run two, float *sum, bool add, const bf16 *ahead, int lines) {
  asm volatile("" : : : "memory"); // loads of tiles do not tell GCC what they read
  if (add) {
    _tile_loadd(0, sum, 128);
    _tile_loadd(1, sum + 16, 128);
    if (HIGH) {
      _tile_loadd(2, sum + 512, 128);
      _tile_loadd(3, sum + 528, 128);
    }
  } else {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
  }
  for (const Run &run : {one, two}) {
    const int planes = PLANES == 1 ? 1 : run.planes;
    const bf16 *a = run.a, *b = run.panel;
    for (int d = 0; d < run.depths; d++, a += run.step)
      for (int right = 0; right < planes; right++, b += SQUARE) {
        for (int line = 0; line < lines; line++)
          _mm_prefetch((const char *)(ahead + line * 32), _MM_HINT_T0);
        ahead += SQUARE;
        for (int left = 0; left < PLANES - right; left++) {
          const bf16 *from = a + left * SQUARE;
          _tile_stream_loadd(4, from, 64); // so that it does not drive the panel away, which is used again first
          if (!left)
            _tile_loadd(6, b, 64);
          _tile_dpbf16ps(0, 4, 6);
          if (!left)
            _tile_loadd(7, b + 512, 64);
          _tile_dpbf16ps(1, 4, 7);
          if (HIGH) {
            _tile_stream_loadd(5, from + 512, 64);
            _tile_dpbf16ps(2, 5, 6);
            _tile_dpbf16ps(3, 5, 7);
          }
        }
      }
    lines = 0;
  }
  _tile_stored(0, sum, 128);
  _tile_stored(1, sum + 16, 128);
  if (HIGH) {
    _tile_stored(2, sum + 512, 128);
    _tile_stored(3, sum + 528, 128);
  }
}
#else
template <bool HIGH> inline void kernel_(Run one, Run two, float *sum, bool add, const bf16 *, int) {
  constexpr int R = 8;
  for (int row = 0; row < (HIGH ? 32 : 16); row += R) {
    __m512 low[R], high[R];
    for (int r = 0; r < R; r++) {
      low[r] = add ? _mm512_loadu_ps(sum + (row + r) * 32) : _mm512_setzero_ps();
      high[r] = add ? _mm512_loadu_ps(sum + (row + r) * 32 + 16) : _mm512_setzero_ps();
    }
    for (const Run &run : {one, two}) {
      const int planes = PLANES == 1 ? 1 : run.planes;
      const bf16 *a = run.a + row * 32, *b = run.panel;
      for (int d = 0; d < run.depths; d++, a += run.step)
        for (int right = 0; right < planes; right++, b += SQUARE)
          for (int pair = 0; pair < 16; pair++) {
            __m512bh b0 = (__m512bh)_mm512_loadu_si512(b + pair * 32);
            __m512bh b1 = (__m512bh)_mm512_loadu_si512(b + 512 + pair * 32);
            for (int left = 0; left < PLANES - right; left++)
              for (int r = 0; r < R; r++) {
                int both;
                std::memcpy(&both, a + left * SQUARE + r * 32 + pair * 2, 4);
                __m512bh x = (__m512bh)_mm512_set1_epi32(both);
                low[r] = _mm512_dpbf16_ps(low[r], x, b0);
                high[r] = _mm512_dpbf16_ps(high[r], x, b1);
              }
          }
    }
    for (int r = 0; r < R; r++) {
      _mm512_storeu_ps(sum + (row + r) * 32, low[r]);
      _mm512_storeu_ps(sum + (row + r) * 32 + 16, high[r]);
    }
  }
}
#endif

inline void kernel(Run one, Run two, float *sum, bool add, bool high = true, const bf16 *ahead = nullptr,
                   int lines = 0) {
  high ? kernel_<true>(one, two, sum, add, ahead, lines) : kernel_<false>(one, two, sum, add, ahead, lines);
}

// 16 x 16 elements of 32 bits, the rows made columns.
inline void transpose16(__m512i r[16]) {
  __m512i t[16];
  for (int i = 0; i < 16; i += 2) {
    t[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
    t[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
  }
  for (int i = 0; i < 16; i += 4) {
    r[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
    r[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
    r[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
    r[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
  }
  for (int i = 0; i < 4; i++) {
    t[i] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0x88);
    t[i + 4] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0xdd);
    t[i + 8] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0x88);
    t[i + 12] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0xdd);
  }
  for (int i = 0; i < 8; i++) {
    r[i] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0x88);
    r[i + 8] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0xdd);
  }
}

// Two rows as a panel has them: the elements of a column beside each other.
inline void interleave(bf16 *to, __m512i row0, __m512i row1) {
  const __m512i both = _mm512_set_epi16(47, 15, 46, 14, 45, 13, 44, 12, 43, 11, 42, 10, 41, 9, 40, 8, 39, 7, 38, 6, 37,
                                        5, 36, 4, 35, 3, 34, 2, 33, 1, 32, 0);
  _mm512_storeu_si512(to, _mm512_permutex2var_epi16(row0, both, row1));
  _mm512_storeu_si512(to + 512, _mm512_permutex2var_epi16(row0, _mm512_add_epi16(both, _mm512_set1_epi16(16)), row1));
}
inline void interleave(bf16 *to, const Split &row0, const Split &row1) {
  for (int plane = 0; plane < PLANES; plane++)
    interleave(to + plane * SQUARE, row0.plane[plane], row1.plane[plane]);
}

// A block of rows as one depth of a panel, of which the first `planes` are wanted: its rows are inputs, the first
// `rows` of them.
inline void panel_of_rows(bf16 *to, const bf16 *from, long rows = SIDE, int planes = PLANES) {
  for (int plane = 0; plane < planes; plane++)
    for (int pair = 0; pair < 16; pair++) {
      const bf16 *two = from + plane * SQUARE + 2 * pair * SIDE;
      __m512i row0 = 2 * pair < rows ? _mm512_loadu_si512(two) : _mm512_setzero_si512();
      __m512i row1 = 2 * pair + 1 < rows ? _mm512_loadu_si512(two + SIDE) : _mm512_setzero_si512();
      interleave(to + plane * SQUARE + pair * 32, row0, row1);
    }
}

// The same: its rows are columns.
inline void panel_of_columns(bf16 *to, const bf16 *from, int planes = PLANES) {
  for (long half = 0; half < planes * SQUARE; half += 512) {
    __m512i r[16];
    for (int i = 0; i < 16; i++)
      r[i] = _mm512_loadu_si512(from + half + i * SIDE);
    transpose16(r);
    for (int i = 0; i < 16; i++)
      _mm512_storeu_si512(to + half + i * 32, r[i]);
  }
}

// A block with rows and columns exchanged; only the first `rows` of its rows count, the others are zero.
inline void transpose(bf16 *to, const bf16 *from, long rows = SIDE) {
  const __m512i even = _mm512_set_epi16(62, 60, 58, 56, 54, 52, 50, 48, 46, 44, 42, 40, 38, 36, 34, 32, 30, 28, 26, 24,
                                        22, 20, 18, 16, 14, 12, 10, 8, 6, 4, 2, 0);
  const __m512i odd = _mm512_add_epi16(even, _mm512_set1_epi16(1));
  for (int plane = 0; plane < PLANES; plane++, to += SQUARE, from += SQUARE) {
    __m512i half[2][16];
    for (int h = 0; h < 2; h++) {
      for (int i = 0; i < 16; i++)
        half[h][i] = h * 16 + i < rows ? _mm512_loadu_si512(from + (h * 16 + i) * SIDE) : _mm512_setzero_si512();
      transpose16(half[h]);
    }
    for (int i = 0; i < 16; i++) {
      _mm512_storeu_si512(to + 2 * i * SIDE, _mm512_permutex2var_epi16(half[0][i], even, half[1][i]));
      _mm512_storeu_si512(to + (2 * i + 1) * SIDE, _mm512_permutex2var_epi16(half[0][i], odd, half[1][i]));
    }
  }
}

// Rows (in blocks, `inputs` wide) through panels, and `inner` (`rank` wide) through `ups` beside them; `done(r, p,
// sum)` gets each block of 32 rows x 32 columns. `halves`: columns of the first half and of the second by turns.
template <class Done>
inline void product(long count, const bf16 *a, long inputs, const bf16 *panels, long outputs, int planes,
                    const bf16 *inner, long rank, const bf16 *ups, Done done, bool halves = false) {
  alignas(64) float sums[MOST][SQUARE];
  int depths = int(inputs / SIDE), more = int(rank / SIDE);
  // of a long panel a part at a time goes to all rows, so that it stays in the nearest cache
  int parts = (depths + DEPTHS - 1) / DEPTHS, deep = (depths + parts - 1) / parts;
  long together = std::clamp(NEAR / (AREA / SIDE * inputs * 2), 1L, MOST);
  for (long first = 0; first < count; first += together) {
    long last = std::min(count, first + together);
    int lines = int((SIDE + last - first - 1) / (last - first));
    for (long turn = 0; turn < outputs / SIDE; turn++) {
      long p = halves ? turn / 2 + turn % 2 * (outputs / SIDE / 2) : turn, next = p + 1;
      if (halves)
        next = turn % 2 ? turn / 2 + 1 : p + outputs / SIDE / 2;
      for (int from = 0; from < depths; from += deep) {
        bool end = from + deep >= depths;
        const bf16 *panel = panels + (p * depths + from) * SQUARE * planes;
        const bf16 *ahead = end ? panels + next * depths * SQUARE * planes : panel + deep * SQUARE * planes;
        for (long r = first; r < last; r++) {
          Run one{a + (r * depths + from) * AREA, AREA, panel, std::min(deep, depths - from), planes};
          Run two{inner + r * more * AREA, AREA, ups + p * more * AREA, end ? more : 0};
          // what comes next is fetched in as many shares as there are blocks of rows
          long share = (r - first) * lines;
          kernel(one, two, sums[r - first], from > 0, true, ahead + share * 32, share < SIDE ? lines : 0);
          // one block behind, while the tiles of the next are at work
          if (end && r > first)
            done(r - 1, p, sums[r - 1 - first]);
        }
      }
      done(last - 1, p, sums[last - 1 - first]);
    }
  }
}

// Adds left' x right, (rank, width) of matrices of `rows` rows, to `sums` (in blocks); `real` of the rank's rows count.
// `aside`: memory for (rank / 32 + 1) x blocks of rows.
inline void add_product_of_rows(long rows, const bf16 *left, long rank, long real, const bf16 *right, long width,
                                float *sums, bf16 *aside) {
  long count = blocks(rows), ranks = rank / SIDE, columns = width / SIDE;
  bf16 *panel = aside, *turned = aside + count * AREA;
  for (long k = 0; k < ranks; k++)
    for (long r = 0; r < count; r++)
      transpose(turned + (k * count + r) * AREA, left + (r * ranks + k) * AREA, rows - r * SIDE);
  for (long p = 0; p < columns; p++) {
    for (long r = 0; r < count; r++)
      panel_of_rows(panel + r * AREA, right + (r * columns + p) * AREA, rows - r * SIDE);
    for (long k = 0; k < ranks; k++)
      kernel({turned + k * count * AREA, AREA, panel, int(count)}, {nullptr, 0, nullptr, 0},
             sums + (k * columns + p) * SQUARE, true, real - k * SIDE > 16);
  }
}

} // namespace block
