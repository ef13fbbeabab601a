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
using In = Row<const Cell>;
using Out = Row<Cell>;

// A row of a plain matrix, which may be missing, and of one in blocks.
template <class T> inline Row<T> plain(T *m, long row, long width) {
  return m ? Row<T>{m + row * width, SIDE} : Row<T>{};
}
inline In inside(const Cell *m, long row, long width) { return {m + at(row, width), AREA}; }
inline Out inside(Cell *m, long row, long width) { return {m + at(row, width), AREA}; }

// A row of dropout's mask; one that is nowhere keeps all.
struct Mask {
  const uint32_t *bits = nullptr;
  float kept = 1;
  Pair operator[](long piece) const { return chosen(bits[piece], kept); }
  explicit operator bool() const { return bits != nullptr; }
};

template <class X> inline void copy(Row<X> from, Out to, long width) {
  for (long p = 0; p < width / SIDE; p++) store(to[p], load(from[p]));
}
inline void clear(Out to, long width) {
  for (long p = 0; p < width / SIDE; p++) store(to[p], both(0));
}
inline void under(In x, Mask mask, Out to, long width) {
  for (long p = 0; p < width / SIDE; p++) store(to[p], mask ? load(x[p]) * mask[p] : load(x[p]));
}

template <class X> inline float inverse(Row<X> x, long width, float eps) {
  Pair squares = both(0);
  for (long p = 0; p < width / SIDE; p++) {
    Pair each = load(x[p]);
    squares = squares + each * each;
  }
  return 1.0f / std::sqrt(total(squares) / float(width) + eps);
}

// y = the RMS norm of x (arXiv 1910.07467), `dropped` = that under a mask.
template <class X>
inline void norm(Row<X> x, long width, const float *weight, float eps, Mask mask, Out y, Out dropped) {
  float by = inverse(x, width, eps);
  for (long p = 0; p < width / SIDE; p++) {
    Pair each = load(x[p]) * by * load(weight + p * SIDE);
    if (y) store(y[p], each);
    if (dropped) store(dropped[p], mask ? each * mask[p] : each);
  }
}

// dx = the gradient of x from that of its norm, and `beside` added; `dropped` is computed again.
template <class X, class D, class B, class T>
inline void norm_gradient(Row<X> x, Row<D> dy, long width, const float *weight, float eps, Mask mask, Out dropped,
                          Row<B> beside, Row<T> dx) {
  float by = inverse(x, width, eps);
  Pair along = both(0);
  for (long p = 0; p < width / SIDE; p++) along = along + load(x[p]) * load(dy[p]) * load(weight + p * SIDE);
  float less = total(along) * by * by * by / float(width);
  for (long p = 0; p < width / SIDE; p++) {
    Pair each = load(x[p]), w = load(weight + p * SIDE);
    if (dropped) {
      Pair y = each * by * w;
      store(dropped[p], mask ? y * mask[p] : y);
    }
    if (dx) {
      Pair d = load(dy[p]) * w * by - each * less;
      store(dx[p], beside ? d + load(beside[p]) : d);
    }
  }
}

// e^x, as near as the numbers are that it goes to.
inline Vec exponential(Vec x) { return vectors::power<FP32>(x * every(LOG2_E)); }
inline Pair exponential(Pair x) { return {exponential(x.low), exponential(x.high)}; }

inline Vec sigmoid(Vec x) {
  Vec sum = every(1) + exponential(zero() - x);
  return FP32 ? every(1) / sum : vectors::inverse(sum);
}
inline Pair sigmoid(Pair x) { return {sigmoid(x.low), sigmoid(x.high)}; }

} // namespace block
