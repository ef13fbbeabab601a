// A block of a decoder with LoRA beside frozen weights, forward and backward, in bf16 or fp32 (FP32): norm, q k v,
// attention, o, residual, norm, gate and up, SwiGLU, down, residual. Knows no model family; block.py describes it.
//
// Tokens go through everything that needs no other token a stretch at a time, so what lies between two products stays
// in the cache. The outputs of the products are saved for the gradient; the rest is recomputed.
#include "block_abi.h"

using namespace block;

namespace {

// Loops over stretches and tasks are shared by all threads of the region that calls them.
class Call {
public:
  Call(const DecoderBlock &block, bool gradient)
      : b(block), width(b.qkv.inputs), attended_width(b.o.inputs), intermediate(b.down.inputs), saved_arena_(b.saved),
        shared_arena_(b.memory), k(b, saved_arena_), shared(b, gradient, shared_arena_),
        shared_bytes_(shared_bytes(b, gradient)), thread_bytes_(thread_bytes(b, gradient)),
        heads{b.heads,        b.kv_heads, b.head_dim, b.window,       b.rotary_dim,
              float(b.scale), b.norm_q,   b.norm_k,   float(b.eps_q), float(b.eps_k)} {}

protected:
  Arena thread_arena(int64_t thread) const { return Arena(b.memory + shared_bytes_ + thread * thread_bytes_); }

  void pack_all_adapters() const {
    pack_adapters(b.qkv, shared.qkv), pack_adapters(b.o, shared.o);
    pack_adapters(b.gate_up, shared.gate_up), pack_adapters(b.down, shared.down);
  }

  // Tokens of a stretch: the same number for each thread, in stretches of about the same size.
  long stretch(long tokens) const {
    const long each = std::max<long>((tokens + b.threads - 1) / b.threads, 1);
    return padded(part_size(each, MAX_STRETCH));
  }
  template <class Each> void stretches(long tokens, const Each &each) const {
    const long size = stretch(tokens);
#pragma omp for schedule(static)
    for (long first = 0; first < tokens; first += size) each(first, std::min(size, tokens - first));
  }
  template <class Each> void attention_tasks(const Each &each) const {
#pragma omp for schedule(dynamic)
    for (long task = 0; task < b.rows * b.kv_heads; task++) {
      const long row = task / b.kv_heads;
      long start = 0;
      for (long r = 0; r < row; r++) start += b.lengths[r];
      each(AttentionTask{heads, start, b.lengths[row], task % b.kv_heads, k.qkv, b.cos, b.sin, k.highest, k.inverse,
                         b.tokens, b.branches ? b.branches + start : nullptr});
    }
  }

  // The token of a row that leaves attention.
  long position(long out_token) const { return b.positions ? b.positions[out_token] : out_token; }
  // Where 32 columns of a row lie in a matrix of a stretch.
  static long piece(long row_block, long panel, long line, long columns) {
    return (row_block * columns / SIDE + panel) * BLOCK_SIZE + line * SIDE;
  }

  const DecoderBlock &b;
  const long width, attended_width, intermediate;

private:
  Arena saved_arena_, shared_arena_;

protected:
  const Saved k;
  const Shared shared;

private:
  const int64_t shared_bytes_, thread_bytes_;

protected:
  const HeadShape heads;
};

class Forward : Call {
public:
  explicit Forward(const DecoderBlock &block) : Call(block, false) {}

  void run() const {
    const auto reserve = [&] {
      for (const Linear *l : {&b.qkv, &b.o, &b.gate_up, &b.down}) reserve_scratch(*l, MAX_STRETCH / SIDE, false);
    };
    in_parallel(b.threads, reserve, [&] {
      Arena arena = thread_arena(omp_get_thread_num());
      const ForwardMemory mine(b, arena);
      pack_all_adapters();
      stretches(b.tokens, [&](long first, long tokens) { queries_keys_values(mine, first, tokens); });
      attention_tasks([&](const AttentionTask &task) { attend(task, k.attended, arena.rest()); });
      stretches(b.out_tokens, [&](long first, long tokens) {
        output(mine, first, tokens);
        mlp(mine, first, tokens);
      });
    });
  }

private:
  void queries_keys_values(const ForwardMemory &mine, long first, long tokens) const {
    const Element *dropped = b.qkv.mask ? mine.dropped : mine.y;
    for (long t = 0; t < tokens; t++)
      norm(dense_row(b.x, first + t, width), width, b.norm, float(b.eps), mask(b.qkv, first + t),
           block_row(mine.y, t, width), b.qkv.mask ? block_row(mine.dropped, t, width) : Out{});
    Element *xa = k.xa[0] + row_offset(first, b.qkv.rank), *qkv = k.qkv + row_offset(first, b.qkv.outputs);
    project_to_rank(blocks(tokens), dropped, width, shared.qkv.a, b.qkv.rank, xa);
    linear_forward(b.qkv, shared.qkv, blocks(tokens), mine.y, xa, [&](long r, long p, long line, Vec32 values) {
      store(qkv + piece(r, p, line, b.qkv.outputs), values);
    });
  }

