// Relation-reflection attention as functors of segments.cuh: what an edge is, and what becomes of a row's sum.
#pragma once

#include <math.h>

#include <cstdint>

#include "cuda/segments.cuh"

namespace loginmea {
namespace attention {

// y_i = act(sum_e softmax(l)_e m_e) over the edges of i. A sum's scalars are the running maximum of the logits and the
// sum of exponentials above it.
template <class L>
struct Forward {
  using S = typename L::S;
  using R = typename L::R;
  using A = typename R::A;
  static constexpr int kScalars = 2;
  int width;
  const std::int32_t *edge_source, *edge_set;
  Table<const S> x, reflectors;
  const A *logits, *vector;
  bool use_tanh;
  Table<S> y;
  A* lse;

  struct OfRow {};
  __device__ OfRow begin(std::int64_t) const { return {}; }
  static __device__ Sum<R> nothing() { return {R::zero(), {A(-INFINITY), A(0)}}; }
  __device__ Gathered gathers(int e) const { return {edge_source[e], edge_set[e]}; }
  __host__ __device__ Table<const S> first() const { return x; }
  __host__ __device__ Table<const S> second() const { return reflectors; }
  __device__ void edge(OfRow, int, Gathered at, R m, const R& u, Sum<R>& sum) const {
    m.add(-2 * m.dot(u), u);
    A logit = logits[at.second];
    if (vector != nullptr) logit += m.dot(R::load(vector, width));
    take(sum, logit, A(1), m);
  }
  __device__ void join(Sum<R>& sum, const Sum<R>& other) const {
    take(sum, other.scalar[0], other.scalar[1], other.row);
  }
  __device__ void end(std::int64_t i, Sum<R>& sum, bool empty) const {
    const A peak = sum.scalar[0], total = sum.scalar[1];
    if (!empty) sum.row.scale(1 / total);
    if (use_tanh) {
#pragma unroll
      for (A& v : sum.row.value) v = tanh(v);
    }
    sum.row.store(y[i], width);
    if (first_lane()) lse[i] = empty ? A(0) : peak + log(total);
  }

  // -inf weighs nothing, even where no peak is higher yet. A NaN must reach the total: no comparison below is true of
  // one, so the difference decides.
  static __device__ void take(Sum<R>& sum, A other_peak, A other_total, const R& row) {
    A &peak = sum.scalar[0], &total = sum.scalar[1];
    const A higher = other_peak > peak ? other_peak : peak;
    const A shrink = peak == higher ? A(1) : exp(peak - higher);
    const A weight = other_peak == A(-INFINITY) ? A(0) : exp(other_peak - higher);
    total = total * shrink + other_total * weight;
    peak = higher;
    sum.row.scale(shrink);
    sum.row.add(weight, row);
  }
};

// What both sums of backward have in common.
template <class R_, int kScalars_>
struct PlainSums {
  using R = R_;
  using A = typename R::A;
  static constexpr int kScalars = kScalars_;

  static __device__ Sum<R> nothing() { return {}; }
  static __device__ void join(Sum<R>& sum, const Sum<R>& other) {
    sum.row.add(1, other.row);
#pragma unroll
    for (int i = 0; i < kScalars; ++i) sum.scalar[i] += other.scalar[i];
  }
};

// What an edge gives du_s and dc_s: factors of x_j and of h_i, dl, and the factor of w.
template <class A>
struct alignas(4 * sizeof(A)) Terms {
  A of_x, of_h, slope, of_w;
};

// dx_j = direct_j + sum over edges out of j of H - 2 (H . u) u, H = a h_i (+ dl w); keeps the terms of each edge.
template <class L>
struct BackwardSource : PlainSums<typename L::R, 0> {
  using S = typename L::S;
  using R = typename L::R;
  using A = typename R::A;
  int width;
  const std::int32_t *edge_destination, *edge_set;
  Table<const S> x, reflectors;
  const A *logits, *vector;
  Table<const A> h;
  const A *along, *lse;
  Table<const S> direct;
  std::int64_t direct_rows;
  Table<A> dx;
  Terms<A>* terms;

