// The most probable token of each row of logits, and its log probability. Knows no sampling.
#pragma once

#include <algorithm>
#include <cmath>

#include "vectors.h"

namespace runner {

// logits: (width) -> the index of the largest, the first of equals; its log probability in *logprob.
inline int64_t argmax(const float *logits, int64_t width, float *logprob) {
  using namespace vectors;
  const Vec lowest = broadcast(-INFINITY);
  Vec most = lowest, sum = zero();
  for (int64_t i = 0; i < width; i += LANES) most = max(most, load_partial(logits + i, width - i, most));
  const float highest = reduce_max(most);
  const Vec scale = broadcast(LOG2_E), shift = broadcast(-highest * LOG2_E);
  for (int64_t i = 0; i < width; i += LANES) {
    const Vec x = load_partial(logits + i, width - i, lowest);
    sum = sum + select(0, width - i, exp2<true>(vectors::fma(x, scale, shift)), zero());
  }
  *logprob = -std::log(reduce_add(sum));
  return std::find(logits, logits + width, highest) - logits;
}

} // namespace runner
