// The structures that native_runner.py passes, field by field as there. Knows no arithmetic.
#pragma once

#include "abi.h"
#include "panel_weight.h"

namespace runner {

using tiles::PanelWeight;
using vectors::bf16;

struct Layer {
  const float *norm, *norm_mlp, *norm_queries, *norm_keys; // (hidden_size), (head_dim); those of heads may be null
  PanelWeight qkv, out, gate_up, down;                     // gate_up: 16 rows of gate and of up by turns
  int64_t rotary, window; // whether positions are rotated; how many positions a token sees, 0 for all
};

constexpr int PRODUCTS = 4; // of a layer: qkv, out, gate_up, down

struct LoraPair {
  const bf16 *a, *b; // (rank, inputs); (rank, outputs), outputs in the order of the panels
  int64_t rank;      // 0: this product has none
};

struct Model {
  int64_t layers, hidden_size, intermediate_size, heads, kv_heads, head_dim, rotary_dim, vocabulary;
  float eps, scale; // of the norms; of the scores
  const Layer *layer;
  const float *norm;
  PanelWeight head;
  const bf16 *embedding; // (vocabulary, hidden_size)
};

struct Chunk { // of a sequence: rows [start, end) of the step; its slot, and its length with them
  int64_t start, end, slot, length;
};

struct Step {
  const Chunk *chunks;
  int64_t chunk_count, rows, logit_count, slots, capacity, positions, threads; // capacity: positions of a slot
  const int64_t *tokens, *logit_rows; // (rows); (logit_count): the rows that need logits
  bf16 *keys, *values;                // (layers, slots, kv_heads, capacity / 32 blocks), see kv_blocks.h
  const float *cos, *sin;             // (positions, rotary_dim / 2)
  const LoraPair *const *adapters;    // (rows) of (layers, PRODUCTS); a row's may be null, and so may all
  float *logits;                      // (logit_count, head.outputs)
};

constexpr abi::Structure STRUCTURES[] = {
    ABI_STRUCTURE(PanelWeight, bits),
    ABI_STRUCTURE(Layer, window),
    ABI_STRUCTURE(LoraPair, rank),
    ABI_STRUCTURE(Model, embedding),
    ABI_STRUCTURE(Chunk, length),
    ABI_STRUCTURE(Step, logits),
    {nullptr, 0, 0},
};

// Throws abi::InvalidArgument for a model that this file's arithmetic has no shapes for.
inline void check(const Model &m) {
  using abi::require;
  require(m.layers >= 1 && m.kv_heads >= 1 && m.heads % m.kv_heads == 0, "%ld heads do not share %ld key heads",
          long(m.heads), long(m.kv_heads));
  require(m.heads / m.kv_heads <= tiles::MAX_ROWS, "%ld heads share a key head: at most %d can",
          long(m.heads / m.kv_heads), tiles::MAX_ROWS);
  for (const int64_t width : {m.hidden_size, m.intermediate_size, m.head_dim, m.head.outputs})
    require(width > 0 && width % tiles::PANEL_WIDTH == 0, "a width of %ld is not a multiple of %d", long(width),
            tiles::PANEL_WIDTH);
  require(m.rotary_dim >= 0 && m.rotary_dim <= m.head_dim, "%ld of %ld numbers of a head are rotated",
          long(m.rotary_dim), long(m.head_dim));
  const int64_t qkv = (m.heads + 2 * m.kv_heads) * m.head_dim, attended = m.heads * m.head_dim;
  const auto fits = [](const PanelWeight &w, int64_t inputs, int64_t outputs) {
    require(w.inputs == inputs && w.outputs == outputs && (w.bits == 16 || w.bits == 8 || w.bits == 4),
            "a weight of (%ld, %ld) with %ld bits where (%ld, %ld) is expected", long(w.outputs), long(w.inputs),
            long(w.bits), long(outputs), long(inputs));
  };
  for (int64_t l = 0; l < m.layers; l++) {
    fits(m.layer[l].qkv, m.hidden_size, qkv);
    fits(m.layer[l].out, attended, m.hidden_size);
    fits(m.layer[l].gate_up, m.hidden_size, 2 * m.intermediate_size);
    fits(m.layer[l].down, m.intermediate_size, m.hidden_size);
  }
  fits(m.head, m.hidden_size, m.head.outputs);
}

// Throws abi::InvalidArgument for a step that reads or writes beyond what it was given.
inline void check(const Model &m, const Step &s) {
  using abi::require;
  require(s.chunk_count >= 1 && s.capacity % tiles::PANEL_WIDTH == 0, "%ld chunks, slots of %ld positions",
          long(s.chunk_count), long(s.capacity));
  int64_t row = 0;
  for (int64_t c = 0; c < s.chunk_count; row = s.chunks[c++].end) {
    const Chunk &chunk = s.chunks[c];
    require(chunk.start == row && chunk.end > row && chunk.end <= s.rows, "chunk %ld has rows %ld to %ld of %ld",
            long(c), long(chunk.start), long(chunk.end), long(s.rows));
    require(chunk.slot >= 0 && chunk.slot < s.slots, "slot %ld of %ld", long(chunk.slot), long(s.slots));
    require(chunk.length >= chunk.end - chunk.start && chunk.length <= std::min(s.capacity, s.positions),
            "a sequence of %ld tokens does not fit into %ld positions", long(chunk.length),
            long(std::min(s.capacity, s.positions)));
  }
  require(row == s.rows, "chunks have %ld rows of %ld", long(row), long(s.rows));
  for (int64_t i = 0; i < s.rows; i++)
    require(s.tokens[i] >= 0 && s.tokens[i] < m.vocabulary, "token %ld is not in a vocabulary of %ld",
            long(s.tokens[i]), long(m.vocabulary));
  for (int64_t i = 0; i < s.logit_count; i++)
    require(s.logit_rows[i] >= (i ? s.logit_rows[i - 1] + 1 : 0) && s.logit_rows[i] < s.rows,
            "logits of row %ld of %ld, out of order", long(s.logit_rows[i]), long(s.rows));
}

} // namespace runner
