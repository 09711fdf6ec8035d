// Rows as vectors: as many values as a register holds, whatever the processor.
//
//   Lanes<float> sum{};
//   over_row<float>(width, [&](std::int64_t c, auto part) { sum += load<float>(a + c, part) * load<float>(b + c, part);
//   }); float dot = total(sum);
//
// `part` says whether a whole register is meant or the first few lanes of one, at the end of a row; what a partial load
// leaves out is 0. Loops written like this keep their sums in registers, which compilers do not promise for reductions
// over many rows at once.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__)
#define LOGINMEA_MASKED_LANES 1
#endif

#include "common/dtype.h"
#include "cpu/intrinsics.h"

namespace loginmea {

#if defined(__AVX512F__)
constexpr int kRegisterBytes = 64;
#elif defined(__AVX__)
constexpr int kRegisterBytes = 32;
#else
constexpr int kRegisterBytes = 16;
#endif

template <class A>
constexpr int kLanes = kRegisterBytes / static_cast<int>(sizeof(A));

template <class A>
struct lanes {
  typedef A type __attribute__((vector_size(kRegisterBytes)));
};
template <class A>
using Lanes = typename lanes<A>::type;

struct Whole {};
struct First {
  int count;
};

// bfloat16 values, as many as floats in a register; float32 is the same bits moved up.
typedef std::uint16_t Halves __attribute__((vector_size(kRegisterBytes / 2)));

inline Lanes<float> widen(Halves halves) {
  typedef std::uint32_t Words __attribute__((vector_size(kRegisterBytes)));
  return reinterpret_cast<Lanes<float>>(__builtin_convertvector(halves, Words) << 16);
}

template <class A>
inline Lanes<A> load(const A* from, Whole) {
  Lanes<A> value;
  std::memcpy(&value, from, sizeof value);
  return value;
}

template <class A>
inline Lanes<float> load(const bf16* from, Whole) {
  Halves halves;
  std::memcpy(&halves, from, sizeof halves);
  return widen(halves);
}

template <class A>
inline void store(A* to, Lanes<A> value, Whole) {
  std::memcpy(to, &value, sizeof value);
}

#if defined(LOGINMEA_MASKED_LANES)

template <class A>
inline Lanes<float> load(const float* from, First part) {
  return _mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << part.count) - 1), from);
}
template <class A>
inline Lanes<double> load(const double* from, First part) {
  return _mm512_maskz_loadu_pd(static_cast<__mmask8>((1u << part.count) - 1), from);
}
template <class A>
inline Lanes<float> load(const bf16* from, First part) {
  return widen(
      reinterpret_cast<Halves>(_mm256_maskz_loadu_epi16(static_cast<__mmask16>((1u << part.count) - 1), from)));
}
inline void store(float* to, Lanes<float> value, First part) {
  _mm512_mask_storeu_ps(to, static_cast<__mmask16>((1u << part.count) - 1), value);
}
inline void store(double* to, Lanes<double> value, First part) {
  _mm512_mask_storeu_pd(to, static_cast<__mmask8>((1u << part.count) - 1), value);
}

#else

template <class A, class T>
inline Lanes<A> load(const T* from, First part) {
  Lanes<A> value{};
  for (int lane = 0; lane < part.count; ++lane) value[lane] = static_cast<A>(from[lane]);
  return value;
}
template <class A>
inline void store(A* to, Lanes<A> value, First part) {
  for (int lane = 0; lane < part.count; ++lane) to[lane] = value[lane];
}

#endif

// The sum of all lanes, by halves.
#if defined(LOGINMEA_MASKED_LANES)

// GCC makes of the loop below scalar additions through memory, which at every edge cost as much as its row.
template <class A>
inline A total(Lanes<A> value) {
  if constexpr (sizeof(A) == sizeof(float)) {
    return _mm512_reduce_add_ps(value);
  } else {
    return _mm512_reduce_add_pd(value);
  }
}

#else

template <class A>
inline A total(Lanes<A> value) {
  A lane[kLanes<A>];
  std::memcpy(lane, &value, sizeof value);
  for (int half = kLanes<A> / 2; half > 0; half /= 2) {
    for (int k = 0; k < half; ++k) lane[k] += lane[k + half];
  }
  return lane[0];
}

#endif

// Calls body(offset, part) for each register that a row of `width` values fills, the last one perhaps in part.
template <class A, class Body>
inline __attribute__((always_inline)) void over_row(std::int64_t width, Body&& body) {
  std::int64_t c = 0;
  for (; c + kLanes<A> <= width; c += kLanes<A>) body(c, Whole{});
  if (c < width) body(c, First{static_cast<int>(width - c)});
}

}  // namespace loginmea
