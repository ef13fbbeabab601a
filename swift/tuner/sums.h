// Norms and gates of rows in pieces of 32 elements, and their gradients, in fp32. Knows no model.
#pragma once

#include "products.h"

namespace block {

// A row whose pieces of 32 elements are `step` apart; one that is nowhere is left out.
template <class T> struct Row {
  T *first = nullptr;
  long step = SIDE;
  T *operator[](long piece) const { return first + piece * step; }
  explicit operator bool() const { return first != nullptr; }
  operator Row<const T>() const { return {first, step}; }
};
using In = Row<const bf16>;
using Out = Row<bf16>;

// A row of a plain matrix, which may be missing, and of one in blocks.
inline In plain(const bf16 *m, long row, long width) { return m ? In{m + row * width, SIDE} : In{}; }
inline Out plain(bf16 *m, long row, long width) { return {m + row * width, SIDE}; }
inline In inside(const bf16 *m, long row, long width) { return {m + at(row, width), AREA}; }
inline Out inside(bf16 *m, long row, long width) { return {m + at(row, width), AREA}; }

inline void copy(In from, Out to, long width) {
  for (long p = 0; p < width / SIDE; p++)
    store(to[p], load(from[p]));
}
inline void under(In x, In mask, Out to, long width) {
  for (long p = 0; p < width / SIDE; p++)
    store(to[p], mask ? load(x[p]) * load(mask[p]) : load(x[p]));
}

inline float inverse(In x, long width, float eps) {
  Pair squares{_mm512_setzero_ps(), _mm512_setzero_ps()};
  for (long p = 0; p < width / SIDE; p++) {
    Pair each = load(x[p]);
    squares = squares + each * each;
  }
  return 1.0f / std::sqrt(total(squares) / float(width) + eps);
}

// y = the RMS norm of x (arXiv 1910.07467), `dropped` = that under a mask.
inline void norm(In x, long width, const float *weight, float eps, In mask, Out y, Out dropped) {
  float by = inverse(x, width, eps);
  for (long p = 0; p < width / SIDE; p++) {
    Pair each = load(x[p]) * by * load(weight + p * SIDE);
    if (y)
      store(y[p], each);
    if (dropped)
      store(dropped[p], mask ? each * load(mask[p]) : each);
  }
}

// dx = the gradient of x from that of its norm, and `beside` added; `dropped` is computed again.
inline void norm_gradient(In x, In dy, long width, const float *weight, float eps, In mask, Out dropped, In beside,
                          Out dx) {
  float by = inverse(x, width, eps);
  Pair along{_mm512_setzero_ps(), _mm512_setzero_ps()};
  for (long p = 0; p < width / SIDE; p++)
    along = along + load(x[p]) * load(dy[p]) * load(weight + p * SIDE);
  float less = total(along) * by * by * by / float(width);
  for (long p = 0; p < width / SIDE; p++) {
    Pair each = load(x[p]), w = load(weight + p * SIDE);
    if (dropped) {
      Pair y = each * by * w;
      store(dropped[p], mask ? y * load(mask[p]) : y);
    }
    if (dx) {
      Pair d = load(dy[p]) * w * by - each * less;
      store(dx[p], beside ? d + load(beside[p]) : d);
    }
  }
}

inline __m512 sigmoid(__m512 x) {
  __m512 e = tiles::power(_mm512_mul_ps(x, _mm512_set1_ps(-tiles::LOG2_E)));
  return _mm512_rcp14_ps(_mm512_add_ps(_mm512_set1_ps(1.0f), e));
}
inline Pair sigmoid(Pair x) { return {sigmoid(x.low), sigmoid(x.high)}; }

} // namespace block
