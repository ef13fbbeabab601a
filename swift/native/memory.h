// Aligned memory: buffers that grow and are used again, and an arena that lays arrays out in one piece. Knows no model.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <memory>
#include <new>

namespace memory {

constexpr size_t ALIGNMENT = 64; // bytes: a cache line, and a store that bypasses the caches

// Throws std::bad_alloc. SWIFT_ALLOCATION_LIMIT: bytes from which on it always does, for tests.
inline void *allocate(size_t bytes) {
#if defined(SWIFT_ALLOCATION_LIMIT)
  if (bytes >= SWIFT_ALLOCATION_LIMIT) throw std::bad_alloc();
#endif
  return ::operator new[](bytes, std::align_val_t(ALIGNMENT));
}

template <class T> class Buffer {
public:
  // Makes sure of so many elements; what was there is lost when it grows. New memory is zero: the rows that fill up a
  // tile are multiplied too. Throws std::bad_alloc.
  T *reserve(size_t count) {
    if (count > size_) {
      size_ = 0;
      data_.reset(); // first, so that both are never held
      data_.reset(static_cast<T *>(allocate(count * sizeof(T))));
      std::memset(static_cast<void *>(data_.get()), 0, count * sizeof(T));
      size_ = count;
    }
    return data_.get();
  }
  T *data() const { return data_.get(); }
  size_t size() const { return size_; }

private:
  struct Delete {
    void operator()(T *data) { ::operator delete[](data, std::align_val_t(ALIGNMENT)); }
  };
  std::unique_ptr<T[], Delete> data_;
  size_t size_ = 0;
};

// Arrays one behind the other in memory that the caller owns. Without a base it only counts their bytes.
class Arena {
public:
  Arena() = default;
  explicit Arena(char *base) : base_(base) {}
  template <class T> T *take(int64_t count) {
    T *taken = base_ ? reinterpret_cast<T *>(base_ + used_) : nullptr;
    used_ += (count * sizeof(T) + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    return taken;
  }
  int64_t used() const { return int64_t(used_); } // bytes
  // What follows, from a multiple of so many bytes on.
  Arena rest() const { return base_ ? Arena(base_ + used_) : Arena(); }

private:
  char *base_ = nullptr;
  size_t used_ = 0;
};

} // namespace memory
