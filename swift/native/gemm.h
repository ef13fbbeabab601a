// Products of rows with panels by vectors: of fp32 by FMA, and of bf16 where the processor multiplies that (AVX-512
// BF16). Knows no model.
//
// A panel of fp32 is (inputs, 32 columns); one of bf16 is as in tiles.h, and rows of fp32 widen its numbers when they
// are multiplied. Sums are fp32, made in one order, however many rows go through together.
//
// Sums of some rows stay in registers while a panel goes by (register blocking), so many depths of it at a time that it
// stays in the first-level cache, while rows come from the second (K. Goto, R. van de Geijn, Anatomy of
// High-Performance Matrix Multiplication, 2008).
#pragma once

#include <memory>
#include <new>
#include <type_traits>

#include "caches.h"
#include "vectors.h"

namespace gemm {

using vectors::bf16;
using vectors::Vec;

// Rows whose sums stay in registers: of 32 of AVX-512, 28 are sums, the others what is multiplied.
constexpr int MOST = vectors::AVX512 ? 14 : 6;

// How many of so many rows go through together.
inline int group(long rows) {
  const long groups = (rows + MOST - 1) / MOST;
  return int((rows + groups - 1) / groups);
}

// Halves of a panel that so many rows go through at once, so that there are sums enough to wait for each other.
constexpr int halves(int rows) { return vectors::AVX512 || rows <= 2 ? 2 : 1; }

// What one instruction multiplies: an input of fp32 with 16 columns, or a pair of bf16.
template <class A> struct Unit;

template <> struct Unit<float> {
  static constexpr int INPUTS = 1;
  static Vec every(const float *x) { return vectors::every(*x); }
  static Vec of(const bf16 *panel, int pair, int second, int half) {
    const bf16 *at = panel + half * 512 + pair * 32;
    return second ? vectors::odd(at) : vectors::even(at);
  }
  static Vec of(const float *panel, int pair, int second, int half) {
    return vectors::load(panel + (pair * 2 + second) * 32 + half * 16);
  }
  static Vec add(Vec x, Vec y, Vec sum) { return vectors::fma(x, y, sum); }
};

#if defined(__AVX512BF16__)
template <> struct Unit<bf16> {
  static constexpr int INPUTS = 2;
  static Vec every(const bf16 *x) {
    int32_t both;
    std::memcpy(&both, x, 4);
    return {_mm512_castsi512_ps(_mm512_set1_epi32(both))};
  }
  static Vec of(const bf16 *panel, int pair, int, int half) {
    return vectors::load((const float *)(panel + half * 512 + pair * 32));
  }
  static Vec add(Vec x, Vec y, Vec sum) {
    return {_mm512_dpbf16_ps(sum.all, (__m512bh)_mm512_castps_si512(x.all), (__m512bh)_mm512_castps_si512(y.all))};
  }
};
#endif

// What is fetched while a panel is multiplied: what lies `by` elements further on. Where it goes through several times,
// each of the first `times` (a power of two) fetches a part of it, so that memory is not waited for in one of them.
struct Ahead {
  long by;
  int times, time = 0;
  Ahead(long by, long most) : by(by), times(most < 2 ? 1 : most < 4 ? 2 : 4) {}
};

// R rows x H halves of a panel. Rows are `lda` apart, their pieces of 32 inputs `deep`, the panel's `stride`. Of the
// last depth only `last` pairs of inputs are not zero. Rows that are PACKED lie as a part of `Packed` does.
template <int R, int H, bool PACKED = false, class A, class B>
inline void some(const A *a, long lda, long deep, const B *panel, long stride, int depths, int half, float *sum,
                 long lds, bool more, Ahead ahead, int last) {
  using Unit = Unit<A>;
  Vec sums[R][H];
  const long by = ahead.by;
  const int mask = ahead.times - 1;
  constexpr bool ONCE = !PACKED && R <= 2; // of few rows there is one group
  // loops are unrolled by name: GCC keeps sums in memory where it does so by itself too late
#pragma GCC unroll 16
  for (int r = 0; r < R; r++)
#pragma GCC unroll 2
    for (int h = 0; h < H; h++) sums[r][h] = more ? vectors::load(sum + r * lds + (half + h) * 16) : vectors::zero();
  for (int d = 0; d < depths; d++, a += PACKED ? 32 * R : deep, panel += stride)
    for (int which = 0; which < (d + 1 < depths ? 16 : last); which++) {
      if (by && (ONCE || (which & mask) == ahead.time))
        for (int line = 0; line < int(64 * sizeof(B)); line += 64)
          _mm_prefetch((const char *)(panel + by + which * 64) + line, PACKED ? _MM_HINT_T1 : _MM_HINT_T0);
#pragma GCC unroll 2
      for (int second = 0; second < 2; second += Unit::INPUTS) {
        Vec of[H];
#pragma GCC unroll 2
        for (int h = 0; h < H; h++) {
          of[h] = Unit::of(panel, which, second, half + h);
          vectors::hold(of[h]); // GCC would load it anew for every row
        }
#pragma GCC unroll 16
        for (int r = 0; r < R; r++) {
          const int at = which * 2 + second;
          const Vec x = Unit::every(PACKED ? a + at * R + r * Unit::INPUTS : a + r * lda + at);
#pragma GCC unroll 2
          for (int h = 0; h < H; h++) sums[r][h] = Unit::add(x, of[h], sums[r][h]);
        }
      }
    }
#pragma GCC unroll 16
  for (int r = 0; r < R; r++)
#pragma GCC unroll 2
    for (int h = 0; h < H; h++) vectors::store(sum + r * lds + (half + h) * 16, sums[r][h]);
}

// sum (R, 32) = a (R, 32 x depths) x panel, or that added to it.
template <int R, class A, class B>
inline void rows(const A *a, long lda, long deep, const B *panel, long stride, int depths, float *sum, long lds,
                 bool more, Ahead ahead, int last) {
  constexpr int H = halves(R);
  for (int half = 0; half < 2; half += H, ahead.time++)
    some<R, H>(a, lda, deep, panel, stride, depths, half, sum, lds, more, ahead, last);
}

template <class A, class B, int R = MOST> inline auto rows_of(int count) {
  if constexpr (R > 1)
    if (count < R) return rows_of<A, B, R - 1>(count);
  return rows<R, A, B>;
}

// The same for any number of rows. Memory `ahead` elements further on is fetched, or where panels go through several
// times the next one.
template <class A, class B>
inline void multiply(int count, const A *a, long lda, long deep, const B *panel, long stride, int depths, float *sum,
                     long lds, bool more, long ahead = 0, int last = 16) {
  const int each = 2 / halves(count), times = (count + MOST - 1) / MOST * each;
  Ahead next(ahead && times > 1 ? depths * stride : ahead, times);
  for (int some; count; count -= some) {
    some = group(count);
    rows_of<A, B>(some)(a, lda, deep, panel, stride, depths, sum, lds, more, next, last);
    a += some * lda, sum += some * lds, next.time += each;
  }
}

// Many rows, laid out as they are multiplied: in groups, and of a group the numbers of all its rows beside each other,
// unit by unit. As much of a panel as stays in the nearest cache goes to all groups, which come by one behind the
// other. A thread has one such matrix at a time.
template <class A> class Packed {
public:
  // Rows of so many depths that stay in the second-level cache.
  static long fitting(int depths) {
    return std::max(caches::second() * 3 / 4 / (depths * 32 * long(sizeof(A))) / MOST, 4L) * MOST;
  }

  // piece(row, depth) is where 32 inputs of a row lie.
  template <class Piece> Packed(long rows, int depths, Piece piece) : rows_(rows), depths_(depths) {
    const int most = int(std::max(caches::first() * 7 / 8 / NEAR, 1L)), parts = (depths + most - 1) / most;
    deep_ = (depths + parts - 1) / parts;
    data_ = room(rows * depths * 32 + LINE * Unit<A>::INPUTS);
    A *to = data_;
    for (int from = 0; from < depths; from += deep_)
      for (long row = 0, some; row < rows; row += some) {
        some = group(rows - row);
        for (int d = from; d < std::min(depths, from + deep_); d++, to += some * 32)
          transposed(int(some), [&](int r) { return (const float *)piece(row + r, d); }, (float *)to);
      }
  }

  long rows() const { return rows_; }

  // sum (rows, 32) = the rows x panel. `next`: what is multiplied next, which is fetched; or null.
  template <class B> void multiply(const B *panel, long stride, const B *next, float *sum) const {
    for (int from = 0; from < depths_; from += deep_, panel += deep_ * stride) {
      const int depths = std::min(deep_, depths_ - from);
      const A *a = data_ + from * rows_ * 32;
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
  static constexpr int UNITS = 32 / Unit<A>::INPUTS, HALVES = vectors::AVX512 ? 2 : 1;
  static constexpr int LINE = vectors::AVX512 ? 16 : 8;               // units that are written at once
  static constexpr long NEAR = HALVES * 1024 + MOST * 32 * sizeof(A); // bytes of a depth in the nearest cache

  template <class B, int R = MOST> static auto some_of(int count) {
    if constexpr (R > 1)
      if (count < R) return some_of<B, R - 1>(count);
    return some<R, HALVES, true, A, B>;
  }

  // 32 inputs of each of so many rows, unit by unit. What is written too much the next write over.
  template <class Line> static void transposed(int count, Line line, float *to) {
    for (int unit = 0; unit < UNITS; unit += LINE, to += LINE * count) {
#if defined(__AVX512F__)
      Vec of[16];
      for (int r = 0; r < 16; r++) of[r] = r < count ? vectors::load(line(r) + unit) : vectors::zero();
      vectors::transpose(of);
      for (int i = 0; i < 16; i++) vectors::store(to + i * count, of[i]);
#else
      __m256 of[8];
      for (int r = 0; r < 8; r++) of[r] = r < count ? _mm256_loadu_ps(line(r) + unit) : _mm256_setzero_ps();
      vectors::transpose(of);
      for (int i = 0; i < 8; i++) _mm256_storeu_ps(to + i * count, of[i]);
#endif
    }
  }

  // A thread's memory, as much as it has needed so far.
  static A *room(long count) {
    struct Delete {
      void operator()(A *data) { ::operator delete[](data, std::align_val_t(64)); }
    };
    static thread_local std::unique_ptr<A[], Delete> data;
    static thread_local long size = 0;
    if (count > size) {
      data.reset(static_cast<A *>(::operator new[](count * sizeof(A), std::align_val_t(64))));
      size = count;
    }
    return data.get();
  }

  A *data_;
  long rows_;
  int depths_, deep_;
};

template <class Piece>
Packed(long, int, Piece) -> Packed<std::remove_cv_t<std::remove_pointer_t<std::invoke_result_t<Piece, long, int>>>>;

} // namespace gemm
