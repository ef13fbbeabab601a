// Rotary positions, norms of heads, and attention of a step's tokens over the KV cache. Knows no products with weights.
#pragma once

#include <algorithm>
#include <vector>

#include "kv_blocks.h"
#include "linear.h"

namespace runner {

// Of each row of a step. What products read is tiled (tiles.h).
struct Activations {
  float *hidden = nullptr;         // (rows, hidden_size)
  float *qkv = nullptr;            // (rows, heads + 2 kv_heads, head_dim)
  Element *normed = nullptr;       // (rows, hidden_size), tiled
  Element *queries = nullptr;      // (rows, heads, head_dim), scaled for exp2
  Element *attended = nullptr;     // (rows, heads x head_dim), tiled
  Element *intermediate = nullptr; // (rows, intermediate_size), tiled
  Int8Block *int8 = nullptr;       // (rows, inputs / 32) of the product at work
  float *lora = nullptr;           // (rows, lora_rank): x A' of the product at work
  int64_t lora_rank = 0;           // the largest
  const int *chunk_of = nullptr;   // (rows)
};

// Tokens of a chunk whose queries attend together, for one key head.
struct AttentionTask {
  int chunk, head, first, tokens; // first: of the chunk's tokens
  int64_t to;                     // the row of `attended` that the first writes
};

// 1 / sqrt(mean of squares + eps), of an RMS norm (arXiv 1910.07467).
inline float inverse_rms(const float *x, int64_t width, float eps) {
  vectors::Vec squares = vectors::zero();
  for (int64_t i = 0; i < width; i += vectors::LANES)
    squares = vectors::fma(vectors::load(x + i), vectors::load(x + i), squares);
  return 1 / std::sqrt(vectors::reduce_add(squares) / width + eps);
}

class Attention {
public:
  Attention(const Model &model, const Step &step, const Activations &activations)
      : m(model), s(step), a(activations), kv_{model, step}, group_(int(model.heads / model.kv_heads)) {}

  // Queries of a key head (`group`) for which tiles of MAX_ROWS rows have space, in tokens.
  static int tokens_per_task(const Model &m) { return std::max(1, tiles::MAX_ROWS / int(m.heads / m.kv_heads)); }

  // Scores of a thread for a step whose longest sequence has `longest` positions.
  static void add_scratch(ScratchSizes &sizes, const Model &m, int64_t longest) {
    int64_t window = 0; // the widest
    for (int64_t l = 0; l < m.layers; l++) window = std::max(window, m.layer[l].window ? m.layer[l].window : INT64_MAX);
    const int64_t span = longest <= window ? longest : std::min(longest, window + tokens_per_task(m) + KV_BLOCK);
    sizes.queries = size_t(tiles::MAX_ROWS * m.head_dim);
    sizes.scores = sizes.probabilities = size_t(tiles::MAX_ROWS * padded(span));
  }

  // Gives a token's queries of a key head and its key their norms and rotary positions (arXiv 2104.09864), and stores
  // key and value in the cache.
  void prepare(int64_t l, int64_t row, int64_t kv_head) const {
    const Layer &w = m.layer[l];
    const Chunk &chunk = s.chunks[a.chunk_of[row]];
    const int64_t D = m.head_dim, position = chunk.length - (chunk.end - row);
    float *qkv = a.qkv + row * (m.heads + 2 * m.kv_heads) * D, *key = qkv + (m.heads + kv_head) * D;
    for (int64_t h = kv_head * group_; h < (kv_head + 1) * group_; h++) {
      float *query = qkv + h * D;
      norm_and_rotate(w, position, w.norm_queries, query);
      for (int64_t i = 0; i < D; i += vectors::LANES)
        vectors::store(a.queries + row * m.heads * D + h * D + i,
                       vectors::load(query + i) * vectors::broadcast(m.scale * vectors::LOG2_E));
    }
    norm_and_rotate(w, position, w.norm_keys, key);
    kv_.store_key(l, chunk.slot, kv_head, position, key);
    kv_.store_value(l, chunk.slot, kv_head, position, qkv + (m.heads + m.kv_heads + kv_head) * D);
  }

