// Products of matrices that are laid out in blocks, with what surrounds them. Knows no model.
//
// A matrix in blocks is (rows / 32, columns / 32, planes, 32, 32): what a tile reads lies together, whatever the width.
// Rows are filled up to whole blocks; what stands in the added ones is arbitrary. Panels are those of tiles.h, one
// piece for every 32 columns.
//
// What is multiplied depends on the processor. With bf16 (AMX, AVX-512 BF16) a number of fp32 is three of bf16 that add
// up to it exactly (8 + 8 + 8 bits of 24; arXiv 1904.06376), each in a plane of its own: by a weight that is bf16 all
// the same, as published ones are, in three products, by another fp32 in six (what three more would add is below
// fp32's last bit). Only tiles are quick enough for that; elsewhere, and for all numbers where nothing multiplies bf16,
// blocks are of fp32 and weights are widened when they are multiplied.
#pragma once

#include <algorithm>
#include <initializer_list>
#include <memory>
#include <new>
#include <type_traits>

#include "caches.h"
#include "tiles.h"

#ifndef FP32
#define FP32 0 // whether matrices that are not in blocks are fp32 rather than bf16
#endif

namespace block {

using vectors::any_above;
using vectors::bf16;
using vectors::every;
using vectors::LANES;
using vectors::largest;
using vectors::LOG2_E;
using vectors::Vec;
using vectors::wide;
using vectors::within;
using vectors::zero;

using Number = std::conditional_t<FP32, float, bf16>;                       // in matrices that are not in blocks
using Cell = std::conditional_t<FP32 && !tiles::THERE, float, tiles::Cell>; // in blocks

constexpr bool WIDE = std::is_same_v<Cell, float>;
constexpr int PLANES = FP32 && !WIDE ? 3 : 1;
constexpr int OWN = sizeof(Cell) / sizeof(bf16) * PLANES; // bf16 that a number in blocks takes the room of

constexpr int SIDE = 32;
constexpr int SQUARE = SIDE * SIDE;
constexpr int AREA = SQUARE * PLANES; // elements of a block
constexpr int PAIR = WIDE ? 64 : 32;  // elements of a panel from two inputs to the next two
constexpr long MOST = 16;             // blocks of rows that go through a panel together

// Bytes that stay in a core's caches while a product is made: of a panel in the first, of rows in the second, which
// have company there in sums and what comes next.
inline long PANEL_BYTES() { return caches::first() * 7 / 8; }
inline long ROWS_BYTES() { return caches::second() * 2 / 5; }
inline long PACKED_BYTES() { return caches::second() * 3 / 4; }

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
inline Cell *take_blocks(char *&room, long rows, long width) { return take<Cell>(room, rows * width * PLANES); }

struct Pair {
  Vec low, high;
};
inline Pair load(const float *x) { return {vectors::load(x), vectors::load(x + LANES)}; }
inline void store(float *to, Pair x) {
  vectors::store(to, x.low);
  vectors::store(to + LANES, x.high);
}
inline Pair both(float x) { return {every(x), every(x)}; }
inline Pair operator*(Pair x, Pair y) { return {x.low * y.low, x.high * y.high}; }
inline Pair operator+(Pair x, Pair y) { return {x.low + y.low, x.high + y.high}; }
inline Pair operator-(Pair x, Pair y) { return {x.low - y.low, x.high - y.high}; }
inline Pair operator*(Pair x, float y) { return x * both(y); }
inline Pair load(const bf16 *x) {
  Pair sum{wide(x + (PLANES - 1) * SQUARE), wide(x + (PLANES - 1) * SQUARE + LANES)};
  for (int plane = PLANES - 2; plane >= 0; plane--)
    sum = sum + Pair{wide(x + plane * SQUARE), wide(x + plane * SQUARE + LANES)};
  return sum;
}
inline Pair larger(Pair x, Pair y) { return {vectors::larger(x.low, y.low), vectors::larger(x.high, y.high)}; }
inline float total(Pair x) { return vectors::total(x.low + x.high); }

// 32 numbers of bf16.
#if defined(__AVX512F__)
struct Bits {
  __m512i all;
};
inline Bits load_bits(const bf16 *x) { return {_mm512_loadu_si512(x)}; }
inline void store_bits(bf16 *to, Bits x) { _mm512_storeu_si512(to, x.all); }
inline Bits no_bits() { return {_mm512_setzero_si512()}; }
inline void interleave(bf16 *to, Bits row0, Bits row1) {
  const __m512i both = _mm512_set_epi16(47, 15, 46, 14, 45, 13, 44, 12, 43, 11, 42, 10, 41, 9, 40, 8, 39, 7, 38, 6, 37,
                                        5, 36, 4, 35, 3, 34, 2, 33, 1, 32, 0);
  const __m512i after = _mm512_add_epi16(both, _mm512_set1_epi16(16));
  _mm512_storeu_si512(to, _mm512_permutex2var_epi16(row0.all, both, row1.all));
  _mm512_storeu_si512(to + 512, _mm512_permutex2var_epi16(row0.all, after, row1.all));
}
#else
struct Bits {
  __m256i low, high;
};
inline Bits load_bits(const bf16 *x) {
  return {_mm256_loadu_si256((const __m256i *)x), _mm256_loadu_si256((const __m256i *)(x + 16))};
}
inline void store_bits(bf16 *to, Bits x) {
  _mm256_storeu_si256((__m256i *)to, x.low), _mm256_storeu_si256((__m256i *)(to + 16), x.high);
}
inline Bits no_bits() { return {_mm256_setzero_si256(), _mm256_setzero_si256()}; }
inline void interleave(bf16 *to, __m256i row0, __m256i row1) {
  const __m256i first = _mm256_unpacklo_epi16(row0, row1), second = _mm256_unpackhi_epi16(row0, row1);
  store_bits(to, {_mm256_permute2x128_si256(first, second, 0x20), _mm256_permute2x128_si256(first, second, 0x31)});
}
inline void interleave(bf16 *to, Bits row0, Bits row1) {
  interleave(to, row0.low, row1.low), interleave(to + 512, row0.high, row1.high);
}
#endif

// x where a bit is set, the lowest first; zero elsewhere.
#if defined(__AVX512F__)
inline Pair chosen(uint32_t bits, float x) {
  return {{_mm512_maskz_mov_ps(__mmask16(bits), _mm512_set1_ps(x))},
          {_mm512_maskz_mov_ps(__mmask16(bits >> 16), _mm512_set1_ps(x))}};
}
#else
inline __m256 chosen_of_eight(uint32_t bits, float x) {
  const __m256i each = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
  const __m256i set = _mm256_and_si256(_mm256_set1_epi32(int(bits)), each);
  return _mm256_and_ps(_mm256_castsi256_ps(_mm256_cmpeq_epi32(set, each)), _mm256_set1_ps(x));
}
inline Pair chosen(uint32_t bits, float x) {
  return {{chosen_of_eight(bits, x), chosen_of_eight(bits >> 8, x)},
          {chosen_of_eight(bits >> 16, x), chosen_of_eight(bits >> 24, x)}};
}
#endif

// 32 numbers as blocks have them.
#if defined(__AVX512BF16__)
inline Bits narrow(Pair x) { return {(__m512i)_mm512_cvtne2ps_pbh(x.high.all, x.low.all)}; }
inline Pair wide(Bits x) {
  const __m512i low = _mm512_cvtepu16_epi32(_mm512_castsi512_si256(x.all));
  const __m512i high = _mm512_cvtepu16_epi32(_mm512_extracti64x4_epi64(x.all, 1));
  return {{_mm512_castsi512_ps(_mm512_slli_epi32(low, 16))}, {_mm512_castsi512_ps(_mm512_slli_epi32(high, 16))}};
}
#elif defined(__AVX512F__)
inline Bits narrow(Pair x) {
  return {_mm512_inserti64x4(_mm512_castsi256_si512(vectors::narrow(x.low)), vectors::narrow(x.high), 1)};
}
#else
inline Bits narrow(Pair x) { return {vectors::narrow(x.low), vectors::narrow(x.high)}; }
#endif

struct Planes {
  Bits plane[PLANES];
};
using Split = std::conditional_t<WIDE, Pair, Planes>;

inline void store(bf16 *to, const Planes &x) {
  for (int plane = 0; plane < PLANES; plane++) store_bits(to + plane * SQUARE, x.plane[plane]);
}
inline void interleave(bf16 *to, const Planes &row0, const Planes &row1) {
  for (int plane = 0; plane < PLANES; plane++) interleave(to + plane * SQUARE, row0.plane[plane], row1.plane[plane]);
}
inline void interleave(float *to, Pair row0, Pair row1) { store(to, row0), store(to + SIDE, row1); }

#if defined(__AVX512BF16__)
inline Planes planes_of(Pair x) {
  Planes made;
  for (int plane = 0;; plane++) {
    made.plane[plane] = narrow(x);
    if (plane + 1 == PLANES) return made;
    x = x - wide(made.plane[plane]);
  }
}
#else
inline Planes planes_of(Pair x) { return {{narrow(x)}}; }
#endif

inline Pair split(Pair x, float *) { return x; }
inline Planes split(Pair x, bf16 *) { return planes_of(x); }
inline Split split(Pair x) { return split(x, (Cell *)nullptr); }
inline void store(bf16 *to, Pair x) { store(to, planes_of(x)); }
// past the caches, for what is read much later
inline void stream(float *to, Pair x) { vectors::stream(to, x.low), vectors::stream(to + LANES, x.high); }
#if defined(__AVX512BF16__)
inline void stream(bf16 *to, Pair x) {
  const Planes made = planes_of(x);
  for (int plane = 0; plane < PLANES; plane++)
    _mm512_stream_si512((__m512i *)(to + plane * SQUARE), made.plane[plane].all);
}
#endif

// Some depths of a product: 32 rows of blocks `step` elements apart, and as many depths of a panel, whose numbers take
// the room of so many bf16.
struct Run {
  const Cell *a = nullptr;
  long step = 0;
  const bf16 *panel = nullptr;
  int depths = 0;
  int planes = OWN;
  int last = SIDE / 2;  // pairs of the last depth that are not zero
  long stride = SQUARE; // elements of the panel from a depth to the next; another for fp32 alone
  Run() = default;
  Run(const Cell *a, long step, const bf16 *panel, int depths, int planes)
      : a(a), step(step), panel(panel), depths(depths), planes(planes) {}
  // panels made of blocks
  Run(const Cell *a, const Cell *panel, long depths, long step = AREA)
      : a(a), step(step), panel((const bf16 *)panel), depths(int(depths)) {}
  // the same for so many inputs
  static Run of(const Cell *a, const Cell *panel, long inputs) {
    Run made(a, panel, blocks(inputs));
    made.last = int(inputs - (made.depths - 1) * SIDE + 1) / 2;
    return made;
  }
  // blocks of fp32 are panels of their rows as they lie, so many elements apart
  static Run of_rows(const Cell *a, const Cell *rows, long depths, long stride) {
    Run made(a, rows, depths);
    made.stride = stride;
    return made;
  }
};

// What is fetched while a block is multiplied: so many lines of 64 bytes at each depth of the first run, `step`
// elements further on each time.
struct Ahead {
  const bf16 *from = nullptr;
  long step = 0;
  int lines = 0;

