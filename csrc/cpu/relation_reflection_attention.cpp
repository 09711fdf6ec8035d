// Relation-reflection attention on the CPU.
//
// Edges are walked as a *stream*: one entity after another in breadth-first order, an entity's edges sorted by relation
// set. Edges of one entity with one set share the reflection, which is linear, so their rows are summed first and
// reflected once: that saves two reflector rows of five on DBP15K. The stream is cut into parts of equal size, whatever
// entities it cuts through, so that an entity with most of the edges is no bottleneck; the pieces of a cut entity are
// added in order. Parts depend on the graph alone and each is walked by one thread, so results do not depend on the
// number of threads.
//
// Backward is one pass a layer over the edges by source. For source j, set s and the edges e between them,
//
//     G = sum a_e h_i ;  p = x_j . u_s ;  q = G . u_s ;  T = sum of dl_e = G . x_j - 2 p q - sum a_e D_i
//     dx_j += H - 2 (H . u) u ;  du_s -= 2 [ (H . u) x_j + p H ] ;  dc_s += T ;  dw += T m       with H = G + T w
//
// so every gradient follows from the row G, which never leaves the first-level cache.
#include "relation_reflection_attention.h"

#include <omp.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <memory>
#include <stdexcept>
#include <type_traits>
#include <utility>

#include "elementwise.h"
#include "lanes.h"
#include "memory.h"
#include "rows.h"

