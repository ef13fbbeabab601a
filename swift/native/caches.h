// Sizes of the processor's data caches. Knows no model.
#pragma once

#include <unistd.h>

namespace caches {

// Bytes of a core's cache; the fallback where the C library does not know it, as in some containers.
inline long bytes_of(int name, long fallback) {
  const long bytes = sysconf(name);
  return bytes > 0 ? bytes : fallback;
}
inline long l1_bytes() {
  static const long bytes = bytes_of(_SC_LEVEL1_DCACHE_SIZE, 32 << 10);
  return bytes;
}
inline long l2_bytes() {
  static const long bytes = bytes_of(_SC_LEVEL2_CACHE_SIZE, 512 << 10);
  return bytes;
}

} // namespace caches
