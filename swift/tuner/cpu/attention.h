// Causal attention within a row of tokens and its gradient, for the query heads of one key head. Knows no model.
//
// Scores are made with a key in each line and a query in each column (S' = K Q'), so maxima, sums and what is
// subtracted from a query's scores are vectors and nothing is summed across one. Shares are never kept: the gradient
// makes them again from each query's maximum and sum (arXiv 2205.14135), so memory grows with the row.
#pragma once

#include "sums.h"

namespace block {

struct Heads {
  long queries, keys, width, window; // a token sees `window` tokens back, all where it is 0
  long rotated;                      // features that are turned by position (RoPE, arXiv 2104.09864)
  float scale;
  const float *norm_q, *norm_k; // weights of heads' norms, or nothing
  float eps_q, eps_k;
  long group() const { return queries / keys; }
  long outputs() const { return (queries + 2 * keys) * width; }
};

constexpr int KEYS = 8;      // blocks of keys whose scores are there at a time
constexpr int TOGETHER = 4;  // blocks of queries whose gradient is made at a time
constexpr long WIDEST = 512; // of a head

inline float single(float x) { return x; }
inline float single(bf16 x) { return wide(x); }

inline void turn(float *x, const Number *cos, const Number *sin, long rotated, float sign) {
  long half = rotated / 2;
  for (long i = 0; i < half; i++) {
    float c = single(cos[i]), s = single(sin[i]) * sign, before = x[i], after = x[i + half];
    x[i] = before * c - after * s;
    x[i + half] = after * c + before * s;
  }
}

// One row of tokens of a batch, for one key head.
struct Task {
  const Heads &heads;
  long start, length, key; // the row's first token and how many; which key head
  const Cell *qkv;         // (tokens, heads.outputs()) in blocks
  const Number *cos, *sin; // (tokens, heads.rotated)
  float *most, *inverse;   // (heads.queries, tokens): each query's largest score, and one by the sum of its shares
  long tokens;

  long width() const { return heads.width; }
  long pieces() const { return heads.width / SIDE; }
  long rows() const { return blocks(length); }
  Out piece(Cell *m, long token, long head, long columns) const {
    return {m + at(start + token, columns) + head * pieces() * AREA, AREA};
  }
  In piece(const Cell *m, long token, long head, long columns) const {
    return {m + at(start + token, columns) + head * pieces() * AREA, AREA};
  }

  // A head's vectors, normed, turned and scaled, in blocks; what fills the last block is zero.
  void prepare(Cell *to, long head, const float *weight, float eps, bool turned, float scale) const {
    float x[WIDEST];
    for (long t = 0; t < length; t++) {
      In from = piece(qkv, t, head, heads.outputs());
      Out row{to + at(t, width()), AREA};
      float by = weight ? block::inverse(from, width(), eps) : 1.0f;
      for (long p = 0; p < pieces(); p++) {
        Pair each = load(from[p]) * by;
        store(x + p * SIDE, weight ? each * load(weight + p * SIDE) : each);
      }
      if (turned && heads.rotated)
        turn(x, cos + (start + t) * heads.rotated, sin + (start + t) * heads.rotated, heads.rotated, 1);
      for (long p = 0; p < pieces(); p++) store(row[p], load(x + p * SIDE) * scale);
    }
    blank(to);
  }
  void blank(Cell *to) const {
    for (long t = length; t < rows() * SIDE; t++) clear(inside(to, t, width()), width());
  }
  void query(Cell *to, long head) const { prepare(to, head, heads.norm_q, heads.eps_q, true, heads.scale); }
  void keys(Cell *to) const { prepare(to, heads.queries + key, heads.norm_k, heads.eps_k, true, 1); }
  void values(Cell *to) const { prepare(to, heads.queries + heads.keys + key, nullptr, 0, false, 1); }