  struct OfRow {
    R x;
    A wx;
  };
  __device__ OfRow begin(std::int64_t j) const {
    const R row = R::load(x[j], width);
    return {row, vector != nullptr ? row.dot(R::load(vector, width)) : A(0)};
  }
  __device__ Gathered gathers(int e) const { return {edge_set[e], edge_destination[e]}; }
  __host__ __device__ Table<const S> first() const { return reflectors; }
  __host__ __device__ Table<const A> second() const { return h; }
  __device__ void edge(const OfRow& of, int e, Gathered at, const R& u, const R& hi, Sum<R>& sum) const {
    const A p = of.x.dot(u), q = hi.dot(u), r = hi.dot(of.x);
    A logit = logits[at.first], wu = 0;
    if (vector != nullptr) {
      wu = u.dot(R::load(vector, width));
      logit += of.wx - 2 * p * wu;
    }
    const A a = exp(logit - lse[at.second]), dl = a * (r - 2 * p * q - along[at.second]);
    sum.row.add(a, hi);
    if (vector != nullptr) sum.row.add(dl, R::load(vector, width));
    const A of_u = -2 * (a * q + dl * wu);  // and of x in du
    sum.row.add(of_u, u);
    if (first_lane()) terms[e] = {of_u, -2 * a * p, dl, -2 * dl * p};
  }
  __device__ void end(std::int64_t j, Sum<R>& sum, bool) const {
    if (direct && j < direct_rows) sum.row.add(1, R::load(direct[j], width));
    sum.row.store(dx[j], width);
  }
};

// du_s += sum of x_j and h_i by their terms, dc_s = sum of dl; what du has along w, the caller adds.
template <class L>
struct BackwardSet : PlainSums<typename L::R, 1> {
  using S = typename L::S;
  using R = typename L::R;
  using A = typename R::A;
  int width;
  const std::int32_t *set_edge, *set_source, *set_destination;
  Table<const S> x;
  Table<const A> h;
  const Terms<A>* terms;
  Table<A> du;
  A* dc;

  struct OfRow {};
  __device__ OfRow begin(std::int64_t) const { return {}; }
  __device__ Gathered gathers(int k) const { return {set_source[k], set_destination[k]}; }
  __host__ __device__ Table<const S> first() const { return x; }
  __host__ __device__ Table<const A> second() const { return h; }
  __device__ void edge(OfRow, int k, Gathered, const R& xj, const R& hi, Sum<R>& sum) const {
    const Terms<A> of = terms[set_edge[k]];
    sum.row.add(of.of_x, xj);
    sum.row.add(of.of_h, hi);
    sum.scalar[0] += of.slope;
  }
  __device__ void end(std::int64_t s, Sum<R>& sum, bool) const {
    sum.row.add(1, R::load(du[s], width));
    sum.row.store(du[s], width);
    if (first_lane()) dc[s] = sum.scalar[0];
  }
};

// h = g (1 - z^2) and along = h . y = sum of g tanh'(y) y, whose limit at z = +-1 is 0. A warp a row.
template <class L, class G>
__global__ void __launch_bounds__(kSegmentThreads)
    through_activation(std::int64_t rows, int width, Table<const G> upstream, Table<const typename L::S> z,
                       bool use_tanh, Table<typename L::R::A> h, typename L::R::A* along) {
  using R = typename L::R;
  using A = typename R::A;
  const std::int64_t row = std::int64_t{blockIdx.x} * kSegmentWarps + threadIdx.x / 32;
  if (row >= rows) return;
  R g = R::load(upstream[row], width);
  const R value = R::load(z[row], width);
  A sum = 0;
#pragma unroll
  for (int k = 0; k < R::kColumns / 32; ++k) {
    const A v = value.value[k];
    if (use_tanh) {
      sum += fabs(v) == A(1) ? A(0) : g.value[k] * ((A(1) - v) * (A(1) + v) * atanh(v));
      g.value[k] *= (1 - v) * (1 + v);
    } else {
      sum += g.value[k] * v;
    }
  }
  g.store(h[row], width);
  sum = sum_of_warp(sum);
  if (first_lane()) along[row] = sum;
}

}  // namespace attention
}  // namespace loginmea
