// Sizes of the processor's data caches. Knows no model.
#pragma once

#include <unistd.h>

namespace caches {

// Bytes of the cache of a core; what is usual where the C library does not know, as in some containers.
inline long size(int name, long usual) {
  const long found = sysconf(name);
  return found > 0 ? found : usual;
}
inline long first() {
  static const long bytes = size(_SC_LEVEL1_DCACHE_SIZE, 32 << 10);
  return bytes;
}
inline long second() {
  static const long bytes = size(_SC_LEVEL2_CACHE_SIZE, 512 << 10);
  return bytes;
}

} // namespace caches
