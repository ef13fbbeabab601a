// A step of a decoder of bf16 weights: tokens of many requests in, logits out, keys and values kept in panels. One
// parallel region for all layers; threads meet between phases alone. Sums, norms and the hidden state are fp32. What
// the arguments mean is said in native.py.
#include <omp.h>
#include <sched.h>

#include <algorithm>
#include <atomic>
#include <memory>
#include <new>
#include <vector>

#include "integers.h"

using namespace tiles;
using namespace vectors;

namespace {

struct Layer {
  const float *norm, *norm_mlp, *norm_queries, *norm_keys;
  Product qkv, out, gate_up, down;
  int64_t turns, window; // 0: sees everything
};

struct Low {
  const bf16 *a, *b; // (rank, inputs); (rank, outputs), in the order of the panels
  int64_t rank;
};

constexpr int PART = 24;    // depths of many rows that go through a product before the others
constexpr int PRODUCTS = 4; // of a layer that an adapter may be on

constexpr int64_t ALONE = 32; // rows whose norms every thread makes for itself, which is quicker than to meet
constexpr int64_t MANY = 12;  // rows that are packed before vectors multiply them
constexpr int64_t PANELS = 4; // by so many panels or more

struct Model {
  int64_t layers, width, inner, H, K, D, turned;
  float eps, scale;
  const Layer *layer;
  const float *norm;
  Product head;
  const bf16 *embedding;
};

struct Feed {
  int64_t start, end, slot, length; // rows; positions with them
};

struct Step {
  const Feed *feeds;
  int64_t count, rows, wanted, slots, room, threads;
  const int64_t *tokens, *which; // which rows want logits
  bf16 *keys, *values;
  const float *cos, *sin; // (positions, turned / 2)
  const Low *const *lows; // a row's adapter: layers x PRODUCTS; or null, or null for all
  float *logits;
};

template <typename T> class Buffer {
public:
  T *get(size_t size) {
    if (size > size_) {
      data_.reset(static_cast<T *>(::operator new[](size * sizeof(T), std::align_val_t(64))));
      std::memset(data_.get(), 0, size * sizeof(T)); // what pads rows is multiplied too
      size_ = size;
    }
    return data_.get();
  }

private:
  struct Delete {
    void operator()(T *data) { ::operator delete[](data, std::align_val_t(64)); }
  };
  std::unique_ptr<T[], Delete> data_;
  size_t size_ = 0;
};

inline int64_t padded(int64_t rows) { return (rows + MOST - 1) / MOST * MOST; }

// Where threads wait for each other. Those of OpenMP go to sleep after a while, and where other programs want the
// processor too, waking up costs a turn of theirs each time; these stay awake, but let others before.
class Meeting {
public:
  void begin(int threads) {
    threads_ = threads;
    here_ = 0;
  }
  void wait() {
    const unsigned turn = turn_.load(std::memory_order_relaxed);
    if (here_.fetch_add(1, std::memory_order_acq_rel) == threads_ - 1) {
      here_.store(0, std::memory_order_relaxed);
      turn_.store(turn + 1, std::memory_order_release);
      return;
    }
    for (int spins = 0; turn_.load(std::memory_order_acquire) == turn; spins++)
      spins < 4000 ? _mm_pause() : (void)sched_yield();
  }

private:
  int threads_ = 1;
  alignas(64) std::atomic<int> here_{0};
  alignas(64) std::atomic<unsigned> turn_{0};
};

struct Task {
  int feed, head, first, tokens; // of the feed's tokens
  int64_t to;                    // the row that sees
};

struct Own { // of a thread
  Buffer<Cell> normed, queries, shares;
  Buffer<Opened> opened;
  Buffer<Eights> eights;
  Buffer<float> scores, sums;
};

class Decoder {
public:
  explicit Decoder(const Model &model) : m(model), layers_(model.layer, model.layer + model.layers) {
    m.layer = layers_.data();
    group_ = int(m.H / m.K);
    block_ = std::max(1, MOST / group_);
  }