  void fetch() {
    for (int line = 0; line < lines; line++) _mm_prefetch((const char *)(from + line * 32), _MM_HINT_T0);
    from += step;
  }
};

// sum (32, 32) = the runs' products, or these added to it. Where `high` is false only 16 rows count.
#if defined(__AMX_BF16__)
template <bool HIGH> inline void kernel_(Run one, Run two, float *sum, bool add, Ahead ahead) {
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
        ahead.fetch();
        for (int left = 0; left < PLANES - right; left++) {
          const bf16 *from = a + left * SQUARE;
          _tile_stream_loadd(4, from, 64); // so that it does not drive the panel away, which is used again first
          if (!left) _tile_loadd(6, b, 64);
          _tile_dpbf16ps(0, 4, 6);
          if (!left) _tile_loadd(7, b + 512, 64);
          _tile_dpbf16ps(1, 4, 7);
          if (HIGH) {
            _tile_stream_loadd(5, from + 512, 64);
            _tile_dpbf16ps(2, 5, 6);
            _tile_dpbf16ps(3, 5, 7);
          }
        }
      }
    ahead.lines = 0;
  }
  _tile_stored(0, sum, 128);
  _tile_stored(1, sum + 16, 128);
  if (HIGH) {
    _tile_stored(2, sum + 512, 128);
    _tile_stored(3, sum + 528, 128);
  }
}
#else
// f(the panel of a run), as numbers of bf16 or of fp32
template <class F> inline void as_numbers(const bf16 *panel, int planes, F f) {
  if constexpr (WIDE)
    if (planes != 1) return f((const float *)panel);
  f(panel);
}

