// The structure that block.py passes, field by field as there, and the memory a call needs. Knows no arithmetic.
#pragma once

#include "abi.h"
#include "attention.h"
#include "lora.h"
#include "parallel.h"

namespace block {

struct DecoderBlock {
  Linear qkv, o, gate_up, down;
  const float *norm, *norm_after, *norm_q, *norm_k; // of the input, after attention; of heads, or null
  double eps, eps_after, eps_q, eps_k, scale, residual_scale;
  int64_t heads, kv_heads, head_dim, window, rotary_dim; // window 0: a token sees its whole row
  // of a call
  int64_t tokens, out_tokens, rows, threads; // out_tokens: those that leave attention, all where `positions` is null
  int64_t saved_bytes, memory_bytes;
  const int64_t *positions, *lengths; // (out_tokens), (rows): tokens of each row of the batch
  const int64_t *branches;            // (tokens), see attention.h, or null
  const Scalar *x, *cos, *sin, *dy;   // (tokens, width), (tokens, rotary_dim) twice, (out_tokens, width)
  Scalar *y, *dx;                     // (out_tokens, width), (tokens, width)
  char *saved, *memory;               // what backward needs of forward; what a call needs while it runs
};

constexpr abi::Structure STRUCTURES[] = {
    ABI_STRUCTURE(LoraPart, scale),
    ABI_STRUCTURE(Linear, parts),
    ABI_STRUCTURE(DecoderBlock, memory),
    {nullptr, 0, 0},
};

constexpr int LINEARS = 4;
constexpr long MAX_STRETCH = 256; // tokens that go through the layers together

// What forward keeps for backward, in blocks: outputs of the products, and of attention what recomputes it.
struct Saved {
  Element *qkv, *attended, *after_attention, *gate_up, *xa[LINEARS]; // xa: x' A' of qkv, o, gate_up, down
  float *highest, *inverse;                                          // (heads, tokens), see attention.h
  Saved(const DecoderBlock &b, Arena &arena) {
    const long all = padded(b.tokens), out = padded(b.out_tokens);
    qkv = take_blocks(arena, all, b.qkv.outputs);
    attended = take_blocks(arena, all, b.o.inputs);
    after_attention = take_blocks(arena, out, b.o.outputs);
    gate_up = take_blocks(arena, out, b.gate_up.outputs);
    xa[0] = take_blocks(arena, all, b.qkv.rank);
    xa[1] = take_blocks(arena, out, b.o.rank);
    xa[2] = take_blocks(arena, out, b.gate_up.rank);
    xa[3] = take_blocks(arena, out, b.down.rank);
    highest = arena.take<float>(b.heads * b.tokens);
    inverse = arena.take<float>(b.heads * b.tokens);
  }
};

// Memory of all threads in a call.
struct Shared {
  LoraPanels qkv, o, gate_up, down;
  Element *dattended, *dqkv;
  Shared(const DecoderBlock &b, bool gradient, Arena &arena) {
    qkv = take_panels(b.qkv, arena), o = take_panels(b.o, arena);
    gate_up = take_panels(b.gate_up, arena), down = take_panels(b.down, arena);
    dattended = take_blocks(arena, gradient ? padded(b.tokens) : 0, b.o.inputs);
    dqkv = take_blocks(arena, gradient ? padded(b.tokens) : 0, b.qkv.outputs);
  }
};

// Memory of one thread for a stretch of tokens, forward.
struct ForwardMemory {
  Element *y, *dropped, *act, *act_dropped; // what a linear layer reads, and under dropout
  ForwardMemory(const DecoderBlock &b, Arena &arena) {
    const long width = std::max(b.qkv.inputs, b.o.inputs);
    y = take_blocks(arena, MAX_STRETCH, width), dropped = take_blocks(arena, MAX_STRETCH, width);
    act = take_blocks(arena, MAX_STRETCH, b.down.inputs), act_dropped = take_blocks(arena, MAX_STRETCH, b.down.inputs);
  }
};

// The same, backward.
struct BackwardMemory {
  float *sums[LINEARS][2]; // gradients of A and of B', (rank, inputs) and (rank, outputs)
  int64_t sums_bytes;
  Element *dy, *dropped, *act, *dgate_up, *dxa, *transposed;
  BackwardMemory(const DecoderBlock &b, Arena &arena) {
    const long width = std::max(b.qkv.inputs, b.o.inputs);
    long rank = 0;
    int number = 0;
    for (const Linear *l : {&b.qkv, &b.o, &b.gate_up, &b.down}) {
      sums[number][0] = arena.take<float>(l->rank * l->inputs);
      sums[number][1] = arena.take<float>(l->rank * l->outputs);
      rank = std::max<long>(rank, l->rank), number++;
    }
    sums_bytes = arena.used();
    dy = take_blocks(arena, MAX_STRETCH, width), dropped = take_blocks(arena, MAX_STRETCH, width);
    act = take_blocks(arena, MAX_STRETCH, b.down.inputs);
    dgate_up = take_blocks(arena, MAX_STRETCH, b.gate_up.outputs);
    dxa = take_blocks(arena, MAX_STRETCH, rank), transposed = take_blocks(arena, MAX_STRETCH, rank + SIDE);
  }
};

inline int64_t saved_bytes(const DecoderBlock &b) {
  Arena arena;
  Saved(b, arena);
  return arena.used();
}
inline int64_t thread_bytes(const DecoderBlock &b, bool gradient) {
  long longest = 0;
  for (long row = 0; row < b.rows; row++) longest = std::max<long>(longest, b.lengths[row]);
  Arena arena;
  if (gradient)
    BackwardMemory(b, arena);
  else
    ForwardMemory(b, arena);
  return whole_pages(arena.used() + attention_bytes(longest, b.head_dim, gradient));
}
inline int64_t shared_bytes(const DecoderBlock &b, bool gradient) {
  Arena arena;
  Shared(b, gradient, arena);
  return whole_pages(arena.used());
}
inline int64_t memory_bytes(const DecoderBlock &b, bool gradient) {
  return shared_bytes(b, gradient) + b.threads * thread_bytes(b, gradient);
}

// Throws abi::InvalidArgument for shapes that the arithmetic does not have.
inline void check(const DecoderBlock &b) {
  using abi::require;
  require(b.kv_heads >= 1 && b.heads % b.kv_heads == 0, "%ld heads do not share %ld key heads", long(b.heads),
          long(b.kv_heads));
  require(b.head_dim % SIDE == 0 && b.head_dim <= MAX_HEAD_DIM, "heads of %ld: it is a multiple of %d up to %ld",
          long(b.head_dim), SIDE, MAX_HEAD_DIM);
  require(b.rotary_dim >= 0 && b.rotary_dim <= b.head_dim, "%ld of %ld numbers of a head are rotated",
          long(b.rotary_dim), long(b.head_dim));
  const int64_t width = b.qkv.inputs, attended = b.heads * b.head_dim;
  require(b.qkv.outputs == (b.heads + 2 * b.kv_heads) * b.head_dim && b.o.inputs == attended && b.o.outputs == width &&
              b.gate_up.inputs == width && b.gate_up.outputs == 2 * b.down.inputs && b.down.outputs == width,
          "the layers of a block do not fit together");
  for (const Linear *l : {&b.qkv, &b.o, &b.gate_up, &b.down}) {
    require(l->inputs % SIDE == 0 && l->outputs % SIDE == 0, "a weight of (%ld, %ld): widths are multiples of %d",
            long(l->outputs), long(l->inputs), SIDE);
    require(l->count >= 0 && l->count <= MAX_PARTS, "%ld adapters with one input: at most %d can", long(l->count),
            MAX_PARTS);
    require(l->rank == padded(used_rank(*l)), "a rank of %ld in memory for %ld", used_rank(*l), long(l->rank));
    for (int p = 0; p < l->count; p++)
      require(l->parts[p].start >= 0 && l->parts[p].stop <= l->outputs, "an adapter of outputs %ld to %ld of %ld",
              long(l->parts[p].start), long(l->parts[p].stop), long(l->outputs));
  }
  int64_t tokens = 0;
  for (int64_t row = 0; row < b.rows; row++) tokens += b.lengths[row];
  require(tokens == b.tokens, "rows have %ld tokens of %ld", long(tokens), long(b.tokens));
  for (int64_t i = 0; b.positions && i < b.out_tokens; i++)
    require(b.positions[i] >= 0 && b.positions[i] < b.tokens, "position %ld of %ld", long(b.positions[i]),
            long(b.tokens));
}
inline void check_memory(const DecoderBlock &b, bool gradient) {
  const int64_t saved = saved_bytes(b), memory = memory_bytes(b, gradient);
  abi::require(b.saved_bytes >= saved && b.memory_bytes >= memory,
               "%ld and %ld bytes of memory where %ld and %ld are needed", long(b.saved_bytes), long(b.memory_bytes),
               long(saved), long(memory));
}

} // namespace block