  void step(const Step &s) {
    const int64_t N = padded(s.rows);
    x_ = hidden_.get(N * m.width);
    normed_ = normed_buffer_.get(N * m.width);
    qkv_ = qkv_buffer_.get(N * (m.H + 2 * m.K) * m.D);
    q_ = queries_.get(N * m.H * m.D);
    seen_ = seen_buffer_.get(N * m.H * m.D);
    inner_ = inner_buffer_.get(N * m.inner);
    if (INTEGERS) eights_ = eights_buffer_.get(N * std::max({m.width, m.H * m.D, m.inner}) / DEPTH);
    if (s.lows) low_ = low_buffer_.get(N * rank(s));
    feed_of_.resize(s.rows);
    tasks_.clear();
    single_ = s.rows == s.count;
    for (int f = 0; f < s.count; f++) {
      const int64_t start = s.feeds[f].start;
      const int tokens = int(s.feeds[f].end - start);
      std::fill(feed_of_.begin() + start, feed_of_.begin() + s.feeds[f].end, f);
      for (int first = (tokens - 1) / block_ * block_; first >= 0; first -= block_) // the longest first
        for (int head = 0; head < m.K; head++)
          tasks_.push_back({f, head, first, std::min(block_, tokens - first), start + first});
    }
    const Step ending = of_wanted(s);
    own_.resize(std::max<size_t>(own_.size(), s.threads));
    permitted();
#pragma omp parallel num_threads(s.threads)
    {
#pragma omp single
      meeting_.begin(omp_get_num_threads());
      begin();
      embed(s);
      for (int64_t l = 0; l < m.layers - 1; l++) {
        keys_and_values(s, l);
        attention(s, l, tasks_);
        feed_forward(s, l);
      }
      keys_and_values(s, m.layers - 1);
      if (s.wanted) {
        move_wanted(s);
        attention(s, m.layers - 1, ending_tasks_);
        feed_forward(ending, m.layers - 1);
        head(ending);
      }
      end();
    }
  }

private:
  void meet() { meeting_.wait(); }

  int64_t rank(const Step &s) {
    int64_t most = 1;
    for (int64_t row = 0; row < s.rows; row++)
      if (s.lows[row])
        for (int64_t i = 0; i < m.layers * PRODUCTS; i++) most = std::max(most, s.lows[row][i].rank);
    return rank_ = most;
  }

  void embed(const Step &s) {
#pragma omp for schedule(static) nowait
    for (int64_t row = 0; row < s.rows; row++) {
      const bf16 *from = m.embedding + s.tokens[row] * m.width;
      for (int64_t i = 0; i < m.width; i += LANES) store(x_ + row * m.width + i, wide(from + i));
    }
    meet();
  }

  // What goes on behind the last layer's keys and values: the wanted rows alone, one behind the other.
  Step of_wanted(const Step &s) {
    ending_tasks_.clear();
    ending_lows_.clear();
    for (int64_t i = 0; i < s.wanted; i++) {
      const int feed = feed_of_[s.which[i]];
      for (int head = 0; head < m.K; head++)
        ending_tasks_.push_back({feed, head, int(s.which[i] - s.feeds[feed].start), 1, i});
      if (s.lows) ending_lows_.push_back(s.lows[s.which[i]]);
    }
    Step ending = s;
    ending.rows = s.wanted;
    ending.lows = s.lows ? ending_lows_.data() : nullptr;
    return ending;
  }

  void move_wanted(const Step &s) {
    if (omp_get_thread_num() == 0) // attention, which is next, does not read them
      for (int64_t i = 0; i < s.wanted; i++) std::copy_n(x_ + s.which[i] * m.width, m.width, x_ + i * m.width);
  }

  void keys_and_values(const Step &s, int64_t l) {
    const Layer &w = m.layer[l];
    const int64_t O = w.qkv.outputs;
    const Cell *normed = norm(s.rows, w.norm);
    lows(s, l, 0, normed, m.width);
    product(s, l, 0, w.qkv, normed, false, [&](int64_t row, int64_t panel, const float *sum) {
      std::memcpy(qkv_ + row * O + panel * PANEL, sum, PANEL * sizeof(float));
    });
    if (!places_itself(s, l)) place(s, l);
  }

  // Whether each token's keys and values are placed by the task that is the only one to read them.
  bool places_itself(const Step &s, int64_t l) const { return single_ && (l + 1 < m.layers || s.wanted == s.rows); }

