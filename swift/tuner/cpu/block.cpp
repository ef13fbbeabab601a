// A decoder's block with LoRA beside frozen weights, forwards and backwards, for bf16 or fp32 (FP32): norm, q k v,
// attention, o, add, norm, gate and up, SwiGLU, down, add. Knows no family by name; `block.py` fills in what it is told
// here.
//
// Tokens go through everything that needs no other token a stretch at a time, so what lies between the products stays
// in a processor's cache. Kept for the gradient are the outputs of the products; the rest is computed again.
#include "attention.h"
#include "lowrank.h"

#include <omp.h>

using namespace block;

extern "C" {

struct Block {
  Linear qkv, o, gate_up, down;
  const float *norm, *norm_after, *norm_q, *norm_k;
  double eps, eps_after, eps_q, eps_k, scale, factor;
  int64_t queries, keys, width, window, rotated;
  // of a call
  int64_t tokens, wanted, lengths, threads; // wanted: positions that leave attention; all are where `places` is nothing
  const int64_t *places, *length;
  const Number *x, *cos, *sin, *dy;
  Number *y, *dx;
  char *kept, *room;
};
}

namespace {

constexpr long STRETCH = 256; // tokens, at most

struct Kept {
  Cell *qkv, *attended, *mid, *gate_up, *inner[4];
  float *most, *inverse;
  char *end;
};

// Tokens of a stretch: as many for each thread, in stretches of about the same size.
long stretch(const Block &b, long rows) {
  const long each = std::max<long>((rows + b.threads - 1) / b.threads, 1);
  return whole(even(each, STRETCH));
}
Heads heads(const Block &b) {
  return {b.queries,      b.keys,   b.width,  b.window,       b.rotated,
          float(b.scale), b.norm_q, b.norm_k, float(b.eps_q), float(b.eps_k)};
}

Kept kept(const Block &b) {
  char *room = b.kept;
  const long all = whole(b.tokens), some = whole(b.wanted);
  Kept k;
  k.qkv = take_blocks(room, all, b.qkv.outputs);
  k.attended = take_blocks(room, all, b.o.inputs);
  k.mid = take_blocks(room, some, b.o.outputs);
  k.gate_up = take_blocks(room, some, b.gate_up.outputs);
  k.inner[0] = take_blocks(room, all, b.qkv.rank);
  k.inner[1] = take_blocks(room, some, b.o.rank);
  k.inner[2] = take_blocks(room, some, b.gate_up.rank);
  k.inner[3] = take_blocks(room, some, b.down.rank);
  k.most = take<float>(room, b.queries * b.tokens);
  k.inverse = take<float>(room, b.queries * b.tokens);
  k.end = room;
  return k;
}

struct Forward { // a thread's memory
  Cell *y, *dropped, *act, *act_dropped;
  char *rest;
  Forward(const Block &b, char *room) {
    long hidden = std::max(b.qkv.inputs, b.o.inputs);
    y = take_blocks(room, STRETCH, hidden), dropped = take_blocks(room, STRETCH, hidden);
    act = take_blocks(room, STRETCH, b.down.inputs), act_dropped = take_blocks(room, STRETCH, b.down.inputs);
    rest = room;
  }
};

struct Backward {
  Cell *dy, *dropped, *act, *dgate_up, *dinner, *aside;
  float *sums[4][2];
  char *begin, *rest;
  long zeroed;
  Backward(const Block &b, char *room) {
    begin = room;
    long hidden = std::max(b.qkv.inputs, b.o.inputs), rank = 0;
    int number = 0;
    for (const Linear *l : {&b.qkv, &b.o, &b.gate_up, &b.down}) {
      sums[number][0] = take<float>(room, l->rank * l->inputs),
      sums[number][1] = take<float>(room, l->rank * l->outputs);
      rank = std::max<long>(rank, l->rank), number++;
    }
    zeroed = room - begin; // what has to begin at zero
    dy = take_blocks(room, STRETCH, hidden), dropped = take_blocks(room, STRETCH, hidden);
    act = take_blocks(room, STRETCH, b.down.inputs), dgate_up = take_blocks(room, STRETCH, b.gate_up.outputs);
    dinner = take_blocks(room, STRETCH, rank), aside = take_blocks(room, STRETCH, rank + SIDE);
    rest = room;
  }
};

long longest(const Block &b) {
  long most = 0;
  for (long s = 0; s < b.lengths; s++) most = std::max<long>(most, b.length[s]);
  return most;
}
long room_of_thread(const Block &b, bool gradient) {
  long fixed = gradient ? Backward(b, nullptr).rest - (char *)nullptr : Forward(b, nullptr).rest - (char *)nullptr;
  return (fixed + attention_room(longest(b), b.width, gradient) + 4095) / 4096 * 4096;
}

struct Shared { // memory of all threads
  Panels qkv, o, gate_up, down;
  Cell *dattended, *dqkv;
  char *rest;
  Shared(const Block &b, bool gradient) {
    char *room = b.room;
    qkv = panels(b.qkv, room), o = panels(b.o, room), gate_up = panels(b.gate_up, room), down = panels(b.down, room);
    dattended = take_blocks(room, gradient ? whole(b.tokens) : 0, b.o.inputs);
    dqkv = take_blocks(room, gradient ? whole(b.tokens) : 0, b.qkv.outputs);
    rest = room;
  }
};

template <class Each> void tasks(const Block &b, const Heads &heads, const Kept &k, Each each) {
#pragma omp for schedule(dynamic)
  for (long task = 0; task < b.lengths * b.keys; task++) {
    long start = 0;
    for (long s = 0; s < task / b.keys; s++) start += b.length[s];
    each(Task{heads, start, b.length[task / b.keys], task % b.keys, k.qkv, b.cos, b.sin, k.most, k.inverse, b.tokens});
  }
}

void run_forward(const Block &b) {
  const Kept k = kept(b);
  const Shared shared(b, false);
  const Heads of = heads(b);
  const long each = room_of_thread(b, false), hidden = b.qkv.inputs, inner = b.down.inputs;
#pragma omp parallel num_threads(int(b.threads))
  {
    tiles::begin();
    const Forward mine(b, shared.rest + omp_get_thread_num() * each);
    lay_out(b.qkv, shared.qkv), lay_out(b.o, shared.o), lay_out(b.gate_up, shared.gate_up),
        lay_out(b.down, shared.down);
    const long long_ = stretch(b, b.tokens);
#pragma omp for schedule(static)
    for (long first = 0; first < b.tokens; first += long_) {
      const long valid = std::min(long_, b.tokens - first), count = blocks(valid);
      const Cell *seen = b.qkv.mask ? mine.dropped : mine.y;
      for (long t = 0; t < valid; t++)
        norm(plain(b.x, first + t, hidden), hidden, b.norm, float(b.eps), mask(b.qkv, first + t),
             inside(mine.y, t, hidden), b.qkv.mask ? inside(mine.dropped, t, hidden) : Out{});
      Cell *low = k.inner[0] + at(first, b.qkv.rank), *to = k.qkv + at(first, b.qkv.outputs);
      inward(count, seen, hidden, shared.qkv.down, b.qkv.rank, low);
      outward(b.qkv, shared.qkv, count, mine.y, low, [&](long r, long p, long line, Pair values) {
        store(to + (r * b.qkv.outputs / SIDE + p) * AREA + line * SIDE, values);
      });
    }
    tasks(b, of, k, [&](const Task &task) { attend(task, k.attended, mine.rest); });
    const long some = stretch(b, b.wanted), wide_ = b.o.inputs;
#pragma omp for schedule(static)
    for (long first = 0; first < b.wanted; first += some) {
      const long valid = std::min(some, b.wanted - first), count = blocks(valid);
      const auto place = [&](long t) { return b.places ? b.places[first + t] : first + t; };
      const Cell *x = k.attended + at(first, wide_), *seen = x;
      for (long t = 0; t < valid && (b.places || b.o.mask); t++) {
        if (b.places) copy(inside(k.attended, place(t), wide_), inside(mine.y, t, wide_), wide_);
        if (b.o.mask)
          under(inside(k.attended, place(t), wide_), mask(b.o, place(t)), inside(mine.dropped, t, wide_), wide_);
      }
      if (b.places) x = seen = mine.y;
      if (b.o.mask) seen = mine.dropped;
      Cell *low = k.inner[1] + at(first, b.o.rank), *mid = k.mid + at(first, hidden);
      inward(count, seen, wide_, shared.o.down, b.o.rank, low);
      outward(b.o, shared.o, count, x, low, [&](long r, long p, long line, Pair values) {
        if (r * SIDE + line < valid)
          store(mid + (r * hidden / SIDE + p) * AREA + line * SIDE,
                load(b.x + place(r * SIDE + line) * hidden + p * SIDE) + values * float(b.factor));
      });
      for (long t = 0; t < valid; t++)
        norm(inside(mid, t, hidden), hidden, b.norm_after, float(b.eps_after), mask(b.gate_up, place(t)),
             inside(mine.y, t, hidden), b.gate_up.mask ? inside(mine.dropped, t, hidden) : Out{});
      seen = b.gate_up.mask ? mine.dropped : mine.y;
      low = k.inner[2] + at(first, b.gate_up.rank);
      Cell *gate_up = k.gate_up + at(first, 2 * inner);
      inward(count, seen, hidden, shared.gate_up.down, b.gate_up.rank, low);
      outward(
          b.gate_up, shared.gate_up, count, mine.y, low,
          [&](long r, long p, long line, Pair values) {
            const long half = inner / SIDE, gate = (r * 2 * half + p) * AREA + line * SIDE;
            if (p < half) return store(gate_up + gate, values);
            // its gate came just before
            Pair g = load(gate_up + gate - half * AREA), y = g * sigmoid(g) * values;
            const long to = (r * half + p - half) * AREA + line * SIDE, row = r * SIDE + line;
            stream(gate_up + gate, values);
            store(mine.act + to, y);
            if (b.down.mask && row < valid) store(mine.act_dropped + to, y * mask(b.down, place(row))[p - half]);
          },
          true);
      low = k.inner[3] + at(first, b.down.rank);
      inward(count, b.down.mask ? mine.act_dropped : mine.act, inner, shared.down.down, b.down.rank, low);
      outward(b.down, shared.down, count, mine.act, low, [&](long r, long p, long line, Pair values) {
        if (r * SIDE + line < valid)
          store(b.y + (first + r * SIDE + line) * hidden + p * SIDE,
                load(mid + (r * hidden / SIDE + p) * AREA + line * SIDE) + values * float(b.factor));
      });
    }
    tiles::end();
  }
}

// The adapters' gradients from all threads' sums, in the order of the threads.
void hand_out(const Linear &l, const Block &b, const Shared &shared, int number, long each) {
  long row = 0;
  for (int p = 0; p < l.count; row += l.parts[p++].rank) {
    const Part &part = l.parts[p];
#pragma omp for schedule(static)
    for (long r = row; r < row + part.rank; r++) {
      std::memset(part.ddown + (r - row) * l.inputs, 0, l.inputs * 4);
      for (long o = 0; o < part.stop - part.start; o++) part.dup[o * part.rank + r - row] = 0;
      for (long thread = 0; thread < b.threads; thread++) {
        const Backward other(b, shared.rest + thread * each);
        const float *from = other.sums[number][0] + at(r, l.inputs, 1);
        for (long i = 0; i < l.inputs; i += SIDE) {
          float *to = part.ddown + (r - row) * l.inputs + i;
          store(to, load(to) + load(from + i / SIDE * SQUARE));
        }
        from = other.sums[number][1] + at(r, l.outputs, 1);
        for (long o = part.start; o < part.stop; o++)
          part.dup[(o - part.start) * part.rank + r - row] += float(part.scale) * from[o / SIDE * SQUARE + o % SIDE];
      }
    }
  }
}

void run_backward(const Block &b) {
  const Kept k = kept(b);
  const Shared shared(b, true);
  const Heads of = heads(b);
  const long each = room_of_thread(b, true), hidden = b.qkv.inputs, inner = b.down.inputs, wide_ = b.o.inputs;
#pragma omp parallel num_threads(int(b.threads))
  {
    tiles::begin();
    const Backward mine(b, shared.rest + omp_get_thread_num() * each);
    std::memset(mine.begin, 0, mine.zeroed);
    lay_out(b.qkv, shared.qkv), lay_out(b.o, shared.o), lay_out(b.gate_up, shared.gate_up),
        lay_out(b.down, shared.down);
    if (b.wanted < b.tokens) {
#pragma omp for schedule(static)
      for (long t = 0; t < b.tokens; t++) {
        std::memset(b.dx + t * hidden, 0, hidden * sizeof(Number));
        clear(inside(shared.dattended, t, wide_), wide_);
      }
    }
    const long some = stretch(b, b.wanted);
#pragma omp for schedule(static)
    for (long first = 0; first < b.wanted; first += some) {
      const long valid = std::min(some, b.wanted - first), count = blocks(valid);
      const auto place = [&](long t) { return b.places ? b.places[first + t] : first + t; };
      const Cell *gate_up = k.gate_up + at(first, 2 * inner), *mid = k.mid + at(first, hidden);
      const auto scaled = [&](Row<const Number> from, long t) {
        for (long p = 0; p < hidden / SIDE; p++) store(inside(mine.dy, t, hidden)[p], load(from[p]) * float(b.factor));
      };
      for (long t = 0; t < valid; t++) scaled(plain(b.dy, first + t, hidden), t);
      inward(count, mine.dy, hidden, shared.down.back_up, b.down.rank, mine.dinner);
      inputs_gradient(b.down, shared.down, first, valid, b.places, mine.dy, mine.dinner,
                      [&](long r, long p, long line, Pair d) {
                        long here = (r * 2 * inner / SIDE + p) * AREA + line * SIDE, there = here + inner / SIDE * AREA;
                        const Pair one = both(1);
                        Pair g = load(gate_up + here), u = load(gate_up + there), s = sigmoid(g), act = g * s;
                        store(mine.dgate_up + here, d * u * s * (one + g - act));
                        store(mine.dgate_up + there, d * act);
                        Pair y = act * u;
                        if (b.down.mask) y = y * mask(b.down, place(r * SIDE + line))[p];
                        store(mine.act + (r * inner / SIDE + p) * AREA + line * SIDE, y);
                      });
      adapters_gradient(b.down, valid, mine.act, k.inner[3] + at(first, b.down.rank), mine.dy, mine.dinner,
                        mine.sums[3], mine.aside);
      inward(count, mine.dgate_up, 2 * inner, shared.gate_up.back_up, b.gate_up.rank, mine.dinner);
      inputs_gradient(
          b.gate_up, shared.gate_up, first, valid, b.places, mine.dgate_up, mine.dinner,
          [&](long r, long p, long line, Pair d) { store(mine.dy + (r * hidden / SIDE + p) * AREA + line * SIDE, d); });
      for (long t = 0; t < valid; t++)
        norm_gradient(inside(mid, t, hidden), inside(mine.dy, t, hidden), hidden, b.norm_after, float(b.eps_after),
                      mask(b.gate_up, place(t)), inside(mine.dropped, t, hidden), plain(b.dy, first + t, hidden),
                      plain(b.dx, place(t), hidden));
      adapters_gradient(b.gate_up, valid, mine.dropped, k.inner[2] + at(first, b.gate_up.rank), mine.dgate_up,
                        mine.dinner, mine.sums[2], mine.aside);
      for (long t = 0; t < valid; t++) {
        scaled(plain((const Number *)b.dx, place(t), hidden), t);
        under(inside(k.attended, place(t), wide_), mask(b.o, place(t)), inside(mine.dropped, t, wide_), wide_);
      }
      inward(count, mine.dy, hidden, shared.o.back_up, b.o.rank, mine.dinner);
      inputs_gradient(b.o, shared.o, first, valid, b.places, mine.dy, mine.dinner,
                      [&](long r, long p, long line, Pair d) {
                        store(inside(shared.dattended, place(r * SIDE + line), wide_)[p], d);
                      });
      adapters_gradient(b.o, valid, mine.dropped, k.inner[1] + at(first, b.o.rank), mine.dy, mine.dinner, mine.sums[1],
                        mine.aside);
    }
    tasks(b, of, k,
          [&](const Task &task) { attend_gradient(task, k.attended, shared.dattended, shared.dqkv, mine.rest); });
    const long long_ = stretch(b, b.tokens);
#pragma omp for schedule(static)
    for (long first = 0; first < b.tokens; first += long_) {
      const long valid = std::min(long_, b.tokens - first), count = blocks(valid);
      const Cell *dqkv = shared.dqkv + at(first, b.qkv.outputs);
      inward(count, dqkv, b.qkv.outputs, shared.qkv.back_up, b.qkv.rank, mine.dinner);
      inputs_gradient(
          b.qkv, shared.qkv, first, valid, nullptr, dqkv, mine.dinner,
          [&](long r, long p, long line, Pair d) { store(mine.dy + (r * hidden / SIDE + p) * AREA + line * SIDE, d); });
      for (long t = 0; t < valid; t++)
        norm_gradient(plain(b.x, first + t, hidden), inside(mine.dy, t, hidden), hidden, b.norm, float(b.eps),
                      mask(b.qkv, first + t), inside(mine.dropped, t, hidden),
                      plain((const Number *)b.dx, first + t, hidden), plain(b.dx, first + t, hidden));
      adapters_gradient(b.qkv, valid, mine.dropped, k.inner[0] + at(first, b.qkv.rank), dqkv, mine.dinner, mine.sums[0],
                        mine.aside);
    }
    hand_out(b.qkv, b, shared, 0, each), hand_out(b.o, b, shared, 1, each);
    hand_out(b.gate_up, b, shared, 2, each), hand_out(b.down, b, shared, 3, each);
    tiles::end();
  }
}

} // namespace

