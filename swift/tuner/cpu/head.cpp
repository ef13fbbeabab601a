// The negative log-likelihood of words by a frozen output head, and its gradient, for bf16 or fp32 (FP32).
//
// It is attention in which the head's rows are keys and values of every token, so it is made as attention is (arXiv
// 2205.14135): a stretch of words at a time, whose shares are multiplied at once. Logits are never there together.
#include "sums.h"

#include <omp.h>

using namespace block;

extern "C" {

struct Head {
  const Number *weight; // (words, width)
  const bf16 *panels;   // the same as `lay_out_head` has it
  const float *bias;    // of so many words as panels have, or nothing
  int64_t words, width, planes;
  double scale;
  // of a call
  int64_t tokens, threads;
  const Number *x;       // (tokens, width)
  const int64_t *target; // (tokens)
  float *nll;            // (tokens)
  uint8_t *hit;          // (tokens): whether no word is likelier, or nothing
  Number *dx;            // (tokens, width): the gradient of each token's, or nothing
  char *room;
};
}

namespace {

constexpr long DEPTHS = 20;  // blocks of words at a time
constexpr long TOKENS = 256; // together: what is summed for them stays within a second-level cache
constexpr float BEYOND = 20; // a logit so far above a token's reference becomes the new one

struct Room { // of a thread
  Cell *x, *shares;
  float *gradient, *reference, *right, *sum, *most; // the last two by lane
  char *rest;
  Room(const Head &h, char *room) {
    x = take_blocks(room, TOKENS, h.width), shares = take_blocks(room, TOKENS, DEPTHS * SIDE);
    gradient = take<float>(room, TOKENS * h.width);
    reference = take<float>(room, TOKENS), right = take<float>(room, TOKENS);
    sum = take<float>(room, TOKENS * LANES), most = take<float>(room, TOKENS * LANES);
    rest = room;
  }
};

long room_of_thread(const Head &h) { return (Room(h, nullptr).rest - (char *)nullptr + 4095) / 4096 * 4096; }

// A new reference for a token, and what was summed with the old one in its terms; `done` blocks of shares are there.
void raise(const Head &h, const Room &mine, long row, float to, long depths, long done) {
  alignas(64) float by[LANES];
  vectors::store(by, exponential(every(mine.reference[row] - to)));
  mine.reference[row] = to;
  for (long i = 0; i < LANES; i++) mine.sum[row * LANES + i] *= by[0];
  if (!h.dx) return;
  for (long p = 0; p < h.width / SIDE; p++) {
    float *sum = mine.gradient + at(row, h.width, 1) + p * SQUARE;
    store(sum, load((const float *)sum) * by[0]);
  }
  for (long p = 0; p < done; p++) {
    Cell *share = mine.shares + at(row, depths * SIDE) + p * AREA;
    store(share, load((const Cell *)share) * by[0]);
  }
}

void run(const Head &h) {
  if (!h.tokens) return;
  const long width = h.width / SIDE, words = blocks(h.words), each = room_of_thread(h);
  const long turns = (h.tokens + h.threads * TOKENS - 1) / (h.threads * TOKENS);
  const long together = whole((h.tokens + h.threads * turns - 1) / (h.threads * turns));
  const Vec none = every(-1e30f);
#pragma omp parallel num_threads(int(h.threads))
  {
    tiles::begin();
    const Room mine(h, h.room + omp_get_thread_num() * each);
#pragma omp for schedule(static)
    for (long first = 0; first < h.tokens; first += together) {
      const long valid = std::min(together, h.tokens - first), count = blocks(valid);
      for (long t = 0; t < valid; t++) copy(plain(h.x, first + t, h.width), inside(mine.x, t, h.width), h.width);
      std::memset(mine.gradient, 0, h.dx ? count * SIDE * h.width * 4 : 0);
      std::memset(mine.sum, 0, TOKENS * LANES * 4);
      std::fill_n(mine.reference, TOKENS, -1e30f), std::fill_n(mine.most, TOKENS * LANES, -1e30f);
      for (long from = 0; from < words; from += DEPTHS) {
        const long depths = std::min<long>(DEPTHS, words - from);
        const bf16 *panels = h.panels + from * width * SQUARE * h.planes;
        product(count, mine.x, {panels, depths * SIDE, h.width, int(h.planes)}, {},
                [&](long r, long p, const float *sum) {
                  const long word = (from + p) * SIDE, beyond = word + SIDE - h.words;
                  for (long row = r * SIDE; row < std::min(valid, (r + 1) * SIDE); row++, sum += SIDE) {
                    Pair z = load(sum) * float(h.scale);
                    if (h.bias) z = z + load(h.bias + word) * float(h.scale);
                    if (beyond > 0)
                      z = {within(0, SIDE - beyond, z.low, none), within(0, LANES - beyond, z.high, none)};
                    const long here = h.target[first + row] - word;
                    if (here >= 0 && here < SIDE) {
                      alignas(64) float line[SIDE];
                      store(line, z);
                      mine.right[row] = line[here];
                    }
                    const Vec most = vectors::larger(z.low, z.high);
                    if (any_above(most, every(mine.reference[row] + BEYOND)))
                      raise(h, mine, row, largest(most), depths, p);
                    float *highest = mine.most + row * LANES, *to = mine.sum + row * LANES;
                    if (h.hit) vectors::store(highest, vectors::larger(most, vectors::load(highest)));
                    const Pair share = exponential(z - both(mine.reference[row]));
                    vectors::store(to, vectors::load(to) + (share.low + share.high));
                    if (h.dx) store(mine.shares + at(row, depths * SIDE) + p * AREA, share);
                  }
                });
        if (h.dx)
          product(count, mine.shares, {panels, h.width, depths * SIDE, int(h.planes), true}, {},
                  [&](long r, long p, const float *sum) {
                    float *to = mine.gradient + (r * width + p) * SQUARE;
                    for (long i = 0; i < SQUARE; i += SIDE) store(to + i, load((const float *)to + i) + load(sum + i));
                  });
      }
      for (long row = 0; row < valid; row++) {
        const float sum = vectors::total(vectors::load(mine.sum + row * LANES));
        h.nll[first + row] = std::log(sum) + mine.reference[row] - mine.right[row];
        if (h.hit) h.hit[first + row] = mine.right[row] >= largest(vectors::load(mine.most + row * LANES));
        for (long p = 0; h.dx && p < width; p++) {
          const Pair mean = load((const float *)mine.gradient + at(row, h.width, 1) + p * SQUARE) * (1 / sum);
          store(h.dx + (first + row) * h.width + p * SIDE,
                (mean - load(h.weight + h.target[first + row] * h.width + p * SIDE)) * float(h.scale));
        }
      }
    }
    tiles::end();
  }
}

} // namespace

extern "C" {

int allowed() { return tiles::permitted(); }

// Room of so many bf16 that a number takes which is none itself.
int planes() { return OWN; }

// A head (words, width) as panels, in numbers of so many bf16.
void lay_out_head(const Number *weight, int64_t words, int64_t width, int planes, bf16 *panels) {
  const long across = width / SIDE;
  for (long w = 0; w < blocks(words); w++)
    for (long i = 0; i < across; i++)
      frozen_panel(panels + (w * across + i) * SQUARE * planes, planes, [&](long line) {
        const long word = w * SIDE + line;
        return word < words ? load(weight + word * width + i * SIDE) : both(0);
      });
}

int64_t room_bytes(const Head *h) { return h->threads * room_of_thread(*h); }
void negative_log_likelihood(const Head *h) { run(*h); }
}