  void attention(const Step &s, int64_t l, const std::vector<Task> &tasks) {
    const size_t count = tasks.size(), together = std::clamp<size_t>(count / (s.threads * 8), 1, 4);
#pragma omp for schedule(dynamic, together) nowait
    for (size_t i = 0; i < count; i++) {
      if (places_itself(s, l)) place_head(s, l, s.feeds[tasks[i].feed].start, tasks[i].head);
      attend(s, l, tasks[i], i + 1 < count ? &tasks[i + 1] : nullptr);
    }
    meet();
  }

  void feed_forward(const Step &s, int64_t l) {
    const Layer &w = m.layer[l];
    const auto add = [&](int64_t row, int64_t panel, const float *sum) {
      float *x = x_ + row * m.width + panel * PANEL;
      for (int i = 0; i < PANEL; i += LANES) store(x + i, load(x + i) + load(sum + i));
    };
    lows(s, l, 1, seen_, m.H * m.D);
    product(s, l, 1, w.out, seen_, true, add);
    const Cell *normed = norm(s.rows, w.norm_mlp);
    lows(s, l, 2, normed, m.width);
    product(s, l, 2, w.gate_up, normed, false, [&](int64_t row, int64_t panel, const float *sum) {
      store(inner_ + tiles::place(row, panel * 16, m.inner / DEPTH), silu(load(sum)) * load(sum + 16));
    });
    lows(s, l, 3, inner_, m.inner);
    product(s, l, 3, w.down, inner_, true, add);
  }

  // RMS norm (arXiv 1910.07467) of so many hidden states.
  const Cell *norm(int64_t rows, const float *weight) {
    if (rows <= ALONE) {
      Cell *own = own_[omp_get_thread_num()].normed.get(padded(rows) * m.width);
      for (int64_t row = 0; row < rows; row++) norm_row(row, weight, own);
      return own;
    }
#pragma omp for schedule(static) nowait
    for (int64_t row = 0; row < rows; row++) norm_row(row, weight, normed_);
    meet();
    return normed_;
  }

  void norm_row(int64_t row, const float *weight, Cell *to) {
    const float *x = x_ + row * m.width;
    const Vec inverse = every(inverse_size(x, m.width));
    for (int64_t i = 0; i < m.width; i += LANES)
      store(to + tiles::place(row, i, m.width / DEPTH), load(x + i) * inverse * load(weight + i));
  }

  float inverse_size(const float *x, int64_t width) {
    Vec square = zero();
    for (int64_t i = 0; i < width; i += LANES) square = vectors::fma(load(x + i), load(x + i), square);
    return 1 / std::sqrt(total(square) / width + m.eps);
  }

  // use(row, panel, sum) for every row and panel of x W' + b and what adapters add. A thread has panels of its own.
  template <typename Finish>
  void product(const Step &s, int64_t l, int which, const Product &w, const Cell *x, bool parts, const Finish &use) {
    rows(w, x, s.rows, parts, [&](int64_t row, int64_t panel, float *sum, bool first) {
      if (first && s.lows && s.lows[row]) {
        const Low &low = s.lows[row][l * PRODUCTS + which];
        for (int64_t r = 0; r < low.rank; r++) {
          const Vec t = every(low_[row * rank_ + r]);
          const bf16 *b = low.b + r * w.outputs + panel * PANEL;
          for (int i = 0; i < PANEL; i += LANES) store(sum + i, vectors::fma(t, wide(b + i), load(sum + i)));
        }
      }
      use(row, panel, sum);
    });
  }

