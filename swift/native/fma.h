// Products of fp32 rows with panels, for processors that multiply no bf16. Knows no model.
//
// A panel of fp32 is (inputs, 32 columns); one of bf16 is as in tiles.h, and its numbers are widened when they are
// multiplied. Sums are made in one order, however many rows go through together.
#pragma once

#include <memory>
#include <new>

#include "vectors.h"

namespace floats {

using vectors::bf16;
using vectors::Vec;

constexpr int MOST = vectors::AVX512 ? 8 : 6; // rows whose sums stay in registers

// How many of so many rows go through together.
inline int group(long rows) {
  const long groups = (rows + MOST - 1) / MOST;
  return int((rows + groups - 1) / groups);
}

// Halves of a panel that so many rows go through at once, so that there are sums enough to wait for each other.
constexpr int halves(int rows) { return vectors::AVX512 || rows <= 2 ? 2 : 1; }

// One of a pair of inputs, of 16 columns.
inline Vec input(const bf16 *panel, int pair, bool second, int half) {
  const bf16 *at = panel + half * 512 + pair * 32;
  return second ? vectors::odd(at) : vectors::even(at);
}
inline Vec input(const float *panel, int pair, bool second, int half) {
  return vectors::load(panel + (pair * 2 + second) * 32 + half * 16);
}

// What is fetched while a panel is multiplied: what lies `by` elements further on. Where it goes through several times,
// each of the first `times` (a power of two) fetches a part of it, so that memory is not waited for in one of them.
struct Ahead {
  long by;
  int times, time = 0;
  Ahead(long by, long most) : by(by), times(most < 2 ? 1 : most < 4 ? 2 : 4) {}
};

// R rows x H halves of a panel. Rows are `lda` apart, their pieces of 32 inputs `deep`, the panel's `stride`. Of the
// last depth only `last` pairs of inputs are not zero. Rows that are GATHERED lie as a part of `Gathered` does.
template <int R, int H, bool GATHERED = false, class B>
inline void some(const float *a, long lda, long deep, const B *panel, long stride, int depths, int half, float *sum,
                 long lds, bool more, Ahead ahead, int last) {
  Vec sums[R][H];
  const long by = ahead.by;
  const int mask = ahead.times - 1;
  constexpr bool ONCE = !GATHERED && R <= 2; // of few rows there is one group
#pragma GCC unroll 8
  for (int r = 0; r < R; r++)
#pragma GCC unroll 8
    for (int h = 0; h < H; h++)
      sums[r][h] = more ? vectors::load(sum + r * lds + (half + h) * 16) : vectors::zero();
  for (int d = 0; d < depths; d++, a += GATHERED ? 32 * R : deep, panel += stride)
    for (int which = 0; which < (d + 1 < depths ? 16 : last); which++) {
      if (by && (ONCE || (which & mask) == ahead.time))
        for (int line = 0; line < int(64 * sizeof(B)); line += 64)
          _mm_prefetch((const char *)(panel + by + which * 64) + line, GATHERED ? _MM_HINT_T1 : _MM_HINT_T0);
#pragma GCC unroll 8
      for (int odd = 0; odd < 2; odd++) {
        Vec of[H];
#pragma GCC unroll 8
        for (int h = 0; h < H; h++) {
          of[h] = input(panel, which, odd, half + h);
          vectors::hold(of[h]); // GCC would load it anew for every row
        }
#pragma GCC unroll 8
        for (int r = 0; r < R; r++) {
          const Vec x = vectors::every(GATHERED ? a[(which * 2 + odd) * R + r] : a[r * lda + which * 2 + odd]);
#pragma GCC unroll 8
          for (int h = 0; h < H; h++)
            sums[r][h] = vectors::fma(x, of[h], sums[r][h]);
        }
      }
    }
#pragma GCC unroll 8
  for (int r = 0; r < R; r++)
#pragma GCC unroll 8
    for (int h = 0; h < H; h++)
      vectors::store(sum + r * lds + (half + h) * 16, sums[r][h]);
}

// sum (R, 32) = a (R, 32 x depths) x panel, or that added to it.
template <int R, class B>
inline void rows(const float *a, long lda, long deep, const B *panel, long stride, int depths, float *sum, long lds,
                 bool more, Ahead ahead, int last) {
  constexpr int H = halves(R);
  for (int half = 0; half < 2; half += H, ahead.time++)
    some<R, H>(a, lda, deep, panel, stride, depths, half, sum, lds, more, ahead, last);
}

template <class B, int R = MOST> inline auto rows_of(int count) {
  if constexpr (R > 1)
    if (count < R)
      return rows_of<B, R - 1>(count);
  return rows<R, B>;
}

// The same for any number of rows. Memory `ahead` elements further on is fetched, or where panels go through several
// times the next one.
template <class B>
inline void multiply(int count, const float *a, long lda, long deep, const B *panel, long stride, int depths,
                     float *sum, long lds, bool more, long ahead = 0, int last = 16) {
  const int each = 2 / halves(count), times = (count + MOST - 1) / MOST * each;
  Ahead next(ahead && times > 1 ? depths * stride : ahead, times);
  for (int some; count; count -= some) {
    some = group(count);
    rows_of<B>(some)(a, lda, deep, panel, stride, depths, sum, lds, more, next, last);
    a += some * lda, sum += some * lds, next.time += each;
  }
}

// Many rows, laid out as they are multiplied: in groups, and of a group the numbers of all its rows beside each other,
// input by input. Half a panel goes to all groups, so that it stays in the nearest cache, where they come by one behind
// the other; so few depths at a time that both fit. A thread has one such matrix at a time.
class Gathered {
public:
  // piece(row, depth) is where 32 inputs of a row lie.
  template <class Piece> Gathered(long rows, int depths, Piece piece) : rows_(rows), depths_(depths) {
    const int parts = (depths + DEPTHS - 1) / DEPTHS;
    deep_ = (depths + parts - 1) / parts;
    data_ = room(rows * depths * 32 + 8);
    float *to = data_;
    for (int from = 0; from < depths; from += deep_)
      for (long row = 0, some; row < rows; row += some) {
        some = group(rows - row);
        for (int d = from; d < std::min(depths, from + deep_); d++)
          for (int input = 0; input < 32; input += 8, to += 8 * some) {
            __m256 of[8];
            for (int r = 0; r < 8; r++)
              of[r] = r < some ? _mm256_loadu_ps(piece(row + r, d) + input) : _mm256_setzero_ps();
            vectors::transpose(of);
            for (int i = 0; i < 8; i++)
              _mm256_storeu_ps(to + i * some, of[i]); // what is too much is written over by the next
          }
      }
  }

