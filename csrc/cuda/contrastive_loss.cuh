// Device mathematics of the contrastive loss: logits, their running softmax, and the weights that are its gradient.
#pragma once

#include <cuda_bf16.h>
#include <math.h>

#include <cstdint>

#include "common/dtype.h"

namespace loginmea {

__device__ inline float widen(float x) { return x; }
__device__ inline double widen(double x) { return x; }
__device__ inline float widen(__nv_bfloat16 x) { return __bfloat162float(x); }

template <class T>
struct device_type {
  using type = T;
};
template <>
struct device_type<bf16> {
  using type = __nv_bfloat16;
};

// A maximum and the sum of exponentials above it; combining is associative up to rounding and done in a fixed order.
template <class A>
struct Softmax {
  A largest, total;

  static __device__ Softmax of_nothing() { return {A(-INFINITY), A(0)}; }

  // Forward, element by element: one exponential each.
  __device__ void add(A s) {
    if (s > largest) {
      total = total * exp(largest - s) + A(1);
      largest = s;
    } else {
      total += exp(s - largest);
    }
  }
  __device__ void merge(Softmax other) {
    // Both may have seen nothing, and -inf - -inf is NaN. A NaN total must survive an -inf maximum.
    const A top = fmax(largest, other.largest);
    const A mine = largest == top ? A(1) : exp(largest - top),
            theirs = other.largest == top ? A(1) : exp(other.largest - top);
    total = total * mine + other.total * theirs;
    largest = top;
  }
};

// Backward: w'_bj for one logit; `back` is the column's softmax, 0 one way.
template <class A>
__device__ A weight(A p, A back, bool own, A ways, A scale) {
  return (p + back - (own ? ways : A(0))) * scale;
}

template <class A>
__device__ A sum_of_warp(A x) {
  for (int lanes = 16; lanes > 0; lanes /= 2) x += __shfl_xor_sync(~0u, x, lanes);
  return x;
}

// Sum over a block of whole warps; every thread gets it.
template <class A>
__device__ A sum_of_block(A x) {
  __shared__ A of_warp[32];
  x = sum_of_warp(x);
  __syncthreads();  // of_warp may still be read from the call before
  if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = x;
  __syncthreads();
  A sum = 0;
  for (unsigned w = 0; w < blockDim.x / 32; ++w) sum += of_warp[w];
  return sum;
}

}  // namespace loginmea
