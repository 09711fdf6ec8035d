// The edges of relation-reflection attention in the order in which the CPU walks them.
//
// Edges are walked as a *stream*: one entity after another in breadth-first order, an entity's edges sorted by relation
// set. Edges of one entity with one set share the reflection, which is linear, so their rows are summed first and
// reflected once: that saves two reflector rows of five on DBP15K. The stream is cut into parts of equal size, whatever
// entities it cuts through, so that an entity with most of the edges is no bottleneck; the pieces of a cut entity are
// added in order. Parts depend on the graph alone and each is walked by one thread, so results do not depend on the
// number of threads.
#pragma once

#include <omp.h>

#include <algorithm>
#include <cstdint>
#include <stdexcept>
#include <vector>

#include "memory.h"
#include "relation_reflection_attention.h"
#include "rows.h"
#include "subnormals.h"

namespace loginmea::attention {

using std::int32_t;
using std::int64_t;

// Edges between asking for a row and using it.
constexpr int64_t kAhead = 12;

template <class T>
struct Rows {
  T* data;
  int64_t stride;
  T* operator[](int64_t row) const { return data + row * stride; }
};

// The edges that layers walk: of the whole graph, whose sources are its destinations and are walked in `visit_order`,
// or of a view's block, which lies in the order of the walk already and has none.
struct Graph {
  int64_t sources, destinations, edges, sets;
  const int64_t* dst_ptr;
  const int32_t *dst_source, *dst_set;
  const int64_t* src_ptr;
  const int32_t *src_destination, *src_set, *src_edge, *visit_order;
};

constexpr int64_t kTensors = 8, kSizes = 3;

// Sizes and tensors of each of the graphs that follow each other in `sizes` and `index`.
inline std::vector<Graph> graphs_of(const Sizes& sizes, int64_t sets, const Addresses& index) {
  const auto count = static_cast<int64_t>(sizes.size()) / kSizes;
  if (count * kSizes != static_cast<int64_t>(sizes.size()) || count * kTensors != static_cast<int64_t>(index.size())) {
    throw std::invalid_argument("relation_reflection_attention: expected 3 sizes and 8 tensors a graph");
  }
  std::vector<Graph> graphs;
  for (int64_t b = 0; b < count; ++b) {
    const auto i32 = [&](int k) { return reinterpret_cast<const int32_t*>(index[b * kTensors + k]); };
    const auto i64 = [&](int k) { return reinterpret_cast<const int64_t*>(index[b * kTensors + k]); };
    const int64_t* size = &sizes[b * kSizes];
    graphs.push_back({size[0], size[1], size[2], sets, i64(0), i32(1), i32(2), i64(3), i32(4), i32(5), i32(6), i32(7)});
  }
  return graphs;
}

// The graph of each layer: one for all, or one each.
inline const Graph& graph_of_layer(const std::vector<Graph>& graphs, int64_t layer) {
  return graphs[graphs.size() == 1 ? 0 : layer];
}

// The edges of one entity after another: entity `visit[r]`, or r where there is no `visit`, has places [start[r],
// start[r + 1]).
struct Stream {
  int64_t rows;
  const int32_t* visit;
  const int64_t* start;
  const int32_t *other, *set;  // the entity at the far end
  const int32_t* edge;         // position in destination order, null for the place; only of edges by destination

  int64_t entity(int64_t row) const { return visit != nullptr ? visit[row] : row; }
};

inline void fill_start(const Graph& g, const int64_t* ptr, int64_t* start) {
  int64_t place = 0;
  for (int64_t r = 0; r < g.destinations; ++r) {
    start[r] = place;
    place += ptr[g.visit_order[r] + 1] - ptr[g.visit_order[r]];
  }
  start[g.destinations] = place;
}

// Edges into each entity, sorted by (set, source). To sort them takes a tenth of a forward, so whoever keeps the graph
// keeps them: start [N + 1], other, set and edge [E].
inline void fill_destination_stream(const Graph& g, int64_t* start, int32_t* other, int32_t* set, int32_t* edge,
                                    int num_threads) {
  fill_start(g, g.dst_ptr, start);
  int64_t longest = 0;
  for (int64_t i = 0; i < g.destinations; ++i) longest = std::max(longest, g.dst_ptr[i + 1] - g.dst_ptr[i]);
  const PerThread<std::uint64_t> orders(num_threads, longest);
#pragma omp parallel num_threads(num_threads)
  {
    // Set, position in the row; the graph has the row sorted by source.
    std::uint64_t* order = orders.of(omp_get_thread_num());
#pragma omp for schedule(dynamic, 256)
    for (int64_t r = 0; r < g.destinations; ++r) {
      const int64_t begin = g.dst_ptr[g.visit_order[r]], count = start[r + 1] - start[r];
      for (int64_t k = 0; k < count; ++k) order[k] = static_cast<std::uint64_t>(g.dst_set[begin + k]) << 32 | k;
      std::sort(order, order + count);
      for (int64_t k = 0; k < count; ++k) {
        const int64_t place = start[r] + k, e = begin + static_cast<int64_t>(order[k] & 0xffffffffu);
        set[place] = static_cast<int32_t>(order[k] >> 32);
        other[place] = g.dst_source[e];
        edge[place] = static_cast<int32_t>(e);
      }
    }
  }
}

inline Stream destination_stream(const Graph& g, const std::uintptr_t* kept) {
  if (g.visit_order == nullptr) return {g.destinations, nullptr, g.dst_ptr, g.dst_source, g.dst_set, nullptr};
  const auto i32 = [&](int k) { return reinterpret_cast<const int32_t*>(kept[k]); };
  return {g.destinations, g.visit_order, reinterpret_cast<const int64_t*>(kept[0]), i32(1), i32(2), i32(3)};
}

// Edges out of each entity; they are sorted by set, so that they are only copied in the order of visits.
class SourceStream {
 public:
  SourceStream(const Graph& g, int num_threads) {
    if (g.visit_order == nullptr) return;
    start_ = scratch<int64_t>(g.sources + 1);
    other_ = scratch<int32_t>(g.edges);
    set_ = scratch<int32_t>(g.edges);
    fill_start(g, g.src_ptr, start_.get());
#pragma omp parallel for num_threads(num_threads) schedule(static)
    for (int64_t r = 0; r < g.sources; ++r) {
      const int64_t begin = g.src_ptr[g.visit_order[r]], count = start_[r + 1] - start_[r];
      std::copy_n(g.src_destination + begin, count, other_.get() + start_[r]);
      std::copy_n(g.src_set + begin, count, set_.get() + start_[r]);
    }
  }
  Stream of(const Graph& g) const {
    if (g.visit_order == nullptr) return {g.sources, nullptr, g.src_ptr, g.src_destination, g.src_set, nullptr};
    return {g.sources, g.visit_order, start_.get(), other_.get(), set_.get(), nullptr};
  }

