// The border to Python: sizes of structures, status codes and error texts. Knows no model.
//
// Structures are plain data, mirrored by ctypes.Structure field by field; a library tells their sizes in `structures`,
// which Python compares when it loads the library. Functions that can fail return a Status and never throw: their body
// runs in `guarded`. No exception crosses the border or an OpenMP region, and nothing here ends the process.
#pragma once

#include <pthread.h>

#include <cstdarg>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <new>
#include <vector>

namespace abi {

enum Status : int { OK = 0, OUT_OF_MEMORY = 1, INVALID_ARGUMENT = 2, FAILED = 3 };

struct Structure {
  const char *name;
  int64_t size, last_offset; // bytes; last_offset: of the last field
};
#define ABI_STRUCTURE(TYPE, LAST) {#TYPE, int64_t(sizeof(TYPE)), int64_t(offsetof(TYPE, LAST))}

// The text of the last failure in this thread.
inline char *error_text() {
  static thread_local char text[256] = "";
  return text;
}
constexpr size_t ERROR_SIZE = 256;

struct InvalidArgument : std::exception {};

// Throws InvalidArgument with a text as of printf where the condition does not hold.
__attribute__((format(printf, 2, 3))) inline void require(bool holds, const char *text, ...) {
  if (holds) return;
  va_list values;
  va_start(values, text);
  std::vsnprintf(error_text(), ERROR_SIZE, text, values);
  va_end(values);
  throw InvalidArgument();
}

// Runs a body that may throw; what it throws becomes a status and a text.
template <class Body> int guarded(const Body &body) noexcept {
  try {
    body();
    return OK;
  } catch (const InvalidArgument &) {
    return INVALID_ARGUMENT; // `require` has written the text
  } catch (const std::bad_alloc &) {
    std::snprintf(error_text(), ERROR_SIZE, "out of memory");
    return OUT_OF_MEMORY;
  } catch (const std::exception &error) {
    std::snprintf(error_text(), ERROR_SIZE, "%s", error.what());
    return FAILED;
  }
}

constexpr int64_t MAX_THREADS = 4096;

// Throws where the system does not start so many threads. OpenMP ends the process in that case, so they are started
// here first, once for each calling thread, whose team OpenMP keeps.
inline void require_threads(int64_t threads) {
  static thread_local int64_t started = 1;
  require(threads >= 1 && threads <= MAX_THREADS, "%ld threads: it is 1 to %ld", long(threads), long(MAX_THREADS));
  if (threads <= started) return;
  std::vector<pthread_t> team;
  team.reserve(threads);
  pthread_mutex_t gate = PTHREAD_MUTEX_INITIALIZER; // holds all of them until the last is started
  const auto wait = [](void *mutex) -> void * {
    pthread_mutex_lock(static_cast<pthread_mutex_t *>(mutex));
    pthread_mutex_unlock(static_cast<pthread_mutex_t *>(mutex));
    return nullptr;
  };
  pthread_mutex_lock(&gate);
  pthread_t thread;
  while (int64_t(team.size()) + 1 < threads && !pthread_create(&thread, nullptr, wait, &gate)) team.push_back(thread);
  pthread_mutex_unlock(&gate);
  for (pthread_t each : team) pthread_join(each, nullptr);
  require(int64_t(team.size()) + 1 == threads, "the system starts %ld of %ld threads", long(team.size()) + 1,
          long(threads));
  started = threads;
}

} // namespace abi