  void output(const ForwardMemory &mine, long first, long tokens) const {
    const Element *x = k.attended + row_offset(first, attended_width);
    for (long t = 0; t < tokens && (b.positions || b.o.mask); t++) {
      const In row = block_row((const Element *)k.attended, position(first + t), attended_width);
      if (b.positions) copy(row, block_row(mine.y, t, attended_width), attended_width);
      if (b.o.mask)
        apply_mask(row, mask(b.o, position(first + t)), block_row(mine.dropped, t, attended_width), attended_width);
    }
    if (b.positions) x = mine.y;
    Element *xa = k.xa[1] + row_offset(first, b.o.rank), *to = k.after_attention + row_offset(first, width);
    project_to_rank(blocks(tokens), b.o.mask ? mine.dropped : x, attended_width, shared.o.a, b.o.rank, xa);
    linear_forward(b.o, shared.o, blocks(tokens), x, xa, [&](long r, long p, long line, Vec32 values) {
      const long row = r * SIDE + line;
      if (row < tokens)
        store(to + piece(r, p, line, width),
              load(b.x + position(first + row) * width + p * SIDE) + values * float(b.residual_scale));
    });
  }

  void mlp(const ForwardMemory &mine, long first, long tokens) const {
    const Element *before = k.after_attention + row_offset(first, width);
    for (long t = 0; t < tokens; t++)
      norm(block_row(before, t, width), width, b.norm_after, float(b.eps_after), mask(b.gate_up, position(first + t)),
           block_row(mine.y, t, width), b.gate_up.mask ? block_row(mine.dropped, t, width) : Out{});
    Element *xa = k.xa[2] + row_offset(first, b.gate_up.rank);
    Element *gate_up = k.gate_up + row_offset(first, 2 * intermediate);
    project_to_rank(blocks(tokens), b.gate_up.mask ? mine.dropped : mine.y, width, shared.gate_up.a, b.gate_up.rank,
                    xa);
    const auto swiglu = [&](long r, long p, long line, Vec32 values) {
      const long panels = intermediate / SIDE, at = piece(r, p, line, 2 * intermediate);
      if (p < panels) return store(gate_up + at, values);
      // the gate of these columns came just before
      Vec32 g = load(gate_up + at - panels * BLOCK_SIZE), y = g * sigmoid(g) * values;
      const long to = piece(r, p - panels, line, intermediate), row = r * SIDE + line;
      stream(gate_up + at, values);
      store(mine.act + to, y);
      if (b.down.mask && row < tokens)
        store(mine.act_dropped + to, y * mask(b.down, position(first + row))[p - panels]);
    };
    linear_forward(b.gate_up, shared.gate_up, blocks(tokens), mine.y, xa, swiglu, true);
    xa = k.xa[3] + row_offset(first, b.down.rank);
    project_to_rank(blocks(tokens), b.down.mask ? mine.act_dropped : mine.act, intermediate, shared.down.a, b.down.rank,
                    xa);
    linear_forward(b.down, shared.down, blocks(tokens), mine.act, xa, [&](long r, long p, long line, Vec32 values) {
      const long row = r * SIDE + line;
      if (row < tokens)
        store(b.y + (first + row) * width + p * SIDE,
              load(before + piece(r, p, line, width)) + values * float(b.residual_scale));
    });
  }
};

class Backward : Call {
public:
  explicit Backward(const DecoderBlock &block) : Call(block, true) {}

  void run() const {
    const auto reserve = [&] {
      for (const Linear *l : {&b.qkv, &b.o, &b.gate_up, &b.down}) reserve_scratch(*l, MAX_STRETCH / SIDE, true);
    };
    in_parallel(b.threads, reserve, [&] {
      Arena arena = thread_arena(omp_get_thread_num());
      const BackwardMemory mine(b, arena);
      std::memset(static_cast<void *>(mine.sums[0][0]), 0, mine.sums_bytes);
      pack_all_adapters();
      if (b.out_tokens < b.tokens) clear_gradients();
      stretches(b.out_tokens, [&](long first, long tokens) {
        mlp(mine, first, tokens);
        output(mine, first, tokens);
      });
      attention_tasks([&](const AttentionTask &task) {
        attend_gradient(task, k.attended, shared.dattended, shared.dqkv, arena.rest());
      });
      stretches(b.tokens, [&](long first, long tokens) { queries_keys_values(mine, first, tokens); });
      add_up(b.qkv, 0), add_up(b.o, 1), add_up(b.gate_up, 2), add_up(b.down, 3);
    });
  }

private:
  // Tokens that do not leave attention.
  void clear_gradients() const {
#pragma omp for schedule(static)
    for (long t = 0; t < b.tokens; t++) {
      std::memset(static_cast<void *>(b.dx + t * width), 0, width * sizeof(Scalar));
      clear(block_row(shared.dattended, t, attended_width), attended_width);
    }
  }