  // While a block of rows is multiplied, the one before is finished: tiles and vectors work side by side. Sums that are
  // added to something (`parts`) are made of so many inputs at a time that all rows' fit into the cache of a core.
  template <typename Finish> void rows(const Product &w, const Cell *x, int64_t rows, bool parts, const Finish &use) {
    const int64_t panels = w.outputs / PANEL, me = omp_get_thread_num(), all = omp_get_num_threads();
    const int64_t next = w.inputs * ROWS, blocks = (rows + MOST - 1) / MOST;
    const int whole = int(w.inputs / DEPTH), count = parts ? (whole + PART - 1) / PART : 1;
    const int part = (whole + count - 1) / count;
    const int64_t first = panels * me / all, last = panels * (me + 1) / all;
    if (INTEGERS && w.bits == 4) {
      integers(w, x, rows, first, last, use);
      return meet();
    }
    if (!THERE && rows >= MANY && last - first >= PANELS) {
      packed(w, x, rows, part, first, last, use);
      return meet();
    }
    Opened *room = w.bits == 16 ? nullptr : own_[me].opened.get(w.inputs * PANEL);
    alignas(64) float sums[2][MOST * PANEL];
    struct {
      int64_t row, panel;
      int count = 0, done = 0;
      float *sum;
      bool first;
    } before;
    const auto finish = [&](int end) {
      for (; before.done < end; before.done++)
        finished(w, before.row + before.done, before.panel, before.sum + before.done * PANEL, before.first, use);
    };
    int turn = 0;
    const auto multiply = [&](int64_t panel, int from, const auto *weight) {
      const int depths = std::min(part, whole - from);
      for (int64_t row = 0; row < rows; row += MOST, turn ^= 1) {
        const int some = int(std::min<int64_t>(MOST, rows - row)), each = (before.count + depths - 1) / depths;
        const Cell *of = x + row * w.inputs + from * ROWS * DEPTH;
        const auto between = [&](int depth) { finish(std::min(before.count, (depth + 1) * each)); };
        if (blocks == 1) { // waits for memory
          const long ahead = w.bits == 16 ? AHEAD / 2 : 0;
          multiply_tiles<Keep::ROWS>(some, of, next, weight, STEP, depths, sums[turn], PANEL, ahead, between);
        } else { // every block of rows fetches its share of the next panel
          const int64_t share = w.depth_bytes() / blocks;
          const uint8_t *later = w.at(panel + 1, from) + row / MOST * share * depths;
          multiply_tiles<Keep::PANEL>(some, of, next, weight, STEP, depths, sums[turn], PANEL, 0, [&](int depth) {
            for (int64_t i = depth * share; i < (depth + 1) * share; i += 64)
              _mm_prefetch((const char *)(later + i), _MM_HINT_T1);
            between(depth);
          });
        }
        before = {row, panel, some, 0, sums[turn], from == 0};
      }
    };
    const auto open = [&](int64_t panel, int from) {
      const uint8_t *kept = w.at(panel, from);
      if (w.bits == 16)
        multiply(panel, from, (const bf16 *)kept);
      else
        multiply(panel, from, opened(w, kept, std::min(part, whole - from), room));
    };
    if (blocks == 1)
      for (int64_t panel = first; panel < last; panel++)
        for (int from = 0; from < whole; from += part) open(panel, from);
    else
      for (int from = 0; from < whole; from += part)
        for (int64_t panel = first; panel < last; panel++) open(panel, from);
    finish(before.count);
    meet();
  }

  // The same with weights of 4 bits, for the panels `first` to `last`.
  template <typename Finish>
  void integers(const Product &w, const Cell *x, int64_t rows, int64_t first, int64_t last, const Finish &use) {
    const int whole = int(w.inputs / DEPTH);
    Own &own = own_[omp_get_thread_num()];
    const auto round = [&](Eights *to, int64_t row) {
      for (int d = 0; d < whole; d++) to[row * whole + d] = rounded(x + tiles::place(row, d * DEPTH, whole));
    };
    Eights *eights = eights_;
    if (rows <= ALONE) {
      eights = own.eights.get(rows * whole);
      for (int64_t row = 0; row < rows; row++) round(eights, row);
    } else {
#pragma omp for schedule(static) nowait
      for (int64_t row = 0; row < rows; row++) round(eights, row);
      meet();
    }
    const int64_t fitting = caches::second() * 3 / 4 / int64_t(whole * sizeof(Eights));
    const int64_t together = std::min(rows, std::max(fitting, MANY));
    float *sums = own.sums.get(together * PANEL);
    for (int64_t begin = 0; begin < rows; begin += together)
      for (int64_t panel = first; panel < last; panel++) {
        const int64_t here = std::min(together, rows - begin);
        tiles::multiply(here, eights + begin * whole, whole, w.at(panel, 0), whole, sums);
        for (int64_t row = 0; row < here; row++) finished(w, begin + row, panel, sums + row * PANEL, true, use);
      }
  }

