// What a softmax does with a row of logits, or with a tile of them, while it lies in L1.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>

#include "cpu/elementwise.h"

namespace loginmea {

template <class A>
A maximum(const A* s, std::int64_t count) {
  A largest = -std::numeric_limits<A>::infinity();
#pragma omp simd reduction(max : largest)
  for (std::int64_t c = 0; c < count; ++c) {
    largest = largest < s[c] ? s[c] : largest;  // std::max, of whose references GCC makes no reduction
  }
  return largest;
}

// sum exp(s - largest)
template <class A>
A exponential_sum(const A* s, std::int64_t count, A largest) {
  A total = 0;
#pragma omp simd reduction(+ : total)
  for (std::int64_t c = 0; c < count; ++c) total += exponential(s[c] - largest);
  return total;
}

// e = exp(s - largest) in place of s; returns their sum, and where `moment` is not null, there sum e s.
template <class A>
A exponentiate(A* s, std::int64_t count, A largest, A* moment) {
  A total = 0, weighted = 0;
  if (moment == nullptr) {
#pragma omp simd reduction(+ : total)
    for (std::int64_t c = 0; c < count; ++c) total += s[c] = exponential(s[c] - largest);
    return total;
  }
#pragma omp simd reduction(+ : total, weighted)
  for (std::int64_t c = 0; c < count; ++c) {
    const A e = exponential(s[c] - largest);
    total += e, weighted += e * s[c];
    s[c] = e;
  }
  *moment = weighted;
  return total;
}

// Running maxima of columns, and sums of exponentials over them, with the rows of a tile at most `most` columns wide.
template <std::int64_t most, class A>
void add_to_columns(const A* tile, std::int64_t rows, std::int64_t stride, std::int64_t columns, A* largest, A* total) {
  A higher[most];
  std::copy_n(largest, columns, higher);
  for (std::int64_t r = 0; r < rows; ++r) {
    const A* s = tile + r * stride;
#pragma omp simd
    for (std::int64_t c = 0; c < columns; ++c) higher[c] = std::max(higher[c], s[c]);
  }
#pragma omp simd
  for (std::int64_t c = 0; c < columns; ++c) total[c] *= exponential(largest[c] - higher[c]);
  for (std::int64_t r = 0; r < rows; ++r) {
    const A* s = tile + r * stride;
#pragma omp simd
    for (std::int64_t c = 0; c < columns; ++c) total[c] += exponential(s[c] - higher[c]);
  }
  std::copy_n(higher, columns, largest);
}

// w = own exp(s - lse) + theirs exp(s - back) in place of s, the latter in the first `square` columns alone. `theirs`
// is a coefficient a column, or null where all are `own`; where `moment` is not null, it gets sum w s.
template <class A>
void weigh_both_ways(A* s, std::int64_t count, std::int64_t square, A lse, const A* back, A own, const A* theirs,
                     A* moment) {
  if (theirs == nullptr && moment == nullptr) {  // the plain loss, which has nothing to look up
#pragma omp simd
    for (std::int64_t c = 0; c < square; ++c) s[c] = own * (exponential(s[c] - lse) + exponential(s[c] - back[c]));
#pragma omp simd
    for (std::int64_t c = square; c < count; ++c) s[c] = own * exponential(s[c] - lse);
    return;
  }
  A sum = 0;
#pragma omp simd reduction(+ : sum)
  for (std::int64_t c = 0; c < square; ++c) {
    const A column = theirs == nullptr ? own : theirs[c];
    const A w = own * exponential(s[c] - lse) + column * exponential(s[c] - back[c]);
    sum += w * s[c];
    s[c] = w;
  }
#pragma omp simd reduction(+ : sum)
  for (std::int64_t c = square; c < count; ++c) {
    const A w = own * exponential(s[c] - lse);
    sum += w * s[c];
    s[c] = w;
  }
  if (moment != nullptr) *moment = sum;
}

}  // namespace loginmea