extern "C" {

// Whether the system lets a process use the tiles, where there are any.
int allowed() { return tiles::permitted(); }

// Room of so many bf16 that a number takes which is none itself.
int planes() { return OWN; }

// A frozen weight (outputs, inputs) as panels, in numbers of so many bf16, and back.
void lay_out_weight(const Number *weight, int64_t outputs, int64_t inputs, int planes, bf16 *panels) {
  const long o32 = outputs / SIDE, i32 = inputs / SIDE;
  for (long o = 0; o < o32; o++)
    for (long i = 0; i < i32; i++)
      frozen_panel(panels + (o * i32 + i) * SQUARE * planes, planes,
                   [&](long line) { return load(weight + (o * SIDE + line) * inputs + i * SIDE); });
}

// Its rows from panels again.
void read_weight(const bf16 *panels, int64_t outputs, int64_t inputs, int planes, Number *weight) {
  alignas(64) float line[SIDE];
  for (long row = 0; row < outputs; row++)
    for (long i = 0; i < inputs; i += SIDE) {
      const bf16 *block = panels + (row / SIDE * inputs + i) * SIDE * planes;
      for (long column = 0; column < SIDE; column++) line[column] = frozen_number(block, planes, row % SIDE, column);
      store(weight + row * inputs + i, load((const float *)line));
    }
}

// Bytes that `forward` keeps for `backward`, and that a call needs while it runs.
int64_t kept_bytes(const Block *b) {
  Block empty = *b;
  empty.kept = nullptr;
  return kept(empty).end - (char *)nullptr;
}
int64_t room_bytes(const Block *b, int gradient) {
  Block empty = *b;
  empty.room = nullptr;
  return Shared(empty, gradient).rest - (char *)nullptr + b->threads * room_of_thread(*b, gradient);
}

void forward(const Block *b) { run_forward(*b); }
void backward(const Block *b) { run_backward(*b); }
}
