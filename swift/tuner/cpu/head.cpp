// The negative log-likelihood of tokens by a frozen output head, and its gradient, in bf16 or fp32 (FP32). Knows hidden
// states and targets.
//
// It is attention in which the rows of the head are keys and values of every token, so it is computed as attention is
// (FlashAttention, arXiv 2205.14135): some words of the vocabulary at a time, whose probabilities are multiplied with
// the weight at once. The logits are never there as a whole.
#include "abi.h"
#include "block_product.h"
#include "norm.h"
#include "parallel.h"

using namespace block;

namespace {

struct Head {
  const Scalar *weight; // (words, width)
  const bf16 *panels;   // the same, see pack_head
  const float *bias;    // (words, padded to panels), or null
  int64_t words, width, planes;
  double scale;
  // of a call
  int64_t tokens, threads, memory_bytes;
  const Scalar *x;       // (tokens, width)
  const int64_t *target; // (tokens)
  float *nll;            // (tokens)
  uint8_t *hit;          // (tokens): whether the target is the argmax; or null
  Scalar *dx;            // (tokens, width): the gradient of each token's nll; or null
  char *memory;
};

constexpr abi::Structure STRUCTURES[] = {ABI_STRUCTURE(Head, memory), {nullptr, 0, 0}};

constexpr long WORD_BLOCKS = 20;   // blocks of words at a time
constexpr long MAX_TOKENS = 256;   // together: their sums stay in L2
constexpr float MAX_ABOVE = 20;    // a logit so far above a token's reference becomes the new one
constexpr float NO_LOGIT = -1e30f; // of words beyond the vocabulary

struct ThreadMemory {
  Element *x, *probabilities;                          // not divided by their sum yet
  float *gradient, *reference, *right, *sum, *highest; // right: the target's logit; the last two by lane
  ThreadMemory(const Head &h, Arena &arena) {
    x = take_blocks(arena, MAX_TOKENS, h.width);
    probabilities = take_blocks(arena, MAX_TOKENS, WORD_BLOCKS * SIDE);
    gradient = arena.take<float>(MAX_TOKENS * h.width);
    reference = arena.take<float>(MAX_TOKENS), right = arena.take<float>(MAX_TOKENS);
    sum = arena.take<float>(MAX_TOKENS * LANES), highest = arena.take<float>(MAX_TOKENS * LANES);
  }
};

int64_t thread_bytes(const Head &h) {
  Arena arena;
  ThreadMemory(h, arena);
  return whole_pages(arena.used());
}
int64_t memory_bytes(const Head &h) { return h.threads * thread_bytes(h); }

void check(const Head &h) {
  using abi::require;
  require(h.width % SIDE == 0, "a head of width %ld: it is a multiple of %d", long(h.width), SIDE);
  require(h.memory_bytes >= memory_bytes(h), "%ld bytes of memory where %ld are needed", long(h.memory_bytes),
          long(memory_bytes(h)));
  for (int64_t t = 0; t < h.tokens; t++)
    require(h.target[t] >= 0 && h.target[t] < h.words, "target %ld is not in a vocabulary of %ld", long(h.target[t]),
            long(h.words));
}

// The tokens of one thread, up to MAX_TOKENS of them, with all words.
class Tokens {
public:
  Tokens(const Head &head, const ThreadMemory &memory, long first, long count)
      : h(head), m(memory), first_(first), count_(count), pieces_(h.width / SIDE) {}

  void run() {
    for (long t = 0; t < count_; t++) copy(dense_row(h.x, first_ + t, h.width), block_row(m.x, t, h.width), h.width);
    std::memset(m.gradient, 0, h.dx ? blocks(count_) * SIDE * h.width * sizeof(float) : 0);
    std::memset(m.sum, 0, MAX_TOKENS * LANES * sizeof(float));
    std::fill_n(m.reference, MAX_TOKENS, NO_LOGIT), std::fill_n(m.highest, MAX_TOKENS * LANES, NO_LOGIT);
    const long word_blocks = blocks(h.words);
    for (long from = 0; from < word_blocks; from += WORD_BLOCKS)
      words(from, std::min<long>(WORD_BLOCKS, word_blocks - from));
    for (long row = 0; row < count_; row++) finish(row);
  }

private:
  // Adds the exponentials of some blocks of words to the sums, and to the gradient the words they weight.
  void words(long from, long count) {
    const bf16 *panels = h.panels + from * pieces_ * PLANE_SIZE * h.planes;
    product(blocks(count_), m.x, {panels, count * SIDE, h.width, int(h.planes)}, {},
            [&](long r, long p, const float *sum) {
              for (long row = r * SIDE; row < std::min(count_, (r + 1) * SIDE); row++, sum += SIDE)
                logits(row, (from + p) * SIDE, sum, count, p);
            });
    if (!h.dx) return;
    product(blocks(count_), m.probabilities, {panels, h.width, count * SIDE, int(h.planes), true}, {},
            [&](long r, long p, const float *sum) {
              float *to = m.gradient + (r * pieces_ + p) * PLANE_SIZE;
              for (long i = 0; i < PLANE_SIZE; i += SIDE) store(to + i, load((const float *)to + i) + load(sum + i));
            });
  }

