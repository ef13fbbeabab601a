// Linear layers with frozen weights and LoRA (arXiv 2106.09685), and their gradients. Knows no block of a decoder.
//
// y = x W' + b + scale (x' A') B', where x' is x under the adapter's dropout. Layers that share an input are one
// product: their adapters lie side by side in the rank, each in its part of the outputs. Adapters become panels at each
// call, rounded no more than blocks are; their gradients are summed in fp32.
#pragma once

#include "block_product.h"
#include "norm.h"

namespace block {

struct LoraPart { // an adapter: A (rank, inputs), B (stop - start, rank), and their gradients
  const float *a, *b;
  float *da, *db;
  int64_t rank, start, stop; // outputs [start, stop)
  double scale;
};

constexpr int MAX_PARTS = 3; // q, k and v

struct Linear { // layers that share an input: their frozen weights in panels, one below the other
  const bf16 *panels;
  const float *bias;    // (outputs), or null
  const uint32_t *mask; // dropout's, (tokens, inputs): one bit a number, the lowest first; or null
  double mask_scale;    // of what is kept
  int64_t inputs, outputs, planes, rank, count; // memory of a weight in bf16; rank of all parts, padded; parts
  LoraPart parts[MAX_PARTS];

  Weight weight() const { return {panels, outputs, inputs, int(planes)}; }
  Weight transposed() const { return {panels, inputs, outputs, int(planes), true}; }
};

inline Mask mask(const Linear &l, long row) {
  return l.mask ? Mask{l.mask + row * l.inputs / SIDE, float(l.mask_scale)} : Mask{};
}

struct LoraPanels { // adapters in panels: for x A', (x A') B', and for the gradients dx = (dy B) A
  Element *a, *b, *a_back, *b_back;
};

// The rank of all parts, without padding.
inline long used_rank(const Linear &l) {
  long sum = 0;
  for (int p = 0; p < l.count; p++) sum += l.parts[p].rank;
  return sum;
}
inline LoraPanels take_panels(const Linear &l, Arena &arena) {
  return {take_blocks(arena, l.rank, l.inputs), take_blocks(arena, l.rank, l.outputs),
          take_blocks(arena, l.rank, l.inputs), take_blocks(arena, l.rank, l.outputs)};
}

// A frozen or packed matrix of blocks as the weight of a product.
inline Weight block_weight(const Element *panels, long outputs, long inputs) {
  return {(const bf16 *)panels, outputs, inputs, BF16_PER_NUMBER};
}

// Makes sure of a thread's memory for all products of a layer, of so many blocks of rows. Throws std::bad_alloc.
inline void reserve_scratch(const Linear &l, long row_blocks, bool gradient) {
  reserve_scratch(gradient ? l.transposed() : l.weight(), row_blocks);
  reserve_scratch(block_weight(nullptr, l.rank, gradient ? l.outputs : l.inputs), row_blocks);
}

// Packs the adapters of all parts as one: side by side in the rank, each in its part of the outputs.
inline void pack_adapters(const Linear &l, const LoraPanels &to) {
  alignas(64) float square[PLANE_SIZE];
  alignas(64) Element block[BLOCK_SIZE];
  const auto in_blocks = [&] {
    for (long line = 0; line < PLANE_SIZE; line += SIDE) store(block + line, load(square + line));
    return block;
  };
  const long ranks = l.rank / SIDE, inputs = l.inputs / SIDE, outputs = l.outputs / SIDE;
  for (long r = 0; r < ranks; r++) {
#pragma omp for schedule(static)
    for (long i = 0; i < inputs; i++) {
      std::memset(square, 0, sizeof square);
      for (long p = 0, row = -r * SIDE; p < l.count; row += l.parts[p++].rank)
        for (long k = std::max(0L, -row); k < std::min<long>(l.parts[p].rank, SIDE - row); k++)
          store(square + (row + k) * SIDE, load(l.parts[p].a + k * l.inputs + i * SIDE));
      panel_of_columns(to.a + (r * inputs + i) * BLOCK_SIZE, in_blocks());
      panel_of_rows(to.a_back + (i * ranks + r) * BLOCK_SIZE, block);
    }
#pragma omp for schedule(static)
    for (long o = 0; o < outputs; o++) {
      std::memset(square, 0, sizeof square);
      for (long p = 0, column = -r * SIDE; p < l.count; column += l.parts[p++].rank) {
        const LoraPart &part = l.parts[p];
        for (long row = std::max<long>(part.start, o * SIDE); row < std::min<long>(part.stop, (o + 1) * SIDE); row++)
          for (long k = std::max(0L, -column); k < std::min<long>(part.rank, SIDE - column); k++)
            square[(row - o * SIDE) * SIDE + column + k] =
                float(part.scale) * part.b[(row - part.start) * part.rank + k];
      }
      panel_of_columns(to.b + (o * ranks + r) * BLOCK_SIZE, in_blocks());
      panel_of_rows(to.b_back + (r * outputs + o) * BLOCK_SIZE, block);
    }
  }
}

// to (rows, rank) = x (rows, width) times panels: x A', or dy B.
inline void project_to_rank(long row_blocks, const Element *x, long width, const Element *panels, long rank,
                            Element *to) {
  product(row_blocks, x, block_weight(panels, rank, width), {}, [&](long r, long p, const float *sum) {
    Element *block = to + (r * rank / SIDE + p) * BLOCK_SIZE;
    for (long i = 0; i < PLANE_SIZE; i += SIDE) store(block + i, load(sum + i));
  });
}

// x W' + b + xa B', with xa = x' A'; epilogue(r, p, line, values) gets 32 columns of a row.
template <class Epilogue>
void linear_forward(const Linear &l, const LoraPanels &lora, long row_blocks, const Element *x, const Element *xa,
                    Epilogue epilogue, bool alternate = false) {
  product(
      row_blocks, x, l.weight(), {xa, lora.b, used_rank(l)},
      [&](long r, long p, const float *sum) {
        for (long line = 0; line < SIDE; line++) {
          Vec32 each = load(sum + line * SIDE);
          epilogue(r, p, line, l.bias ? each + load(l.bias + p * SIDE) : each);
        }
      },
      alternate);
}

// dx = dy W + mask (dxa A), with dxa = dy B; rows are those from `first` on, or of `positions`.
template <class Epilogue>
void linear_input_gradient(const Linear &l, const LoraPanels &lora, long first, long rows, const int64_t *positions,
                           const Element *dy, const Element *dxa, Epilogue epilogue) {
  alignas(64) float through_adapter[PLANE_SIZE];
  const bool masked = l.mask && l.rank;
  product(blocks(rows), dy, l.transposed(), {dxa, lora.a_back, masked ? 0 : used_rank(l)},
          [&](long r, long p, const float *sum) {
            if (masked)
              multiply_block(LoraTerm{dxa, lora.a_back, used_rank(l)}.operands(r, p), {}, through_adapter, false);
            for (long line = 0; line < std::min<long>(SIDE, rows - r * SIDE); line++) {
              Vec32 each = load(sum + line * SIDE);
              long row = first + r * SIDE + line;
              if (masked)
                each = each + load(through_adapter + line * SIDE) * mask(l, positions ? positions[row] : row)[p];
              epilogue(r, p, line, each);
            }
          });
}

// Adds some rows' share to the gradients of A (dxa' x') and of B (xa' dy, whose transpose B's is).
inline void lora_gradient(const Linear &l, long rows, const Element *dropped, const Element *xa, const Element *dy,
                          const Element *dxa, float *const sums[2], Element *memory) {
  if (!l.rank) return;
  add_transposed_product(rows, dxa, l.rank, used_rank(l), dropped, l.inputs, sums[0], memory);
  add_transposed_product(rows, xa, l.rank, used_rank(l), dy, l.outputs, sums[1], memory);
}

} // namespace block
