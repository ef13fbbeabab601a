// The micro-kernel of blocks: 32 rows times a panel of 32 columns, by tiles or by vectors. Knows no matrix as a whole.
#pragma once

#include "blocks.h"

namespace block {

// The operands of one product: a row of blocks, and as many blocks of a panel's inputs.
struct Operands {
  const Element *a = nullptr;
  long a_stride = 0; // elements from a block of inputs to the next
  const bf16 *panel = nullptr;
  int k_blocks = 0;
  int planes = BF16_PER_NUMBER;   // memory of a number of the panel, in bf16
  int last_pairs = SIDE / 2;      // pairs of inputs of the last block that are not zero
  long panel_stride = PLANE_SIZE; // elements of a panel from a block of inputs to the next; another for fp32 alone
  Operands() = default;
  Operands(const Element *a, long a_stride, const bf16 *panel, int k_blocks, int planes)
      : a(a), a_stride(a_stride), panel(panel), k_blocks(k_blocks), planes(planes) {}
  // A panel made of blocks.
  Operands(const Element *a, const Element *panel, long k_blocks, long a_stride = BLOCK_SIZE)
      : a(a), a_stride(a_stride), panel((const bf16 *)panel), k_blocks(int(k_blocks)) {}
  // The same for a number of inputs that need not be a multiple of 32.
  static Operands of_inputs(const Element *a, const Element *panel, long inputs) {
    Operands made(a, panel, blocks(inputs));
    made.last_pairs = int(inputs - (made.k_blocks - 1) * SIDE + 1) / 2;
    return made;
  }
  // Blocks of fp32 are panels of their own rows, so many elements apart.
  static Operands of_rows(const Element *a, const Element *rows, long k_blocks, long panel_stride) {
    Operands made(a, rows, k_blocks);
    made.panel_stride = panel_stride;
    return made;
  }
};

// What is prefetched while a block is multiplied: so many cache lines at each block of inputs of the first operands,
// `step` elements further on each time.
struct Prefetch {
  const bf16 *from = nullptr;
  long step = 0;
  int lines = 0;

  void fetch() {
    for (int line = 0; line < lines; line++) _mm_prefetch((const char *)from + line * gemm::CACHE_LINE, _MM_HINT_T0);
    if (lines) from += step;
  }
};

// sum (32, 32) = the products of both operands, or these added to it. ALL_ROWS false: 16 rows alone.
#if defined(__AMX_BF16__)
template <bool ALL_ROWS> inline void micro_kernel(Operands one, Operands two, float *sum, bool add, Prefetch prefetch) {
  constexpr long ROW_BYTES = SIDE * sizeof(bf16), SUM_BYTES = SIDE * sizeof(float);
  float *sum_low = sum + HALF * SIDE; // rows 16 to 31
  asm volatile("" : : : "memory");    // loads of tiles do not tell GCC what they read
  if (add) {
    _tile_loadd(0, sum, SUM_BYTES);
    _tile_loadd(1, sum + HALF, SUM_BYTES);
    if (ALL_ROWS) {
      _tile_loadd(2, sum_low, SUM_BYTES);
      _tile_loadd(3, sum_low + HALF, SUM_BYTES);
    }
  } else {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
  }
  for (const Operands &of : {one, two}) {
    const int planes = PLANES == 1 ? 1 : of.planes;
    const bf16 *a = of.a, *b = of.panel;
    for (int k = 0; k < of.k_blocks; k++, a += of.a_stride)
      for (int right = 0; right < planes; right++, b += PLANE_SIZE) {
        prefetch.fetch();
        for (int left = 0; left < PLANES - right; left++) {
          const bf16 *from = a + left * PLANE_SIZE;
          _tile_stream_loadd(4, from, ROW_BYTES); // does not evict the panel, which is used again first
          if (!left) _tile_loadd(6, b, ROW_BYTES);
          _tile_dpbf16ps(0, 4, 6);
          if (!left) _tile_loadd(7, b + TILE, ROW_BYTES);
          _tile_dpbf16ps(1, 4, 7);
          if (ALL_ROWS) {
            _tile_stream_loadd(5, from + TILE, ROW_BYTES);
            _tile_dpbf16ps(2, 5, 6);
            _tile_dpbf16ps(3, 5, 7);
          }
        }
      }
    prefetch.lines = 0;
  }
  _tile_stored(0, sum, SUM_BYTES);
  _tile_stored(1, sum + HALF, SUM_BYTES);
  if (ALL_ROWS) {
    _tile_stored(2, sum_low, SUM_BYTES);
    _tile_stored(3, sum_low + HALF, SUM_BYTES);
  }
}
#else
// Calls f with the panel as numbers of bf16 or of fp32.
template <class F> inline void with_type(const bf16 *panel, int planes, F f) {
  if constexpr (FP32_BLOCKS)
    if (planes != 1) return f((const float *)panel);
  f(panel);
}

template <bool ALL_ROWS> inline void micro_kernel(Operands one, Operands two, float *sum, bool add, Prefetch prefetch) {
  for (const Operands &of : {one, two}) {
    for (int k = 0; k < (prefetch.lines ? of.k_blocks * of.planes : 0); k++) prefetch.fetch();
    if (of.k_blocks)
      with_type(of.panel, of.planes, [&](auto *panel) {
        const gemm::Operands<Element, std::remove_cv_t<std::remove_pointer_t<decltype(panel)>>> operands{
            of.a, SIDE, of.a_stride, panel, of.panel_stride, of.k_blocks, of.last_pairs};
        gemm::multiply(ALL_ROWS ? SIDE : HALF, operands, sum, SIDE, add);
      });
    prefetch.lines = 0, add = add || of.k_blocks;
  }
}
#endif

inline void multiply_block(Operands one, Operands two, float *sum, bool add, bool all_rows = true,
                           Prefetch prefetch = {}) {
  all_rows ? micro_kernel<true>(one, two, sum, add, prefetch) : micro_kernel<false>(one, two, sum, add, prefetch);
}

} // namespace block