  // The same by vectors, for the panels `first` to `last` and many rows.
  template <typename Finish>
  void packed(const Product &w, const Cell *x, int64_t rows, int part, int64_t first, int64_t last, const Finish &use) {
    using Packed = gemm::Packed<Cell>;
    const int whole = int(w.inputs / DEPTH);
    const int64_t together = std::min(rows, int64_t(Packed::fitting(part)));
    Own &own = own_[omp_get_thread_num()];
    Opened *room = w.bits == 16 ? nullptr : own.opened.get(w.inputs * PANEL);
    float *sums = own.sums.get(together * PANEL);
    for (int64_t begin = 0; begin < rows; begin += together)
      for (int from = 0; from < whole; from += part) {
        const int depths = std::min(part, whole - from);
        const Packed some(std::min(together, rows - begin), depths, [&](long row, int depth) {
          return x + tiles::place(begin + row, (from + depth) * DEPTH, whole);
        });
        for (int64_t panel = first; panel < last; panel++) {
          const uint8_t *kept = w.at(panel, from);
          if (w.bits == 16)
            some.multiply((const bf16 *)kept, STEP, (const bf16 *)w.at(panel + 1, from), sums);
          else
            some.multiply(opened(w, kept, depths, room), STEP, (const Opened *)nullptr, sums);
          for (int64_t row = 0; row < some.rows(); row++)
            finished(w, begin + row, panel, sums + row * PANEL, from == 0, use);
        }
      }
  }

  // What is left to do with a row's sums of a panel; `first`: of its inputs.
  template <typename Finish>
  void finished(const Product &w, int64_t row, int64_t panel, float *sum, bool first, const Finish &use) {
    if (w.scale)
      for (int c = 0; c < PANEL; c++) sum[c] *= w.scale[panel * PANEL + c];
    if (w.bias && first)
      for (int c = 0; c < PANEL; c++) sum[c] += w.bias[panel * PANEL + c];
    use(row, panel, sum, first);
  }

  // What the rows with an adapter are in its rank's few dimensions (arXiv 2106.09685).
  void lows(const Step &s, int64_t l, int which, const Cell *x, int64_t inputs) {
    if (!s.lows) return;
#pragma omp for schedule(static) nowait
    for (int64_t row = 0; row < s.rows; row++) {
      if (!s.lows[row]) continue;
      const Low &low = s.lows[row][l * PRODUCTS + which];
      for (int64_t r = 0; r < low.rank; r++) {
        Vec sum = zero();
        for (int64_t i = 0; i < inputs; i += DEPTH)
          sum = add_products(sum, x + tiles::place(row, i, inputs / DEPTH), low.a + r * inputs + i);
        low_[row * rank_ + r] = total(sum);
      }
    }
    meet();
  }

  // Queries and keys get their norms and positions (arXiv 2104.09864); keys and values go where they are kept.
  void place(const Step &s, int64_t l) {
#pragma omp for schedule(static) nowait
    for (int64_t row = 0; row < s.rows; row++)
      for (int64_t k = 0; k < m.K; k++) place_head(s, l, row, k);
    meet();
  }

  // The same for a token's key head and the queries that share it.
  void place_head(const Step &s, int64_t l, int64_t row, int64_t k) {
    const Layer &w = m.layer[l];
    const Feed &feed = s.feeds[feed_of_[row]];
    const int64_t D = m.D, position = feed.length - (feed.end - row);
    float *of = qkv_ + row * (m.H + 2 * m.K) * D, *key_of = of + (m.H + k) * D;
    for (int64_t h = k * group_; h < (k + 1) * group_; h++) {
      float *x = of + h * D;
      turn(s, w, position, w.norm_queries, x);
      for (int64_t i = 0; i < D; i += LANES)
        store(q_ + row * m.H * D + h * D + i, load(x + i) * every(m.scale * LOG2_E));
    }
    turn(s, w, position, w.norm_keys, key_of);
    bf16 line[2048];
    for (int64_t i = 0; i < D; i += LANES) store(line + i, load(key_of + i));
    bf16 *key = keys(s, l, feed.slot, k) + position / 32 * 32 * D + (position % 32) / 16 * 512 + position % 16 * 2;
    for (int64_t d = 0; d < D; d += 32)
      for (int64_t pair = 0; pair < 16; pair++) std::memcpy(key + d * 32 + pair * 32, line + d + pair * 2, 4);
    for (int64_t i = 0; i < D; i += LANES) store(line + i, load(of + (m.H + m.K + k) * D + i));
    bf16 *value = values(s, l, feed.slot, k) + position / 32 * 32 * D + position % 32 / 2 * 32 + position % 2;
    for (int64_t d = 0; d < D; d += 16)
      for (int64_t c = 0; c < 16; c++) value[d * 32 + c * 2] = line[d + c];
  }

