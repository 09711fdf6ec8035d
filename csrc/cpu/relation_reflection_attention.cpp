// Relation-reflection attention on the CPU, forward: edges by destination, as attention_stream.h says.
#include "relation_reflection_attention.h"

#include <omp.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <utility>
#include <vector>

#include "attention_stream.h"
#include "elementwise.h"
#include "lanes.h"
#include "memory.h"
#include "rows.h"
#include "subnormals.h"

namespace loginmea {
namespace {

using namespace attention;

// sum += t and the result is t . u, for t = sum_k weight_k row_k.
template <class T, class A, std::size_t... k>
A add_rows_along(const T* const* row, const A* weight, const T* u, A* sum, int64_t width, std::index_sequence<k...>) {
  const T* const rows[] = {row[k]...};
  const A weights[] = {weight[k]...};
  Lanes<A> along{};
  over_row<A>(width, [&](int64_t c, auto part) {
    const Lanes<A> t = (... + (weights[k] * load<A>(rows[k] + c, part)));
    store(sum + c, load<A>(sum + c, part) + t, part);
    along += t * load<A>(u + c, part);
  });
  return total<A>(along);
}

// sum += the messages along edges [begin, end) of one entity, weighted.
template <class T, class A>
void attend(const Stream& s, int64_t begin, int64_t end, const A* weight, Rows<const T> x, Rows<const T> u,
            int64_t width, A* sum) {
  const T* row[kClump];
  for (int64_t e = begin; e < end;) {
    const int32_t set = s.set[e];
    int count = 0;
    while (count < kClump && e + count < end && s.set[e + count] == set) {
      row[count] = x[s.other[e + count]];
      ++count;
      const int64_t ahead = std::min(e + count + kAhead, s.start[s.rows] - 1);
      prefetch_row(x[s.other[ahead]], width);
      if (s.set[ahead] != s.set[std::max<int64_t>(ahead - 1, 0)]) prefetch_row(u[s.set[ahead]], width);
    }
    const T* reflector = u[set];
    const A along =
        with_count(count, [&](auto k) { return add_rows_along(row, weight + e, reflector, sum, width, k); });
    add_row(-2 * along, reflector, sum, width);
    e += count;
  }
}

// softmax of one entity's logits, in place; returns the logarithm of the denominator.
template <class A>
A softmax(A* logit, int64_t count) {
  if (count == 0) return 0;
  A highest = -std::numeric_limits<A>::infinity();
  for (int64_t e = 0; e < count; ++e) highest = std::max(highest, logit[e]);
  A total = 0;
  for (int64_t e = 0; e < count; ++e) {
    logit[e] = exponential(logit[e] - highest);
    total += logit[e];
  }
  const A scale = 1 / total;
  for (int64_t e = 0; e < count; ++e) logit[e] *= scale;
  return highest + std::log(total);
}

// Triple mode: the logits of all edges, in destination order. Edges of one source and one set share theirs.
template <class T, class A>
void triple_logits(const Graph& g, Rows<const T> x, Rows<const T> u, const A* c, const A* w, int64_t width, A* logit,
                   int num_threads) {
  const auto set_along = scratch<A>(g.sets);
#pragma omp parallel num_threads(num_threads)
  {
    const FlushSubnormals flush;
#pragma omp for schedule(static)
    for (int64_t s = 0; s < g.sets; ++s) set_along[s] = dot<A>(u[s], w, width);
#pragma omp for schedule(dynamic, 64)
    for (int64_t j = 0; j < g.sources; ++j) {
      const A along = dot<A>(x[j], w, width);
      int32_t last = -1;
      A shared = 0;
      for (int64_t e = g.src_ptr[j]; e < g.src_ptr[j + 1]; ++e) {
        const int32_t s = g.src_set[e];
        const int64_t ahead = std::min(e + kAhead, g.edges - 1);
        if (g.src_set[ahead] != g.src_set[std::max<int64_t>(ahead - 1, 0)]) prefetch_row(u[g.src_set[ahead]], width);
        if (s != last) shared = c[s] + along - 2 * dot<A>(x[j], u[s], width) * set_along[s];
        last = s;
        logit[g.src_edge[e]] = shared;
      }
    }
  }
}

// logits [L, U] = set_logits (or 0) + v . u, for v [L, d] (or none).
template <class T, class A>
void logits_of_sets(Rows<const T> u, int64_t sets, int64_t width, const A* set_logits, const A* v, int64_t layers,
                    A* logits, int num_threads) {
#pragma omp parallel num_threads(num_threads)
  {
    const FlushSubnormals flush;
#pragma omp for schedule(static)
    for (int64_t s = 0; s < sets; ++s) {
      for (int64_t l = 0; l < layers; ++l) {
        const A given = set_logits != nullptr ? set_logits[l * sets + s] : A(0);
        logits[l * sets + s] = v != nullptr ? given + dot<A>(u[s], v + l * width, width) : given;
      }
    }
  }
}

template <class T>
void forward(const std::vector<Graph>& graphs, const Addresses& kept, int64_t width, const Addresses& z,
             const Strides& z_stride, const T* reflectors, const accumulator_t<T>* set_logits,
             const accumulator_t<T>* relation_vectors, const accumulator_t<T>* neighbor_vectors, bool tanh,
             accumulator_t<T>* logits, accumulator_t<T>* lse, int num_threads) {
  using A = accumulator_t<T>;
  const bool triple = neighbor_vectors != nullptr;
  int64_t edges = 0;
  for (const Graph& g : graphs) edges = std::max(edges, g.edges);
  const auto weight = scratch<A>(edges);
  const auto logit = scratch<A>(triple ? edges : 0);
  const Rows<const T> u{reflectors, width};
  const auto layers = static_cast<int64_t>(z.size()) - 1;
  const int64_t sets = graphs.front().sets;
  logits_of_sets(u, sets, width, set_logits, relation_vectors, layers, logits, num_threads);
  // Before the first write: an output of 50 MB faults in on small pages as slowly as it is computed.
  for (int64_t layer = 0; layer < layers; ++layer) {
    const int64_t rows = graph_of_layer(graphs, layer).destinations;
    if (rows == 0) continue;
    const int64_t values = (rows - 1) * z_stride[layer + 1] + width;
    prefer_huge_pages(reinterpret_cast<void*>(z[layer + 1]), values * static_cast<int64_t>(sizeof(T)));
  }
  A* row_lse = lse;
  for (int64_t layer = 0; layer < layers; ++layer) {
    const Graph& g = graph_of_layer(graphs, layer);
    const Stream stream = destination_stream(g, kept.data());
    const auto cuts = cuts_of(stream, std::clamp<int64_t>((g.edges + g.destinations) / 2048, 1, 256));
    const Rows<const T> x{reinterpret_cast<const T*>(z[layer]), z_stride[layer]};
    const Rows<T> y{reinterpret_cast<T*>(z[layer + 1]), z_stride[layer + 1]};
    const A* c = logits + layer * sets;
    if (triple) triple_logits(g, x, u, c, neighbor_vectors + layer * width, width, logit.get(), num_threads);
#pragma omp parallel num_threads(num_threads)
    {
      const FlushSubnormals flush;
#pragma omp for schedule(dynamic, 256)
      for (int64_t r = 0; r < stream.rows; ++r) {
        const int64_t begin = stream.start[r], end = stream.start[r + 1];
        for (int64_t e = begin; e < end; ++e) {
          weight[e] = triple ? logit[stream.edge != nullptr ? stream.edge[e] : e] : c[stream.set[e]];
        }
        row_lse[stream.entity(r)] = softmax(&weight[begin], end - begin);
      }
    }
    walk<A>(
        stream, cuts, width, num_threads,
        [&](int64_t, int64_t row, int64_t begin, int64_t end, A* sum, A*) {
          prefetch_row<Use::write>(y[stream.entity(row)], width);
          attend(stream, begin, end, weight.get(), x, u, width, sum);
        },
        [&](int64_t row, const A* sum) {
          T* target = y[stream.entity(row)];
          if (tanh) {
#pragma omp simd
            for (int64_t k = 0; k < width; ++k) target[k] = T(hyperbolic_tangent(sum[k]));
          } else {
            store_row(A(1), sum, target, width);
          }
        });
    row_lse += g.destinations;
  }
}

}  // namespace

void relation_reflection_stream(Sizes sizes, int64_t num_sets, Addresses index, int64_t* start, int32_t* other,
                                int32_t* set, int32_t* edge, int num_threads) {
  const Graph g = graphs_of(sizes, num_sets, index).front();
  fill_destination_stream(g, start, other, set, edge, num_threads);
}

void relation_reflection_forward(DType dtype, Sizes sizes, int64_t num_sets, int64_t width, Addresses index,
                                 Addresses stream, Addresses z, Strides z_stride, const void* reflectors,
                                 const void* set_logits, const void* relation_vectors, const void* neighbor_vectors,
                                 bool tanh, void* logits, void* lse, int num_threads) {
  const std::vector<Graph> graphs = graphs_of(sizes, num_sets, index);
  dispatch(dtype, "relation_reflection_forward", [&](auto element) {
    using T = decltype(element);
    using A = accumulator_t<T>;
    forward<T>(graphs, stream, width, z, z_stride, static_cast<const T*>(reflectors), static_cast<const A*>(set_logits),
               static_cast<const A*>(relation_vectors), static_cast<const A*>(neighbor_vectors), tanh,
               static_cast<A*>(logits), static_cast<A*>(lse), num_threads);
  });
}

}  // namespace loginmea
