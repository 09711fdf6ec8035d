// Large buffers: uninitialised, so that pages are first touched by the threads that work on them, and on huge pages.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>
#include <string>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace loginmea {

// Asks for huge pages under memory that nobody has touched yet. Faulting in 100 MB costs 25,000 page faults otherwise,
// and rows picked at random miss the translation buffer as often as the cache. A hint: without effect where it cannot
// be taken.
inline void prefer_huge_pages(void* data, std::int64_t bytes) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  constexpr std::uintptr_t kHuge = std::uintptr_t{1} << 21;
  const auto address = reinterpret_cast<std::uintptr_t>(data);
  const std::uintptr_t begin = (address + kHuge - 1) & ~(kHuge - 1), end = (address + bytes) & ~(kHuge - 1);
  if (begin < end) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#else
  (void)data, (void)bytes;
#endif
}

// A workspace that the machine does not have; arrives in Python as MemoryError.
class OutOfMemory : public std::bad_alloc {
 public:
  explicit OutOfMemory(std::int64_t bytes)
      : message_("no memory for a workspace of " + std::to_string(bytes) +
                 " bytes; take fewer rows or a smaller width") {}
  const char* what() const noexcept override { return message_.c_str(); }

 private:
  std::string message_;
};

// Bytes that begin at a cache line, on huge pages where they are many. An exception must not leave a parallel region,
// where it would end the process: workspaces are made in front of it, those of threads by PerThread.
inline void* allocate(std::int64_t bytes) {
  void* data = ::operator new(static_cast<std::size_t>(bytes), std::align_val_t{64}, std::nothrow);
  if (data == nullptr) throw OutOfMemory(bytes);
  prefer_huge_pages(data, bytes);
  return data;
}

struct FreeAligned {
  void operator()(void* data) const { ::operator delete(data, std::align_val_t{64}); }
};
template <class T>
using Scratch = std::unique_ptr<T[], FreeAligned>;

template <class T>
Scratch<T> scratch(std::int64_t count) {
  return Scratch<T>(static_cast<T*>(allocate(std::max<std::int64_t>(count, 1) * static_cast<std::int64_t>(sizeof(T)))));
}

// Row lengths that keep each row of a scratch table at a cache line.
template <class T>
std::int64_t padded(std::int64_t width) {
  constexpr std::int64_t kLine = 64 / sizeof(T);
  return (width + kLine - 1) / kLine * kLine;
}

// A workspace for each thread, whole cache lines apart.
template <class T>
class PerThread {
 public:
  PerThread(int threads, std::int64_t count) : pitch_(padded<T>(count)), data_(scratch<T>(threads * pitch_)) {}
  T* of(int thread) const { return &data_[thread * pitch_]; }

 private:
  std::int64_t pitch_;
  Scratch<T> data_;
};

}  // namespace loginmea
