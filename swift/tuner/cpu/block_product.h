// Products of matrices in blocks with frozen weights in panels, blocked for the caches. Knows no model.
//
// As many blocks of inputs at a time as rows of them stay in L2; of a panel as many as stay in L1 while all rows go by
// (K. Goto, R. van de Geijn, Anatomy of High-Performance Matrix Multiplication, 2008).
#pragma once

#include "block_kernel.h"
#include "block_panels.h"
#include "caches.h"

namespace block {

constexpr long MAX_ROW_BLOCKS = 16;   // blocks of rows that go through a panel together
constexpr long MIN_PACKED_PANELS = 4; // from which on packing rows pays, without tiles

// Bytes that stay in a core's caches during a product: of a panel in L1, of rows in L2, where sums and the next panel
// need space too.
inline long panel_bytes_in_l1() { return caches::l1_bytes() * 7 / 8; }
inline long row_bytes_in_l2() { return caches::l2_bytes() * 2 / 5; }
inline long packed_bytes_in_l2() { return caches::l2_bytes() * 3 / 4; }

// A frozen weight in panels for x W' (outputs, inputs), or the same panels for y W, with the transpose.
struct Weight {
  const bf16 *panels;
  long outputs, inputs; // of the product
  int planes;           // memory of a number, in bf16
  bool transposed = false;

  long k_blocks() const { return inputs / SIDE; }
  long columns() const { return outputs / SIDE; } // panels
  long panel_stride() const { return (transposed ? columns() : 1) * PLANE_SIZE * planes; }
  const bf16 *block(long panel, long k) const {
    return panels + (transposed ? k * columns() + panel : panel * k_blocks() + k) * PLANE_SIZE * planes;
  }
};

// The most blocks of inputs that one pass over so many blocks of rows takes.
inline long max_part(const Weight &w, long row_blocks) {
  const bool packed = !tiles::HAS_AMX && w.columns() >= MIN_PACKED_PANELS;
  const long bytes = packed ? packed_bytes_in_l2() : row_bytes_in_l2();
  return std::max(bytes / (row_blocks * (packed ? PLANE_SIZE : BLOCK_SIZE) * long(sizeof(Element))), 1L);
}
inline long part_of(const Weight &w, long row_blocks) { return part_size(w.k_blocks(), max_part(w, row_blocks)); }

// Blocks of a panel that fit into L1.
inline long panel_blocks_in_l1(const Weight &w) {
  return std::max(panel_bytes_in_l1() / (PLANE_SIZE * long(sizeof(bf16)) * w.planes), 1L);
}

// Blocks of inputs of a panel that stay in L1 while rows go by, in equal shares of `part`.
inline long part_in_l1(const Weight &w, long part) { return part_size(part, panel_blocks_in_l1(w)); }

// A thread's memory for products; every thread reserves it before its first product.
struct Scratch {
  memory::Buffer<bf16> transposed; // a part of a panel of a transposed weight
  memory::Buffer<float> sums;      // of all panels, where inputs are taken in parts
  memory::Buffer<Element> packed;  // rows
};
inline Scratch &scratch() {
  static thread_local Scratch own;
  return own;
}

// Makes sure of the memory for `product` with up to so many blocks of rows, and up to so many inputs. Throws
// std::bad_alloc.
inline void reserve_scratch(const Weight &w, long row_blocks) {
  const long most = std::min(MAX_ROW_BLOCKS, row_blocks);
  const auto part = [&](long count) { return std::min(w.k_blocks(), max_part(w, count)); };
  if (w.transposed) {
    const bool packed = !tiles::HAS_AMX && w.columns() >= MIN_PACKED_PANELS;
    const long blocks = packed ? part(1) : std::min(part(1), panel_blocks_in_l1(w));
    scratch().transposed.reserve(blocks * PLANE_SIZE * (FP32_BLOCKS ? BF16_PER_NUMBER : w.planes));
  }
  if (part(most) < w.k_blocks()) scratch().sums.reserve(w.columns() * most * PLANE_SIZE);
  if (!tiles::HAS_AMX)
    for (long count = 1; count <= most; count++)
      scratch().packed.reserve(gemm::Packed<Element>::elements(count * SIDE, part(count)));
}

// Some blocks of a panel's inputs as they are multiplied.
struct PanelPart {
  const bf16 *panel;
  int planes;
};
inline PanelPart panel_part(const Weight &w, long panel, long k, long count) {
  if (!w.transposed) return {w.block(panel, k), w.planes};
  const int planes = FP32_BLOCKS ? BF16_PER_NUMBER : w.planes;
  bf16 *made = scratch().transposed.data();
  for (long i = 0; i < count; i++)
    transpose_panel((Element *)(made + i * PLANE_SIZE * planes), w.block(panel, k + i), w.planes);
  return {made, planes};
}

// The panel whose turn it is, and the next; `alternate`: one of the first half and one of the second by turns.
struct PanelOrder {
  long panel, next;
};
inline PanelOrder panel_order(long turn, long panels, bool alternate) {
  if (!alternate) return {turn, turn + 1};
  const long panel = turn / 2 + turn % 2 * (panels / 2);
  return {panel, turn % 2 ? turn / 2 + 1 : panel + panels / 2};
}

// The LoRA term of a product: x A' (rows, rank in blocks) times B'.
struct LoraTerm {
  const Element *xa = nullptr, *b_panels = nullptr;
  long rank = 0; // 0: none