  // A token's products with 32 words from `word` on: the block `p` of `count`. Inlined, because it is the epilogue of
  // the product.
  __attribute__((always_inline)) void logits(long row, long word, const float *sum, long count, long p) {
    const long beyond = word + SIDE - h.words;
    const Vec none = broadcast(NO_LOGIT);
    Vec32 z = load(sum) * float(h.scale);
    if (h.bias) z = z + load(h.bias + word) * float(h.scale);
    if (beyond > 0) z = {select(0, SIDE - beyond, z.low, none), select(0, LANES - beyond, z.high, none)};
    const long target = h.target[first_ + row] - word;
    if (target >= 0 && target < SIDE) {
      alignas(64) float line[SIDE];
      store(line, z);
      m.right[row] = line[target];
    }
    const Vec most = vectors::max(z.low, z.high);
    if (any_greater(most, broadcast(m.reference[row] + MAX_ABOVE))) raise_reference(row, reduce_max(most), count, p);
    float *highest = m.highest + row * LANES, *to = m.sum + row * LANES;
    if (h.hit) vectors::store(highest, vectors::max(most, vectors::load(highest)));
    const Vec32 probability = exp(z - broadcast32(m.reference[row]));
    vectors::store(to, vectors::load(to) + (probability.low + probability.high));
    if (h.dx) store(m.probabilities + row_offset(row, count * SIDE) + p * BLOCK_SIZE, probability);
  }

  // Gives a token a new reference, and rescales what was summed with the old one; `done` of `count` blocks of
  // probabilities are there.
  void raise_reference(long row, float to, long count, long done) {
    alignas(64) float by[LANES];
    vectors::store(by, exp(broadcast(m.reference[row] - to)));
    m.reference[row] = to;
    for (long i = 0; i < LANES; i++) m.sum[row * LANES + i] *= by[0];
    if (!h.dx) return;
    for (long p = 0; p < pieces_; p++) {
      float *sum = m.gradient + row_offset(row, h.width, 1) + p * PLANE_SIZE;
      store(sum, load((const float *)sum) * by[0]);
    }
    for (long p = 0; p < done; p++) {
      Element *probability = m.probabilities + row_offset(row, count * SIDE) + p * BLOCK_SIZE;
      store(probability, load((const Element *)probability) * by[0]);
    }
  }

  // nll = log of the sum - the target's logit; its gradient: scale (the mean word - the target's).
  void finish(long row) {
    const float sum = vectors::reduce_add(vectors::load(m.sum + row * LANES));
    h.nll[first_ + row] = std::log(sum) + m.reference[row] - m.right[row];
    if (h.hit) h.hit[first_ + row] = m.right[row] >= reduce_max(vectors::load(m.highest + row * LANES));
    for (long p = 0; h.dx && p < pieces_; p++) {
      const Vec32 mean = load((const float *)m.gradient + row_offset(row, h.width, 1) + p * PLANE_SIZE) * (1 / sum);
      store(h.dx + (first_ + row) * h.width + p * SIDE,
            (mean - load(h.weight + h.target[first_ + row] * h.width + p * SIDE)) * float(h.scale));
    }
  }

  const Head &h;
  const ThreadMemory &m;
  const long first_, count_, pieces_; // pieces of 32 numbers of a word
};

void run(const Head &h) {
  if (!h.tokens) return;
  const int64_t bytes = thread_bytes(h);
  const long turns = (h.tokens + h.threads * MAX_TOKENS - 1) / (h.threads * MAX_TOKENS);
  const long together = padded((h.tokens + h.threads * turns - 1) / (h.threads * turns));
  const long words = std::min<long>(WORD_BLOCKS, blocks(h.words)) * SIDE;
  const auto reserve = [&] {
    reserve_scratch(Weight{h.panels, words, h.width, int(h.planes)}, MAX_TOKENS / SIDE);
    if (h.dx) reserve_scratch(Weight{h.panels, h.width, words, int(h.planes), true}, MAX_TOKENS / SIDE);
    // the last words may be so few that rows are not packed
    reserve_scratch(Weight{h.panels, (MIN_PACKED_PANELS - 1) * SIDE, h.width, int(h.planes)}, MAX_TOKENS / SIDE);
  };
  in_parallel(h.threads, reserve, [&] {
    Arena arena(h.memory + omp_get_thread_num() * bytes);
    const ThreadMemory mine(h, arena);
#pragma omp for schedule(static)
    for (long first = 0; first < h.tokens; first += together)
      Tokens(h, mine, first, std::min(together, h.tokens - first)).run();
  });
}

} // namespace

extern "C" {

const abi::Structure *structures() { return STRUCTURES; }
const char *error_text() { return abi::error_text(); }
int tiles_permitted() { return tiles::request_tiles(); }

// Memory of a number that bf16 does not hold exactly, in bf16.
int planes() { return BF16_PER_NUMBER; }

// A head (words, width) into panels of `planes` bf16 a number; words are padded with zeros to whole panels.
int pack_head(const Scalar *weight, int64_t words, int64_t width, int planes, bf16 *panels) {
  return abi::guarded([&] {
    abi::require(width % SIDE == 0, "a head of width %ld: it is a multiple of %d", long(width), SIDE);
    const long pieces = width / SIDE;
    for (long w = 0; w < blocks(words); w++)
      for (long i = 0; i < pieces; i++)
        weight_panel(panels + (w * pieces + i) * PLANE_SIZE * planes, planes, [&](long row) {
          const long word = w * SIDE + row;
          return word < words ? load(weight + word * width + i * SIDE) : broadcast32(0);
        });
  });
}

// Bytes that a call needs while it runs.
int head_bytes(const Head *h, int64_t *memory) {
  return abi::guarded([&] { *memory = memory_bytes(*h); });
}

int negative_log_likelihood(const Head *h) {
  return abi::guarded([&] {
    check(*h);
    run(*h);
  });
}
}
