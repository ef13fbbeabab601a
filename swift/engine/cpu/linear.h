// x W' + b of all rows of a step, with an epilogue for every row and panel. Knows weights in panels; no model.
//
// Threads share the panels of a weight, so each weight is read once. There are three ways, by the processor and the
// number of bits: tiles (or few rows by vectors), packed rows by vectors, and 4 bits by integers.
#pragma once

#include <algorithm>

#include "worker.h"

namespace runner {

using tiles::K_BLOCK;
using tiles::PANEL_WIDTH;
using tiles::PanelWeight;

constexpr int SPLIT_K_BLOCKS = 24;       // of inputs that a split product sums up at a time, for all rows
constexpr int64_t FEW_ROWS = 32;         // rows that each thread prepares for itself, which is quicker than to wait
constexpr int64_t MIN_PACKED_ROWS = 12;  // rows from which on packing pays without tiles,
constexpr int64_t MIN_PACKED_PANELS = 4; // and panels
constexpr int64_t INT4_ROWS = 12;        // rows that go through a panel of 4 bits together, at least

inline int64_t padded(int64_t rows) { return (rows + tiles::MAX_ROWS - 1) / tiles::MAX_ROWS * tiles::MAX_ROWS; }

// Blocks of inputs that are summed up at a time: all, or where a product may be split about SPLIT_K_BLOCKS.
inline int part_of(int64_t inputs, bool split) {
  const int k_blocks = int(inputs / K_BLOCK), parts = split ? (k_blocks + SPLIT_K_BLOCKS - 1) / SPLIT_K_BLOCKS : 1;
  return (k_blocks + parts - 1) / parts;
}

inline int64_t int4_rows(int64_t rows, int64_t inputs) {
  const int64_t in_l2 = caches::l2_bytes() * 3 / 4 / int64_t(inputs / K_BLOCK * sizeof(Int8Block));
  return std::min(rows, std::max(in_l2, INT4_ROWS));
}

inline int64_t packed_rows(int64_t rows, int part) {
  return std::min(rows, int64_t(gemm::Packed<Element>::rows_in_l2(part)));
}

// Raises sizes to what `multiply` needs of a thread's scratch.
inline void add_scratch(ScratchSizes &sizes, const PanelWeight &w, int64_t rows, bool split) {
  const auto raise = [](size_t &size, int64_t count) { size = std::max(size, size_t(count)); };
  const int part = part_of(w.inputs, split);
  if (w.bits != 16) raise(sizes.dequantized, w.inputs * PANEL_WIDTH);
  if (tiles::INT8_ROWS && w.bits == 4) {
    if (rows <= FEW_ROWS) raise(sizes.int8, rows * w.inputs / K_BLOCK);
    raise(sizes.sums, int4_rows(rows, w.inputs) * PANEL_WIDTH);
  } else if (!tiles::HAS_AMX) {
    const int64_t together = packed_rows(rows, part);
    raise(sizes.sums, together * PANEL_WIDTH);
    raise(sizes.packed, gemm::Packed<Element>::elements(together, part));
  }
}

// x (rows, inputs, tiled) W' + b for the panels of one thread; epilogue(row, panel, sum, first) gets 32 columns of a
// row. A product that is `split` gives each row and panel several sums, over so many inputs at a time that those of
// all rows stay in L2; `first` marks the first, which has the bias.
template <class Epilogue> class PanelProduct {
public:
  PanelProduct(Worker &me, const PanelWeight &w, const Element *x, int64_t rows, bool split, const Epilogue &epilogue)
      : me_(me), w_(w), x_(x), rows_(rows), k_blocks_(int(w.inputs / K_BLOCK)), part_(part_of(w.inputs, split)),
        epilogue_(epilogue) {
    const int64_t panels = w.outputs / PANEL_WIDTH;
    begin_ = panels * me.index / me.count, end_ = panels * (me.index + 1) / me.count;
  }

  // `int8`: memory of all threads for the rows in 8 bits.
  void run(Int8Block *int8) {
    if (tiles::INT8_ROWS && w_.bits == 4)
      by_integers(int8);
    else if (!tiles::HAS_AMX && rows_ >= MIN_PACKED_ROWS && end_ - begin_ >= MIN_PACKED_PANELS)
      by_packed_rows();
    else
      by_tiles();
    me_.wait();
  }

private:
  // Sums of a block of rows with a panel, whose epilogue runs while the next block is multiplied.
  struct Pending {
    int64_t row, panel;
    int count = 0, done = 0;
    float *sum;
    bool first;
  };

  void by_tiles() {
    const int64_t group_stride = w_.inputs * tiles::TILE_ROWS;
    const int64_t row_blocks = (rows_ + tiles::MAX_ROWS - 1) / tiles::MAX_ROWS;
    alignas(64) float sums[2][tiles::MAX_ROWS * PANEL_WIDTH];
    Pending pending;
    const auto finish = [&](int end) {
      for (; pending.done < end; pending.done++)
        finished(pending.row + pending.done, pending.panel, pending.sum + pending.done * PANEL_WIDTH, pending.first);
    };
    int turn = 0;
    const auto multiply = [&](int64_t panel, int from, const auto *weight) {
      const int k_blocks = std::min(part_, k_blocks_ - from);
      for (int64_t row = 0; row < rows_; row += tiles::MAX_ROWS, turn ^= 1) {
        const int count = int(std::min<int64_t>(tiles::MAX_ROWS, rows_ - row));
        const int share = (pending.count + k_blocks - 1) / k_blocks;
        const Element *a = x_ + row * w_.inputs + from * tiles::TILE_ROWS * K_BLOCK;
        const auto interleaved = [&](int k) { finish(std::min(pending.count, (k + 1) * share)); };
        if (row_blocks == 1) { // waits for memory
          const long distance = w_.bits == 16 ? tiles::PREFETCH_DISTANCE : 0;
          tiles::multiply_tiled<tiles::Reuse::ROWS>(count, a, group_stride, weight, tiles::PANEL_BLOCK, k_blocks,
                                                    sums[turn], PANEL_WIDTH, distance, interleaved);
        } else { // every block of rows prefetches its share of the next panel
          const int64_t bytes = w_.block_bytes() / row_blocks;
          const uint8_t *next = w_.at(panel + 1, from) + row / tiles::MAX_ROWS * bytes * k_blocks;
          tiles::multiply_tiled<tiles::Reuse::PANEL>(
              count, a, group_stride, weight, tiles::PANEL_BLOCK, k_blocks, sums[turn], PANEL_WIDTH, 0, [&](int k) {
                for (int64_t i = k * bytes; i < (k + 1) * bytes; i += tiles::CACHE_LINE)
                  _mm_prefetch((const char *)(next + i), _MM_HINT_T1);
                interleaved(k);
              });
        }
        pending = {row, panel, count, 0, sums[turn], from == 0};
      }
    };
    const auto panel_part = [&](int64_t panel, int from) {
      const uint8_t *stored = w_.at(panel, from);
      if (w_.bits == 16)
        multiply(panel, from, (const bf16 *)stored);
      else
        multiply(panel, from,
                 tiles::dequantized(w_, stored, std::min(part_, k_blocks_ - from), me_.scratch.dequantized.data()));
    };
    if (row_blocks == 1)
      for (int64_t panel = begin_; panel < end_; panel++)
        for (int from = 0; from < k_blocks_; from += part_) panel_part(panel, from);
    else
      for (int from = 0; from < k_blocks_; from += part_)
        for (int64_t panel = begin_; panel < end_; panel++) panel_part(panel, from);
    finish(pending.count);
  }

  // Weights of 4 bits with rows quantized to 8.
  void by_integers(Int8Block *int8) {
    const auto quantize = [&](Int8Block *to, int64_t row) {
      for (int k = 0; k < k_blocks_; k++)
        to[row * k_blocks_ + k] = tiles::quantize(x_ + tiles::tiled_offset(row, k * K_BLOCK, k_blocks_));
    };
    if (rows_ <= FEW_ROWS) {
      int8 = me_.scratch.int8.data();
      for (int64_t row = 0; row < rows_; row++) quantize(int8, row);
    } else {
#pragma omp for schedule(static) nowait
      for (int64_t row = 0; row < rows_; row++) quantize(int8, row);
      me_.wait();
    }
    const int64_t together = int4_rows(rows_, w_.inputs);
    float *sums = me_.scratch.sums.data();
    for (int64_t begin = 0; begin < rows_; begin += together)
      for (int64_t panel = begin_; panel < end_; panel++) {
        const int64_t count = std::min(together, rows_ - begin);
        tiles::multiply(count, int8 + begin * k_blocks_, k_blocks_, w_.at(panel, 0), k_blocks_, sums);
        for (int64_t row = 0; row < count; row++) finished(begin + row, panel, sums + row * PANEL_WIDTH, true);
      }
  }

  // Many rows by vectors.
  void by_packed_rows() {
    const int64_t together = packed_rows(rows_, part_);
    float *sums = me_.scratch.sums.data();
    for (int64_t begin = 0; begin < rows_; begin += together)
      for (int from = 0; from < k_blocks_; from += part_) {
        const int k_blocks = std::min(part_, k_blocks_ - from);
        const gemm::Packed<Element> packed(
            std::min(together, rows_ - begin), k_blocks,
            [&](long row, int k) { return x_ + tiles::tiled_offset(begin + row, (from + k) * K_BLOCK, k_blocks_); },
            me_.scratch.packed.data());
        for (int64_t panel = begin_; panel < end_; panel++) {
          const uint8_t *stored = w_.at(panel, from);
          if (w_.bits == 16)
            packed.multiply((const bf16 *)stored, tiles::PANEL_BLOCK, (const bf16 *)w_.at(panel + 1, from), sums);
          else
            packed.multiply(tiles::dequantized(w_, stored, k_blocks, me_.scratch.dequantized.data()),
                            tiles::PANEL_BLOCK, (const Dequantized *)nullptr, sums);
          for (int64_t row = 0; row < packed.rows(); row++)
            finished(begin + row, panel, sums + row * PANEL_WIDTH, from == 0);
        }
      }
  }

  // Scale, bias and epilogue of a row's sums with a panel.
  void finished(int64_t row, int64_t panel, float *sum, bool first) {
    if (w_.scale)
      for (int c = 0; c < PANEL_WIDTH; c++) sum[c] *= w_.scale[panel * PANEL_WIDTH + c];
    if (w_.bias && first)
      for (int c = 0; c < PANEL_WIDTH; c++) sum[c] += w_.bias[panel * PANEL_WIDTH + c];
    epilogue_(row, panel, sum, first);
  }

  Worker &me_;
  const PanelWeight &w_;
  const Element *x_;
  const int64_t rows_;
  const int k_blocks_, part_;
  const Epilogue &epilogue_;
  int64_t begin_, end_; // panels of this thread
};

template <class Epilogue>
inline void multiply(Worker &me, const PanelWeight &w, const Element *x, int64_t rows, bool split, Int8Block *int8,
                     const Epilogue &epilogue) {
  PanelProduct<Epilogue>(me, w, x, rows, split, epilogue).run(int8);
}

} // namespace runner
