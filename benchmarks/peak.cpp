// The peak rate of a processor: multiply-adds from registers, without waiting for memory.
#include <omp.h>

#include "tiles.h"

namespace {

constexpr int SUMS = vectors::AVX512 ? 16 : 6; // independent sums that fit into registers

double of_vectors(int64_t rounds) {
  vectors::Vec sums[SUMS], x = vectors::broadcast(1.0f), y = vectors::broadcast(1e-9f);
  for (auto &sum : sums) sum = vectors::zero();
  for (int64_t i = 0; i < rounds; i++) {
    vectors::keep_in_register(x); // or the compiler hoists it out of the loop
#pragma GCC unroll 16
    for (int s = 0; s < SUMS; s++) sums[s] = vectors::fma(x, y, sums[s]);
  }
  float total = 0;
  for (auto &sum : sums) total += vectors::reduce_add(sum);
  return total;
}

#if defined(__AMX_BF16__)
double of_bf16(int64_t rounds) {
  alignas(64) float out[256];
  tiles::configure();
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  _tile_zero(4);
  _tile_zero(5);
  _tile_zero(6);
  _tile_zero(7);
  for (int64_t i = 0; i < rounds; i++) {
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
  }
  _tile_stored(0, out, 64);
  tiles::release();
  return out[0];
}
constexpr double BF16_ROUND = 4.0 * 16 * 16 * 32 * 2;
#elif defined(__AVX512BF16__)
double of_bf16(int64_t rounds) {
  __m512 sums[SUMS];
  __m512bh x = (__m512bh)_mm512_set1_epi32(0x3f803f80), y = (__m512bh)_mm512_set1_epi32(0x30003000);
  for (auto &sum : sums) sum = _mm512_setzero_ps();
  for (int64_t i = 0; i < rounds; i++) {
    asm("" : "+v"(x));
#pragma GCC unroll 16
    for (int s = 0; s < SUMS; s++) sums[s] = _mm512_dpbf16_ps(sums[s], x, y);
  }
  float total = 0;
  for (auto &sum : sums) total += _mm512_reduce_add_ps(sum);
  return total;
}
constexpr double BF16_ROUND = SUMS * 32 * 2.0;
#else
constexpr auto of_bf16 = of_vectors; // bf16 is widened to fp32
constexpr double BF16_ROUND = SUMS * vectors::LANES * 2.0;
#endif
constexpr double FP32_ROUND = SUMS * vectors::LANES * 2.0;

template <class Of> double rate(Of of, double each, int64_t threads) {
  constexpr int64_t ROUNDS = 4 << 20;
  double sum = 0, best = 0;
  tiles::request_tiles();
  for (int turn = 0; turn < 5; turn++) {
    const double began = omp_get_wtime();
#pragma omp parallel num_threads(int(threads)) reduction(+ : sum)
    sum += of(ROUNDS);
    best = std::max(best, each * ROUNDS * double(threads) / (omp_get_wtime() - began));
  }
  return sum == 1 ? 0 : best;
}

} // namespace

extern "C" {

// Operations per second of so many threads; a multiply-add counts as two.
double peak_bf16(int64_t threads) { return rate(of_bf16, BF16_ROUND, threads); }
double peak_fp32(int64_t threads) { return rate(of_vectors, FP32_ROUND, threads); }
}
