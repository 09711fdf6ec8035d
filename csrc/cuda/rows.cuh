// Rows of a table as kernels see them: in memory, and spread over the registers of a warp.
#pragma once

#include <cuda_bf16.h>

#include <cstdint>

#include "cuda/seam.h"

namespace loginmea {

template <>
struct code_of<__nv_bfloat16> {
  static constexpr DType value = DType::bf16;
};
template <class T>
struct code_of<const T> : code_of<T> {};

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
  return __float2bfloat16_rn(x);
}

// A table in memory.
template <class T>
struct Table {
  T* data = nullptr;
  std::int64_t stride = 0;

  Table() = default;
  Table(const Matrix& matrix) : data(matrix.elements<T>()), stride(matrix.stride) {}
  __device__ T* operator[](std::int64_t row) const { return data + row * stride; }
  __device__ explicit operator bool() const { return data != nullptr; }
};

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

__device__ inline bool first_lane() { return threadIdx.x % 32 == 0; }

// A row of up to 32 * kVector * kChunks columns; what lies beyond the width is 0. kVector divides the width.
template <class A_, int kVector, int kChunks>
struct Row {
  using A = A_;
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
  __device__ A dot(const Row& other) const {
    A sum = 0;
#pragma unroll
    for (int k = 0; k < kVector * kChunks; ++k) sum += value[k] * other.value[k];
    return sum_of_warp(sum);
  }
};

}  // namespace loginmea
