// A step of a decoder with bf16 weights: tokens of many sequences in, logits out, keys and values into the KV cache.
// One parallel region for all layers, in which threads wait for each other between phases alone. Sums, norms and the
// hidden state are fp32. Knows no queue and no sampling.
#include <omp.h>

#include <algorithm>
#include <atomic>
#include <memory>
#include <vector>

#include "argmax.h"
#include "attention.h"

using namespace runner;
using vectors::LANES;
using vectors::load;
using vectors::store;

namespace {

class Decoder {
public:
  explicit Decoder(const Model &model) : m(model), layers_(model.layer, model.layer + model.layers) {
    check(m);
    m.layer = layers_.data();
  }

  // Throws std::bad_alloc and abi::InvalidArgument before anything is computed.
  void step(const Step &s) {
    check(m, s);
    abi::require_threads(s.threads);
    plan(s);
    reserve(s);
    tiles::request_tiles();
#pragma omp parallel num_threads(int(s.threads))
    {
#pragma omp single
      barrier_.reset(omp_get_num_threads());
      Worker me{omp_get_thread_num(), omp_get_num_threads(), scratch_[omp_get_thread_num()], barrier_};
      tiles::configure();
      layers(me, s);
      tiles::release();
    }
  }

private:
  // What the threads share of a step, made before they start.
  void plan(const Step &s) {
    chunk_of_.resize(s.rows);
    tasks_.clear(), last_tasks_.clear(), last_adapters_.clear();
    single_tokens_ = s.rows == s.chunk_count;
    const int most = Attention::tokens_per_task(m);
    for (int c = 0; c < s.chunk_count; c++) {
      const Chunk &chunk = s.chunks[c];
      const int tokens = int(chunk.end - chunk.start);
      std::fill(chunk_of_.begin() + chunk.start, chunk_of_.begin() + chunk.end, c);
      for (int first = (tokens - 1) / most * most; first >= 0; first -= most) // those that see most come first
        for (int head = 0; head < m.kv_heads; head++)
          tasks_.push_back({c, head, first, std::min(most, tokens - first), chunk.start + first});
    }
    for (int64_t i = 0; i < s.logit_count; i++) {
      const int c = chunk_of_[s.logit_rows[i]];
      for (int head = 0; head < m.kv_heads; head++)
        last_tasks_.push_back({c, head, int(s.logit_rows[i] - s.chunks[c].start), 1, i});
      if (s.adapters) last_adapters_.push_back(s.adapters[s.logit_rows[i]]);
    }
    last_ = s;
    last_.rows = s.logit_count;
    last_.adapters = s.adapters ? last_adapters_.data() : nullptr;
  }

  // All memory of a step, so that nothing is allocated while threads work.
  void reserve(const Step &s) {
    const int64_t N = padded(s.rows), attended = m.heads * m.head_dim;
    a.hidden = hidden_.reserve(N * m.hidden_size);
    a.normed = normed_.reserve(N * m.hidden_size);
    a.qkv = qkv_.reserve(N * (m.heads + 2 * m.kv_heads) * m.head_dim);
    a.queries = queries_.reserve(N * attended);
    a.attended = attended_.reserve(N * attended);
    a.intermediate = intermediate_.reserve(N * m.intermediate_size);
    if (tiles::INT8_ROWS)
      a.int8 = int8_.reserve(N * std::max({m.hidden_size, attended, m.intermediate_size}) / K_BLOCK);
    a.chunk_of = chunk_of_.data();
    a.lora_rank = s.adapters ? largest_rank(s) : 0;
    a.lora = lora_.reserve(N * a.lora_rank);
    const ScratchSizes sizes = scratch_sizes(s);
    if (scratch_.size() < size_t(s.threads)) scratch_.resize(s.threads);
    const auto fits = [&](const Scratch &scratch) { return scratch.fits(sizes); };
    if (std::all_of(scratch_.begin(), scratch_.begin() + s.threads, fits)) return;
    std::atomic<bool> failed{false};
#pragma omp parallel num_threads(int(s.threads)) // each thread its own, on its own memory node
    try {
      scratch_[omp_get_thread_num()].reserve(sizes);
    } catch (const std::bad_alloc &) {
      failed = true;
    }
    if (failed) throw std::bad_alloc();
  }

  ScratchSizes scratch_sizes(const Step &s) const {
    ScratchSizes sizes;
    int64_t longest = 0;
    for (int64_t c = 0; c < s.chunk_count; c++) longest = std::max(longest, s.chunks[c].length);
    Attention::add_scratch(sizes, m, longest);
    if (s.rows <= FEW_ROWS || s.logit_count <= FEW_ROWS)
      sizes.normed = padded(std::min(s.rows, FEW_ROWS)) * m.hidden_size;
    for (const int64_t rows : {s.rows, s.logit_count}) {
      for (const Layer &w : layers_) {
        runner::add_scratch(sizes, w.qkv, rows, false), runner::add_scratch(sizes, w.gate_up, rows, false);
        runner::add_scratch(sizes, w.out, rows, true), runner::add_scratch(sizes, w.down, rows, true);
      }
      runner::add_scratch(sizes, m.head, rows, false);
    }
    return sizes;
  }