  // The gradient of what is added to the residual.
  void scaled(const BackwardMemory &mine, Row<const Scalar> from, long t) const {
    for (long p = 0; p < width / SIDE; p++)
      store(block_row(mine.dy, t, width)[p], load(from[p]) * float(b.residual_scale));
  }

  void mlp(const BackwardMemory &mine, long first, long tokens) const {
    const Element *gate_up = k.gate_up + row_offset(first, 2 * intermediate);
    const Element *before = k.after_attention + row_offset(first, width);
    for (long t = 0; t < tokens; t++) scaled(mine, dense_row(b.dy, first + t, width), t);
    project_to_rank(blocks(tokens), mine.dy, width, shared.down.b_back, b.down.rank, mine.dxa);
    // act = silu(g) u, with g = gate, u = up: dg = d u s (1 + g (1 - s)), du = d g s, s = sigmoid(g)
    const auto swiglu_gradient = [&](long r, long p, long line, Vec32 d) {
      const long at = piece(r, p, line, 2 * intermediate), at_up = at + intermediate / SIDE * BLOCK_SIZE;
      const Vec32 one = broadcast32(1);
      Vec32 g = load(gate_up + at), u = load(gate_up + at_up), s = sigmoid(g), act = g * s;
      store(mine.dgate_up + at, d * u * s * (one + g - act));
      store(mine.dgate_up + at_up, d * act);
      Vec32 y = act * u;
      if (b.down.mask) y = y * mask(b.down, position(first + r * SIDE + line))[p];
      store(mine.act + piece(r, p, line, intermediate), y);
    };
    linear_input_gradient(b.down, shared.down, first, tokens, b.positions, mine.dy, mine.dxa, swiglu_gradient);
    lora_gradient(b.down, tokens, mine.act, k.xa[3] + row_offset(first, b.down.rank), mine.dy, mine.dxa, mine.sums[3],
                  mine.transposed);
    project_to_rank(blocks(tokens), mine.dgate_up, 2 * intermediate, shared.gate_up.b_back, b.gate_up.rank, mine.dxa);
    linear_input_gradient(b.gate_up, shared.gate_up, first, tokens, b.positions, mine.dgate_up, mine.dxa,
                          [&](long r, long p, long line, Vec32 d) { store(mine.dy + piece(r, p, line, width), d); });
    for (long t = 0; t < tokens; t++)
      norm_gradient(block_row(before, t, width), block_row(mine.dy, t, width), width, b.norm_after, float(b.eps_after),
                    mask(b.gate_up, position(first + t)), block_row(mine.dropped, t, width),
                    dense_row(b.dy, first + t, width), dense_row(b.dx, position(first + t), width));
    lora_gradient(b.gate_up, tokens, mine.dropped, k.xa[2] + row_offset(first, b.gate_up.rank), mine.dgate_up, mine.dxa,
                  mine.sums[2], mine.transposed);
  }

  void output(const BackwardMemory &mine, long first, long tokens) const {
    for (long t = 0; t < tokens; t++) {
      const long token = position(first + t);
      scaled(mine, dense_row((const Scalar *)b.dx, token, width), t);
      apply_mask(block_row((const Element *)k.attended, token, attended_width), mask(b.o, token),
                 block_row(mine.dropped, t, attended_width), attended_width);
    }
    project_to_rank(blocks(tokens), mine.dy, width, shared.o.b_back, b.o.rank, mine.dxa);
    linear_input_gradient(b.o, shared.o, first, tokens, b.positions, mine.dy, mine.dxa,
                          [&](long r, long p, long line, Vec32 d) {
                            const long token = position(first + r * SIDE + line);
                            store(block_row(shared.dattended, token, attended_width)[p], d);
                          });
    lora_gradient(b.o, tokens, mine.dropped, k.xa[1] + row_offset(first, b.o.rank), mine.dy, mine.dxa, mine.sums[1],
                  mine.transposed);
  }

