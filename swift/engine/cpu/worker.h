// What a thread of a step owns: its number, its scratch memory, and the barrier it shares. Knows no model.
#pragma once

#include <vector>

#include "int4_products.h"
#include "memory.h"
#include "spin_barrier.h"

namespace runner {

using tiles::Dequantized;
using tiles::Element;
using tiles::Int8Block;

// Elements of each buffer that a step needs of a thread.
struct ScratchSizes {
  size_t normed = 0, queries = 0, probabilities = 0, packed = 0, dequantized = 0, int8 = 0, scores = 0, sums = 0;
};

class Scratch {
public:
  bool fits(const ScratchSizes &s) const {
    return normed.size() >= s.normed && queries.size() >= s.queries && probabilities.size() >= s.probabilities &&
           packed.size() >= s.packed && dequantized.size() >= s.dequantized && int8.size() >= s.int8 &&
           scores.size() >= s.scores && sums.size() >= s.sums;
  }
  // Throws std::bad_alloc.
  void reserve(const ScratchSizes &s) {
    normed.reserve(s.normed), queries.reserve(s.queries), probabilities.reserve(s.probabilities);
    packed.reserve(s.packed), dequantized.reserve(s.dequantized), int8.reserve(s.int8);
    scores.reserve(s.scores), sums.reserve(s.sums);
  }

  memory::Buffer<Element> normed, queries, probabilities, packed;
  memory::Buffer<Dequantized> dequantized;
  memory::Buffer<Int8Block> int8;
  memory::Buffer<float> scores, sums;
};

struct Worker {
  int64_t index, count; // of the threads of the step
  Scratch &scratch;
  SpinBarrier &barrier;

  void wait() { barrier.wait(); }
};

} // namespace runner