  // A head's norm, if there is one, and its position.
  void turn(const Step &s, const Layer &w, int64_t position, const float *weight, float *x) {
    if (weight) {
      const float inverse = inverse_size(x, m.D);
      for (int64_t i = 0; i < m.D; i++) x[i] = x[i] * inverse * weight[i];
    }
    if (!w.turns) return;
    const int64_t half = m.turned / 2;
    const float *cos = s.cos + position * half, *sin = s.sin + position * half;
    for (int64_t i = 0; i < half; i++) {
      const float a = x[i], b = x[i + half];
      x[i] = a * cos[i] - b * sin[i];
      x[i + half] = b * cos[i] + a * sin[i];
    }
  }

  int64_t offset(const Step &s, int64_t l, int64_t slot, int64_t k) const {
    return ((l * s.slots + slot) * m.K + k) * s.room * m.D;
  }
  bf16 *keys(const Step &s, int64_t l, int64_t slot, int64_t k) { return s.keys + offset(s, l, slot, k); }
  bf16 *values(const Step &s, int64_t l, int64_t slot, int64_t k) { return s.values + offset(s, l, slot, k); }

  // What some tokens' queries see that share a key head. The keys and values of single tokens come from memory, and are
  // fetched before they are needed, the next task's too.
  void attend(const Step &s, int64_t l, const Task &task, const Task *next) {
    const Feed &feed = s.feeds[task.feed];
    const int64_t D = m.D, G = group_, row = feed.start + task.first;
    const int tokens = task.tokens, heads = int(tokens * G);
    const int64_t position = feed.length - (feed.end - row), length = position + tokens;
    const int64_t window = m.layer[l].window ? m.layer[l].window : INT64_MAX;
    const int64_t from = std::max<int64_t>(0, position - window + 1) / 32 * 32, wide_ = padded(length - from);
    Own &own = own_[omp_get_thread_num()];
    Cell *queries = own.queries.get(MOST * D), *shares = own.shares.get(MOST * wide_);
    float *scores = own.scores.get(MOST * wide_);
    for (int t = 0; t < tokens; t++)
      std::memcpy(queries + t * G * D, q_ + ((row + t) * m.H + task.head * G) * D, G * D * sizeof(Cell));
    const bf16 *key = keys(s, l, feed.slot, task.head) + from * D;
    const bf16 *value = values(s, l, feed.slot, task.head) + from * D;
    const bool far = tokens == 1;
    if (far) fetch(value);
    for (int64_t at = 0; at < wide_; at += PANEL)
      multiply(heads, queries, D, key + at * D, STEP, int(D / DEPTH), scores + at, wide_, far ? AHEAD / 2 : 0);
    if (far && next) fetch(keys(s, l, s.feeds[next->feed].slot, next->head));
    float inverse[MOST];
    for (int i = 0; i < heads; i++) {
      const int64_t last = position + i / G - from, first = std::max<int64_t>(0, last - window + 1);
      inverse[i] = 1 / softmax(scores + i * wide_, shares + i * wide_, first, last + 1, wide_);
    }
    alignas(64) float sum[MOST * PANEL];
    for (int64_t d = 0; d < D; d += PANEL) {
      multiply(heads, shares, wide_, value + d * 32, D * 32, int(wide_ / DEPTH), sum, PANEL,
               far ? std::max(AHEAD / 2, 2 * D * 32) / (D * 32) * (D * 32) : 0);
      for (int i = 0; i < heads; i++) {
        Cell *to = seen_ + tiles::place(task.to + i / G, (task.head * G + i % G) * D + d, m.H * D / DEPTH);
        for (int c = 0; c < PANEL; c += LANES) store(to + c, load(sum + i * PANEL + c) * every(inverse[i]));
      }
    }
  }