template <bool HIGH> inline void kernel_(Run one, Run two, float *sum, bool add, Ahead ahead) {
  for (const Run &run : {one, two}) {
    for (int depth = 0; depth < (ahead.lines ? run.depths * run.planes : 0); depth++) ahead.fetch();
    if (run.depths)
      as_numbers(run.panel, run.planes, [&](auto *panel) {
        gemm::multiply(HIGH ? 32 : 16, run.a, SIDE, run.step, panel, run.stride, run.depths, sum, SIDE, add, 0,
                       run.last);
      });
    ahead.lines = 0, add = add || run.depths;
  }
}
#endif

inline void kernel(Run one, Run two, float *sum, bool add, bool high = true, Ahead ahead = {}) {
  high ? kernel_<true>(one, two, sum, add, ahead) : kernel_<false>(one, two, sum, add, ahead);
}

// A block of rows as one depth of a panel, of which the first `planes` are wanted: its rows are inputs, the first
// `rows` of them.
inline void panel_of_rows(bf16 *to, const bf16 *from, long rows = SIDE, int planes = PLANES) {
  for (int plane = 0; plane < planes; plane++)
    for (int pair = 0; pair < 16; pair++) {
      const bf16 *two = from + plane * SQUARE + 2 * pair * SIDE;
      Bits row0 = 2 * pair < rows ? load_bits(two) : no_bits();
      Bits row1 = 2 * pair + 1 < rows ? load_bits(two + SIDE) : no_bits();
      interleave(to + plane * SQUARE + pair * 32, row0, row1);
    }
}
inline void panel_of_rows(float *to, const float *from, long rows = SIDE) {
  rows = std::min<long>(rows, SIDE);
  std::memcpy(to, from, rows * SIDE * 4);
  std::memset(to + rows * SIDE, 0, (SIDE - rows) * SIDE * 4);
}

