// Row kernels between the vendor's products. A panel of logits is sized to stay in L2, so a row is read twice rather
// than kept: no limit on its length, and few registers. No atomics; sums run in a fixed order.
#include <cuda_runtime.h>

#include <stdexcept>
#include <string>
#include <type_traits>

#include "cuda/contrastive_loss.cuh"
#include "cuda/contrastive_loss.h"

namespace loginmea {
namespace {

using std::int64_t;

constexpr int kThreads = 256;
constexpr double kShortestRow = 1e-12;

template <class S, class A>
__global__ void __launch_bounds__(kThreads) inverse_lengths(const S* rows, int64_t stride, int64_t width, A* out) {
  const S* row = rows + blockIdx.x * stride;
  A squares = 0;
  for (int64_t d = threadIdx.x; d < width; d += kThreads) squares += widen(row[d]) * widen(row[d]);
  const A length = sqrt(sum_of_block(squares));
  if (threadIdx.x == 0) out[blockIdx.x] = length <= A(kShortestRow) ? A(0) : A(1) / length;
}

template <class A>
__global__ void __launch_bounds__(kThreads)
    normalise_rows(const A* panel, int64_t stride, int64_t columns, int64_t first, const A* left_scale,
                   const A* key_scale, A inverse_temperature, A* lse, A* positive) {
  __shared__ Softmax<A> of_thread[kThreads];
  const int64_t own = first + blockIdx.x;
  const A* row = panel + blockIdx.x * stride;
  const A scale = left_scale[own] * inverse_temperature;
  auto seen = Softmax<A>::of_nothing();
  for (int64_t j = threadIdx.x; j < columns; j += kThreads) seen.add(row[j] * (scale * key_scale[j]));
  of_thread[threadIdx.x] = seen;
  __syncthreads();
  for (int half = kThreads / 2; half > 0; half /= 2) {
    if (threadIdx.x < half) of_thread[threadIdx.x].merge(of_thread[threadIdx.x + half]);
    __syncthreads();
  }
  if (threadIdx.x == 0) {
    lse[own] = of_thread[0].largest + log(of_thread[0].total);
    positive[own] = row[own] * (scale * key_scale[own]);
  }
}

// A block has 32 columns, its warps share the rows.
template <class A>
__global__ void __launch_bounds__(kThreads)
    normalise_columns(const A* panel, int64_t stride, int64_t rows, int64_t batch, int64_t first, const A* left_scale,
                      const A* key_scale, A inverse_temperature, A* largest, A* total) {
  __shared__ Softmax<A> of_warp[kThreads / 32][32];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int64_t j = blockIdx.x * int64_t{32} + lane;
  auto seen = Softmax<A>::of_nothing();
  if (j < batch) {
    const A scale = key_scale[j] * inverse_temperature;
    for (int64_t r = warp; r < rows; r += kThreads / 32)
      seen.add(panel[r * stride + j] * (scale * left_scale[first + r]));
  }
  of_warp[warp][lane] = seen;
  __syncthreads();
  if (warp != 0 || j >= batch) return;
  Softmax<A> running{largest[j], total[j]};
  for (int w = 0; w < kThreads / 32; ++w) running.merge(of_warp[w][lane]);
  largest[j] = running.largest;
  total[j] = running.total;
}

template <class A, class Out>
__global__ void __launch_bounds__(kThreads)
    weigh(const A* panel, int64_t panel_stride, int64_t columns, int64_t batch, int64_t first, const A* left_scale,
          const A* key_scale, const A* lse, const A* column_lse, A inverse_temperature, Out* weights,
          int64_t weights_stride) {
  const int64_t own = first + blockIdx.x;
  const A* row = panel + blockIdx.x * panel_stride;
  Out* out = weights + blockIdx.x * weights_stride;
  const A ways = column_lse ? A(2) : A(1), row_lse = lse[own], u = left_scale[own];
  const A factor = inverse_temperature / (ways * static_cast<A>(batch));
  for (int64_t j = threadIdx.x; j < columns; j += kThreads) {
    const A scale = u * key_scale[j], s = row[j] * (scale * inverse_temperature);
    const A back = column_lse && j < batch ? exp(s - column_lse[j]) : A(0);
    out[j] = Out(weight(exp(s - row_lse), back, j == own, ways, factor * scale));
  }
}

template <class S, class A>
__global__ void __launch_bounds__(kThreads)
    through_length(const A* sums, const S* rows, int64_t stride, int64_t width, const A* inverse_length, S* out) {
  const S* row = rows + blockIdx.x * stride;
  const A* g = sums + blockIdx.x * width;
  A along = 0;
  for (int64_t d = threadIdx.x; d < width; d += kThreads) along += g[d] * widen(row[d]);
  const A u = inverse_length[blockIdx.x];
  along = sum_of_block(along) * u * u;
  for (int64_t d = threadIdx.x; d < width; d += kThreads) out[blockIdx.x * width + d] = S(g[d] - along * widen(row[d]));
}

void check_launch(const char* kernel) {
  const cudaError_t error = cudaGetLastError();
  if (error != cudaSuccess) throw std::runtime_error(std::string(kernel) + ": " + cudaGetErrorString(error));
}

template <class Body>
void with_sums(DType sums, const char* kernel, Body&& body) {
  switch (sums) {
    case DType::f32: return body(float{});
    case DType::f64: return body(double{});
    default: throw std::invalid_argument(std::string(kernel) + ": sums are float32 or float64, got " + name_of(sums));
  }
}

unsigned blocks(int64_t count) { return static_cast<unsigned>(count); }

}  // namespace

void contrastive_inverse_lengths(DType dtype, const void* rows, int64_t stride, int64_t count, int64_t width, void* out,
                                 void* stream) {
  if (count == 0) return;
  dispatch(dtype, "contrastive_inverse_lengths", [&](auto stored) {
    using S = typename device_type<decltype(stored)>::type;
    using A = accumulator_t<decltype(stored)>;
    inverse_lengths<S, A><<<blocks(count), kThreads, 0, static_cast<cudaStream_t>(stream)>>>(
        static_cast<const S*>(rows), stride, width, static_cast<A*>(out));
  });
  check_launch("contrastive_inverse_lengths");
}

void contrastive_normalise_rows(DType sums, const void* panel, int64_t panel_stride, int64_t rows, int64_t columns,
                                int64_t first, const void* left_scale, const void* key_scale, double temperature,
                                void* lse, void* positive, void* stream) {
  with_sums(sums, "contrastive_normalise_rows", [&](auto sum) {
    using A = decltype(sum);
    normalise_rows<A><<<blocks(rows), kThreads, 0, static_cast<cudaStream_t>(stream)>>>(
        static_cast<const A*>(panel), panel_stride, columns, first, static_cast<const A*>(left_scale),
        static_cast<const A*>(key_scale), A(1.0 / temperature), static_cast<A*>(lse), static_cast<A*>(positive));
  });
  check_launch("contrastive_normalise_rows");
}

void contrastive_normalise_columns(DType sums, const void* panel, int64_t panel_stride, int64_t rows, int64_t batch,
                                   int64_t first, const void* left_scale, const void* key_scale, double temperature,
                                   void* largest, void* total, void* stream) {
  with_sums(sums, "contrastive_normalise_columns", [&](auto sum) {
    using A = decltype(sum);
    normalise_columns<A><<<blocks((batch + 31) / 32), kThreads, 0, static_cast<cudaStream_t>(stream)>>>(
        static_cast<const A*>(panel), panel_stride, rows, batch, first, static_cast<const A*>(left_scale),
        static_cast<const A*>(key_scale), A(1.0 / temperature), static_cast<A*>(largest), static_cast<A*>(total));
  });
  check_launch("contrastive_normalise_columns");
}

void contrastive_weigh(DType dtype, DType sums, const void* panel, int64_t panel_stride, int64_t rows, int64_t columns,
                       int64_t batch, int64_t first, const void* left_scale, const void* key_scale, const void* lse,
                       const void* column_lse, double temperature, void* weights, int64_t weights_stride,
                       void* stream) {
  dispatch(dtype, "contrastive_weigh", [&](auto stored) {
    using Out = typename device_type<decltype(stored)>::type;
    using A = accumulator_t<decltype(stored)>;
    if (sums != (std::is_same_v<A, double> ? DType::f64 : DType::f32)) {
      throw std::invalid_argument(std::string("contrastive_weigh: weights in ") + name_of(dtype) +
                                  " come from sums in " + (std::is_same_v<A, double> ? "float64" : "float32") +
                                  ", got " + name_of(sums));
    }
    weigh<A, Out><<<blocks(rows), kThreads, 0, static_cast<cudaStream_t>(stream)>>>(
        static_cast<const A*>(panel), panel_stride, columns, batch, first, static_cast<const A*>(left_scale),
        static_cast<const A*>(key_scale), static_cast<const A*>(lse), static_cast<const A*>(column_lse),
        A(1.0 / temperature), static_cast<Out*>(weights), weights_stride);
  });
  check_launch("contrastive_weigh");
}

void contrastive_through_length(DType dtype, const void* sums, const void* rows, int64_t stride, int64_t count,
                                int64_t width, const void* inverse_length, void* out, void* stream) {
  if (count == 0) return;
  dispatch(dtype, "contrastive_through_length", [&](auto stored) {
    using S = typename device_type<decltype(stored)>::type;
    using A = accumulator_t<decltype(stored)>;
    through_length<S, A><<<blocks(count), kThreads, 0, static_cast<cudaStream_t>(stream)>>>(
        static_cast<const A*>(sums), static_cast<const S*>(rows), stride, width, static_cast<const A*>(inverse_length),
        static_cast<S*>(out));
  });
  check_launch("contrastive_through_length");
}

}  // namespace loginmea
