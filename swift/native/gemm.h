// Micro-kernels by vectors: rows times a panel, of fp32 by FMA and of bf16 by AVX-512 BF16. Knows no model.
//
// Inputs (the K dimension) go by blocks of 32, columns by panels of 32. A panel of fp32 is (inputs, 32 columns); one of
// bf16 is laid out as in tiles.h, and is widened to fp32 where it meets rows of fp32. Sums are fp32 and are added in
// one order, however many rows are multiplied together.
//
// The sums of some rows stay in registers while a panel goes by (register blocking). A panel is cut into as many blocks
// of inputs as stay in the L1 cache, while rows come from L2 (K. Goto, R. van de Geijn, Anatomy of High-Performance
// Matrix Multiplication, 2008).
#pragma once

#include <type_traits>

#include "caches.h"
#include "vectors.h"

namespace gemm {

using vectors::bf16;
using vectors::Vec;

constexpr int K_BLOCK = 32;                         // inputs
constexpr int PANEL_WIDTH = 32;                     // columns
constexpr int HALF = PANEL_WIDTH / 2;               // columns of a vector, and of a tile
constexpr int PANEL_BLOCK = K_BLOCK * PANEL_WIDTH;  // elements of a panel for one block of inputs
constexpr int TILE = PANEL_BLOCK / 2;               // elements of bf16 of a tile: 16 pairs of inputs x 16 columns x 2
constexpr int PAIRS = K_BLOCK / 2;                  // of inputs in a block
constexpr int CACHE_LINE = 64;                      // bytes
constexpr int MAX_ROWS = vectors::AVX512 ? 14 : 6;  // whose sums stay in registers: 28 of 32 with AVX-512
constexpr int WIDE_ROWS = vectors::AVX512 ? 14 : 2; // rows that take both halves of a panel at once, at most

// Rows of the next group, of those that are left: groups are of about the same size.
inline int row_group(long rows) {
  const long groups = (rows + MAX_ROWS - 1) / MAX_ROWS;
  return int((rows + groups - 1) / groups);
}

// Halves of a panel that `rows` take at once, so that enough sums are in flight to hide the latency of an FMA.
constexpr int column_halves(int rows) { return rows <= WIDE_ROWS ? 2 : 1; }

// What one instruction multiplies: an input of fp32 with 16 columns, or a pair of inputs of bf16.
template <class A> struct Unit;

template <> struct Unit<float> {
  static constexpr int INPUTS = 1;
  static Vec broadcast(const float *x) { return vectors::broadcast(*x); }
  static Vec columns(const bf16 *panel, int pair, int odd, int half) {
    const bf16 *at = panel + half * TILE + pair * 2 * HALF;
    return odd ? vectors::odd_to_float(at) : vectors::even_to_float(at);
  }
  static Vec columns(const float *panel, int pair, int odd, int half) {
    return vectors::load(panel + (pair * 2 + odd) * PANEL_WIDTH + half * HALF);
  }
  static Vec multiply_add(Vec x, Vec y, Vec sum) { return vectors::fma(x, y, sum); }
};

#if defined(__AVX512BF16__)
template <> struct Unit<bf16> {
  static constexpr int INPUTS = 2;
  static Vec broadcast(const bf16 *x) {
    int32_t both;
    std::memcpy(&both, x, sizeof both);
    return {_mm512_castsi512_ps(_mm512_set1_epi32(both))};
  }
  static Vec columns(const bf16 *panel, int pair, int, int half) {
    return vectors::load((const float *)(panel + half * TILE + pair * 2 * HALF));
  }
  static Vec multiply_add(Vec x, Vec y, Vec sum) {
    return {_mm512_dpbf16_ps(sum.all, (__m512bh)_mm512_castps_si512(x.all), (__m512bh)_mm512_castps_si512(y.all))};
  }
};
#endif

// What is prefetched while a panel is multiplied: the memory `distance` elements further on; 0 for none. Where a panel
// goes by several times, each of the first `passes` (a power of two) fetches a part, so that none waits for memory.
struct Prefetch {
  long distance;
  int passes, pass = 0;
  Prefetch(long distance, long all) : distance(distance), passes(all < 2 ? 1 : all < 4 ? 2 : 4) {}
};

// The operands of a micro-kernel: some rows, and some blocks of a panel's inputs. Strides are in elements.
template <class A, class B> struct Operands {
  const A *a;
  long row_stride, a_block_stride; // from a row to the next, from a block of inputs to the next
  const B *panel;
  long panel_stride; // from a block of inputs to the next
  int k_blocks;
  int last_pairs; // pairs of inputs in the last block that are not zero
};

// Adds R rows x H halves of a panel to `sum`, or writes them there. Rows that are PACKED lie as in `Packed`.
template <int R, int H, bool PACKED = false, class A, class B>
inline void micro_kernel(Operands<A, B> of, int half, float *sum, long sum_stride, bool accumulate, Prefetch prefetch) {
  using Unit = Unit<A>;
  Vec sums[R][H];
  const A *a = of.a;
  const B *panel = of.panel;
  const long distance = prefetch.distance;
  const int mask = prefetch.passes - 1;
  constexpr bool SINGLE_GROUP = !PACKED && R <= 2; // nothing to share the prefetching with
  // loops are unrolled by name: GCC keeps sums in memory where it does so by itself too late
#pragma GCC unroll 16
  for (int r = 0; r < R; r++)
#pragma GCC unroll 2
    for (int h = 0; h < H; h++)
      sums[r][h] = accumulate ? vectors::load(sum + r * sum_stride + (half + h) * HALF) : vectors::zero();
  for (int k = 0; k < of.k_blocks; k++, a += PACKED ? K_BLOCK * R : of.a_block_stride, panel += of.panel_stride)
    for (int pair = 0; pair < (k + 1 < of.k_blocks ? PAIRS : of.last_pairs); pair++) {
      if (distance && (SINGLE_GROUP || (pair & mask) == prefetch.pass))
        for (int line = 0; line < int(2 * PANEL_WIDTH * sizeof(B)); line += CACHE_LINE)
          _mm_prefetch((const char *)(panel + distance + pair * 2 * PANEL_WIDTH) + line,
                       PACKED ? _MM_HINT_T1 : _MM_HINT_T0);
#pragma GCC unroll 2
      for (int odd = 0; odd < 2; odd += Unit::INPUTS) {
        Vec columns[H];
#pragma GCC unroll 2
        for (int h = 0; h < H; h++) {
          columns[h] = Unit::columns(panel, pair, odd, half + h);
          vectors::keep_in_register(columns[h]); // GCC would load it anew for every row
        }
#pragma GCC unroll 16
        for (int r = 0; r < R; r++) {
          const int input = pair * 2 + odd;
          const Vec x = Unit::broadcast(PACKED ? a + input * R + r * Unit::INPUTS : a + r * of.row_stride + input);
#pragma GCC unroll 2
          for (int h = 0; h < H; h++) sums[r][h] = Unit::multiply_add(x, columns[h], sums[r][h]);
        }
      }
    }
#pragma GCC unroll 16
  for (int r = 0; r < R; r++)
#pragma GCC unroll 2
    for (int h = 0; h < H; h++) vectors::store(sum + r * sum_stride + (half + h) * HALF, sums[r][h]);
}

// sum (R, 32) = a (R, 32 x k_blocks) x panel, or that added to it.
template <int R, class A, class B>
inline void kernel(const Operands<A, B> &of, float *sum, long sum_stride, bool accumulate, Prefetch prefetch) {
  constexpr int H = column_halves(R);
  for (int half = 0; half < 2; half += H, prefetch.pass++)
    micro_kernel<R, H>(of, half, sum, sum_stride, accumulate, prefetch);
}

template <class A, class B, int R = MAX_ROWS> inline auto kernel_for(int rows) {
  if constexpr (R > 1)
    if (rows < R) return kernel_for<A, B, R - 1>(rows);
  return kernel<R, A, B>;
}

// The same for any number of rows. Prefetches `distance` elements further on, or the next panel where there are several
// groups of rows.
template <class A, class B>
inline void multiply(int rows, Operands<A, B> of, float *sum, long sum_stride, bool accumulate, long distance = 0) {
  const int each = 2 / column_halves(rows), passes = (rows + MAX_ROWS - 1) / MAX_ROWS * each;
  Prefetch prefetch(distance && passes > 1 ? of.k_blocks * of.panel_stride : distance, passes);
  for (int group; rows; rows -= group) {
    group = row_group(rows);
    kernel_for<A, B>(group)(of, sum, sum_stride, accumulate, prefetch);
    of.a += group * of.row_stride, sum += group * sum_stride, prefetch.pass += each;
  }
}

// Many rows, packed in the order in which they are multiplied: by groups of rows, within a group unit by unit the
// elements of all its rows. As much of a panel as stays in L1 meets all groups, one after the other.
template <class A> class Packed {
public:
  // Rows of `k_blocks` blocks of inputs that stay in L2.
  static long rows_in_l2(int k_blocks) {
    return std::max(caches::l2_bytes() * 3 / 4 / (k_blocks * K_BLOCK * long(sizeof(A))) / MAX_ROWS, 4L) * MAX_ROWS;
  }
  // Elements of memory that `rows` take.
  static long elements(long rows, long k_blocks) { return rows * k_blocks * K_BLOCK + UNITS_AT_ONCE * Unit<A>::INPUTS; }

  // block(row, k) is the address of 32 inputs of a row; `memory` holds `elements`.
  template <class Block>
  Packed(long rows, int k_blocks, Block block, A *memory) : data_(memory), rows_(rows), k_blocks_(k_blocks) {
    const int most = int(std::max(caches::l1_bytes() * 7 / 8 / BYTES_PER_BLOCK, 1L));
    const int parts = (k_blocks + most - 1) / most;
    part_ = (k_blocks + parts - 1) / parts;
    A *to = data_;
    for (int from = 0; from < k_blocks; from += part_)
      for (long row = 0, group; row < rows; row += group) {
        group = row_group(rows - row);
        for (int k = from; k < std::min(k_blocks, from + part_); k++, to += group * K_BLOCK)
          pack(int(group), [&](int r) { return (const float *)block(row + r, k); }, (float *)to);
      }
  }

  long rows() const { return rows_; }

  // sum (rows, 32) = the rows x panel. `next_panel` is multiplied next and is prefetched; it may be null.
  template <class B> void multiply(const B *panel, long panel_stride, const B *next_panel, float *sum) const {
    for (int from = 0; from < k_blocks_; from += part_, panel += part_ * panel_stride) {
      const int k_blocks = std::min(part_, k_blocks_ - from);
      const A *a = data_ + from * rows_ * K_BLOCK;
      const B *next = from + k_blocks < k_blocks_ ? panel + k_blocks * panel_stride : next_panel;
      Prefetch prefetch(next ? next - panel : 0, (rows_ + MAX_ROWS - 1) / MAX_ROWS * (2 / HALVES));
      for (int half = 0; half < 2; half += HALVES)
        for (long row = 0, group; row < rows_; row += group, prefetch.pass++) {
          group = row_group(rows_ - row);
          const Operands<A, B> of{a + row * k_blocks * K_BLOCK, 0, 0, panel, panel_stride, k_blocks, PAIRS};
          kernel_for<B>(int(group))(of, half, sum + row * PANEL_WIDTH, PANEL_WIDTH, from > 0, prefetch);
        }
    }
  }

private:
  static constexpr int UNITS = K_BLOCK / Unit<A>::INPUTS, HALVES = vectors::AVX512 ? 2 : 1;
  static constexpr int UNITS_AT_ONCE = vectors::AVX512 ? 16 : 8; // of one store
  // of L1 for a block of inputs: its part of the panel, and of a group of rows
  static constexpr long BYTES_PER_BLOCK = HALVES * TILE * sizeof(bf16) + MAX_ROWS * K_BLOCK * sizeof(A);

  template <class B, int R = MAX_ROWS> static auto kernel_for(int rows) {
    if constexpr (R > 1)
      if (rows < R) return kernel_for<B, R - 1>(rows);
    return micro_kernel<R, HALVES, true, A, B>;
  }

  // 32 inputs of each row, unit by unit. Writes up to UNITS_AT_ONCE units too many, over which the next
  // call writes.
  template <class Line> static void pack(int rows, Line line, float *to) {
    for (int unit = 0; unit < UNITS; unit += UNITS_AT_ONCE, to += UNITS_AT_ONCE * rows) {
#if defined(__AVX512F__)
      Vec square[16];
      for (int r = 0; r < 16; r++) square[r] = r < rows ? vectors::load(line(r) + unit) : vectors::zero();
      vectors::transpose(square);
      for (int i = 0; i < 16; i++) vectors::store(to + i * rows, square[i]);
#else
      __m256 square[8];
      for (int r = 0; r < 8; r++) square[r] = r < rows ? _mm256_loadu_ps(line(r) + unit) : _mm256_setzero_ps();
      vectors::transpose(square);
      for (int i = 0; i < 8; i++) _mm256_storeu_ps(to + i * rows, square[i]);
#endif
    }
  }

  A *data_;
  long rows_;
  int k_blocks_, part_; // part: blocks of inputs whose panel stays in L1
};

} // namespace gemm
