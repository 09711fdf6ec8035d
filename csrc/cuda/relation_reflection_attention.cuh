// Device mathematics of relation-reflection attention: rows spread over the lanes of a warp, the softmax that runs
// along a segment, and the activation with its gradient.
#pragma once

#include <cuda_bf16.h>
#include <math.h>

#include <cstdint>

#include "common/dtype.h"

namespace loginmea {
namespace attention {

template <class T>
struct stored {
  using type = T;
};
template <>
struct stored<bf16> {
  using type = __nv_bfloat16;
};

template <class A, class S>
__device__ A widen(S x) {
  return A(x);
}
template <>
__device__ inline float widen<float, __nv_bfloat16>(__nv_bfloat16 x) {
  return __bfloat162float(x);
}

template <class S, class A>
__device__ S narrow(A x) {
  return S(x);
}
template <>
__device__ inline __nv_bfloat16 narrow<__nv_bfloat16, float>(float x) {
  return __float2bfloat16(x);
}

// kVector neighbouring values, one load.
template <class S, int kVector>
struct alignas(sizeof(S) * kVector) Pack {
  S value[kVector];
};

template <class A>
__device__ A sum_of_warp(A x) {
  for (int lanes = 16; lanes > 0; lanes /= 2) x += __shfl_xor_sync(~0u, x, lanes);
  return x;
}

// A row of up to 32 * kVector * kChunks columns; what lies beyond the width is 0. kVector divides the width.
template <class A, int kVector, int kChunks>
struct Row {
  static constexpr int kColumns = 32 * kVector * kChunks;
  A value[kVector * kChunks];

  template <class Use>
  static __device__ void columns(int width, Use use) {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int chunk = 0; chunk < kChunks; ++chunk) {
      const int column = (chunk * 32 + lane) * kVector;
      use(chunk * kVector, column, column < width);
    }
  }
  static __device__ Row zero() {
    Row row;
#pragma unroll
    for (A& v : row.value) v = A(0);
    return row;
  }
  template <class S>
  static __device__ Row load(const S* from, int width) {
    Row row;
    columns(width, [&](int k, int column, bool inside) {
      Pack<S, kVector> pack;
      if (inside) pack = *reinterpret_cast<const Pack<S, kVector>*>(from + column);
#pragma unroll
      for (int v = 0; v < kVector; ++v) row.value[k + v] = inside ? widen<A>(pack.value[v]) : A(0);
    });
    return row;
  }
  template <class S>
  __device__ void store(S* to, int width) const {
    columns(width, [&](int k, int column, bool inside) {
      Pack<S, kVector> pack;
#pragma unroll
      for (int v = 0; v < kVector; ++v) pack.value[v] = narrow<S>(value[k + v]);
      if (inside) *reinterpret_cast<Pack<S, kVector>*>(to + column) = pack;
    });
  }
  __device__ void add(A factor, const Row& other) {
#pragma unroll
    for (int k = 0; k < kVector * kChunks; ++k) value[k] += factor * other.value[k];
  }
  __device__ void scale(A factor) {
#pragma unroll
    for (A& v : value) v *= factor;
  }
  // This lane's share; sum_of_warp makes the product of it.
  __device__ A partial_dot(const Row& other) const {
    A sum = 0;
#pragma unroll
    for (int k = 0; k < kVector * kChunks; ++k) sum += value[k] * other.value[k];
    return sum;
  }
  __device__ A dot(const Row& other) const { return sum_of_warp(partial_dot(other)); }
};

// Forward: the running maximum of a row's logits and the sum of exponentials above it. take() returns what to multiply
// the sums so far with, and sets the weight of the new term.
template <class A>
struct Softmax {
  A peak = A(-INFINITY), total = A(0);

  __device__ A take(A logit, A* weight) { return join(logit, A(1), weight); }
  // -inf weighs nothing, even where no peak is higher yet. A NaN must reach the total: no comparison below is true of
  // one, so the difference decides.
  __device__ A join(A other_peak, A other_total, A* weight) {
    const A higher = other_peak > peak ? other_peak : peak;
    const A shrink = peak == higher ? A(1) : exp(peak - higher);
    *weight = other_peak == A(-INFINITY) ? A(0) : exp(other_peak - higher);
    total = total * shrink + other_total * *weight;
    peak = higher;
    return shrink;
  }
};

// Backward: h = g (1 - z^2), and (1 - z^2) atanh(z) = tanh'(y) y, whose limit at z = +-1 is 0.
template <class A>
__device__ A slope_times_argument(A z) {
  return fabs(z) == A(1) ? A(0) : (A(1) - z) * (A(1) + z) * atanh(z);
}

}  // namespace attention
}  // namespace loginmea