// A block of 32 x 32 elements of 32 bits with rows and columns exchanged; rows from `rows` on are taken for zero.
inline void transpose(float *to, const float *from, long rows = SIDE) {
  for (int high = 0; high < 2; high++)
    for (int half = 0; half < 2; half++) {
      Vec r[16];
      for (int i = 0; i < 16; i++)
        r[i] = high * 16 + i < rows ? vectors::load(from + (high * 16 + i) * SIDE + half * 16) : zero();
      vectors::transpose(r);
      for (int i = 0; i < 16; i++) vectors::store(to + (half * 16 + i) * SIDE + high * 16, r[i]);
    }
}

// A block as one depth of a panel: its rows are columns.
inline void panel_of_columns(bf16 *to, const bf16 *from, int planes = PLANES) {
  for (long half = 0; half < planes * SQUARE; half += 512) {
    Vec r[16]; // pairs of inputs
    for (int i = 0; i < 16; i++) r[i] = vectors::load((const float *)(from + half + i * SIDE));
    vectors::transpose(r);
    for (int i = 0; i < 16; i++) vectors::store((float *)(to + half + i * 32), r[i]);
  }
}
inline void panel_of_columns(float *to, const float *from) { transpose(to, from); }

#if defined(__AVX512BF16__)
// A block with rows and columns exchanged; only the first `rows` of its rows count, the others are zero.
inline void transpose(bf16 *to, const bf16 *from, long rows = SIDE) {
  const __m512i even = _mm512_set_epi16(62, 60, 58, 56, 54, 52, 50, 48, 46, 44, 42, 40, 38, 36, 34, 32, 30, 28, 26, 24,
                                        22, 20, 18, 16, 14, 12, 10, 8, 6, 4, 2, 0);
  const __m512i odd = _mm512_add_epi16(even, _mm512_set1_epi16(1));
  for (int plane = 0; plane < PLANES; plane++, to += SQUARE, from += SQUARE) {
    Vec half[2][16];
    for (int h = 0; h < 2; h++) {
      for (int i = 0; i < 16; i++)
        half[h][i] = h * 16 + i < rows ? vectors::load((const float *)(from + (h * 16 + i) * SIDE)) : zero();
      vectors::transpose(half[h]);
    }
    const auto picked = [&](int i, __m512i which) {
      return _mm512_permutex2var_epi16(_mm512_castps_si512(half[0][i].all), which, _mm512_castps_si512(half[1][i].all));
    };
    for (int i = 0; i < 16; i++) {
      _mm512_storeu_si512(to + 2 * i * SIDE, picked(i, even));
      _mm512_storeu_si512(to + (2 * i + 1) * SIDE, picked(i, odd));
    }
  }
}
#endif