 private:
  Scratch<int64_t> start_;
  Scratch<int32_t> other_, set_;
};

// A place in a stream: in front of edge `edge`, which belongs to row `row` (or to none, at the row's end).
struct Cut {
  int64_t row, edge;
};

// `parts + 1` cuts that share rows plus edges out evenly.
inline std::vector<Cut> cuts_of(const Stream& s, int64_t parts) {
  std::vector<Cut> cuts(parts + 1);
  const int64_t total = s.rows + s.start[s.rows];
  int64_t row = 0;
  for (int64_t k = 0; k <= parts; ++k) {
    const int64_t target = total * k / parts;
    while (row < s.rows && s.start[row + 1] + row + 1 <= target) ++row;
    cuts[k] = {row, row < s.rows ? s.start[row] + std::max<int64_t>(target - s.start[row] - row, 0) : s.start[row]};
    if (row < s.rows) cuts[k].edge = std::min(cuts[k].edge, s.start[row + 1]);
  }
  return cuts;
}

// Walks a stream: accumulate(part, row, begin, end, sum, spare) adds what the edges [begin, end) of a row give to sum
// [width], with a row to spare for its own use, and finish(row, sum) ends a row. Rows that a cut goes through are
// finished last, from their pieces in order.
template <class A, class Accumulate, class Finish>
void walk(const Stream& s, const std::vector<Cut>& cuts, int64_t width, int num_threads, Accumulate&& accumulate,
          Finish&& finish) {
  const int64_t parts = static_cast<int64_t>(cuts.size()) - 1;
  // A part leaves at most two pieces: of the row that it enters in the middle, and of the one that it leaves so.
  const int64_t pitch = padded<A>(width);
  const auto pieces = scratch<A>(2 * parts * pitch);
  const auto is_cut = [&](const Cut& c) { return c.row < s.rows && c.edge > s.start[c.row]; };
  const PerThread<A> sums(num_threads, 2 * pitch);
#pragma omp parallel num_threads(num_threads)
  {
    const FlushSubnormals flush;
    A* sum = sums.of(omp_get_thread_num());
#pragma omp for schedule(dynamic, 1)
    for (int64_t part = 0; part < parts; ++part) {
      const Cut from = cuts[part], to = cuts[part + 1];
      const int64_t last = is_cut(to) ? to.row : to.row - 1;
      for (int64_t row = from.row; row <= last; ++row) {
        const int64_t begin = std::max(from.edge, s.start[row]), end = std::min(to.edge, s.start[row + 1]);
        const bool enters = begin > s.start[row], leaves = row == to.row;
        A* target = enters ? &pieces[2 * part * pitch] : leaves ? &pieces[(2 * part + 1) * pitch] : sum;
        std::fill_n(target, width, A(0));
        accumulate(part, row, begin, end, target, sum + pitch);
        if (!enters && !leaves) finish(row, target);
      }
    }
#pragma omp for schedule(dynamic, 1)
    for (int64_t part = 0; part < parts; ++part) {
      // The part in which a cut row begins gathers its pieces.
      const Cut end = cuts[part + 1];
      if (!is_cut(end) || (cuts[part].row == end.row && is_cut(cuts[part]))) continue;
      A* whole = &pieces[(2 * part + 1) * pitch];
      for (int64_t next = part + 1; next < parts && cuts[next].row == end.row && is_cut(cuts[next]); ++next) {
        add_row(A(1), &pieces[2 * next * pitch], whole, width);
      }
      finish(end.row, whole);
    }
  }
}

}  // namespace loginmea::attention