  Operands operands(long row_block, long panel) const {
    const long k_blocks = blocks(rank);
    return Operands::of_inputs(xa + row_block * k_blocks * BLOCK_SIZE, b_panels + panel * k_blocks * BLOCK_SIZE, rank);
  }
};

#if !defined(__AMX_BF16__)
// `product` with rows packed first.
template <class Epilogue>
inline void product_by_packed_rows(long row_blocks, const Element *a, const Weight &w, const LoraTerm &lora,
                                   Epilogue epilogue, bool alternate) {
  alignas(64) float sums[MAX_ROW_BLOCKS][PLANE_SIZE];
  const long k_blocks = w.k_blocks(), columns = w.columns();
  for (long first = 0; first < row_blocks; first += MAX_ROW_BLOCKS) {
    const long count = std::min(MAX_ROW_BLOCKS, row_blocks - first), part = part_of(w, count);
    float *kept = part < k_blocks ? scratch().sums.data() : nullptr;
    for (long from = 0; from < k_blocks; from += part) {
      const long here = std::min(part, k_blocks - from);
      const gemm::Packed<Element> rows(
          count * SIDE, int(here),
          [&](long row, int k) {
            return a + ((first + row / SIDE) * k_blocks + from + k) * PLANE_SIZE + row % SIDE * SIDE;
          },
          scratch().packed.data());
      for (long turn = 0; turn < columns; turn++) {
        const auto [p, next] = panel_order(turn, columns, alternate);
        float *all = kept ? kept + p * count * PLANE_SIZE : sums[0], *to = from ? sums[0] : all;
        const PanelPart made = panel_part(w, p, from, here);
        const bf16 *next_panel = w.transposed || next >= columns ? nullptr : w.block(next, from);
        with_type(made.panel, made.planes,
                  [&](auto *panel) { rows.multiply(panel, PLANE_SIZE, (decltype(panel))next_panel, to); });
        for (long i = 0; from && i < count * PLANE_SIZE; i += SIDE)
          store(all + i, load((const float *)all + i) + load((const float *)to + i));
        for (long r = 0; r < count && from + here == k_blocks; r++) {
          if (lora.rank) multiply_block({}, lora.operands(first + r, p), all + r * PLANE_SIZE, true);
          epilogue(first + r, p, all + r * PLANE_SIZE);
        }
      }
    }
  }
}
#endif

// a (row_blocks x 32, w.inputs, in blocks) W' plus the LoRA term; epilogue(r, p, sum) gets each block of 32 rows x 32
// columns. `alternate`: panels of the first half and of the second by turns.
template <class Epilogue>
inline void product(long row_blocks, const Element *a, const Weight &w, const LoraTerm &lora, Epilogue epilogue,
                    bool alternate = false) {
#if !defined(__AMX_BF16__)
  if (w.columns() >= MIN_PACKED_PANELS) return product_by_packed_rows(row_blocks, a, w, lora, epilogue, alternate);
#endif
  alignas(64) float sums[MAX_ROW_BLOCKS][PLANE_SIZE];
  const long k_blocks = w.k_blocks(), columns = w.columns();
  for (long first = 0; first < row_blocks; first += MAX_ROW_BLOCKS) {
    const long count = std::min(MAX_ROW_BLOCKS, row_blocks - first), part = part_of(w, count);
    const long in_l1 = part_in_l1(w, part);
    const int lines = int((SIDE + count - 1) / count);
    float *kept = part < k_blocks ? scratch().sums.data() : nullptr;
    for (long begin = 0; begin < k_blocks; begin += part) {
      const long end = std::min(k_blocks, begin + part);
      for (long turn = 0; turn < columns; turn++) {
        const auto [p, next] = panel_order(turn, columns, alternate);
        float *sum = kept ? kept + p * count * PLANE_SIZE : sums[0];
        for (long from = begin; from < end; from += in_l1) {
          const long here = std::min(in_l1, end - from);
          const bool last = from + here == k_blocks;
          const auto [panel, planes] = panel_part(w, p, from, here);
          const bf16 *next_part =
              from + here < end ? w.block(p, from + here) : w.block(std::min(next, columns - 1), begin);
          for (long r = 0; r < count; r++) {
            const Operands one(a + ((first + r) * k_blocks + from) * BLOCK_SIZE, BLOCK_SIZE, panel, int(here), planes);
            // every block of rows prefetches its share of what comes next
            const long share = r * lines;
            multiply_block(one, last ? lora.operands(first + r, p) : Operands(), sum + r * PLANE_SIZE, from > 0, true,
                           {next_part + share * 32, w.panel_stride() / w.planes, share < SIDE ? lines : 0});
            // one block behind, while the tiles of the next are at work
            if (last && r) epilogue(first + r - 1, p, sum + (r - 1) * PLANE_SIZE);
          }
          if (last) epilogue(first + count - 1, p, sum + (count - 1) * PLANE_SIZE);
        }
      }
    }
  }
}

// Adds left' right (rank, width), of matrices of `rows` rows, to `sums` (fp32, in blocks); the first `used` rows of the
// rank count. `memory`: (rank / 32 + 1) x blocks of rows.
inline void add_transposed_product(long rows, const Element *left, long rank, long used, const Element *right,
                                   long width, float *sums, Element *memory) {
  const long count = blocks(rows), ranks = rank / SIDE, columns = width / SIDE;
  Element *panel = memory, *left_t = memory + count * BLOCK_SIZE;
  for (long k = 0; k < ranks; k++)
    for (long r = 0; r < count; r++)
      transpose(left_t + (k * count + r) * BLOCK_SIZE, left + (r * ranks + k) * BLOCK_SIZE, rows - r * SIDE);
  // blocks of fp32 are panels already, but the last may hold padding that is not zero
  const long ready = FP32_BLOCKS ? rows / SIDE : 0;
  for (long p = 0; p < columns; p++) {
    for (long r = ready; r < count; r++)
      panel_of_rows(panel + r * BLOCK_SIZE, right + (r * columns + p) * BLOCK_SIZE, rows - r * SIDE);
    for (long k = 0; k < ranks; k++) {
      const Element *a = left_t + k * count * BLOCK_SIZE;
      multiply_block({a + ready * BLOCK_SIZE, panel + ready * BLOCK_SIZE, count - ready},
                     Operands::of_rows(a, right + p * BLOCK_SIZE, ready, columns * BLOCK_SIZE),
                     sums + (k * columns + p) * PLANE_SIZE, true, used - k * SIDE > HALF);
    }
  }
}

} // namespace block
