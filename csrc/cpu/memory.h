// Large buffers: uninitialised, so that pages are first touched by the threads that work on them, and on huge pages.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>

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

struct FreeAligned {
  void operator()(void* data) const { ::operator delete(data, std::align_val_t{64}); }
};
template <class T>
using Scratch = std::unique_ptr<T[], FreeAligned>;

// Begins at a cache line.
template <class T>
Scratch<T> scratch(std::int64_t count) {
  const auto bytes = std::max<std::int64_t>(count, 1) * static_cast<std::int64_t>(sizeof(T));
  Scratch<T> data(static_cast<T*>(::operator new(static_cast<std::size_t>(bytes), std::align_val_t{64})));
  prefer_huge_pages(data.get(), bytes);
  return data;
}

// Row lengths that keep each row of a scratch table at a cache line.
template <class T>
std::int64_t padded(std::int64_t width) {
  constexpr std::int64_t kLine = 64 / sizeof(T);
  return (width + kLine - 1) / kLine * kLine;
}

}  // namespace loginmea
