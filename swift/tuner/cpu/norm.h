// RMS norms, dropout masks and gates of rows in pieces of 32 elements, with their gradients, in fp32. Knows no product.
#pragma once

#include "blocks.h"

namespace block {

// A row whose pieces of 32 elements are `step` apart; a null row is left out.
template <class T> struct Row {
  T *first = nullptr;
  long step = SIDE;
  T *operator[](long piece) const { return first + piece * step; }
  explicit operator bool() const { return first != nullptr; }
  operator Row<const T>() const { return {first, step}; }
};
using In = Row<const Element>;
using Out = Row<Element>;

// A row of a dense matrix, which may be null, and of one in blocks.
template <class T> inline Row<T> dense_row(T *m, long row, long width) {
  return m ? Row<T>{m + row * width, SIDE} : Row<T>{};
}
inline In block_row(const Element *m, long row, long width) { return {m + row_offset(row, width), BLOCK_SIZE}; }
inline Out block_row(Element *m, long row, long width) { return {m + row_offset(row, width), BLOCK_SIZE}; }

// A row of the dropout mask; a null mask keeps all.
struct Mask {
  const uint32_t *bits = nullptr;
  float scale = 1; // of what is kept: 1 / (1 - p)
  Vec32 operator[](long piece) const { return masked(bits[piece], scale); }
  explicit operator bool() const { return bits != nullptr; }
};

template <class X> inline void copy(Row<X> from, Out to, long width) {
  for (long p = 0; p < width / SIDE; p++) store(to[p], load(from[p]));
}
inline void clear(Out to, long width) {
  for (long p = 0; p < width / SIDE; p++) store(to[p], broadcast32(0));
}
inline void apply_mask(In x, Mask mask, Out to, long width) {
  for (long p = 0; p < width / SIDE; p++) store(to[p], mask ? load(x[p]) * mask[p] : load(x[p]));
}

template <class X> inline float inverse_rms(Row<X> x, long width, float eps) {
  Vec32 squares = broadcast32(0);
  for (long p = 0; p < width / SIDE; p++) {
    Vec32 each = load(x[p]);
    squares = squares + each * each;
  }
  return 1.0f / std::sqrt(reduce_add(squares) / float(width) + eps);
}

// y = the RMS norm of x (arXiv 1910.07467); dropped = y under the mask. Either may be null.
template <class X>
inline void norm(Row<X> x, long width, const float *weight, float eps, Mask mask, Out y, Out dropped) {
  float inverse = inverse_rms(x, width, eps);
  for (long p = 0; p < width / SIDE; p++) {
    Vec32 each = load(x[p]) * inverse * load(weight + p * SIDE);
    if (y) store(y[p], each);
    if (dropped) store(dropped[p], mask ? each * mask[p] : each);
  }
}

// dx = the gradient of x, from dy of its norm, plus `residual`; `dropped` is recomputed. With r = 1 / rms(x):
// dx = r w dy - r^3 x (x . w dy) / width.
template <class X, class D, class B, class T>
inline void norm_gradient(Row<X> x, Row<D> dy, long width, const float *weight, float eps, Mask mask, Out dropped,
                          Row<B> residual, Row<T> dx) {
  float inverse = inverse_rms(x, width, eps);
  Vec32 dot = broadcast32(0);
  for (long p = 0; p < width / SIDE; p++) dot = dot + load(x[p]) * load(dy[p]) * load(weight + p * SIDE);
  float along_x = reduce_add(dot) * inverse * inverse * inverse / float(width);
  for (long p = 0; p < width / SIDE; p++) {
    Vec32 each = load(x[p]), w = load(weight + p * SIDE);
    if (dropped) {
      Vec32 y = each * inverse * w;
      store(dropped[p], mask ? y * mask[p] : y);
    }
    if (dx) {
      Vec32 d = load(dy[p]) * w * inverse - each * along_x;
      store(dx[p], residual ? d + load(residual[p]) : d);
    }
  }
}

// e^x, as accurate as the dtype it is stored in.
inline Vec exp(Vec x) { return vectors::exp2<FP32>(x * broadcast(LOG2_E)); }
inline Vec32 exp(Vec32 x) { return {exp(x.low), exp(x.high)}; }

inline Vec sigmoid(Vec x) {
  Vec sum = broadcast(1) + exp(zero() - x);
  return FP32 ? broadcast(1) / sum : vectors::reciprocal(sum);
}
inline Vec32 sigmoid(Vec32 x) { return {sigmoid(x.low), sigmoid(x.high)}; }

} // namespace block