  long rows() const { return rows_; }

  // sum (rows, 32) = the rows x panel. `next`: what is multiplied next, which is fetched; or null.
  template <class B> void multiply(const B *panel, long stride, const B *next, float *sum) const {
    for (int from = 0; from < depths_; from += deep_, panel += deep_ * stride) {
      const int depths = std::min(deep_, depths_ - from);
      const float *a = data_ + from * rows_ * 32;
      const B *then = from + depths < depths_ ? panel + depths * stride : next;
      Ahead ahead(then ? then - panel : 0, (rows_ + MOST - 1) / MOST * (2 / HALVES));
      for (int half = 0; half < 2; half += HALVES)
        for (long row = 0, some; row < rows_; row += some, ahead.time++) {
          some = group(rows_ - row);
          some_of<B>(int(some))(a + row * depths * 32, 0, 0, panel, stride, depths, half, sum + row * 32, 32, from > 0,
                                ahead, 16);
        }
    }
  }

private:
  static constexpr int DEPTHS = 16, HALVES = vectors::AVX512 ? 2 : 1;

  template <class B, int R = MOST> static auto some_of(int count) {
    if constexpr (R > 1)
      if (count < R)
        return some_of<B, R - 1>(count);
    return some<R, HALVES, true, B>;
  }

  // A thread's memory, as much as it has needed so far.
  static float *room(long numbers) {
    struct Delete {
      void operator()(float *data) { ::operator delete[](data, std::align_val_t(64)); }
    };
    static thread_local std::unique_ptr<float[], Delete> data;
    static thread_local long size = 0;
    if (numbers > size) {
      data.reset(static_cast<float *>(::operator new[](numbers * sizeof(float), std::align_val_t(64))));
      size = numbers;
    }
    return data.get();
  }

  float *data_;
  long rows_;
  int depths_, deep_;
};

} // namespace floats
