// Causal attention within a row of tokens and its gradient, for the query heads of one key head. Knows no model.
//
// Scores have a key in each line and a query in each column (S' = K Q'), so maxima, sums and what is subtracted from a
// query's scores are vectors, and nothing is reduced across one. Probabilities are never kept: the gradient recomputes
// them from each query's maximum and sum (FlashAttention, arXiv 2205.14135), so memory grows linearly with the row.
#pragma once

#include "block_kernel.h"
#include "block_panels.h"
#include "norm.h"

namespace block {

struct HeadShape {
  long queries, keys, dim, window; // heads; numbers of a head; a token sees `window` tokens back, all where it is 0
  long rotary_dim;                 // numbers rotated by position (RoPE, arXiv 2104.09864)
  float scale;
  const float *norm_q, *norm_k; // weights of the heads' norms, or null
  float eps_q, eps_k;
  long group() const { return queries / keys; }
  long outputs() const { return (queries + 2 * keys) * dim; }
};

constexpr int KEY_BLOCKS = 8;   // blocks of keys whose scores are there at a time
constexpr int QUERY_BLOCKS = 4; // blocks of queries whose gradient is made at a time
constexpr long MAX_HEAD_DIM = 512;
constexpr float HIDDEN_SCORE = -1e30f; // of a key that a query does not see

inline float scalar(float x) { return x; }
inline float scalar(bf16 x) { return to_float(x); }

// Rotates a head's numbers; sign -1 rotates a gradient back.
inline void rotate(float *x, const Scalar *cos, const Scalar *sin, long rotary_dim, float sign) {
  long half = rotary_dim / 2;
  for (long i = 0; i < half; i++) {
    float c = scalar(cos[i]), s = scalar(sin[i]) * sign, low = x[i], high = x[i + half];
    x[i] = low * c - high * s;
    x[i + half] = high * c + low * s;
  }
}

// One row of tokens of a batch, for one key head.
struct AttentionTask {
  const HeadShape &heads;
  long start, length, key;  // the row's first token and how many; which key head
  const Element *qkv;       // (tokens, heads.outputs()) in blocks
  const Scalar *cos, *sin;  // (tokens, rotary_dim)
  float *highest, *inverse; // (queries, tokens): each query's largest score, and 1 / the sum of its exponentials
  long tokens;
  // (length), or null: a token does not see those of its row with another number, but for those with 0.
  const int64_t *branches;

  long dim() const { return heads.dim; }
  long pieces() const { return heads.dim / SIDE; }
  long rows() const { return blocks(length); }
  Out head_row(Element *m, long token, long head, long columns) const {
    return {m + row_offset(start + token, columns) + head * pieces() * BLOCK_SIZE, BLOCK_SIZE};
  }
  In head_row(const Element *m, long token, long head, long columns) const {
    return {m + row_offset(start + token, columns) + head * pieces() * BLOCK_SIZE, BLOCK_SIZE};
  }

  // A head's vectors, normed, rotated and scaled, in blocks; the padding of the last block is zero.
  void prepare(Element *to, long head, const float *weight, float eps, bool rotated, float scale) const {
    float x[MAX_HEAD_DIM];
    for (long t = 0; t < length; t++) {
      In from = head_row(qkv, t, head, heads.outputs());
      Out row{to + row_offset(t, dim()), BLOCK_SIZE};
      float inverse = weight ? inverse_rms(from, dim(), eps) : 1.0f;
      for (long p = 0; p < pieces(); p++) {
        Vec32 each = load(from[p]) * inverse;
        store(x + p * SIDE, weight ? each * load(weight + p * SIDE) : each);
      }
      if (rotated && heads.rotary_dim)
        rotate(x, cos + (start + t) * heads.rotary_dim, sin + (start + t) * heads.rotary_dim, heads.rotary_dim, 1);
      for (long p = 0; p < pieces(); p++) store(row[p], load(x + p * SIDE) * scale);
    }
    clear_padding(to);
  }
  void clear_padding(Element *to) const {
    for (long t = length; t < rows() * SIDE; t++) clear(block_row(to, t, dim()), dim());
  }
  void prepare_query(Element *to, long head) const { prepare(to, head, heads.norm_q, heads.eps_q, true, heads.scale); }
  void prepare_keys(Element *to) const { prepare(to, heads.queries + key, heads.norm_k, heads.eps_k, true, 1); }
  void prepare_values(Element *to) const { prepare(to, heads.queries + heads.keys + key, nullptr, 0, false, 1); }