// A block of a frozen weight as one depth of a panel, its rows as columns, in numbers that take the room of so many
// bf16; line(i) gives its rows.
template <class Line> inline void frozen_panel(bf16 *columns, int planes, Line line) {
  const auto make = [&](auto *block, auto *to, auto... planes) {
    for (long i = 0; i < SIDE; i++) store(block + i * SIDE, line(i));
    panel_of_columns(to, block, planes...);
  };
  alignas(64) bf16 narrow[AREA];
  alignas(64) float wide[WIDE ? SQUARE : 1];
  if (!WIDE || planes == 1)
    make(narrow, columns, planes);
  else
    make(wide, (float *)columns);
}

// One number of such a block.
inline float frozen_number(const bf16 *columns, int planes, long row, long column) {
  if (WIDE && planes > 1) return ((const float *)columns)[column * SIDE + row];
  float sum = 0;
  for (int plane = planes - 1; plane >= 0; plane--)
    sum += vectors::wide(columns[plane * SQUARE + row / 16 * 512 + column / 2 * 32 + row % 16 * 2 + column % 2]);
  return sum;
}

// The same depth for a product with the weight's transpose: a panel whose columns are the block's.
#if defined(__AVX512BF16__)
inline void turned(bf16 *to, const bf16 *from, int planes) {
  // within 8 bytes: two outputs of two inputs -> two inputs of two outputs
  const __m512i swap = _mm512_broadcast_i32x4(_mm_set_epi8(15, 14, 11, 10, 13, 12, 9, 8, 7, 6, 3, 2, 5, 4, 1, 0));
  const auto lines = [](const bf16 *at, long row) { // 16 bytes of every second row
    __m512i x = _mm512_castsi128_si512(_mm_loadu_si128((const __m128i *)(at + row * 32)));
    const auto line = [&](int i) { return _mm_loadu_si128((const __m128i *)(at + (row + 2 * i) * 32)); };
    x = _mm512_mask_broadcast_i32x4(x, 0x00f0, line(1));
    x = _mm512_mask_broadcast_i32x4(x, 0x0f00, line(2));
    return _mm512_mask_broadcast_i32x4(x, 0xf000, line(3));
  };
  for (int plane = 0; plane < planes; plane++, to += SQUARE, from += SQUARE)
    for (int half = 0; half < 2; half++)       // of the outputs
      for (int eight = 0; eight < 2; eight++)  // pairs of inputs
        for (int four = 0; four < 4; four++) { // outputs
          const bf16 *at = from + half * 512 + eight * 256 + four * 8;
          const __m512i even = lines(at, 0), odd = lines(at, 1);
          bf16 *pair = to + eight * 512 + (half * 8 + four * 2) * 32;
          _mm512_storeu_si512(pair, _mm512_shuffle_epi8(_mm512_unpacklo_epi64(even, odd), swap));
          _mm512_storeu_si512(pair + 32, _mm512_shuffle_epi8(_mm512_unpackhi_epi64(even, odd), swap));
        }
}
#endif
inline void turned(float *to, const bf16 *from, int planes) {
  alignas(64) float wide[SQUARE];
  for (int pair = 0; pair < 16 && planes == 1; pair++)
    for (int half = 0; half < 2; half++) {
      const bf16 *at = from + half * 512 + pair * 32;
      vectors::store(wide + pair * 64 + half * 16, vectors::even(at));
      vectors::store(wide + pair * 64 + 32 + half * 16, vectors::odd(at));
    }
  transpose(to, planes == 1 ? wide : (const float *)from);
}