  // The gradient of a head's vector from that of what `prepare` made of it; `g` is (width) and is changed.
  void back(Cell *dqkv, float *g, long t, long head, const float *weight, float eps, bool turned, float scale) const {
    for (long i = 0; i < width(); i++) g[i] *= scale;
    if (turned && heads.rotated)
      turn(g, cos + (start + t) * heads.rotated, sin + (start + t) * heads.rotated, heads.rotated, -1);
    Out to = piece(dqkv, t, head, heads.outputs());
    if (weight) {
      norm_gradient(piece(qkv, t, head, heads.outputs()), Row<float>{g}, width(), weight, eps, {}, {}, In{}, to);
    } else {
      for (long p = 0; p < pieces(); p++) store(to[p], load(g + p * SIDE));
    }
  }

  long first_key(long block) const { // the first block of keys that a block of queries sees
    return heads.window ? std::max(0L, block * SIDE + 1 - heads.window) / SIDE : 0;
  }
  // Takes away what the queries of a block may not see: scores (32 keys, 32 queries).
  void hide(float *scores, long keys, long queries) const {
    bool last = keys == queries, old = heads.window && (queries + 1) * SIDE - keys * SIDE > heads.window;
    if (!last && !old) return;
    for (int k = 0; k < SIDE; k++)
      for (int half = 0; half < 2; half++) {
        const long newest = k - (queries - keys) * SIDE - half * LANES; // the lane whose query has this key's place
        float *at = scores + k * SIDE + half * LANES;
        vectors::store(at,
                       within(newest, heads.window ? newest + heads.window : LANES, vectors::load(at), every(-1e30f)));
      }
  }
};

// (pieces of 32 x 32) a matrix (width, 32 queries) of fp32 as rows of queries.
inline void by_query(float *to, const float *from, long pieces) {
  alignas(64) float turned[SQUARE];
  for (long p = 0; p < pieces; p++) {
    transpose(turned, from + p * SQUARE);
    for (long t = 0; t < SIDE; t++) store(to + t * pieces * SIDE + p * SIDE, load(turned + t * SIDE));
  }
}

// Memory of a thread for a row of so many tokens, in bytes.
inline long attention_room(long length, long width, bool gradient) {
  long rows = blocks(length), line = SIDE * width, element = sizeof(bf16) * OWN; // bytes
  long forward = (3 * rows + 1) * line * element + KEYS * SQUARE * (4 + element) + line * 8;
  long backward = (5 * rows + 4 * TOGETHER) * line * element + (2 * rows + 2) * line * 4 + 4 * SQUARE * 4 +
                  TOGETHER * (rows + 2) * SQUARE * element;
  return (gradient ? backward : forward) + (64 << 10);
}

// attended (tokens, queries x width) in blocks.
inline void attend(const Task &task, Cell *attended, char *room) {
  const Heads &heads = task.heads;
  const long width = heads.width, pieces = task.pieces(), rows = task.rows();
  Cell *k = take_blocks(room, rows * SIDE, width), *v = take_blocks(room, rows * SIDE, width);
  Cell *q = take_blocks(room, rows * SIDE, width), *query = take_blocks(room, SIDE, width);
  float *scores = take<float>(room, KEYS * SQUARE), *out = take<float>(room, SIDE * width);
  float *lines = take<float>(room, SIDE * width);
  Cell *shares = take_blocks(room, SIDE, KEYS * SIDE);
  task.keys(k);
  task.values(q);
  for (long r = 0; r < rows; r++)
    for (long p = 0; p < pieces; p++) transpose(v + (p * rows + r) * AREA, q + (r * pieces + p) * AREA);
  for (long head = task.key * heads.group(); head < (task.key + 1) * heads.group(); head++) {
    task.query(q, head);
    for (long j = 0; j < rows; j++) {
      for (long p = 0; p < pieces; p++) panel_of_columns(query + p * AREA, q + (j * pieces + p) * AREA);
      Pair most = both(-1e30f), sum = both(0);
      const long first = task.first_key(j);
      for (long from = first; from <= j; from += KEYS) {
        const long count = std::min<long>(KEYS, j + 1 - from);
        Pair now = most;
        for (long b = 0; b <= count; b++) {
          if (b < count) kernel({k + (from + b) * pieces * AREA, query, pieces}, {}, scores + b * SQUARE, false);
          if (!b) continue;
          float *s = scores + (b - 1) * SQUARE; // one block behind, while the tiles of the next are at work
          task.hide(s, from + b - 1, j);
          for (int line = 0; line < SIDE; line++) now = larger(now, load((const float *)s + line * SIDE));
        }
        if (from != first) {
          const Pair by = exponential(most - now);
          sum = sum * by;
          for (long line = 0; line < width; line++)
            store(out + line * SIDE, load((const float *)out + line * SIDE) * by);
        }
        most = now;
        for (long line = 0; line < count * SIDE; line += 2) {
          const float *s = scores + line * SIDE;
          const Pair a = exponential(load(s) - most), b = exponential(load(s + SIDE) - most);
          sum = sum + (a + b);
          interleave(shares + line / SIDE * AREA + line % SIDE / 2 * PAIR, split(a), split(b));
        }
        for (long p = 0; p < pieces; p++)
          kernel({v + (p * rows + from) * AREA, shares, count}, {}, out + p * SQUARE, from != first);
      }
      alignas(64) float by[SIDE], top[SIDE];
      store(by, {every(1) / sum.low, every(1) / sum.high});
      store(top, most);
      by_query(lines, out, pieces);
      for (long t = j * SIDE; t < std::min(task.length, (j + 1) * SIDE); t++) {
        Out to = task.piece(attended, t, head, heads.queries * width);
        for (long p = 0; p < pieces; p++) store(to[p], load(lines + t % SIDE * width + p * SIDE) * by[t % SIDE]);
        task.most[head * task.tokens + task.start + t] = top[t % SIDE];
        task.inverse[head * task.tokens + task.start + t] = by[t % SIDE];
      }
    }
  }
}

// dqkv (tokens, outputs) in blocks, from `attended` and its gradient.
inline void attend_gradient(const Task &task, const Cell *attended, const Cell *dattended, Cell *dqkv, char *room) {
  const Heads &heads = task.heads;
  const long width = heads.width, pieces = task.pieces(), rows = task.rows(), all = rows * SIDE;
  Cell *k = take_blocks(room, all, width), *v = take_blocks(room, all, width), *turned = take_blocks(room, all, width);
  Cell *q = take_blocks(room, all, width), *dout = take_blocks(room, all, width);
  float *dk = take<float>(room, all * width), *dv = take<float>(room, all * width);
  constexpr long some = TOGETHER * SIDE;
  Cell *query = take_blocks(room, some, width), *query_rows = take_blocks(room, some, width);
  Cell *dpanel = take_blocks(room, some, width), *dpanel_rows = take_blocks(room, some, width);
  float *scores = take<float>(room, 2 * SQUARE), *dshares = take<float>(room, 2 * SQUARE),
        *lines = take<float>(room, SIDE * width);
  float *dquery = take<float>(room, SIDE * width);
  Cell *shares = take_blocks(room, some, SIDE), *dscores = take_blocks(room, some, SIDE);
  Cell *strip = take_blocks(room, some, all);
  task.keys(k);
  task.values(v);
  for (long r = 0; r < rows; r++)
    for (long p = 0; p < pieces; p++) transpose(turned + (p * rows + r) * AREA, k + (r * pieces + p) * AREA);
  std::memset(dk, 0, all * width * 4);
  std::memset(dv, 0, all * width * 4);
  for (long head = task.key * heads.group(); head < (task.key + 1) * heads.group(); head++) {
    task.query(q, head);
    for (long t = 0; t < task.length; t++) {
      In from = task.piece(dattended, t, head, heads.queries * width);
      for (long p = 0; p < pieces; p++) store(dout + at(t, width) + p * AREA, load(from[p]));
    }
    task.blank(dout);
    for (long j0 = 0; j0 < rows; j0 += TOGETHER) {
      const long j1 = std::min(rows, j0 + TOGETHER), first = task.first_key(j0);
      alignas(64) float most[TOGETHER * SIDE] = {}, by[TOGETHER * SIDE] = {}, less[TOGETHER * SIDE] = {};
      for (long t = j0 * SIDE; t < std::min(task.length, j1 * SIDE); t++) {
        In o = task.piece(attended, t, head, heads.queries * width);
        Pair sum = both(0);
        for (long p = 0; p < pieces; p++) sum = sum + load(o[p]) * load(dout + at(t, width) + p * AREA);
        most[t - j0 * SIDE] = task.most[head * task.tokens + task.start + t];
        by[t - j0 * SIDE] = task.inverse[head * task.tokens + task.start + t];
        less[t - j0 * SIDE] = total(sum);
      }
      for (long j = j0; j < j1; j++)
        for (long p = 0; p < pieces; p++) {
          long panel = ((j - j0) * pieces + p) * AREA, rowwise = (p * TOGETHER + j - j0) * AREA,
               of = (j * pieces + p) * AREA;
          panel_of_columns(query + panel, q + of);
          panel_of_columns(dpanel + panel, dout + of);
          panel_of_rows(query_rows + rowwise, q + of);
          panel_of_rows(dpanel_rows + rowwise, dout + of);
        }
      for (long b = first; b < j1; b++) {
        const long begin = std::max(b, j0);
        long end = begin;
        while (end < j1 && task.first_key(end) <= b) end++;
        for (long next = begin; next <= end; next++) {
          if (next < end) {
            const long of = (next - j0) * pieces * AREA, to = next % 2 * SQUARE;
            kernel({k + b * pieces * AREA, query + of, pieces}, {}, scores + to, false);
            kernel({v + b * pieces * AREA, dpanel + of, pieces}, {}, dshares + to, false);
          }
          const long j = next - 1; // as above
          if (j < begin) continue;
          float *score = scores + j % 2 * SQUARE;
          const float *dshare = dshares + j % 2 * SQUARE;
          task.hide(score, b, j);
          const float *m = most + (j - j0) * SIDE, *i = by + (j - j0) * SIDE, *l = less + (j - j0) * SIDE;
          Cell *to = shares + (j - j0) * AREA, *dto = dscores + (j - j0) * AREA,
               *panel = strip + ((j - j0) * rows + b) * AREA;
          const Pair top = load(m), share_of = load(i), sub = load(l);
          for (int line = 0; line < SIDE; line += 2) {
            Split two[2];
            for (int one = 0; one < 2; one++) {
              Pair s = load(score + (line + one) * SIDE) - top;
              Pair p = exponential(s) * share_of;
              Pair d = p * (load(dshare + (line + one) * SIDE) - sub);
              store(to + (line + one) * SIDE, p);
              store(dto + (line + one) * SIDE, two[one] = split(d));
            }
            interleave(panel + line / 2 * PAIR, two[0], two[1]);
          }
        }
        if (end == begin) continue;
        for (long p = 0; p < pieces; p++) {
          long skip = (begin - j0) * AREA, panel = p * TOGETHER * AREA + skip;
          kernel({shares + skip, dpanel_rows + panel, end - begin}, {}, dv + (b * pieces + p) * SQUARE, true);
          kernel({dscores + skip, query_rows + panel, end - begin}, {}, dk + (b * pieces + p) * SQUARE, true);
        }
      }
      for (long j = j0; j < j1; j++) {
        const long from = task.first_key(j);
        for (long p = 0; p < pieces; p++)
          kernel({turned + (p * rows + from) * AREA, strip + ((j - j0) * rows + from) * AREA, j + 1 - from}, {},
                 dquery + p * SQUARE, false);
        by_query(lines, dquery, pieces);
        for (long t = j * SIDE; t < std::min(task.length, (j + 1) * SIDE); t++)
          task.back(dqkv, lines + t % SIDE * width, t, head, heads.norm_q, heads.eps_q, true, heads.scale);
      }
    }
  }
  for (long t = 0; t < task.length; t++)
    for (bool value : {false, true}) {
      float g[WIDEST];
      for (long p = 0; p < pieces; p++) store(g + p * SIDE, load((value ? dv : dk) + at(t, width, 1) + p * SQUARE));
      long head = heads.queries + task.key + (value ? heads.keys : 0);
      task.back(dqkv, g, t, head, value ? nullptr : heads.norm_k, heads.eps_k, !value, 1);
    }
}

} // namespace block
