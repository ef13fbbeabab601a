// A barrier for the threads of one step, which come by it every few microseconds. Knows no model.
#pragma once

#include <immintrin.h>
#include <sched.h>

#include <atomic>

// OpenMP's threads sleep after a while at a barrier, and where other programs use the processor, waking up costs a time
// slice. These stay awake, but yield to other programs.
class SpinBarrier {
public:
  void reset(int threads) {
    threads_ = threads;
    arrived_ = 0;
  }
  void wait() {
    const unsigned round = round_.load(std::memory_order_relaxed);
    if (arrived_.fetch_add(1, std::memory_order_acq_rel) == threads_ - 1) {
      arrived_.store(0, std::memory_order_relaxed);
      round_.store(round + 1, std::memory_order_release);
      return;
    }
    for (int spins = 0; round_.load(std::memory_order_acquire) == round; spins++)
      spins < SPINS ? _mm_pause() : (void)sched_yield();
  }

private:
  static constexpr int SPINS = 4000; // before a thread yields
  int threads_ = 1;
  alignas(64) std::atomic<int> arrived_{0};
  alignas(64) std::atomic<unsigned> round_{0};
};