// Memory of a thread for so many numbers, as much as it has needed so far; by the place where it is asked for.
template <class T, int PLACE> inline T *scratch(long count) {
  struct Delete {
    void operator()(T *data) { ::operator delete[](data, std::align_val_t(64)); }
  };
  static thread_local std::unique_ptr<T[], Delete> data;
  static thread_local long size = 0;
  if (count > size) {
    data.reset(static_cast<T *>(::operator new[](count * sizeof(T), std::align_val_t(64))));
    size = count;
  }
  return data.get();
}

// A frozen weight as its panels, for x W' (outputs, inputs), or for y W, where it is multiplied as its transpose.
struct Weight {
  const bf16 *panels;
  long outputs, inputs; // of the product
  int planes;           // a number takes the room of so many bf16
  bool transposed = false;

  long depths() const { return inputs / SIDE; }
  long columns() const { return outputs / SIDE; }                              // panels
  long step() const { return (transposed ? columns() : 1) * SQUARE * planes; } // from a depth to the next
  const bf16 *block(long panel, long depth) const {
    return panels + (transposed ? depth * columns() + panel : panel * depths() + depth) * SQUARE * planes;
  }
};

// Some depths of a panel as they are multiplied.
struct Piece {
  const bf16 *panel;
  int planes;
};
inline Piece piece(const Weight &w, long panel, long depth, long count) {
  if (!w.transposed) return {w.block(panel, depth), w.planes};
  const int planes = WIDE ? OWN : w.planes;
  bf16 *made = scratch<bf16, 0>(count * SQUARE * planes);
  for (long d = 0; d < count; d++) turned((Cell *)(made + d * SQUARE * planes), w.block(panel, depth + d), w.planes);
  return {made, planes};
}

struct Order {
  long panel, next;
};
// Which of so many panels has its turn, and the next; `halves`: of the first half and of the second by turns.
inline Order order(long turn, long panels, bool halves) {
  if (!halves) return {turn, turn + 1};
  const long panel = turn / 2 + turn % 2 * (panels / 2);
  return {panel, turn % 2 ? turn / 2 + 1 : panel + panels / 2};
}

// So many things in parts of about the same size, none larger than `most`.
inline long even(long count, long most) {
  const long parts = (count + most - 1) / most;
  return (count + parts - 1) / parts;
}

// What goes beside a product: `inner`, its first `rank` columns, through `ups`.
struct Low {
  const Cell *inner = nullptr, *ups = nullptr;
  long rank = 0;

  Run run(long row, long panel) const {
    const long depths = blocks(rank);
    return Run::of(inner + row * depths * AREA, ups + panel * depths * AREA, rank);
  }
};

// `product` without tiles, where rows are packed first if there are panels enough to make up for it.
#if !defined(__AMX_BF16__)
constexpr long PACKED = 4; // panels

template <class Done>
inline void product_of_packed(long count, const Cell *a, const Weight &w, const Low &low, Done done, bool halves) {
  alignas(64) float sums[MOST][SQUARE];
  const long depths = w.depths(), columns = w.columns();
  for (long first = 0; first < count; first += MOST) {
    const long here = std::min(MOST, count - first);
    const long deep = even(depths, std::max(PACKED_BYTES() / (here * SQUARE * long(sizeof(Cell))), 1L));
    float *kept = deep < depths ? scratch<float, 1>(columns * here * SQUARE) : nullptr;
    for (long from = 0; from < depths; from += deep) {
      const long some = std::min(deep, depths - from);
      const gemm::Packed rows(here * SIDE, int(some), [&](long row, int depth) {
        return a + ((first + row / SIDE) * depths + from + depth) * SQUARE + row % SIDE * SIDE;
      });
      for (long turn = 0; turn < columns; turn++) {
        const auto [p, next] = order(turn, columns, halves);
        float *all = kept ? kept + p * here * SQUARE : sums[0], *to = from ? sums[0] : all;
        const Piece made = piece(w, p, from, some);
        const bf16 *then = w.transposed || next >= columns ? nullptr : w.block(next, from);
        as_numbers(made.panel, made.planes,
                   [&](auto *panel) { rows.multiply(panel, SQUARE, (decltype(panel))then, to); });
        for (long i = 0; from && i < here * SQUARE; i += SIDE)
          store(all + i, load((const float *)all + i) + load((const float *)to + i));
        for (long r = 0; r < here && from + some == depths; r++) {
          if (low.rank) kernel({}, low.run(first + r, p), all + r * SQUARE, true);
          done(first + r, p, all + r * SQUARE);
        }
      }
    }
  }
}
#endif

