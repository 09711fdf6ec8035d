// A warp a segment, its lanes across the columns: rows are read in 16-byte pieces and kept in registers, sums over
// columns are five shuffles. Entities of any degree are cut into segments of bounded length, so that a hub does not
// serialise a launch; a second kernel joins the partial results of a cut row, a block a row, each warp its share, in a
// fixed order. Backward runs over the edges by source (dx, and a and dl of every edge) and by set (du, dc): no atomics,
// and the same bits again.
#include <cstdint>
#include <limits>
#include <stdexcept>
#include <string>
#include <type_traits>

#include "cuda/launch.cuh"
#include "cuda/relation_reflection_attention.cuh"
#include "cuda/relation_reflection_attention.h"

namespace loginmea {
namespace {

using attention::narrow;
using attention::Row;
using attention::Softmax;
using attention::widen;
using std::int32_t;
using std::int64_t;

constexpr const char* kName = "relation_reflection_attention";
constexpr int kThreads = 128;
constexpr int kWarps = kThreads / 32;
constexpr int kJoiners = 8;  // warps that join a cut row

struct Segments {
  int64_t count, parts;
  const int32_t *row, *start, *stop;
};

struct Shared {
  int64_t count;
  const int32_t* row;
  const int64_t* ptr;
};

__device__ int64_t warp_number() { return int64_t{blockIdx.x} * kWarps + threadIdx.x / 32; }
__device__ bool first_lane() { return threadIdx.x % 32 == 0; }

template <class R, class A>
__device__ void activate(R& row, bool use_tanh) {
  if (!use_tanh) return;
#pragma unroll
  for (A& v : row.value) v = tanh(v);
}

// y_i = act(sum_e softmax(l)_e m_e) over one segment of the edges of i.
template <class S, class A, int kVector, int kChunks>
__global__ void __launch_bounds__(kThreads)
    forward_segments(Segments segments, int width, const int32_t* edge_source, const int32_t* edge_set, const S* x,
                     int64_t x_stride, const S* reflectors, const A* logits, const A* vector, bool use_tanh, S* y,
                     int64_t y_stride, A* lse, A* part_sum, A* part_peak, A* part_total) {
  using R = Row<A, kVector, kChunks>;
  const int64_t segment = warp_number();
  if (segment >= segments.count) return;
  const int start = segments.start[segment], stop = segments.stop[segment];
  R sum = R::zero();
  Softmax<A> softmax;
  for (int e = start; e < stop; ++e) {
    const int64_t j = edge_source[e], s = edge_set[e];
    R m = R::load(x + j * x_stride, width);
    const R u = R::load(reflectors + s * width, width);
    m.add(-2 * m.dot(u), u);
    A logit = logits[s], weight;
    if (vector != nullptr) logit += m.dot(R::load(vector, width));
    sum.scale(softmax.take(logit, &weight));
    sum.add(weight, m);
  }
  if (segment < segments.parts) {
    sum.store(part_sum + segment * width, width);
    if (first_lane()) part_peak[segment] = softmax.peak, part_total[segment] = softmax.total;
    return;
  }
  const int64_t row = segments.row[segment];
  const bool empty = start == stop;
  if (!empty) sum.scale(1 / softmax.total);
  activate<R, A>(sum, use_tanh);
  sum.store(y + row * y_stride, width);
  if (threadIdx.x % 32 == 0) lse[row] = empty ? A(0) : softmax.peak + log(softmax.total);
}

// Joins the segments of a cut row: each warp every kJoiners-th of them, the first warp what the others have.
template <class S, class A, int kVector, int kChunks>
__global__ void __launch_bounds__(32 * kJoiners)
    forward_shared(Shared shared, int width, const A* part_sum, const A* part_peak, const A* part_total, bool use_tanh,
                   S* y, int64_t y_stride, A* lse) {
  using R = Row<A, kVector, kChunks>;
  alignas(32) __shared__ A sums[kJoiners][R::kColumns];
  __shared__ A peaks[kJoiners], totals[kJoiners];
  const int warp = threadIdx.x / 32;
  R sum = R::zero();
  Softmax<A> softmax;
  A weight;
  for (int64_t part = shared.ptr[blockIdx.x] + warp; part < shared.ptr[blockIdx.x + 1]; part += kJoiners) {
    sum.scale(softmax.join(part_peak[part], part_total[part], &weight));
    sum.add(weight, R::load(part_sum + part * width, width));
  }
  sum.store(sums[warp], R::kColumns);
  if (first_lane()) peaks[warp] = softmax.peak, totals[warp] = softmax.total;
  __syncthreads();
  if (warp != 0) return;
  for (int other = 1; other < kJoiners; ++other) {
    sum.scale(softmax.join(peaks[other], totals[other], &weight));
    sum.add(weight, R::load(sums[other], R::kColumns));
  }
  const int64_t row = shared.row[blockIdx.x];
  sum.scale(1 / softmax.total);
  activate<R, A>(sum, use_tanh);
  sum.store(y + row * y_stride, width);
  if (first_lane()) lse[row] = softmax.peak + log(softmax.total);
}

template <class S, class G, class A, int kVector, int kChunks>
__global__ void __launch_bounds__(kThreads)
    through_activation(int64_t entities, int width, const G* upstream, int64_t upstream_stride, const S* z,
                       int64_t z_stride, bool use_tanh, A* h, A* along) {
  using R = Row<A, kVector, kChunks>;
  const int64_t row = warp_number();
  if (row >= entities) return;
  R g = R::load(upstream + row * upstream_stride, width), value = R::load(z + row * z_stride, width);
  A sum = 0;
#pragma unroll
  for (int k = 0; k < kVector * kChunks; ++k) {
    const A v = value.value[k];
    sum += g.value[k] * (use_tanh ? attention::slope_times_argument(v) : v);
    if (use_tanh) g.value[k] *= (1 - v) * (1 + v);
  }
  g.store(h + row * width, width);
  sum = attention::sum_of_warp(sum);
  if (threadIdx.x % 32 == 0) along[row] = sum;
}

// dx_j = sum over edges out of j of H - 2 (H . u) u, H = a h_i (+ dl w); keeps a and dl of each edge.
template <class S, class A, int kVector, int kChunks>
__global__ void __launch_bounds__(kThreads)
    backward_source(Segments segments, int width, const int32_t* edge_destination, const int32_t* edge_set, const S* x,
                    int64_t x_stride, const S* reflectors, const A* logits, const A* vector, const A* h, const A* along,
                    const A* lse, const S* direct, int64_t direct_stride, int64_t direct_rows, A* dx, A* part_sum,
                    A* edge_weight, A* edge_slope) {
  using R = Row<A, kVector, kChunks>;
  const int64_t segment = warp_number();
  if (segment >= segments.count) return;
  const int64_t row = segments.row[segment];
  const R xj = R::load(x + row * x_stride, width);
  const A wx = vector != nullptr ? xj.dot(R::load(vector, width)) : A(0);
  R sum = R::zero();
  for (int e = segments.start[segment]; e < segments.stop[segment]; ++e) {
    const int64_t i = edge_destination[e], s = edge_set[e];
    const R u = R::load(reflectors + s * width, width), hi = R::load(h + i * width, width);
    const A p = xj.dot(u), q = hi.dot(u), r = hi.dot(xj);
    A logit = logits[s], wu = 0;
    if (vector != nullptr) {
      wu = u.dot(R::load(vector, width));
      logit += wx - 2 * p * wu;
    }
    const A a = exp(logit - lse[i]), dl = a * (r - 2 * p * q - along[i]);
    sum.add(a, hi);
    if (vector != nullptr) sum.add(dl, R::load(vector, width));
    sum.add(-2 * (a * q + dl * wu), u);
    if (threadIdx.x % 32 == 0) edge_weight[e] = a, edge_slope[e] = dl;
  }
  if (segment < segments.parts) {
    sum.store(part_sum + segment * width, width);
    return;
  }
  if (direct != nullptr && row < direct_rows) sum.add(1, R::load(direct + row * direct_stride, width));
  sum.store(dx + row * width, width);
}

// du_s += -2 sum [(H . u) x_j + (x_j . u) H] and dc_s = sum of dl; in triple mode the sum of dl m, a line a segment.
template <class S, class A, int kVector, int kChunks>
__global__ void __launch_bounds__(kThreads)
    backward_set(Segments segments, int width, const int32_t* set_edge, const int32_t* set_source,
                 const int32_t* set_destination, const S* x, int64_t x_stride, const S* reflectors, const A* vector,
                 const A* h, const A* edge_weight, const A* edge_slope, A* du, A* dc, A* dw_parts, A* part_sum,
                 A* part_slope) {
  using R = Row<A, kVector, kChunks>;
  const int64_t segment = warp_number();
  if (segment >= segments.count) return;
  const int64_t set = segments.row[segment];
  const R u = R::load(reflectors + set * width, width);
  const A wu = vector != nullptr ? u.dot(R::load(vector, width)) : A(0);
  R sum = R::zero(), slope_x = R::zero();
  A slope = 0, slope_p = 0, p_slope_w = 0;
  for (int k = segments.start[segment]; k < segments.stop[segment]; ++k) {
    const int64_t e = set_edge[k], i = set_destination[k], j = set_source[k];
    const A a = edge_weight[e], dl = edge_slope[e];
    const R hi = R::load(h + i * width, width), xj = R::load(x + j * x_stride, width);
    const A p = xj.dot(u), along = a * hi.dot(u) + dl * wu;
    sum.add(along, xj);
    sum.add(p * a, hi);
    slope += dl;
    if (vector != nullptr) {
      slope_x.add(dl, xj);
      slope_p += dl * p;
      p_slope_w += p * dl;
    }
  }
  if (vector != nullptr) {
    sum.add(p_slope_w, R::load(vector, width));
    slope_x.add(-2 * slope_p, u);
    slope_x.store(dw_parts + segment * width, width);
  }
  sum.scale(-2);
  if (segment < segments.parts) {
    sum.store(part_sum + segment * width, width);
    if (first_lane()) part_slope[segment] = slope;
    return;
  }
  sum.add(1, R::load(du + set * width, width));
  sum.store(du + set * width, width);
  if (first_lane()) dc[set] = slope;
}

// out_row = base_row + the partial results of its segments, each warp every kJoiners-th of them; base may be null, or
// out itself.
template <class B, class A, int kVector, int kChunks>
__global__ void __launch_bounds__(32 * kJoiners)
    add_shared(Shared shared, int width, const A* part_sum, const B* base, int64_t base_stride, int64_t base_rows,
               A* out, const A* part_slope, A* slopes) {
  using R = Row<A, kVector, kChunks>;
  alignas(32) __shared__ A sums[kJoiners][R::kColumns];
  __shared__ A warp_slope[kJoiners];
  const int warp = threadIdx.x / 32;
  R sum = R::zero();
  A slope = 0;
  for (int64_t part = shared.ptr[blockIdx.x] + warp; part < shared.ptr[blockIdx.x + 1]; part += kJoiners) {
    sum.add(1, R::load(part_sum + part * width, width));
    if (part_slope != nullptr) slope += part_slope[part];
  }
  sum.store(sums[warp], R::kColumns);
  if (first_lane()) warp_slope[warp] = slope;
  __syncthreads();
  if (warp != 0) return;
  for (int other = 1; other < kJoiners; ++other) {
    sum.add(1, R::load(sums[other], R::kColumns));
    slope += warp_slope[other];
  }
  const int64_t row = shared.row[blockIdx.x];
  if (base != nullptr && row < base_rows) sum.add(1, R::load(base + row * base_stride, width));
  sum.store(out + row * width, width);
  if (part_slope != nullptr && first_lane()) slopes[row] = slope;
}

// A warp a row or segment.
template <class Kernel, class... Arguments>
void launch_warps(Kernel kernel, int64_t warps, void* stream, Arguments... arguments) {
  launch(kName, kernel, {blocks(warps, kWarps)}, kThreads, 0, stream, arguments...);
}

// A block a cut row.
template <class Kernel, class... Arguments>
void launch_joiners(Kernel kernel, const Shared& shared, void* stream, Arguments... arguments) {
  launch(kName, kernel, {shared.count}, 32 * kJoiners, 0, stream, shared, arguments...);
}

template <int kVector_, int kChunks_>
struct Shape {
  static constexpr int kVector = kVector_, kChunks = kChunks_;
};

// The one place where a width meets a shape: four columns a lane where everything lies on four-column boundaries.
// Shapes end where a row, its sum and its reflector no longer fit the registers, for float64 at half the columns.
template <class A, class Body>
void with_shape(int64_t width, bool aligned, Body&& body) {
  constexpr bool kNarrow = sizeof(A) == 4;
  if (aligned && width % 4 == 0) {
    if (width <= 128) return body(Shape<4, 1>{});
    if (width <= 384) return body(Shape<4, 3>{});
    if constexpr (kNarrow) {
      if (width <= 1024) return body(Shape<4, 8>{});
    }
  } else {
    if (width <= 64) return body(Shape<1, 2>{});
    if (width <= 320) return body(Shape<1, 10>{});
    if constexpr (kNarrow) {
      if (width <= 512) return body(Shape<1, 16>{});
    }
  }
  throw std::invalid_argument(
      std::string(kName) + ": the CUDA kernels serve widths up to " +
      std::string(kNarrow ? "1024 (512 where not a multiple of 4)" : "384 (320 where not a multiple of 4)") + ", got " +
      std::to_string(width));
}

// Whether rows of this many elements apart, from here, can be read four elements at a time.
template <class S>
bool in_fours(const void* data, int64_t stride) {
  return reinterpret_cast<std::uintptr_t>(data) % (4 * sizeof(S)) == 0 && stride % 4 == 0;
}

}  // namespace

void attention_forward(DType dtype, int64_t width, int64_t num_segments, int64_t num_parts, const int32_t* row,
                       const int32_t* start, const int32_t* stop, int64_t num_shared, const int32_t* shared,
                       const int64_t* shared_ptr, const int32_t* edge_source, const int32_t* edge_set, const void* x,
                       int64_t x_stride, const void* reflectors, const void* logits, const void* neighbor_vector,
                       bool tanh, void* y, int64_t y_stride, void* lse, void* part_sum, void* part_peak,
                       void* part_total, void* stream) {
  dispatch(dtype, "attention_forward", [&](auto element) {
    using T = decltype(element);
    using S = typename attention::stored<T>::type;
    using A = accumulator_t<T>;
    const bool aligned = in_fours<S>(x, x_stride) && in_fours<S>(y, y_stride) && in_fours<S>(reflectors, width) &&
                         in_fours<A>(part_sum, width) && in_fours<A>(neighbor_vector, width);
    with_shape<A>(width, aligned, [&](auto shape) {
      constexpr int kVector = decltype(shape)::kVector, kChunks = decltype(shape)::kChunks;
      A* sums = static_cast<A*>(part_sum);
      A *peaks = static_cast<A*>(part_peak), *totals = static_cast<A*>(part_total);
      launch_warps(forward_segments<S, A, kVector, kChunks>, num_segments, stream,
                   Segments{num_segments, num_parts, row, start, stop}, static_cast<int>(width), edge_source, edge_set,
                   static_cast<const S*>(x), x_stride, static_cast<const S*>(reflectors), static_cast<const A*>(logits),
                   static_cast<const A*>(neighbor_vector), tanh, static_cast<S*>(y), y_stride, static_cast<A*>(lse),
                   sums, peaks, totals);
      launch_joiners(forward_shared<S, A, kVector, kChunks>, Shared{num_shared, shared, shared_ptr}, stream,
                     static_cast<int>(width), sums, peaks, totals, tanh, static_cast<S*>(y), y_stride,
                     static_cast<A*>(lse));
    });
  });
}

void attention_through_activation(DType dtype, int64_t entities, int64_t width, const void* upstream,
                                  int64_t upstream_stride, bool upstream_is_wide, const void* z, int64_t z_stride,
                                  bool tanh, void* h, void* along, void* stream) {
  dispatch(dtype, "attention_through_activation", [&](auto element) {
    using T = decltype(element);
    using S = typename attention::stored<T>::type;
    using A = accumulator_t<T>;
    const auto start = [&](const auto* typed) {
      using G = std::remove_cv_t<std::remove_pointer_t<decltype(typed)>>;
      const bool aligned = in_fours<G>(upstream, upstream_stride) && in_fours<S>(z, z_stride) && in_fours<A>(h, width);
      with_shape<A>(width, aligned, [&](auto shape) {
        constexpr int kVector = decltype(shape)::kVector, kChunks = decltype(shape)::kChunks;
        launch_warps(through_activation<S, G, A, kVector, kChunks>, entities, stream, entities, static_cast<int>(width),
                     typed, upstream_stride, static_cast<const S*>(z), z_stride, tanh, static_cast<A*>(h),
                     static_cast<A*>(along));
      });
    };
    if (upstream_is_wide) {
      start(static_cast<const A*>(upstream));
    } else {
      start(static_cast<const S*>(upstream));
    }
  });
}

void attention_backward_source(DType dtype, int64_t width, int64_t num_segments, int64_t num_parts, const int32_t* row,
                               const int32_t* start, const int32_t* stop, int64_t num_shared, const int32_t* shared,
                               const int64_t* shared_ptr, const int32_t* edge_destination, const int32_t* edge_set,
                               const void* x, int64_t x_stride, const void* reflectors, const void* logits,
                               const void* neighbor_vector, const void* h, const void* along, const void* lse,
                               const void* direct, int64_t direct_stride, int64_t direct_rows, void* dx, void* part_sum,
                               void* weight, void* slope, void* stream) {
  dispatch(dtype, "attention_backward_source", [&](auto element) {
    using T = decltype(element);
    using S = typename attention::stored<T>::type;
    using A = accumulator_t<T>;
    const bool aligned = in_fours<S>(x, x_stride) && in_fours<S>(reflectors, width) &&
                         in_fours<S>(direct, direct_stride) && in_fours<A>(h, width) && in_fours<A>(dx, width) &&
                         in_fours<A>(part_sum, width) && in_fours<A>(neighbor_vector, width);
    with_shape<A>(width, aligned, [&](auto shape) {
      constexpr int kVector = decltype(shape)::kVector, kChunks = decltype(shape)::kChunks;
      launch_warps(backward_source<S, A, kVector, kChunks>, num_segments, stream,
                   Segments{num_segments, num_parts, row, start, stop}, static_cast<int>(width), edge_destination,
                   edge_set, static_cast<const S*>(x), x_stride, static_cast<const S*>(reflectors),
                   static_cast<const A*>(logits), static_cast<const A*>(neighbor_vector), static_cast<const A*>(h),
                   static_cast<const A*>(along), static_cast<const A*>(lse), static_cast<const S*>(direct),
                   direct_stride, direct_rows, static_cast<A*>(dx), static_cast<A*>(part_sum), static_cast<A*>(weight),
                   static_cast<A*>(slope));
      launch_joiners(add_shared<S, A, kVector, kChunks>, Shared{num_shared, shared, shared_ptr}, stream,
                     static_cast<int>(width), static_cast<const A*>(part_sum), static_cast<const S*>(direct),
                     direct_stride, direct_rows, static_cast<A*>(dx), static_cast<const A*>(nullptr),
                     static_cast<A*>(nullptr));
    });
  });
}

void attention_backward_set(DType dtype, int64_t width, int64_t num_segments, int64_t num_parts, const int32_t* row,
                            const int32_t* start, const int32_t* stop, int64_t num_shared, const int32_t* shared,
                            const int64_t* shared_ptr, const int32_t* set_edge, const int32_t* set_source,
                            const int32_t* set_destination, const void* x, int64_t x_stride, const void* reflectors,
                            const void* neighbor_vector, const void* h, const void* weight, const void* slope, void* du,
                            void* dc, void* dw_parts, void* part_sum, void* part_slope, void* stream) {
  dispatch(dtype, "attention_backward_set", [&](auto element) {
    using T = decltype(element);
    using S = typename attention::stored<T>::type;
    using A = accumulator_t<T>;
    const bool aligned = in_fours<S>(x, x_stride) && in_fours<S>(reflectors, width) && in_fours<A>(h, width) &&
                         in_fours<A>(du, width) && in_fours<A>(dw_parts, width) && in_fours<A>(part_sum, width) &&
                         in_fours<A>(neighbor_vector, width);
    with_shape<A>(width, aligned, [&](auto shape) {
      constexpr int kVector = decltype(shape)::kVector, kChunks = decltype(shape)::kChunks;
      A* sums = static_cast<A*>(part_sum);
      launch_warps(backward_set<S, A, kVector, kChunks>, num_segments, stream,
                   Segments{num_segments, num_parts, row, start, stop}, static_cast<int>(width), set_edge, set_source,
                   set_destination, static_cast<const S*>(x), x_stride, static_cast<const S*>(reflectors),
                   static_cast<const A*>(neighbor_vector), static_cast<const A*>(h), static_cast<const A*>(weight),
                   static_cast<const A*>(slope), static_cast<A*>(du), static_cast<A*>(dc), static_cast<A*>(dw_parts),
                   sums, static_cast<A*>(part_slope));
      launch_joiners(add_shared<A, A, kVector, kChunks>, Shared{num_shared, shared, shared_ptr}, stream,
                     static_cast<int>(width), static_cast<const A*>(sums), static_cast<const A*>(du), width,
                     std::numeric_limits<int64_t>::max(), static_cast<A*>(du), static_cast<const A*>(part_slope),
                     static_cast<A*>(dc));
    });
  });
}

}  // namespace loginmea