  int64_t largest_rank(const Step &s) const {
    int64_t most = 1;
    for (int64_t row = 0; row < s.rows; row++)
      if (s.adapters[row])
        for (int64_t i = 0; i < m.layers * PRODUCTS; i++) most = std::max(most, s.adapters[row][i].rank);
    return most;
  }

  // The phases of a step. From the attention of the last layer on, only rows that need logits go on.
  void layers(Worker &me, const Step &s) {
    const Attention attention(m, s, a);
    embed(me, s);
    const int64_t last = m.layers - 1;
    for (int64_t l = 0; l < last; l++) {
      queries_keys_values(me, s, l, attention);
      attend(me, s, l, attention, tasks_);
      mlp(me, s, l);
    }
    queries_keys_values(me, s, last, attention);
    if (!s.logit_count) return;
    if (me.index == 0) // attention, which is next, does not read the hidden state
      for (int64_t i = 0; i < s.logit_count; i++)
        std::copy_n(a.hidden + s.logit_rows[i] * m.hidden_size, m.hidden_size, a.hidden + i * m.hidden_size);
    attend(me, s, last, attention, last_tasks_);
    mlp(me, last_, last);
    logits(me, last_);
  }

  void embed(Worker &me, const Step &s) {
#pragma omp for schedule(static) nowait
    for (int64_t row = 0; row < s.rows; row++) {
      const bf16 *from = m.embedding + s.tokens[row] * m.hidden_size;
      for (int64_t i = 0; i < m.hidden_size; i += LANES)
        store(a.hidden + row * m.hidden_size + i, vectors::to_float(from + i));
    }
    me.wait();
  }

  void queries_keys_values(Worker &me, const Step &s, int64_t l, const Attention &attention) {
    const PanelWeight &w = m.layer[l].qkv;
    const Element *normed = norm(me, s.rows, m.layer[l].norm);
    project_to_rank(me, s, l, 0, normed, m.hidden_size);
    linear(me, s, l, 0, w, normed, false, [&](int64_t row, int64_t panel, const float *sum) {
      std::memcpy(a.qkv + row * w.outputs + panel * PANEL_WIDTH, sum, PANEL_WIDTH * sizeof(float));
    });
    if (prepared_by_task(s, l)) return;
#pragma omp for schedule(static) nowait
    for (int64_t row = 0; row < s.rows; row++)
      for (int64_t head = 0; head < m.kv_heads; head++) attention.prepare(l, row, head);
    me.wait();
  }

  // Whether the task of a token, the only one to read its new key and value, prepares them itself: one barrier less.
  bool prepared_by_task(const Step &s, int64_t l) const {
    return single_tokens_ && (l + 1 < m.layers || s.logit_count == s.rows);
  }

  void attend(Worker &me, const Step &s, int64_t l, const Attention &attention,
              const std::vector<AttentionTask> &tasks) {
    const size_t count = tasks.size(), together = std::clamp<size_t>(count / (s.threads * 8), 1, 4);
#pragma omp for schedule(dynamic, together) nowait
    for (size_t i = 0; i < count; i++) {
      if (prepared_by_task(s, l)) attention.prepare(l, s.chunks[tasks[i].chunk].start, tasks[i].head);
      attention.attend(me, l, tasks[i], i + 1 < count ? &tasks[i + 1] : nullptr);
    }
    me.wait();
  }

  void mlp(Worker &me, const Step &s, int64_t l) {
    const Layer &w = m.layer[l];
    const auto add = [&](int64_t row, int64_t panel, const float *sum) {
      float *x = a.hidden + row * m.hidden_size + panel * PANEL_WIDTH;
      for (int i = 0; i < PANEL_WIDTH; i += LANES) store(x + i, load(x + i) + load(sum + i));
    };
    project_to_rank(me, s, l, 1, a.attended, m.heads * m.head_dim);
    linear(me, s, l, 1, w.out, a.attended, true, add);
    const Element *normed = norm(me, s.rows, w.norm_mlp);
    project_to_rank(me, s, l, 2, normed, m.hidden_size);
    linear(me, s, l, 2, w.gate_up, normed, false, [&](int64_t row, int64_t panel, const float *sum) {
      store(a.intermediate + tiles::tiled_offset(row, panel * tiles::HALF, m.intermediate_size / K_BLOCK),
            tiles::silu(load(sum)) * load(sum + tiles::HALF));
    });
    project_to_rank(me, s, l, 3, a.intermediate, m.intermediate_size);
    linear(me, s, l, 3, w.down, a.intermediate, true, add);
  }