  // Attends the queries of a task. Keys and values of single tokens come from memory; they are prefetched, and so are
  // the first of the `next` task.
  void attend(Worker &me, int64_t l, const AttentionTask &task, const AttentionTask *next) const {
    const Chunk &chunk = s.chunks[task.chunk];
    const int64_t D = m.head_dim, G = group_, row = chunk.start + task.first;
    const int tokens = task.tokens, heads = int(tokens * G);
    const int64_t position = chunk.length - (chunk.end - row), length = position + tokens;
    const int64_t window = m.layer[l].window ? m.layer[l].window : INT64_MAX;
    const int64_t from = std::max<int64_t>(0, position - window + 1) / KV_BLOCK * KV_BLOCK;
    const int64_t span = padded(length - from); // positions [from, from + span) are scored
    Element *queries = me.scratch.queries.data(), *probabilities = me.scratch.probabilities.data();
    float *scores = me.scratch.scores.data();
    for (int t = 0; t < tokens; t++)
      std::memcpy(queries + t * G * D, a.queries + ((row + t) * m.heads + task.head * G) * D, G * D * sizeof(Element));
    const bf16 *keys = kv_.keys(l, chunk.slot, task.head) + from * D;
    const bf16 *values = kv_.values(l, chunk.slot, task.head) + from * D;
    const bool from_memory = tokens == 1;
    if (from_memory) prefetch(values);
    for (int64_t at = 0; at < span; at += PANEL_WIDTH)
      tiles::multiply(heads, queries, D, keys + at * D, tiles::PANEL_BLOCK, int(D / K_BLOCK), scores + at, span,
                      from_memory ? tiles::PREFETCH_DISTANCE : 0);
    if (from_memory && next) prefetch(kv_.keys(l, s.chunks[next->chunk].slot, next->head));
    float inverse[tiles::MAX_ROWS];
    for (int i = 0; i < heads; i++) {
      const int64_t last = position + i / G - from, first = std::max<int64_t>(0, last - window + 1);
      inverse[i] = 1 / softmax(scores + i * span, probabilities + i * span, first, last + 1, span);
    }
    const long block_stride = KV_BLOCK * D; // from a block of values to the next
    const long distance =
        from_memory ? std::max(tiles::PREFETCH_DISTANCE, 2 * block_stride) / block_stride * block_stride : 0;
    alignas(64) float sum[tiles::MAX_ROWS * PANEL_WIDTH];
    for (int64_t d = 0; d < D; d += PANEL_WIDTH) {
      tiles::multiply(heads, probabilities, span, values + d * KV_BLOCK, block_stride, int(span / K_BLOCK), sum,
                      PANEL_WIDTH, distance);
      for (int i = 0; i < heads; i++) {
        const int64_t input = (task.head * G + i % G) * D + d;
        Element *to = a.attended + tiles::tiled_offset(task.to + i / G, input, m.heads * D / K_BLOCK);
        for (int c = 0; c < PANEL_WIDTH; c += vectors::LANES)
          vectors::store(to + c, vectors::load(sum + i * PANEL_WIDTH + c) * vectors::broadcast(inverse[i]));
      }
    }
  }

private:
  void norm_and_rotate(const Layer &w, int64_t position, const float *weight, float *x) const {
    if (weight) {
      const float inverse = inverse_rms(x, m.head_dim, m.eps);
      for (int64_t i = 0; i < m.head_dim; i++) x[i] = x[i] * inverse * weight[i];
    }
    if (!w.rotary) return;
    const int64_t half = m.rotary_dim / 2;
    const float *cos = s.cos + position * half, *sin = s.sin + position * half;
    for (int64_t i = 0; i < half; i++) {
      const float low = x[i], high = x[i + half];
      x[i] = low * cos[i] - high * sin[i];
      x[i + half] = high * cos[i] + low * sin[i];
    }
  }

  static void prefetch(const bf16 *from) {
    for (int64_t at = 0; at < tiles::PREFETCH_BYTES; at += tiles::CACHE_LINE)
      _mm_prefetch((const char *)from + at, _MM_HINT_T0);
  }

  // probabilities = 2^(score - highest) of positions [first, end), 0 elsewhere; returns their sum. `span` is a multiple
  // of 32.
  static float softmax(const float *scores, Element *probabilities, int64_t first, int64_t end, int64_t span) {
    using namespace vectors;
    const int64_t low = first / KV_BLOCK * KV_BLOCK, high = (end + KV_BLOCK - 1) / KV_BLOCK * KV_BLOCK;
    const Vec lowest = broadcast(-INFINITY);
    Vec highest = lowest;
    for (int64_t i = low; i < high; i += LANES)
      highest = max(highest, select(first - i, end - i, load(scores + i), lowest));
    const Vec shift = broadcast(reduce_max(highest));
    Vec sum = zero();
    std::memset(probabilities, 0, low * sizeof(Element));
    for (int64_t i = low; i < high; i += 2 * LANES) {
      const Vec x = select(first - i, end - i, exp2(load(scores + i) - shift), zero());
      const Vec y = select(first - i - LANES, end - i - LANES, exp2(load(scores + i + LANES) - shift), zero());
      sum = sum + (x + y);
      store(probabilities + i, x);
      store(probabilities + i + LANES, y);
    }
    std::memset(probabilities + high, 0, (span - high) * sizeof(Element));
    return reduce_add(sum);
  }

  const Model &m;
  const Step &s;
  const Activations &a;
  const KvBlocks kv_;
  const int group_; // query heads that share a key head
};

} // namespace runner