  // The first AHEAD bytes from here on their way from memory.
  static void fetch(const bf16 *from) {
    for (int64_t at = 0; at < AHEAD / 2; at += 32) _mm_prefetch((const char *)(from + at), _MM_HINT_T0);
  }

  // 2^(score - highest) from `first` to `end`, 0 elsewhere; their sum. `width` is a multiple of 32.
  float softmax(const float *scores, Cell *shares, int64_t first, int64_t end, int64_t width) {
    const int64_t low = first / 32 * 32, high = (end + 31) / 32 * 32;
    const Vec least = every(-INFINITY);
    Vec most = least;
    for (int64_t i = low; i < high; i += LANES)
      most = larger(most, within(first - i, end - i, load(scores + i), least));
    const Vec highest = every(largest(most));
    Vec sum = zero();
    std::memset(shares, 0, low * sizeof(Cell));
    for (int64_t i = low; i < high; i += 2 * LANES) {
      const Vec a = within(first - i, end - i, power(load(scores + i) - highest), zero());
      const Vec b = within(first - i - LANES, end - i - LANES, power(load(scores + i + LANES) - highest), zero());
      sum = sum + (a + b);
      store(shares + i, a);
      store(shares + i + LANES, b);
    }
    std::memset(shares + high, 0, (width - high) * sizeof(Cell));
    return total(sum);
  }

  void head(const Step &s) {
    rows(m.head, norm(s.rows, m.norm), s.rows, false, [&](int64_t row, int64_t panel, const float *sum, bool) {
      std::memcpy(s.logits + row * m.head.outputs + panel * PANEL, sum, PANEL * sizeof(float));
    });
  }

  Model m;
  std::vector<Layer> layers_;
  int group_, block_;
  bool single_ = false; // each request has one token in this step
  int64_t rank_ = 0;
  Buffer<float> hidden_, qkv_buffer_, low_buffer_;
  Buffer<Eights> eights_buffer_;
  Eights *eights_ = nullptr;
  Buffer<Cell> normed_buffer_, queries_, seen_buffer_, inner_buffer_;
  float *x_ = nullptr, *qkv_ = nullptr, *low_ = nullptr;
  Cell *normed_ = nullptr, *q_ = nullptr, *seen_ = nullptr, *inner_ = nullptr;
  std::vector<int> feed_of_;
  std::vector<Task> tasks_, ending_tasks_;
  std::vector<const Low *> ending_lows_;
  std::vector<Own> own_;
  Meeting meeting_;
};

} // namespace

extern "C" {

void *decoder_new(const Model *model) { return new Decoder(*model); }
void decoder_free(void *decoder) { delete static_cast<Decoder *>(decoder); }
void decoder_step(void *decoder, const Step *step) { static_cast<Decoder *>(decoder)->step(*step); }

// The place of the highest of each row of numbers, and its log share of the sum of all e^number.
void likeliest(const float *numbers, int64_t rows, int64_t width, int64_t stride, int64_t threads, int64_t *best,
               float *logshare) {
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int64_t row = 0; row < rows; row++) {
    const float *x = numbers + row * stride;
    Vec most = every(-INFINITY), sum = zero();
    for (int64_t i = 0; i < width; i += LANES) most = larger(most, load_first(x + i, width - i, most));
    const float highest = largest(most);
    best[row] = std::find(x, x + width, highest) - x;
    const Vec scale = every(LOG2_E), shift = every(-highest * LOG2_E), none = every(-INFINITY);
    for (int64_t i = 0; i < width; i += LANES)
      sum = sum +
            within(0, width - i, power<true>(vectors::fma(load_first(x + i, width - i, none), scale, shift)), zero());
    logshare[row] = -std::log(total(sum));
  }
}

bool decoder_ready() { return permitted(); }
}
