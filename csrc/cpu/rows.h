// What kernels do to single rows.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>

#include "lanes.h"

namespace loginmea {

enum class Use : int { read = 0, write = 1 };

// Asks for a row that is used a few rows later: hardware foresees the next line, but not the next row. Inlined by
// force: GCC takes a function that only prefetches for one without effect and drops the call.
template <Use use = Use::read, class T>
inline __attribute__((always_inline)) void prefetch_row(const T* row, std::int64_t width) {
#if defined(__GNUC__)
  const char* bytes = reinterpret_cast<const char*>(row);
  for (std::int64_t b = 0; b < width * static_cast<std::int64_t>(sizeof(T)); b += 64) {
    __builtin_prefetch(bytes + b, static_cast<int>(use));
  }
#else
  (void)row, (void)width;
#endif
}

template <class A, class T, class S>
inline A dot(const T* a, const S* b, std::int64_t width) {
  Lanes<A> sum{};
  over_row<A>(width, [&](std::int64_t c, auto part) { sum += load<A>(a + c, part) * load<A>(b + c, part); });
  return total<A>(sum);
}

// sum += factor * row
template <class A, class T>
inline void add_row(A factor, const T* row, A* sum, std::int64_t width) {
  over_row<A>(width, [&](std::int64_t c, auto part) {
    store(sum + c, load<A>(sum + c, part) + factor * load<A>(row + c, part), part);
  });
}

// Rows that are summed in one go; more would leave the registers.
constexpr int kClump = 8;

// Calls body with std::make_index_sequence<count>, so that the rows of a clump are summed without a loop.
template <class Body>
decltype(auto) with_count(int count, Body&& body) {
  switch (count) {
    case 1: return body(std::make_index_sequence<1>{});
    case 2: return body(std::make_index_sequence<2>{});
    case 3: return body(std::make_index_sequence<3>{});
    case 4: return body(std::make_index_sequence<4>{});
    case 5: return body(std::make_index_sequence<5>{});
    case 6: return body(std::make_index_sequence<6>{});
    case 7: return body(std::make_index_sequence<7>{});
    default: return body(std::make_index_sequence<kClump>{});
  }
}

// sum += sum_k weight_k row_k
template <class T, class A, std::size_t... k>
inline void add_rows(const T* const* row, const A* weight, A* sum, std::int64_t width, std::index_sequence<k...>) {
  const T* const rows[] = {row[k]...};
  const A weights[] = {weight[k]...};
  over_row<A>(width, [&](std::int64_t c, auto part) {
    store(sum + c, load<A>(sum + c, part) + (... + (weights[k] * load<A>(rows[k] + c, part))), part);
  });
}

// to = factor * row
template <class T, class A>
inline void store_row(A factor, const A* row, T* to, std::int64_t width) {
#pragma omp simd
  for (std::int64_t c = 0; c < width; ++c) to[c] = T(factor * row[c]);
}

}  // namespace loginmea
