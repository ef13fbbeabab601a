// Matrices in blocks of 32 x 32 elements, and vectors of 32 numbers. Knows no product and no model.
//
// A matrix in blocks is (rows / 32, columns / 32, planes, 32, 32): what a tile reads lies in one piece, whatever the
// width. Rows are padded to whole blocks; what the padding holds is arbitrary.
//
// The element type depends on the processor. With bf16 (AMX, AVX-512 BF16) a number of fp32 is the exact sum of three
// of bf16 (8 + 8 + 8 bits of 24; arXiv 1904.06376), each in a plane of its own: a product with a weight that bf16
// holds, as published ones are, takes three products of bf16, one with another fp32 number takes six (three more would
// add less than fp32's last bit). That pays with tiles alone; elsewhere blocks are of fp32, and so is what bf16 weights
// are widened to.
#pragma once

#include <algorithm>
#include <type_traits>

#include "memory.h"
#include "tiles.h"

#ifndef FP32
#define FP32 0 // whether the model's dtype is fp32 rather than bf16
#endif

namespace block {

using memory::Arena;
using vectors::any_greater;
using vectors::bf16;
using vectors::broadcast;
using vectors::LANES;
using vectors::LOG2_E;
using vectors::reduce_max;
using vectors::select;
using vectors::to_float;
using vectors::Vec;
using vectors::zero;

using Scalar = std::conditional_t<FP32, float, bf16>;                               // of the model's tensors
using Element = std::conditional_t<FP32 && !tiles::HAS_AMX, float, tiles::Element>; // of blocks

constexpr bool FP32_BLOCKS = std::is_same_v<Element, float>;
constexpr int PLANES = FP32 && !FP32_BLOCKS ? 3 : 1;
constexpr int BF16_PER_NUMBER = sizeof(Element) / sizeof(bf16) * PLANES; // memory of a number in blocks

constexpr int SIDE = 32;
constexpr int HALF = SIDE / 2;
constexpr int PLANE_SIZE = SIDE * SIDE;            // elements
constexpr int BLOCK_SIZE = PLANE_SIZE * PLANES;    // elements
constexpr int TILE = PLANE_SIZE / 2;               // elements of bf16 of a tile
constexpr int PAIR_STRIDE = FP32_BLOCKS ? 64 : 32; // elements of a panel from a pair of inputs to the next

inline long blocks(long rows) { return (rows + SIDE - 1) / SIDE; }
inline long padded(long rows) { return blocks(rows) * SIDE; }

// The size of equal parts of `count`, none larger than `most`.
inline long part_size(long count, long most) {
  const long parts = (count + most - 1) / most;
  return (count + parts - 1) / parts;
}

// Where a row begins; its pieces of 32 elements are BLOCK_SIZE apart, in a matrix of fp32 sums (1 plane) PLANE_SIZE.
inline long row_offset(long row, long width, long planes = PLANES) {
  return row / SIDE * SIDE * width * planes + row % SIDE * SIDE;
}

// Memory for a matrix in blocks.
inline Element *take_blocks(Arena &arena, long rows, long width) { return arena.take<Element>(rows * width * PLANES); }

// 32 numbers of fp32.
struct Vec32 {
  Vec low, high;
};
inline Vec32 load(const float *x) { return {vectors::load(x), vectors::load(x + LANES)}; }
inline void store(float *to, Vec32 x) {
  vectors::store(to, x.low);
  vectors::store(to + LANES, x.high);
}
inline Vec32 broadcast32(float x) { return {broadcast(x), broadcast(x)}; }
inline Vec32 operator*(Vec32 x, Vec32 y) { return {x.low * y.low, x.high * y.high}; }
inline Vec32 operator+(Vec32 x, Vec32 y) { return {x.low + y.low, x.high + y.high}; }
inline Vec32 operator-(Vec32 x, Vec32 y) { return {x.low - y.low, x.high - y.high}; }
inline Vec32 operator*(Vec32 x, float y) { return x * broadcast32(y); }
inline Vec32 load(const bf16 *x) { // the sum of all planes
  Vec32 sum{to_float(x + (PLANES - 1) * PLANE_SIZE), to_float(x + (PLANES - 1) * PLANE_SIZE + LANES)};
  for (int plane = PLANES - 2; plane >= 0; plane--)
    sum = sum + Vec32{to_float(x + plane * PLANE_SIZE), to_float(x + plane * PLANE_SIZE + LANES)};
  return sum;
}
inline Vec32 max(Vec32 x, Vec32 y) { return {vectors::max(x.low, y.low), vectors::max(x.high, y.high)}; }
inline float reduce_add(Vec32 x) { return vectors::reduce_add(x.low + x.high); }

// 32 numbers of bf16.
#if defined(__AVX512F__)
struct Bf16x32 {
  __m512i all;
};
inline Bf16x32 load_bf16(const bf16 *x) { return {_mm512_loadu_si512(x)}; }
inline void store_bf16(bf16 *to, Bf16x32 x) { _mm512_storeu_si512(to, x.all); }
inline Bf16x32 zero_bf16() { return {_mm512_setzero_si512()}; }
// Two rows as a pair of inputs: 16 columns of the first tile, and of the second.
inline void interleave(bf16 *to, Bf16x32 row0, Bf16x32 row1) {
  const __m512i low = _mm512_set_epi16(47, 15, 46, 14, 45, 13, 44, 12, 43, 11, 42, 10, 41, 9, 40, 8, 39, 7, 38, 6, 37,
                                       5, 36, 4, 35, 3, 34, 2, 33, 1, 32, 0);
  const __m512i high = _mm512_add_epi16(low, _mm512_set1_epi16(HALF));
  _mm512_storeu_si512(to, _mm512_permutex2var_epi16(row0.all, low, row1.all));
  _mm512_storeu_si512(to + TILE, _mm512_permutex2var_epi16(row0.all, high, row1.all));
}
#else
struct Bf16x32 {
  __m256i low, high;
};
inline Bf16x32 load_bf16(const bf16 *x) {
  return {_mm256_loadu_si256((const __m256i *)x), _mm256_loadu_si256((const __m256i *)(x + HALF))};
}
inline void store_bf16(bf16 *to, Bf16x32 x) {
  _mm256_storeu_si256((__m256i *)to, x.low), _mm256_storeu_si256((__m256i *)(to + HALF), x.high);
}
inline Bf16x32 zero_bf16() { return {_mm256_setzero_si256(), _mm256_setzero_si256()}; }
inline void interleave(bf16 *to, __m256i row0, __m256i row1) {
  const __m256i first = _mm256_unpacklo_epi16(row0, row1), second = _mm256_unpackhi_epi16(row0, row1);
  store_bf16(to, {_mm256_permute2x128_si256(first, second, 0x20), _mm256_permute2x128_si256(first, second, 0x31)});
}
inline void interleave(bf16 *to, Bf16x32 row0, Bf16x32 row1) {
  interleave(to, row0.low, row1.low), interleave(to + TILE, row0.high, row1.high);
}
#endif

// x where a bit is set, the lowest first; zero elsewhere.
#if defined(__AVX512F__)
inline Vec32 masked(uint32_t bits, float x) {
  return {{_mm512_maskz_mov_ps(__mmask16(bits), _mm512_set1_ps(x))},
          {_mm512_maskz_mov_ps(__mmask16(bits >> 16), _mm512_set1_ps(x))}};
}
#else
inline __m256 masked8(uint32_t bits, float x) {
  const __m256i each = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
  const __m256i set = _mm256_and_si256(_mm256_set1_epi32(int(bits)), each);
  return _mm256_and_ps(_mm256_castsi256_ps(_mm256_cmpeq_epi32(set, each)), _mm256_set1_ps(x));
}
inline Vec32 masked(uint32_t bits, float x) {
  return {{masked8(bits, x), masked8(bits >> 8, x)}, {masked8(bits >> 16, x), masked8(bits >> 24, x)}};
}
#endif

// 32 numbers rounded to bf16, and back.
#if defined(__AVX512BF16__)
inline Bf16x32 to_bf16(Vec32 x) { return {(__m512i)_mm512_cvtne2ps_pbh(x.high.all, x.low.all)}; }
inline Vec32 to_float(Bf16x32 x) {
  const __m512i low = _mm512_cvtepu16_epi32(_mm512_castsi512_si256(x.all));
  const __m512i high = _mm512_cvtepu16_epi32(_mm512_extracti64x4_epi64(x.all, 1));
  return {{_mm512_castsi512_ps(_mm512_slli_epi32(low, 16))}, {_mm512_castsi512_ps(_mm512_slli_epi32(high, 16))}};
}
#elif defined(__AVX512F__)
inline Bf16x32 to_bf16(Vec32 x) {
  return {_mm512_inserti64x4(_mm512_castsi256_si512(vectors::to_bf16(x.low)), vectors::to_bf16(x.high), 1)};
}
#else
inline Bf16x32 to_bf16(Vec32 x) { return {vectors::to_bf16(x.low), vectors::to_bf16(x.high)}; }
#endif

// 32 numbers as blocks hold them: planes of bf16, or fp32.
struct Planes {
  Bf16x32 plane[PLANES];
};
using Split = std::conditional_t<FP32_BLOCKS, Vec32, Planes>;

inline void store(bf16 *to, const Planes &x) {
  for (int plane = 0; plane < PLANES; plane++) store_bf16(to + plane * PLANE_SIZE, x.plane[plane]);
}
inline void interleave(bf16 *to, const Planes &row0, const Planes &row1) {
  for (int plane = 0; plane < PLANES; plane++)
    interleave(to + plane * PLANE_SIZE, row0.plane[plane], row1.plane[plane]);
}
inline void interleave(float *to, Vec32 row0, Vec32 row1) { store(to, row0), store(to + SIDE, row1); }

#if defined(__AVX512BF16__)
inline Planes to_planes(Vec32 x) {
  Planes made;
  for (int plane = 0;; plane++) {
    made.plane[plane] = to_bf16(x);
    if (plane + 1 == PLANES) return made;
    x = x - to_float(made.plane[plane]);
  }
}
#else
inline Planes to_planes(Vec32 x) { return {{to_bf16(x)}}; }
#endif

inline Vec32 split(Vec32 x, float *) { return x; }
inline Planes split(Vec32 x, bf16 *) { return to_planes(x); }
inline Split split(Vec32 x) { return split(x, (Element *)nullptr); }
inline void store(bf16 *to, Vec32 x) { store(to, to_planes(x)); }

// Stores that bypass the caches, for what is read much later.
inline void stream(float *to, Vec32 x) { vectors::stream(to, x.low), vectors::stream(to + LANES, x.high); }
#if defined(__AVX512BF16__)
inline void stream(bf16 *to, Vec32 x) {
  const Planes made = to_planes(x);
  for (int plane = 0; plane < PLANES; plane++)
    _mm512_stream_si512((__m512i *)(to + plane * PLANE_SIZE), made.plane[plane].all);
}
#endif

} // namespace block