namespace loginmea {
namespace {

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

struct Graph {
  int64_t entities, edges, sets;
  const int64_t* dst_ptr;
  const int32_t *dst_source, *dst_set;
  const int64_t* src_ptr;
  const int32_t *src_destination, *src_set, *src_edge, *visit_order;
};

Graph graph_of(int64_t entities, int64_t edges, int64_t sets, const Addresses& index) {
  if (index.size() != 8) throw std::invalid_argument("relation_reflection_attention: expected 8 graph tensors");
  const auto i32 = [&](int k) { return reinterpret_cast<const int32_t*>(index[k]); };
  const auto i64 = [&](int k) { return reinterpret_cast<const int64_t*>(index[k]); };
  return {entities, edges, sets, i64(0), i32(1), i32(2), i64(3), i32(4), i32(5), i32(6), i32(7)};
}

// The edges of one entity after another: entity `visit[r]` has places [start[r], start[r + 1]).
struct Stream {
  int64_t rows;
  const int32_t* visit;
  Scratch<int64_t> start;
  Scratch<int32_t> other;  // the entity at the far end
  Scratch<int32_t> set;
  Scratch<int32_t> edge;  // position in destination order; only where asked for
};

Stream empty_stream(const Graph& g, const int64_t* ptr) {
  Stream s{
      g.entities, g.visit_order, scratch<int64_t>(g.entities + 1), scratch<int32_t>(g.edges), scratch<int32_t>(g.edges),
      nullptr};
  int64_t place = 0;
  for (int64_t r = 0; r < s.rows; ++r) {
    s.start[r] = place;
    place += ptr[s.visit[r] + 1] - ptr[s.visit[r]];
  }
  s.start[s.rows] = place;
  return s;
}

// Edges into each entity, sorted by (set, source).
Stream destination_stream(const Graph& g, bool with_edge, int num_threads) {
  Stream s = empty_stream(g, g.dst_ptr);
  if (with_edge) s.edge = scratch<int32_t>(g.edges);
  int64_t longest = 0;
  for (int64_t i = 0; i < g.entities; ++i) longest = std::max(longest, g.dst_ptr[i + 1] - g.dst_ptr[i]);
  const PerThread<std::uint64_t> orders(num_threads, longest);
#pragma omp parallel num_threads(num_threads)
  {
    // Set, position in the row; the graph has the row sorted by source.
    std::uint64_t* order = orders.of(omp_get_thread_num());
#pragma omp for schedule(dynamic, 256)
    for (int64_t r = 0; r < s.rows; ++r) {
      const int64_t begin = g.dst_ptr[s.visit[r]], count = s.start[r + 1] - s.start[r];
      for (int64_t k = 0; k < count; ++k) order[k] = static_cast<std::uint64_t>(g.dst_set[begin + k]) << 32 | k;
      std::sort(order, order + count);
      for (int64_t k = 0; k < count; ++k) {
        const int64_t place = s.start[r] + k, e = begin + static_cast<int64_t>(order[k] & 0xffffffffu);
        s.set[place] = static_cast<int32_t>(order[k] >> 32);
        s.other[place] = g.dst_source[e];
        if (with_edge) s.edge[place] = static_cast<int32_t>(e);
      }
    }
  }
  return s;
}

// Edges out of each entity; the graph has them sorted by set.
Stream source_stream(const Graph& g, int num_threads) {
  Stream s = empty_stream(g, g.src_ptr);
#pragma omp parallel for num_threads(num_threads) schedule(static)
  for (int64_t r = 0; r < s.rows; ++r) {
    const int64_t begin = g.src_ptr[s.visit[r]], count = s.start[r + 1] - s.start[r];
    std::copy_n(g.src_destination + begin, count, s.other.get() + s.start[r]);
    std::copy_n(g.src_set + begin, count, s.set.get() + s.start[r]);
  }
  return s;
}

// A place in a stream: in front of edge `edge`, which belongs to row `row` (or to none, at the row's end).
struct Cut {
  int64_t row, edge;
};

// `parts + 1` cuts that share rows plus edges out evenly.
std::vector<Cut> cuts_of(const Stream& s, int64_t parts) {
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
#pragma omp for schedule(static)
    for (int64_t s = 0; s < g.sets; ++s) set_along[s] = dot<A>(u[s], w, width);
#pragma omp for schedule(dynamic, 64)
    for (int64_t j = 0; j < g.entities; ++j) {
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
#pragma omp parallel for num_threads(num_threads) schedule(static)
  for (int64_t s = 0; s < sets; ++s) {
    for (int64_t l = 0; l < layers; ++l) {
      const A given = set_logits != nullptr ? set_logits[l * sets + s] : A(0);
      logits[l * sets + s] = v != nullptr ? given + dot<A>(u[s], v + l * width, width) : given;
    }
  }
}

template <class T>
void forward(const Graph& g, int64_t width, const Addresses& z, const Strides& z_stride, const T* reflectors,
             const accumulator_t<T>* set_logits, const accumulator_t<T>* relation_vectors,
             const accumulator_t<T>* neighbor_vectors, bool tanh, accumulator_t<T>* logits, accumulator_t<T>* lse,
             int num_threads) {
  using A = accumulator_t<T>;
  const bool triple = neighbor_vectors != nullptr;
  const Stream stream = destination_stream(g, triple, num_threads);
  const auto cuts = cuts_of(stream, std::clamp<int64_t>((g.edges + g.entities) / 2048, 1, 256));
  const auto weight = scratch<A>(g.edges);
  const auto logit = scratch<A>(triple ? g.edges : 0);
  const Rows<const T> u{reflectors, width};
  const auto layers = static_cast<int64_t>(z.size()) - 1;
  logits_of_sets(u, g.sets, width, set_logits, relation_vectors, layers, logits, num_threads);
  // Before the first write: an output of 50 MB faults in on small pages as slowly as it is computed.
  for (int64_t layer = 0; layer < layers && g.entities > 0; ++layer) {
    const int64_t values = (g.entities - 1) * z_stride[layer + 1] + width;
    prefer_huge_pages(reinterpret_cast<void*>(z[layer + 1]), values * static_cast<int64_t>(sizeof(T)));
  }
  for (int64_t layer = 0; layer < layers; ++layer) {
    const Rows<const T> x{reinterpret_cast<const T*>(z[layer]), z_stride[layer]};
    const Rows<T> y{reinterpret_cast<T*>(z[layer + 1]), z_stride[layer + 1]};
    const A* c = logits + layer * g.sets;
    A* row_lse = lse + layer * g.entities;
    if (triple) triple_logits(g, x, u, c, neighbor_vectors + layer * width, width, logit.get(), num_threads);
#pragma omp parallel for num_threads(num_threads) schedule(dynamic, 256)
    for (int64_t r = 0; r < stream.rows; ++r) {
      const int64_t begin = stream.start[r], end = stream.start[r + 1];
      for (int64_t e = begin; e < end; ++e) weight[e] = triple ? logit[stream.edge[e]] : c[stream.set[e]];
      row_lse[stream.visit[r]] = softmax(&weight[begin], end - begin);
    }
    walk<A>(
        stream, cuts, width, num_threads,
        [&](int64_t, int64_t row, int64_t begin, int64_t end, A* sum, A*) {
          prefetch_row<Use::write>(y[stream.visit[row]], width);
          attend(stream, begin, end, weight.get(), x, u, width, sum);
        },
        [&](int64_t row, const A* sum) {
          T* target = y[stream.visit[row]];
          if (tanh) {
#pragma omp simd
            for (int64_t k = 0; k < width; ++k) target[k] = T(hyperbolic_tangent(sum[k]));
          } else {
            store_row(A(1), sum, target, width);
          }
        });
  }
}

// The sets that each part of a stream meets, numbered in the order of meeting. Part p owns the rows [first[p], first[p
// + 1]) of tables of sums, one a set that it meets: as many rows as there are meetings, few where neighbours share
// relations.
class PrivateRows {
 public:
  PrivateRows(const Stream& s, int64_t parts_wanted, int64_t sets, int num_threads)
      : cuts(cuts_of(s, parts_wanted)),
        first(cuts.size(), 0),
        sets_(sets),
        place_(scratch<int32_t>(parts_wanted * sets)) {
#pragma omp parallel for num_threads(num_threads) schedule(dynamic, 1)
    for (int64_t part = 0; part < parts(); ++part) {
      int32_t* place = &place_[part * sets];
      std::fill_n(place, sets, kNotMet);
      int32_t met = 0;
      for (int64_t e = cuts[part].edge; e < cuts[part + 1].edge; ++e) {
        if (place[s.set[e]] == kNotMet) place[s.set[e]] = met++;
      }
      first[part + 1] = met;
    }
    for (int64_t part = 0; part < parts(); ++part) first[part + 1] += first[part];
  }

  int64_t parts() const { return static_cast<int64_t>(first.size()) - 1; }
  int64_t count() const { return first.back(); }
  bool meets(int64_t part, int32_t set) const { return place_[part * sets_ + set] != kNotMet; }
  int64_t row(int64_t part, int32_t set) const { return first[part] + place_[part * sets_ + set]; }

  std::vector<Cut> cuts;
  std::vector<int64_t> first;

 private:
  static constexpr int32_t kNotMet = -1;
  int64_t sets_;
  Scratch<int32_t> place_;  // [parts, sets]
};

// As many parts as keep many threads busy, unless so many meet every set and their rows would outgrow the features and
// the reflectors: then half as many, and so on. Depends on the graph alone, as the order of the sums must.
PrivateRows private_rows(const Stream& s, const Graph& g, int num_threads) {
  int64_t parts = std::clamp<int64_t>((g.edges + g.entities) / 16384, 1, 64);
  for (;; parts = (parts + 1) / 2) {
    PrivateRows own(s, parts, g.sets, num_threads);
    if (parts == 1 || own.count() <= g.entities + 2 * g.sets) return own;
  }
}

template <class A>
struct Along {
  A u, x;  // G . u and G . x
};

// G = sum_k weight_k row_k, and its products with u and x.
template <class T, class A, std::size_t... k>
Along<A> gather(const A* const* row, const A* weight, const T* x, const T* u, A* sum, int64_t width,
                std::index_sequence<k...>) {
  const A* const rows[] = {row[k]...};
  const A weights[] = {weight[k]...};
  Lanes<A> along_u{}, along_x{};
  over_row<A>(width, [&](int64_t c, auto part) {
    const Lanes<A> t = (... + (weights[k] * load<A>(rows[k] + c, part)));
    store(sum + c, t, part);
    along_u += t * load<A>(u + c, part);
    along_x += t * load<A>(x + c, part);
  });
  return {total<A>(along_u), total<A>(along_x)};
}

// dx += H - 2 (H . u) u and du (+)= -2 [(H . u) x + (x . u) H], for H = G (+ T w).
template <bool first, bool triple, class T, class A>
void scatter(const A* sum, A t, const A* w, const T* x, const T* u, A h_along_u, A x_along_u, A* dx, A* du,
             int64_t width) {
  const A twice_h = -2 * h_along_u, twice_x = -2 * x_along_u;
  over_row<A>(width, [&](int64_t c, auto part) {
    Lanes<A> h = load<A>(sum + c, part);
    if constexpr (triple) h += t * load<A>(w + c, part);
    store(dx + c, load<A>(dx + c, part) + h + twice_h * load<A>(u + c, part), part);
    Lanes<A> change = twice_h * load<A>(x + c, part) + twice_x * h;
    if constexpr (!first) change += load<A>(du + c, part);
    store(du + c, change, part);
  });
}

// h = dL/dy from total = dL/dz; the result is D = h . y.
template <class G, class T, class A>
A through_activation(const G* total, const T* z, bool tanh, A* h, int64_t width) {
  if (!tanh) {
    Lanes<A> along{};
    over_row<A>(width, [&](int64_t c, auto part) {
      const Lanes<A> gradient = load<A>(total + c, part);
      store(h + c, gradient, part);
      along += gradient * load<A>(z + c, part);
    });
    return loginmea::total<A>(along);
  }
  constexpr int64_t kBlock = 64;
  A slope[kBlock], argument[kBlock];
  Lanes<A> along{};
  for (int64_t begin = 0; begin < width; begin += kBlock) {
    const int64_t count = std::min(kBlock, width - begin);
#pragma omp simd
    for (int64_t c = 0; c < count; ++c) {
      const A value = A(z[begin + c]);
      slope[c] = (1 - value) * (1 + value);
      argument[c] = slope_times_argument(value);
    }
    over_row<A>(count, [&](int64_t c, auto part) {
      const Lanes<A> gradient = load<A>(total + begin + c, part);
      store(h + begin + c, gradient * load<A>(slope + c, part), part);
      along += gradient * load<A>(argument + c, part);
    });
  }
  return loginmea::total<A>(along);
}

template <class T>
class Backward {
  using A = accumulator_t<T>;

 public:
  Backward(const Graph& graph, int64_t layers, int64_t width, const T* reflectors, bool tanh, bool triple,
           int num_threads)
      : graph_(graph),
        layers_(layers),
        width_(width),
        pitch_(padded<A>(width)),
        threads_(num_threads),
        tanh_(tanh),
        triple_(triple),
        u_{reflectors, width},
        stream_(source_stream(graph, num_threads)),
        own_(private_rows(stream_, graph, num_threads)),
        written_(own_.first.begin(), own_.first.end() - 1),
        du_(scratch<A>(own_.count() * pitch_)),
        dc_(scratch<A>(own_.count())),
        tp_(scratch<A>(triple ? own_.count() : 0)),
        dw_(scratch<A>(triple ? own_.parts() * pitch_ : 0)),
        tp_of_set_(scratch<A>(triple ? layers * graph.sets : 0)),
        u_along_w_(scratch<A>(triple ? graph.sets : 0)),
        weight_(scratch<A>(graph.edges)) {}

  // One layer; all the pointers that belong to it.
  struct Layer {
    int64_t number;
    Rows<const T> x;
    const A *lse, *logits, *w;
    const A *h, *d;        // of this layer's output
    Rows<const T> direct;  // gradient that x has from elsewhere, or null
    A *h_below, *d_below;  // of x, where a layer below follows; else null
    T* dx;                 // written where none does
    A *dc, *dw;
  };

  void run(const Layer& l) {
    if (triple_) {
#pragma omp parallel for num_threads(threads_) schedule(static)
      for (int64_t s = 0; s < graph_.sets; ++s) u_along_w_[s] = dot<A>(u_[s], l.w, width_);
      std::fill_n(dw_.get(), own_.parts() * pitch_, A(0));
      std::fill_n(tp_.get(), own_.count(), A(0));
    }
    std::fill_n(dc_.get(), own_.count(), A(0));
    walk<A>(
        stream_, own_.cuts, width_, threads_,
        [&](int64_t part, int64_t row, int64_t begin, int64_t end, A* dx, A* spare) {
          accumulate(l, part, row, begin, end, dx, spare);
        },
        [&](int64_t row, A* total) { finish(l, row, total); });
    collect_scalars(l);
  }

  // What is left when all layers have run: du, dv where v [L, d] is given, and what the reflectors give to dw.
  void collect(const A* v, const A* dc, T* du, A* dv, A* dw) const {
    if (v == nullptr && !triple_) {
      for_sets([&](int64_t, int64_t s, A* sum) { collect_reflector(s, sum, du); });
      return;
    }
    const auto partial_dv = scratch<A>(kSetParts * layers_ * pitch_),
               partial_dw = scratch<A>(kSetParts * layers_ * pitch_);
    std::fill_n(partial_dv.get(), kSetParts * layers_ * pitch_, A(0));
    std::fill_n(partial_dw.get(), kSetParts * layers_ * pitch_, A(0));
    for_sets([&](int64_t part, int64_t s, A* sum) {
      for (int64_t l = 0; l < layers_; ++l) {
        if (v != nullptr) {
          add_row(dc[l * graph_.sets + s], v + l * width_, sum, width_);
          add_row(dc[l * graph_.sets + s], u_[s], &partial_dv[(part * layers_ + l) * pitch_], width_);
        }
        if (triple_) {
          add_row(-2 * tp_of_set_[l * graph_.sets + s], u_[s], &partial_dw[(part * layers_ + l) * pitch_], width_);
        }
      }
      collect_reflector(s, sum, du);
    });
    if (v != nullptr) std::fill_n(dv, layers_ * width_, A(0));
    for (int64_t part = 0; part < kSetParts; ++part) {
      for (int64_t l = 0; l < layers_; ++l) {
        if (v != nullptr) add_row(A(1), &partial_dv[(part * layers_ + l) * pitch_], dv + l * width_, width_);
        if (triple_) add_row(A(1), &partial_dw[(part * layers_ + l) * pitch_], dw + l * width_, width_);
      }
    }
  }

 private:
  // The edges [begin, end) of one source: what they give to dx, and to the sums of their sets.
  void accumulate(const Layer& l, int64_t part, int64_t row, int64_t begin, int64_t end, A* dx, A* sum) {
    const int64_t next = stream_.visit[std::min(row + 2, stream_.rows - 1)];
    prefetch_row(l.x[next], width_);
    if (l.direct.data != nullptr) prefetch_row(l.direct[next], width_);
    if (l.h_below != nullptr) {
      prefetch_row<Use::write>(l.h_below + next * width_, width_);
    } else {
      prefetch_row<Use::write>(l.dx + next * width_, width_);
    }

    const T* x = l.x[stream_.visit[row]];
    const A x_along_w = triple_ ? dot<A>(x, l.w, width_) : A(0);
    const A* rows[kClump];
    A x_along_u = 0, t_of_row = 0;
    int32_t last = -1;
    for (int64_t e = begin; e < end;) {
      const int32_t set = stream_.set[e];
      const T* u = u_[set];
      if (set != last) x_along_u = dot<A>(x, u, width_);
      last = set;
      const A logit = l.logits[set] + (triple_ ? x_along_w - 2 * x_along_u * u_along_w_[set] : A(0));
      int count = 0;
      A weighted_d = 0;
      while (count < kClump && e + count < end && stream_.set[e + count] == set) {
        const int32_t i = stream_.other[e + count];
        const A weight = exponential(logit - l.lse[i]);
        rows[count] = l.h + i * width_;
        weight_[e + count] = weight;
        weighted_d += weight * l.d[i];
        ++count;
        prefetch_ahead(l, part, e + count + kAhead);
      }
      const Along<A> g = with_count(count, [&](auto k) { return gather(rows, &weight_[e], x, u, sum, width_, k); });
      const A t = g.x - 2 * x_along_u * g.u - weighted_d;

      const int64_t slot = own_.row(part, set);
      A* du = &du_[slot * pitch_];
      const bool first = slot == written_[part];
      if (first) ++written_[part];
      dc_[slot] += t;
      if (triple_) {
        tp_[slot] += t * x_along_u;
        t_of_row += t;
        const A h_along_u = g.u + t * u_along_w_[set];
        const auto add = first ? scatter<true, true, T, A> : scatter<false, true, T, A>;
        add(sum, t, l.w, x, u, h_along_u, x_along_u, dx, du, width_);
      } else {
        const auto add = first ? scatter<true, false, T, A> : scatter<false, false, T, A>;
        add(sum, t, l.w, x, u, g.u, x_along_u, dx, du, width_);
      }
      e += count;
    }
    if (triple_) {
      add_row(t_of_row, x, &dw_[part * pitch_], width_);
    }
  }

  __attribute__((always_inline)) void prefetch_ahead(const Layer& l, int64_t part, int64_t place) const {
    const int64_t ahead = std::min(place, stream_.start[stream_.rows] - 1);
    prefetch_row(l.h + stream_.other[ahead] * width_, width_);
    const int32_t set = stream_.set[ahead];
    if (set == stream_.set[std::max<int64_t>(ahead - 1, 0)]) return;
    prefetch_row(u_[set], width_);
    if (own_.meets(part, set)) prefetch_row<Use::write>(&du_[own_.row(part, set) * pitch_], width_);
  }

  void finish(const Layer& l, int64_t row, A* total) const {
    const int64_t j = stream_.visit[row];
    if (l.direct.data != nullptr) {
      add_row(A(1), l.direct[j], total, width_);
    }
    if (l.h_below != nullptr) {
      l.d_below[j] = through_activation(total, l.x[j], tanh_, l.h_below + j * width_, width_);
    } else {
      store_row(A(1), total, l.dx + j * width_, width_);
    }
  }

  // dc, and of dw = sum_j (sum of T) x_j - 2 sum_s (sum of T p) u_s the first half.
  void collect_scalars(const Layer& l) {
    if (triple_) {
      std::fill_n(l.dw, width_, A(0));
      for (int64_t part = 0; part < own_.parts(); ++part) add_row(A(1), &dw_[part * pitch_], l.dw, width_);
    }
#pragma omp parallel for num_threads(threads_) schedule(static)
    for (int64_t s = 0; s < graph_.sets; ++s) {
      A t = 0, tp = 0;
      for (int64_t part = 0; part < own_.parts(); ++part) {
        if (!own_.meets(part, s)) continue;
        t += dc_[own_.row(part, s)];
        if (triple_) tp += tp_[own_.row(part, s)];
      }
      l.dc[s] = t;
      if (triple_) tp_of_set_[l.number * graph_.sets + s] = tp;
    }
  }

  // Calls body(part, set, row of zeros) for all sets, cut into a fixed number of parts.
  template <class Body>
  void for_sets(Body&& body) const {
    const PerThread<A> sums(threads_, pitch_);
#pragma omp parallel num_threads(threads_)
    {
      A* sum = sums.of(omp_get_thread_num());
#pragma omp for schedule(dynamic, 1)
      for (int64_t part = 0; part < kSetParts; ++part) {
        const int64_t end = graph_.sets * (part + 1) / kSetParts;
        for (int64_t s = graph_.sets * part / kSetParts; s < end; ++s) {
          std::fill_n(sum, width_, A(0));
          body(part, s, sum);
        }
      }
    }
  }

  void collect_reflector(int64_t s, A* sum, T* du) const {
    for (int64_t part = 0; part < own_.parts(); ++part) {
      if (own_.meets(part, s)) add_row(A(1), &du_[own_.row(part, s) * pitch_], sum, width_);
    }
    store_row(A(1), sum, du + s * width_, width_);
  }

  static constexpr int64_t kSetParts = 32;

  const Graph& graph_;
  const int64_t layers_, width_, pitch_;
  const int threads_;
  const bool tanh_, triple_;
  const Rows<const T> u_;
  const Stream stream_;
  const PrivateRows own_;
  std::vector<int64_t> written_;  // by part: rows of du_ up to here have been written, those from here on not yet
  Scratch<A> du_;                 // [own rows, pitch]
  Scratch<A> dc_, tp_;            // [own rows], sums of T and of T p
  Scratch<A> dw_;                 // [parts, pitch], sums of T x_j
  Scratch<A> tp_of_set_;          // [layers, sets], sums of T p
  Scratch<A> u_along_w_;          // [sets]
  Scratch<A> weight_;             // [edges]
};

template <class T>
void backward(const Graph& g, int64_t width, const Addresses& grad, const Strides& grad_stride, const Addresses& z,
              const Strides& z_stride, const accumulator_t<T>* lse, const accumulator_t<T>* logits, const T* reflectors,
              const accumulator_t<T>* relation_vectors, const accumulator_t<T>* neighbor_vectors, bool tanh, T* dx,
              T* du, accumulator_t<T>* dc, accumulator_t<T>* dv, accumulator_t<T>* dw, int num_threads) {
  using A = accumulator_t<T>;
  prefer_huge_pages(dx, g.entities * width * static_cast<int64_t>(sizeof(T)));
  prefer_huge_pages(du, g.sets * width * static_cast<int64_t>(sizeof(T)));
  const auto layers = static_cast<int64_t>(z.size()) - 1;
  const auto rows_of = [](const Addresses& address, const Strides& stride, int64_t k) {
    return Rows<const T>{reinterpret_cast<const T*>(address[k]), stride[k]};
  };
  Backward<T> pass(g, layers, width, reflectors, tanh, neighbor_vectors != nullptr, num_threads);

  // h [N, d] and D [N] of the layer at hand and of the one below. The lowest layer reads one table of h and writes dx,
  // the next reads the other: dx serves as that other one where its type allows.
  const auto h_odd = scratch<A>(g.entities * width);
  const auto h_spare = scratch<A>(layers > 1 && !std::is_same_v<T, A> ? g.entities * width : 0);
  const auto d_both = scratch<A>(2 * g.entities);
  A *h = h_odd.get(), *h_below = h_spare.get(), *d = d_both.get(), *d_below = d_both.get() + g.entities;
  if constexpr (std::is_same_v<T, A>) h_below = dx;
  if (layers % 2 == 0) std::swap(h, h_below);

  const Rows<const T> z_top = rows_of(z, z_stride, layers), grad_top = rows_of(grad, grad_stride, layers);
#pragma omp parallel for num_threads(num_threads) schedule(static)
  for (int64_t i = 0; i < g.entities; ++i) {
    d[i] = through_activation(grad_top[i], z_top[i], tanh, h + i * width, width);
  }
  for (int64_t k = layers - 1; k >= 0; --k) {
    const bool lowest = k == 0;
    pass.run({k, rows_of(z, z_stride, k), lse + k * g.entities, logits + k * g.sets,
              neighbor_vectors != nullptr ? neighbor_vectors + k * width : nullptr, h, d, rows_of(grad, grad_stride, k),
              lowest ? nullptr : h_below, d_below, dx, dc + k * g.sets, dw != nullptr ? dw + k * width : nullptr});
    std::swap(h, h_below);
    std::swap(d, d_below);
  }
  pass.collect(relation_vectors, dc, du, dv, dw);
}

}  // namespace

void relation_reflection_forward(DType dtype, int64_t num_entities, int64_t num_edges, int64_t num_sets, int64_t width,
                                 Addresses index, Addresses z, Strides z_stride, const void* reflectors,
                                 const void* set_logits, const void* relation_vectors, const void* neighbor_vectors,
                                 bool tanh, void* logits, void* lse, int num_threads) {
  const Graph g = graph_of(num_entities, num_edges, num_sets, index);
  dispatch(dtype, "relation_reflection_forward", [&](auto element) {
    using T = decltype(element);
    using A = accumulator_t<T>;
    forward<T>(g, width, z, z_stride, static_cast<const T*>(reflectors), static_cast<const A*>(set_logits),
               static_cast<const A*>(relation_vectors), static_cast<const A*>(neighbor_vectors), tanh,
               static_cast<A*>(logits), static_cast<A*>(lse), num_threads);
  });
}

void relation_reflection_backward(DType dtype, int64_t num_entities, int64_t num_edges, int64_t num_sets, int64_t width,
                                  Addresses index, Addresses grad, Strides grad_stride, Addresses z, Strides z_stride,
                                  const void* lse, const void* logits, const void* reflectors,
                                  const void* relation_vectors, const void* neighbor_vectors, bool tanh, void* dx,
                                  void* du, void* dc, void* dv, void* dw, int num_threads) {
  const Graph g = graph_of(num_entities, num_edges, num_sets, index);
  dispatch(dtype, "relation_reflection_backward", [&](auto element) {
    using T = decltype(element);
    using A = accumulator_t<T>;
    backward<T>(g, width, grad, grad_stride, z, z_stride, static_cast<const A*>(lse), static_cast<const A*>(logits),
                static_cast<const T*>(reflectors), static_cast<const A*>(relation_vectors),
                static_cast<const A*>(neighbor_vectors), tanh, static_cast<T*>(dx), static_cast<T*>(du),
                static_cast<A*>(dc), static_cast<A*>(dv), static_cast<A*>(dw), num_threads);
  });
}

}  // namespace loginmea
