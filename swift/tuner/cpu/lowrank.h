// Products with a frozen weight and LoRA (arXiv 2106.09685) beside it, and their gradients. Knows no model.
//
// Adapters that share an input are one low-rank product: beside each other in the rank, each in its part of the
// outputs. They are laid out as panels at each call, as exact as blocks are; their gradients are summed in fp32.
#pragma once

#include "sums.h"

namespace block {

struct Part { // an adapter: down (rank, inputs), up (stop - start, rank), and their gradients
  const float *down, *up;
  float *ddown, *dup;
  int64_t rank, start, stop;
  double scale;
};

struct Linear { // layers with one input: their frozen weights as panels
  const bf16 *panels;
  const float *bias;
  const uint32_t *mask;                         // of the adapters' input: a bit a number, of a token's first the lowest
  double kept;                                  // what numbers are multiplied with that the mask keeps
  int64_t inputs, outputs, planes, rank, count; // planes of the weights; rank of all parts, rounded up to SIDE
  Part parts[3];
};

inline Mask mask(const Linear &l, long row) {
  return l.mask ? Mask{l.mask + row * l.inputs / SIDE, float(l.kept)} : Mask{};
}

struct Panels { // adapters as panels: for x A', (x A') B', and back
  Cell *down, *up, *back_down, *back_up;
};

inline long real(const Linear &l) {
  long sum = 0;
  for (int p = 0; p < l.count; p++) sum += l.parts[p].rank;
  return sum;
}
inline Panels panels(const Linear &l, char *&room) {
  return {take_blocks(room, l.rank, l.inputs), take_blocks(room, l.rank, l.outputs),
          take_blocks(room, l.rank, l.inputs), take_blocks(room, l.rank, l.outputs)};
}

// Lays the adapters out, those of all parts as one: beside each other in the rank, each in its part of the outputs.
inline void lay_out(const Linear &l, const Panels &to) {
  alignas(64) float square[SQUARE];
  alignas(64) Cell block[AREA];
  const auto ready = [&] {
    for (long line = 0; line < SQUARE; line += SIDE) store(block + line, load(square + line));
    return block;
  };
  const long ranks = l.rank / SIDE, inputs = l.inputs / SIDE, outputs = l.outputs / SIDE;
  for (long r = 0; r < ranks; r++) {
#pragma omp for schedule(static)
    for (long i = 0; i < inputs; i++) {
      std::memset(square, 0, sizeof square);
      for (long p = 0, row = -r * SIDE; p < l.count; row += l.parts[p++].rank)
        for (long k = std::max(0L, -row); k < std::min<long>(l.parts[p].rank, SIDE - row); k++)
          store(square + (row + k) * SIDE, load(l.parts[p].down + k * l.inputs + i * SIDE));
      panel_of_columns(to.down + (r * inputs + i) * AREA, ready());
      panel_of_rows(to.back_down + (i * ranks + r) * AREA, block);
    }
#pragma omp for schedule(static)
    for (long o = 0; o < outputs; o++) {
      std::memset(square, 0, sizeof square);
      for (long p = 0, column = -r * SIDE; p < l.count; column += l.parts[p++].rank) {
        const Part &part = l.parts[p];
        for (long row = std::max<long>(part.start, o * SIDE); row < std::min<long>(part.stop, (o + 1) * SIDE); row++)
          for (long k = std::max(0L, -column); k < std::min<long>(part.rank, SIDE - column); k++)
            square[(row - o * SIDE) * SIDE + column + k] =
                float(part.scale) * part.up[(row - part.start) * part.rank + k];
      }
      panel_of_columns(to.up + (o * ranks + r) * AREA, ready());
      panel_of_rows(to.back_up + (r * outputs + o) * AREA, block);
    }
  }
}

// x A' of all adapters.
inline void inward(long count, const Cell *x, long width, const Cell *panel, long rank, Cell *inner) {
  product(count, x, {(const bf16 *)panel, rank, width, OWN}, {}, [&](long r, long p, const float *sum) {
    Cell *to = inner + (r * rank / SIDE + p) * AREA;
    for (long i = 0; i < SQUARE; i += SIDE) store(to + i, load(sum + i));
  });
}

// x W' + b + inner B'; `done(r, p, line, values)` gets 32 columns of a row at a time.
template <class Done>
void outward(const Linear &l, const Panels &adapters, long count, const Cell *x, const Cell *inner, Done done,
             bool halves = false) {
  product(
      count, x, {l.panels, l.outputs, l.inputs, int(l.planes)}, {inner, adapters.up, real(l)},
      [&](long r, long p, const float *sum) {
        for (long line = 0; line < SIDE; line++) {
          Pair each = load(sum + line * SIDE);
          done(r, p, line, l.bias ? each + load(l.bias + p * SIDE) : each);
        }
      },
      halves);
}

// The gradient of x: dy W, and what comes through the adapters and their mask.
template <class Done>
void inputs_gradient(const Linear &l, const Panels &adapters, long first, long valid, const int64_t *places,
                     const Cell *dy, const Cell *dinner, Done done) {
  alignas(64) float low[SQUARE];
  const bool apart = l.mask && l.rank;
  product(blocks(valid), dy, {l.panels, l.inputs, l.outputs, int(l.planes), true},
          {dinner, adapters.back_down, apart ? 0 : real(l)}, [&](long r, long p, const float *sum) {
            const int depths = int(l.rank / SIDE);
            if (apart)
              kernel(Run::of(dinner + r * depths * AREA, adapters.back_down + p * depths * AREA, real(l)), {}, low,
                     false);
            for (long line = 0; line < std::min<long>(SIDE, valid - r * SIDE); line++) {
              Pair each = load(sum + line * SIDE);
              long row = first + r * SIDE + line;
              if (apart) each = each + load(low + line * SIDE) * mask(l, places ? places[row] : row)[p];
              done(r, p, line, each);
            }
          });
}

// Adds what a stretch gives to the adapters' gradients.
inline void adapters_gradient(const Linear &l, long valid, const Cell *dropped, const Cell *inner, const Cell *dy,
                              const Cell *dinner, float *const sums[2], Cell *aside) {
  if (!l.rank) return;
  add_product_of_rows(valid, dinner, l.rank, real(l), dropped, l.inputs, sums[0], aside);
  add_product_of_rows(valid, inner, l.rank, real(l), dy, l.outputs, sums[1], aside);
}

} // namespace block