// Rows (in blocks, `w.inputs` wide) through a weight's panels, and what is low in rank beside them; `done(r, p, sum)`
// gets each block of 32 rows x 32 columns. `halves`: columns of the first half and of the second by turns.
//
// As many depths at a time as rows of them stay in the second-level cache; of a panel's as many as stay in the first,
// while rows go by (K. Goto, R. van de Geijn, Anatomy of High-Performance Matrix Multiplication, 2008).
template <class Done>
inline void product(long count, const Cell *a, const Weight &w, const Low &low, Done done, bool halves = false) {
#if !defined(__AMX_BF16__)
  if (w.columns() >= PACKED) return product_of_packed(count, a, w, low, done, halves);
#endif
  alignas(64) float sums[MOST][SQUARE];
  const long depths = w.depths(), columns = w.columns();
  for (long first = 0; first < count; first += MOST) {
    const long here = std::min(MOST, count - first);
    const long deep = even(depths, std::max(ROWS_BYTES() / (here * AREA * long(sizeof(Cell))), 1L));
    const long nearest = even(deep, std::max(PANEL_BYTES() / (SQUARE * 2 * long(w.planes)), 1L));
    const int lines = int((SIDE + here - 1) / here);
    float *kept = deep < depths ? scratch<float, 1>(columns * here * SQUARE) : nullptr;
    for (long begin = 0; begin < depths; begin += deep) {
      const long end = std::min(depths, begin + deep);
      for (long turn = 0; turn < columns; turn++) {
        const auto [p, next] = order(turn, columns, halves);
        float *sum = kept ? kept + p * here * SQUARE : sums[0];
        for (long from = begin; from < end; from += nearest) {
          const long some = std::min(nearest, end - from);
          const bool last = from + some == depths;
          const auto [panel, planes] = piece(w, p, from, some);
          const bf16 *ahead = from + some < end ? w.block(p, from + some) : w.block(std::min(next, columns - 1), begin);
          for (long r = 0; r < here; r++) {
            const Run one(a + ((first + r) * depths + from) * AREA, AREA, panel, int(some), planes);
            // what comes next is fetched in as many shares as there are blocks of rows
            const long share = r * lines;
            kernel(one, last ? low.run(first + r, p) : Run(), sum + r * SQUARE, from > 0, true,
                   {ahead + share * 32, w.step() / w.planes, share < SIDE ? lines : 0});
            // one block behind, while the tiles of the next are at work
            if (last && r) done(first + r - 1, p, sum + (r - 1) * SQUARE);
          }
          if (last) done(first + here - 1, p, sum + (here - 1) * SQUARE);
        }
      }
    }
  }
}

// Adds left' x right, (rank, width) of matrices of `rows` rows, to `sums` (in blocks); `real` of the rank's rows count.
// `aside`: memory for (rank / 32 + 1) x blocks of rows.
inline void add_product_of_rows(long rows, const Cell *left, long rank, long real, const Cell *right, long width,
                                float *sums, Cell *aside) {
  long count = blocks(rows), ranks = rank / SIDE, columns = width / SIDE;
  Cell *panel = aside, *turned = aside + count * AREA;
  for (long k = 0; k < ranks; k++)
    for (long r = 0; r < count; r++)
      transpose(turned + (k * count + r) * AREA, left + (r * ranks + k) * AREA, rows - r * SIDE);
  const long there = WIDE ? rows / SIDE : 0; // blocks that are panels already; what fills up the last one is not zero
  for (long p = 0; p < columns; p++) {
    for (long r = there; r < count; r++)
      panel_of_rows(panel + r * AREA, right + (r * columns + p) * AREA, rows - r * SIDE);
    for (long k = 0; k < ranks; k++) {
      const Cell *a = turned + k * count * AREA;
      kernel({a + there * AREA, panel + there * AREA, count - there},
             Run::of_rows(a, right + p * AREA, there, columns * AREA), sums + (k * columns + p) * SQUARE, true,
             real - k * SIDE > 16);
    }
  }
}

} // namespace block
