// Low-rank fusion as epilogues of tile.cuh: what becomes of P_mk = [1 | t_m] W_m^(k).
#pragma once

#include <cstdint>

#include "cuda/tile.cuh"

namespace loginmea {
namespace fusion {

// The rows [first, first + count) that a call is about, of all [rows, width].
struct Window {
  std::int64_t first, count, rows;
  int width;
  __device__ bool holds(std::int64_t row, int column) const { return row < count && column < width; }
};

// y = sum_k prod_m P_mk + bias; keeps P_mk in products [K, M, rows, width], or null.
template <class S, class Of_>
struct Forward {
  using Of = Of_;
  static constexpr int kParts = 0;
  static constexpr bool kOneTile = false;
  Window window;
  int parts;
  const float* bias;
  S* products;
  Table<S> y;

  struct State {
    Fragments<Of> sum, product[Of::kRanks], p[Of::kRanks];
  };
  __device__ bool multiplies() const { return true; }
  static __device__ auto& room(State& state, int) { return state.p; }
  __device__ State begin(const Place& at, int) const {
    State state;
    each<Of>([&](int r, int c, int i) {
      const int column = at.column(c, i);
      state.sum[r][c][i] = column < window.width ? bias[column] : 0.0f;
    });
    return state;
  }
  __device__ void take(const Place& at, State& state, int among, int k, int m) const {
    S* kept = products + ((std::int64_t{k} * parts + m) * window.rows + window.first) * window.width;
    each<Of>([&](int r, int c, int i) {
      const float p = state.p[among][r][c][i];
      float& product = state.product[among][r][c][i];
      const std::int64_t row = at.row(r, i);
      const int column = at.column(c, i);
      if (products && window.holds(row, column)) kept[row * window.width + column] = narrow<S>(p);
      product = m == 0 ? p : product * p;
      if (m == parts - 1) state.sum[r][c][i] += product;
    });
  }
  __device__ void end(const Place& at, State& state, int) const {
    each<Of>([&](int r, int c, int i) {
      const std::int64_t row = at.row(r, i);
      const int column = at.column(c, i);
      if (window.holds(row, column)) y[window.first + row][column] = narrow<S>(state.sum[r][c][i]);
    });
  }
};

// dP_mk = g prod_{n != m} P_nk, zero in the padding; P_nk computed again, or read where they were kept, of one rank a
// tile. All P_mk of a tile are held at once.
template <class S, class T, class Of_, int kModalities>
struct ProjectionGradient {
  using Of = Of_;
  static constexpr int kParts = kModalities;
  static constexpr bool kOneTile = true;
  Window window;
  Table<const S> g;
  const S* products;
  Table<T> dp;  // [M block, columns]
  std::int64_t block;
  int ranks, columns_per_rank;

  struct State {
    Fragments<Of> p[kModalities][Of::kRanks];
  };
  __device__ bool multiplies() const { return products == nullptr && kModalities > 1; }
  static __device__ auto& room(State& state, int m) { return state.p[m]; }
  __device__ State begin(const Place& at, int k) const {
    State state;
    if (products) {
#pragma unroll
      for (int m = 0; m < kModalities; ++m) {
        const S* kept = products + ((std::int64_t{k} * kModalities + m) * window.rows + window.first) * window.width;
        each<Of>([&](int r, int c, int i) {
          const std::int64_t row = at.row(r, i);
          const int column = at.column(c, i);
          const bool inside = window.holds(row, column);
          state.p[m][0][r][c][i] = inside ? widen<float>(kept[row * window.width + column]) : 0.0f;
        });
      }
    }
    return state;
  }
  __device__ void take(const Place&, State&, int, int, int) const {}
  __device__ void end(const Place& at, State& state, int first) const {
#pragma unroll
    for (int among = 0; among < Of::kRanks; ++among) {
      if (first + among >= ranks) continue;
      const std::int64_t start = std::int64_t{first + among} * columns_per_rank;
      each<Of>([&](int r, int c, int i) {
        const std::int64_t row = at.row(r, i);
        const int column = at.column(c, i);
        const bool inside = window.holds(row, column);
        const float upstream = inside ? widen<float>(g[window.first + row][column]) : 0.0f;
#pragma unroll
        for (int m = 0; m < kModalities; ++m) {
          float gradient = upstream;
#pragma unroll
          for (int n = 0; n < kModalities; ++n) {
            if (n != m) gradient *= state.p[n][among][r][c][i];
          }
          // A factor may be NaN; what pads it must still be 0.
          dp[m * block + row][start + column] = narrow<T>(inside ? gradient : 0.0f);
        }
      });
    }
  }
};

// t = scale x in a block of rows, in the digits of TF32 where `rounded`, zero where there is no row and no column. A
// block of threads a row.
template <class S, class T>
__global__ void __launch_bounds__(kTileThreads)
    pack_rows(Table<const S> x, int width, Table<const float> scale, std::int64_t first, std::int64_t count, Table<T> t,
              int padded, bool rounded) {
  const std::int64_t row = blockIdx.x;
  const bool filled = row < count;
  const float factor = filled && scale ? *scale[first + row] : 1.0f;
  for (int c = threadIdx.x; c < padded; c += kTileThreads) {
    const float value = filled && c < width ? widen<float>(x[first + row][c]) * factor : 0.0f;
    t[row][c] = narrow<T>(rounded ? __uint_as_float(to_tf32(value)) : value);
  }
}

// dx = scale dt and scale_gradient = dt . x. A warp a row.
template <class S>
__global__ void __launch_bounds__(kTileThreads)
    input_gradient(Table<const float> dt, Table<const S> x, int width, Table<const float> scale, std::int64_t first,
                   std::int64_t count, Table<S> dx, Table<float> scale_gradient) {
  const std::int64_t row = std::int64_t{blockIdx.x} * (kTileThreads / 32) + threadIdx.x / 32;
  if (row >= count) return;
  const float factor = scale ? *scale[first + row] : 1.0f;
  float inner = 0;
  for (int c = threadIdx.x % 32; c < width; c += 32) {
    const float gradient = dt[row][c];
    if (scale) inner += gradient * widen<float>(x[first + row][c]);
    dx[first + row][c] = narrow<S>(gradient * factor);
  }
  if (!scale) return;
  inner = sum_of_warp(inner);
  if (first_lane()) *scale_gradient[first + row] = inner;
}

}  // namespace fusion
}  // namespace loginmea