  // The gradient of a head's vector, from that of what `prepare` made of it; `g` is (dim) and is overwritten.
  void prepare_gradient(Element *dqkv, float *g, long t, long head, const float *weight, float eps, bool rotated,
                        float scale) const {
    for (long i = 0; i < dim(); i++) g[i] *= scale;
    if (rotated && heads.rotary_dim)
      rotate(g, cos + (start + t) * heads.rotary_dim, sin + (start + t) * heads.rotary_dim, heads.rotary_dim, -1);
    Out to = head_row(dqkv, t, head, heads.outputs());
    if (weight) {
      norm_gradient(head_row(qkv, t, head, heads.outputs()), Row<float>{g}, dim(), weight, eps, {}, {}, In{}, to);
    } else {
      for (long p = 0; p < pieces(); p++) store(to[p], load(g + p * SIDE));
    }
  }

  // The first block of keys that a block of queries sees.
  long first_key(long block) const { return heads.window ? std::max(0L, block * SIDE + 1 - heads.window) / SIDE : 0; }

  // Hides the keys that queries of a block do not see: scores (32 keys, 32 queries).
  void hide(float *scores, long keys, long queries) const {
    if (branches) hide_branches(scores, keys, queries);
    bool last = keys == queries, old = heads.window && (queries + 1) * SIDE - keys * SIDE > heads.window;
    if (!last && !old) return;
    for (int k = 0; k < SIDE; k++)
      for (int half = 0; half < 2; half++) {
        const long newest =
            k - (queries - keys) * SIDE - half * LANES; // the lane whose query is at this key's position
        const long end = heads.window ? newest + heads.window : LANES;
        float *line = scores + k * SIDE + half * LANES;
        vectors::store(line, select(newest, end, vectors::load(line), broadcast(HIDDEN_SCORE)));
      }
  }
  void hide_branches(float *scores, long keys, long queries) const {
    const long first = queries * SIDE, count = std::min<long>(SIDE, length - first);
    for (long k = 0; k < std::min<long>(SIDE, length - keys * SIDE); k++) {
      const int64_t branch = branches[keys * SIDE + k];
      if (!branch) continue;
      float *line = scores + k * SIDE;
      for (long q = 0; q < count; q++)
        if (branches[first + q] != branch) line[q] = HIDDEN_SCORE;
    }
  }
};

// Rows of queries from a matrix (dim, 32 queries) of fp32 in `pieces` blocks.
inline void transpose_to_queries(float *to, const float *from, long pieces) {
  alignas(64) float square[PLANE_SIZE];
  for (long p = 0; p < pieces; p++) {
    transpose(square, from + p * PLANE_SIZE);
    for (long t = 0; t < SIDE; t++) store(to + t * pieces * SIDE + p * SIDE, load(square + t * SIDE));
  }
}

// A thread's memory for a row of so many tokens.
struct AttentionMemory {
  Element *keys, *values_t, *rows; // (length, dim), its transpose, (length, dim)
  Element *query, *probabilities;
  float *scores, *out, *lines;
  AttentionMemory(long length, long dim, Arena &arena) {
    const long all = padded(length);
    keys = take_blocks(arena, all, dim), values_t = take_blocks(arena, all, dim), rows = take_blocks(arena, all, dim);
    query = take_blocks(arena, SIDE, dim);
    scores = arena.take<float>(KEY_BLOCKS * PLANE_SIZE);
    out = arena.take<float>(SIDE * dim), lines = arena.take<float>(SIDE * dim);
    probabilities = take_blocks(arena, SIDE, KEY_BLOCKS * SIDE);
  }
};

struct AttentionGradientMemory {
  Element *keys, *values, *keys_t, *rows, *dout; // (length, dim)
  Element *query, *query_rows, *dpanel, *dpanel_rows, *probabilities, *dscores, *strip;
  float *dk, *dv, *scores, *dprobabilities, *lines, *dquery;
  AttentionGradientMemory(long length, long dim, Arena &arena) {
    constexpr long SOME = QUERY_BLOCKS * SIDE;
    const long all = padded(length);
    keys = take_blocks(arena, all, dim), values = take_blocks(arena, all, dim), keys_t = take_blocks(arena, all, dim);
    rows = take_blocks(arena, all, dim), dout = take_blocks(arena, all, dim);
    dk = arena.take<float>(all * dim), dv = arena.take<float>(all * dim);
    query = take_blocks(arena, SOME, dim), query_rows = take_blocks(arena, SOME, dim);
    dpanel = take_blocks(arena, SOME, dim), dpanel_rows = take_blocks(arena, SOME, dim);
    scores = arena.take<float>(2 * PLANE_SIZE), dprobabilities = arena.take<float>(2 * PLANE_SIZE);
    lines = arena.take<float>(SIDE * dim), dquery = arena.take<float>(SIDE * dim);
    probabilities = take_blocks(arena, SOME, SIDE), dscores = take_blocks(arena, SOME, SIDE);
    strip = take_blocks(arena, SOME, all);
  }
};

// Bytes of either.
inline long attention_bytes(long length, long dim, bool gradient) {
  Arena arena;
  if (gradient)
    AttentionGradientMemory(length, dim, arena);
  else
    AttentionMemory(length, dim, arena);
  return arena.used();
}

// attended (tokens, queries x dim) in blocks.
inline void attend(const AttentionTask &task, Element *attended, Arena arena) {
  const HeadShape &heads = task.heads;
  const long dim = heads.dim, pieces = task.pieces(), rows = task.rows();
  const AttentionMemory m(task.length, dim, arena);
  task.prepare_keys(m.keys);
  task.prepare_values(m.rows);
  for (long r = 0; r < rows; r++)
    for (long p = 0; p < pieces; p++)
      transpose(m.values_t + (p * rows + r) * BLOCK_SIZE, m.rows + (r * pieces + p) * BLOCK_SIZE);
  for (long head = task.key * heads.group(); head < (task.key + 1) * heads.group(); head++) {
    task.prepare_query(m.rows, head);
    for (long j = 0; j < rows; j++) {
      for (long p = 0; p < pieces; p++)
        panel_of_columns(m.query + p * BLOCK_SIZE, m.rows + (j * pieces + p) * BLOCK_SIZE);
      Vec32 highest = broadcast32(HIDDEN_SCORE), sum = broadcast32(0);
      const long first = task.first_key(j);
      for (long from = first; from <= j; from += KEY_BLOCKS) {
        const long count = std::min<long>(KEY_BLOCKS, j + 1 - from);
        Vec32 now = highest;
        for (long b = 0; b <= count; b++) {
          if (b < count)
            multiply_block({m.keys + (from + b) * pieces * BLOCK_SIZE, m.query, pieces}, {}, m.scores + b * PLANE_SIZE,
                           false);
          if (!b) continue;
          float *s = m.scores + (b - 1) * PLANE_SIZE; // one block behind, while the tiles of the next are at work
          task.hide(s, from + b - 1, j);
          for (int line = 0; line < SIDE; line++) now = max(now, load((const float *)s + line * SIDE));
        }
        if (from != first) {
          const Vec32 by = exp(highest - now);
          sum = sum * by;
          for (long line = 0; line < dim; line++)
            store(m.out + line * SIDE, load((const float *)m.out + line * SIDE) * by);
        }
        highest = now;
        for (long line = 0; line < count * SIDE; line += 2) {
          const float *s = m.scores + line * SIDE;
          const Vec32 a = exp(load(s) - highest), b = exp(load(s + SIDE) - highest);
          sum = sum + (a + b);
          interleave(m.probabilities + line / SIDE * BLOCK_SIZE + line % SIDE / 2 * PAIR_STRIDE, split(a), split(b));
        }
        for (long p = 0; p < pieces; p++)
          multiply_block({m.values_t + (p * rows + from) * BLOCK_SIZE, m.probabilities, count}, {},
                         m.out + p * PLANE_SIZE, from != first);
      }
      alignas(64) float inverse[SIDE], top[SIDE];
      store(inverse, {broadcast(1) / sum.low, broadcast(1) / sum.high});
      store(top, highest);
      transpose_to_queries(m.lines, m.out, pieces);
      for (long t = j * SIDE; t < std::min(task.length, (j + 1) * SIDE); t++) {
        Out to = task.head_row(attended, t, head, heads.queries * dim);
        for (long p = 0; p < pieces; p++) store(to[p], load(m.lines + t % SIDE * dim + p * SIDE) * inverse[t % SIDE]);
        task.highest[head * task.tokens + task.start + t] = top[t % SIDE];
        task.inverse[head * task.tokens + task.start + t] = inverse[t % SIDE];
      }
    }
  }
}

// dqkv (tokens, outputs) in blocks, from `attended` and its gradient. With P = softmax(S): dP = V dO', dS = P (dP - sum
// of O dO of the query), dV = P dO, dK = dS Q, dQ = dS' K.
inline void attend_gradient(const AttentionTask &task, const Element *attended, const Element *dattended, Element *dqkv,
                            Arena arena) {
  const HeadShape &heads = task.heads;
  const long dim = heads.dim, pieces = task.pieces(), rows = task.rows(), all = rows * SIDE;
  const AttentionGradientMemory m(task.length, dim, arena);
  task.prepare_keys(m.keys);
  task.prepare_values(m.values);
  for (long r = 0; r < rows; r++)
    for (long p = 0; p < pieces; p++)
      transpose(m.keys_t + (p * rows + r) * BLOCK_SIZE, m.keys + (r * pieces + p) * BLOCK_SIZE);
  std::memset(m.dk, 0, all * dim * sizeof(float));
  std::memset(m.dv, 0, all * dim * sizeof(float));
  for (long head = task.key * heads.group(); head < (task.key + 1) * heads.group(); head++) {
    task.prepare_query(m.rows, head);
    for (long t = 0; t < task.length; t++) {
      In from = task.head_row(dattended, t, head, heads.queries * dim);
      for (long p = 0; p < pieces; p++) store(m.dout + row_offset(t, dim) + p * BLOCK_SIZE, load(from[p]));
    }
    task.clear_padding(m.dout);
    for (long j0 = 0; j0 < rows; j0 += QUERY_BLOCKS) {
      const long j1 = std::min(rows, j0 + QUERY_BLOCKS), first = task.first_key(j0);
      // of each query: its largest score, 1 / the sum of its exponentials, and O . dO
      alignas(64) float highest[QUERY_BLOCKS * SIDE] = {}, inverse[QUERY_BLOCKS * SIDE] = {};
      alignas(64) float out_dot_dout[QUERY_BLOCKS * SIDE] = {};
      for (long t = j0 * SIDE; t < std::min(task.length, j1 * SIDE); t++) {
        In o = task.head_row(attended, t, head, heads.queries * dim);
        Vec32 sum = broadcast32(0);
        for (long p = 0; p < pieces; p++) sum = sum + load(o[p]) * load(m.dout + row_offset(t, dim) + p * BLOCK_SIZE);
        highest[t - j0 * SIDE] = task.highest[head * task.tokens + task.start + t];
        inverse[t - j0 * SIDE] = task.inverse[head * task.tokens + task.start + t];
        out_dot_dout[t - j0 * SIDE] = reduce_add(sum);
      }
      for (long j = j0; j < j1; j++)
        for (long p = 0; p < pieces; p++) {
          const long panel = ((j - j0) * pieces + p) * BLOCK_SIZE, by_rows = (p * QUERY_BLOCKS + j - j0) * BLOCK_SIZE;
          const long of = (j * pieces + p) * BLOCK_SIZE;
          panel_of_columns(m.query + panel, m.rows + of);
          panel_of_columns(m.dpanel + panel, m.dout + of);
          panel_of_rows(m.query_rows + by_rows, m.rows + of);
          panel_of_rows(m.dpanel_rows + by_rows, m.dout + of);
        }
      for (long b = first; b < j1; b++) { // blocks of keys
        const long begin = std::max(b, j0);
        long end = begin;
        while (end < j1 && task.first_key(end) <= b) end++;
        for (long next = begin; next <= end; next++) {
          if (next < end) {
            const long of = (next - j0) * pieces * BLOCK_SIZE, to = next % 2 * PLANE_SIZE;
            multiply_block({m.keys + b * pieces * BLOCK_SIZE, m.query + of, pieces}, {}, m.scores + to, false);
            multiply_block({m.values + b * pieces * BLOCK_SIZE, m.dpanel + of, pieces}, {}, m.dprobabilities + to,
                           false);
          }
          const long j = next - 1; // one block behind, as in `attend`
          if (j < begin) continue;
          float *score = m.scores + j % 2 * PLANE_SIZE;
          const float *dprobability = m.dprobabilities + j % 2 * PLANE_SIZE;
          task.hide(score, b, j);
          Element *to = m.probabilities + (j - j0) * BLOCK_SIZE, *dto = m.dscores + (j - j0) * BLOCK_SIZE;
          Element *panel = m.strip + ((j - j0) * rows + b) * BLOCK_SIZE;
          const float *h = highest + (j - j0) * SIDE, *i = inverse + (j - j0) * SIDE,
                      *o = out_dot_dout + (j - j0) * SIDE;
          const Vec32 top = load(h), by = load(i), dot = load(o);
          for (int line = 0; line < SIDE; line += 2) {
            Split two[2];
            for (int one = 0; one < 2; one++) {
              Vec32 s = load(score + (line + one) * SIDE) - top;
              Vec32 p = exp(s) * by;
              Vec32 d = p * (load(dprobability + (line + one) * SIDE) - dot);
              store(to + (line + one) * SIDE, p);
              store(dto + (line + one) * SIDE, two[one] = split(d));
            }
            interleave(panel + line / 2 * PAIR_STRIDE, two[0], two[1]);
          }
        }
        if (end == begin) continue;
        for (long p = 0; p < pieces; p++) {
          const long skip = (begin - j0) * BLOCK_SIZE, panel = p * QUERY_BLOCKS * BLOCK_SIZE + skip;
          multiply_block({m.probabilities + skip, m.dpanel_rows + panel, end - begin}, {},
                         m.dv + (b * pieces + p) * PLANE_SIZE, true);
          multiply_block({m.dscores + skip, m.query_rows + panel, end - begin}, {},
                         m.dk + (b * pieces + p) * PLANE_SIZE, true);
        }
      }
      for (long j = j0; j < j1; j++) {
        const long from = task.first_key(j);
        for (long p = 0; p < pieces; p++)
          multiply_block({m.keys_t + (p * rows + from) * BLOCK_SIZE, m.strip + ((j - j0) * rows + from) * BLOCK_SIZE,
                          j + 1 - from},
                         {}, m.dquery + p * PLANE_SIZE, false);
        transpose_to_queries(m.lines, m.dquery, pieces);
        for (long t = j * SIDE; t < std::min(task.length, (j + 1) * SIDE); t++)
          task.prepare_gradient(dqkv, m.lines + t % SIDE * dim, t, head, heads.norm_q, heads.eps_q, true, heads.scale);
      }
    }
  }
  for (long t = 0; t < task.length; t++)
    for (bool value : {false, true}) {
      float g[MAX_HEAD_DIM];
      for (long p = 0; p < pieces; p++)
        store(g + p * SIDE, load((value ? m.dv : m.dk) + row_offset(t, dim, 1) + p * PLANE_SIZE));
      const long head = heads.queries + task.key + (value ? heads.keys : 0);
      task.prepare_gradient(dqkv, g, t, head, value ? nullptr : heads.norm_k, heads.eps_k, !value, 1);
    }
}

} // namespace block