  void queries_keys_values(const BackwardMemory &mine, long first, long tokens) const {
    const Element *dqkv = shared.dqkv + row_offset(first, b.qkv.outputs);
    project_to_rank(blocks(tokens), dqkv, b.qkv.outputs, shared.qkv.b_back, b.qkv.rank, mine.dxa);
    linear_input_gradient(b.qkv, shared.qkv, first, tokens, nullptr, dqkv, mine.dxa,
                          [&](long r, long p, long line, Vec32 d) { store(mine.dy + piece(r, p, line, width), d); });
    for (long t = 0; t < tokens; t++)
      norm_gradient(dense_row(b.x, first + t, width), block_row(mine.dy, t, width), width, b.norm, float(b.eps),
                    mask(b.qkv, first + t), block_row(mine.dropped, t, width),
                    dense_row((const Scalar *)b.dx, first + t, width), dense_row(b.dx, first + t, width));
    lora_gradient(b.qkv, tokens, mine.dropped, k.xa[0] + row_offset(first, b.qkv.rank), dqkv, mine.dxa, mine.sums[0],
                  mine.transposed);
  }

  // The adapters' gradients: the sums of all threads, in the order of the threads.
  void add_up(const Linear &l, int number) const {
    const long threads = omp_get_num_threads();
    long row = 0;
    for (int p = 0; p < l.count; row += l.parts[p++].rank) {
      const LoraPart &part = l.parts[p];
#pragma omp for schedule(static)
      for (long r = row; r < row + part.rank; r++) {
        std::memset(part.da + (r - row) * l.inputs, 0, l.inputs * sizeof(float));
        for (long o = 0; o < part.stop - part.start; o++) part.db[o * part.rank + r - row] = 0;
        for (long thread = 0; thread < threads; thread++) {
          Arena arena = thread_arena(thread);
          const BackwardMemory other(b, arena);
          const float *from = other.sums[number][0] + row_offset(r, l.inputs, 1);
          for (long i = 0; i < l.inputs; i += SIDE) {
            float *to = part.da + (r - row) * l.inputs + i;
            store(to, load(to) + load(from + i / SIDE * PLANE_SIZE));
          }
          from = other.sums[number][1] + row_offset(r, l.outputs, 1);
          for (long o = part.start; o < part.stop; o++)
            part.db[(o - part.start) * part.rank + r - row] +=
                float(part.scale) * from[o / SIDE * PLANE_SIZE + o % SIDE];
        }
      }
    }
  }
};

} // namespace

extern "C" {

const abi::Structure *structures() { return STRUCTURES; }
const char *error_text() { return abi::error_text(); }
int tiles_permitted() { return tiles::request_tiles(); }

// Memory of a number that bf16 does not hold exactly, in bf16.
int planes() { return BF16_PER_NUMBER; }

// A frozen weight (outputs, inputs) into panels of `planes` bf16 a number.
int pack_weight(const Scalar *weight, int64_t outputs, int64_t inputs, int planes, bf16 *panels) {
  return abi::guarded([&] {
    abi::require(outputs % SIDE == 0 && inputs % SIDE == 0, "a weight of (%ld, %ld): widths are multiples of %d",
                 long(outputs), long(inputs), SIDE);
    const long k_blocks = inputs / SIDE;
    for (long o = 0; o < outputs / SIDE; o++)
      for (long i = 0; i < k_blocks; i++)
        weight_panel(panels + (o * k_blocks + i) * PLANE_SIZE * planes, planes,
                     [&](long row) { return load(weight + (o * SIDE + row) * inputs + i * SIDE); });
  });
}

// The rows of a weight from its panels.
int unpack_weight(const bf16 *panels, int64_t outputs, int64_t inputs, int planes, Scalar *weight) {
  return abi::guarded([&] {
    alignas(64) float line[SIDE];
    for (long row = 0; row < outputs; row++)
      for (long i = 0; i < inputs; i += SIDE) {
        const bf16 *block = panels + (row / SIDE * inputs + i) * SIDE * planes;
        for (long column = 0; column < SIDE; column++) line[column] = weight_at(block, planes, row % SIDE, column);
        store(weight + row * inputs + i, load((const float *)line));
      }
  });
}

// Bytes that forward saves for backward, and that a call needs while it runs.
int block_bytes(const DecoderBlock *b, int gradient, int64_t *saved, int64_t *memory) {
  return abi::guarded([&] {
    check(*b);
    *saved = saved_bytes(*b), *memory = memory_bytes(*b, gradient);
  });
}

int forward(const DecoderBlock *b) {
  return abi::guarded([&] {
    check(*b), check_memory(*b, false);
    Forward(*b).run();
  });
}

int backward(const DecoderBlock *b) {
  return abi::guarded([&] {
    check(*b), check_memory(*b, true);
    Backward(*b).run();
  });
}
}