  void logits(Worker &me, const Step &s) {
    multiply(me, m.head, norm(me, s.rows, m.norm), s.rows, false, a.int8,
             [&](int64_t row, int64_t panel, const float *sum, bool) {
               std::memcpy(s.logits + row * m.head.outputs + panel * PANEL_WIDTH, sum, PANEL_WIDTH * sizeof(float));
             });
  }

  // RMS norm (arXiv 1910.07467) of the hidden states, tiled.
  const Element *norm(Worker &me, int64_t rows, const float *weight) {
    if (rows <= FEW_ROWS) {
      Element *own = me.scratch.normed.data();
      for (int64_t row = 0; row < rows; row++) norm_row(row, weight, own);
      return own;
    }
#pragma omp for schedule(static) nowait
    for (int64_t row = 0; row < rows; row++) norm_row(row, weight, a.normed);
    me.wait();
    return a.normed;
  }

  void norm_row(int64_t row, const float *weight, Element *to) {
    const float *x = a.hidden + row * m.hidden_size;
    const vectors::Vec inverse = vectors::broadcast(inverse_rms(x, m.hidden_size, m.eps));
    for (int64_t i = 0; i < m.hidden_size; i += LANES)
      store(to + tiles::tiled_offset(row, i, m.hidden_size / K_BLOCK), load(x + i) * inverse * load(weight + i));
  }

  // x A' of the rows with an adapter (LoRA, arXiv 2106.09685); `which`: of a layer's products.
  void project_to_rank(Worker &me, const Step &s, int64_t l, int which, const Element *x, int64_t inputs) {
    if (!s.adapters) return;
#pragma omp for schedule(static) nowait
    for (int64_t row = 0; row < s.rows; row++) {
      if (!s.adapters[row]) continue;
      const LoraPair &pair = s.adapters[row][l * PRODUCTS + which];
      for (int64_t r = 0; r < pair.rank; r++) {
        vectors::Vec sum = vectors::zero();
        for (int64_t i = 0; i < inputs; i += K_BLOCK)
          sum = tiles::dot_add(sum, x + tiles::tiled_offset(row, i, inputs / K_BLOCK), pair.a + r * inputs + i);
        a.lora[row * a.lora_rank + r] = vectors::reduce_add(sum);
      }
    }
    me.wait();
  }

  // epilogue(row, panel, sum) for x W' + b + (x A') B'.
  template <class Epilogue>
  void linear(Worker &me, const Step &s, int64_t l, int which, const PanelWeight &w, const Element *x, bool split,
              const Epilogue &epilogue) {
    multiply(me, w, x, s.rows, split, a.int8, [&](int64_t row, int64_t panel, float *sum, bool first) {
      if (first && s.adapters && s.adapters[row]) {
        const LoraPair &pair = s.adapters[row][l * PRODUCTS + which];
        for (int64_t r = 0; r < pair.rank; r++) {
          const vectors::Vec t = vectors::broadcast(a.lora[row * a.lora_rank + r]);
          const bf16 *b = pair.b + r * w.outputs + panel * PANEL_WIDTH;
          for (int i = 0; i < PANEL_WIDTH; i += LANES)
            store(sum + i, vectors::fma(t, vectors::to_float(b + i), load(sum + i)));
        }
      }
      epilogue(row, panel, sum);
    });
  }

  Model m;
  std::vector<Layer> layers_;
  Activations a;
  memory::Buffer<float> hidden_, qkv_, lora_;
  memory::Buffer<Int8Block> int8_;
  memory::Buffer<Element> normed_, queries_, attended_, intermediate_;
  bool single_tokens_ = false; // each sequence has one token in this step
  Step last_{};                // the rows that need logits, one behind the other
  std::vector<int> chunk_of_;
  std::vector<AttentionTask> tasks_, last_tasks_;
  std::vector<const LoraPair *> last_adapters_;
  std::vector<Scratch> scratch_;
  SpinBarrier barrier_;
};

} // namespace

extern "C" {

const abi::Structure *structures() { return STRUCTURES; }
const char *error_text() { return abi::error_text(); }

// 1 if Linux lets the process use tiles, or the instruction set has none.
int tiles_permitted() { return tiles::request_tiles(); }

int decoder_new(const Model *model, void **decoder) {
  return abi::guarded([&] { *decoder = new Decoder(*model); });
}

void decoder_free(void *decoder) { delete static_cast<Decoder *>(decoder); }

int decoder_step(void *decoder, const Step *step) {
  return abi::guarded([&] { static_cast<Decoder *>(decoder)->step(*step); });
}

// The most probable token of each row of logits (rows, width), `stride` apart, and its log probability.
int argmax_rows(const float *logits, int64_t rows, int64_t width, int64_t stride, int64_t threads, int64_t *tokens,
                float *logprobs) {
  return abi::guarded([&] {
    abi::require_threads(threads);
#pragma omp parallel for num_threads(int(threads)) schedule(static)
    for (int64_t row = 0; row < rows; row++) tokens[row] = argmax(logits + row * stride, width, logprobs + row);
  });
}
}
