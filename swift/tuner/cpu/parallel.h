// One parallel region that reserves its threads' memory before any of them works. Knows no work.
#pragma once

#include <omp.h>

#include <atomic>
#include <new>

#include "abi.h"
#include "tiles.h"

namespace block {

// Calls work() in so many threads, with tiles configured, after reserve() has succeeded in all of them. Throws
// std::bad_alloc where it has not, and abi::InvalidArgument where the system does not start the threads. work() may
// share its loops by `omp for` and must not throw.
template <class Reserve, class Work> void in_parallel(int64_t threads, const Reserve &reserve, const Work &work) {
  abi::require_threads(threads);
  std::atomic<bool> failed{false};
#pragma omp parallel num_threads(int(threads))
  {
    try {
      reserve();
    } catch (const std::bad_alloc &) {
      failed = true;
    }
#pragma omp barrier
    if (!failed) {
      tiles::configure();
      work();
      tiles::release();
    }
  }
  if (failed) throw std::bad_alloc();
}

constexpr int64_t PAGE = 4096; // bytes; threads' parts of a piece of memory begin on one

inline int64_t whole_pages(int64_t bytes) { return (bytes + PAGE - 1) / PAGE * PAGE; }

} // namespace block
