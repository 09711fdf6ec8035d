// Relation-reflection attention on the CPU, backward: one pass a layer over the edges by source, as attention_stream.h
// says. For source j, set s and the edges e between them,
//
//     G = sum a_e h_i ;  p = x_j . u_s ;  q = G . u_s ;  T = sum of dl_e = G . x_j - 2 p q - sum a_e D_i
//     dx_j += H - 2 (H . u) u ;  du_s -= 2 [ (H . u) x_j + p H ] ;  dc_s += T ;  dw += T m       with H = G + T w
//
// so every gradient follows from the row G, which never leaves the first-level cache.
#include <omp.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <memory>
#include <type_traits>
#include <utility>
#include <vector>

#include "attention_stream.h"
#include "elementwise.h"
#include "lanes.h"
#include "memory.h"
#include "relation_reflection_attention.h"
#include "rows.h"
#include "subnormals.h"

namespace loginmea {
namespace {

using namespace attention;

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
  int64_t parts = std::clamp<int64_t>((g.edges + g.sources) / 16384, 1, 64);
  for (;; parts = (parts + 1) / 2) {
    PrivateRows own(s, parts, g.sets, num_threads);
    if (parts == 1 || own.count() <= g.sources + 2 * g.sets) return own;
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

// The layers that walk one graph.
template <class T>
class Backward {
  using A = accumulator_t<T>;

 public:
  Backward(const Graph& graph, int64_t width, const T* reflectors, bool tanh, bool tanh_input, bool triple,
           int num_threads)
      : graph_(graph),
        width_(width),
        pitch_(padded<A>(width)),
        threads_(num_threads),
        tanh_(tanh),
        tanh_input_(tanh_input),
        triple_(triple),
        u_{reflectors, width},
        by_source_(graph, num_threads),
        stream_(by_source_.of(graph)),
        own_(private_rows(stream_, graph, num_threads)),
        written_(own_.first.begin(), own_.first.end() - 1),
        du_(scratch<A>(own_.count() * pitch_)),
        dc_(scratch<A>(own_.count())),
        tp_(scratch<A>(triple ? own_.count() : 0)),
        dw_(scratch<A>(triple ? own_.parts() * pitch_ : 0)),
        u_along_w_(scratch<A>(triple ? graph.sets : 0)),
        weight_(scratch<A>(graph.edges)) {}

  // One layer; all the pointers that belong to it.
  struct Layer {
    Rows<const T> x;
    const A *lse, *logits, *w;
    const A *h, *d;        // of this layer's output
    Rows<const T> direct;  // gradient that the first `direct_rows` of x have from elsewhere, or null
    int64_t direct_rows;
    A *h_below, *d_below;  // of x, where a layer below follows; else null
    T* dx;                 // written where none does
    A *dc, *dw;
    A* tp;  // [sets], sums of T p, in triple mode
  };

  void run(const Layer& l) {
    if (triple_) {
#pragma omp parallel num_threads(threads_)
      {
        const FlushSubnormals flush;
#pragma omp for schedule(static)
        for (int64_t s = 0; s < graph_.sets; ++s) u_along_w_[s] = dot<A>(u_[s], l.w, width_);
      }
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

  // sum += what the layers have given to the reflector of set s.
  void add_reflector(int64_t s, A* sum) const {
    for (int64_t part = 0; part < own_.parts(); ++part) {
      if (own_.meets(part, s)) add_row(A(1), &du_[own_.row(part, s) * pitch_], sum, width_);
    }
  }

 private:
  // The edges [begin, end) of one source: what they give to dx, and to the sums of their sets.
  void accumulate(const Layer& l, int64_t part, int64_t row, int64_t begin, int64_t end, A* dx, A* sum) {
    const int64_t next = stream_.entity(std::min(row + 2, stream_.rows - 1));
    prefetch_row(l.x[next], width_);
    if (next < l.direct_rows) prefetch_row(l.direct[next], width_);
    if (l.h_below != nullptr) {
      prefetch_row<Use::write>(l.h_below + next * width_, width_);
    } else {
      prefetch_row<Use::write>(l.dx + next * width_, width_);
    }

    const T* x = l.x[stream_.entity(row)];
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
    // Without an edge there is nothing to add, and zero times a NaN is one.
    if (triple_ && begin < end) add_row(t_of_row, x, &dw_[part * pitch_], width_);
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
    const int64_t j = stream_.entity(row);
    if (j < l.direct_rows) add_row(A(1), l.direct[j], total, width_);
    if (l.h_below != nullptr) {
      l.d_below[j] = through_activation(total, l.x[j], tanh_, l.h_below + j * width_, width_);
    } else if (tanh_input_) {
      const T* z = l.x[j];
      T* to = l.dx + j * width_;
#pragma omp simd
      for (int64_t c = 0; c < width_; ++c) to[c] = T(total[c] * (1 - A(z[c])) * (1 + A(z[c])));
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
#pragma omp parallel num_threads(threads_)
    {
      const FlushSubnormals flush;
#pragma omp for schedule(static)
      for (int64_t s = 0; s < graph_.sets; ++s) {
        A t = 0, tp = 0;
        for (int64_t part = 0; part < own_.parts(); ++part) {
          if (!own_.meets(part, s)) continue;
          t += dc_[own_.row(part, s)];
          if (triple_) tp += tp_[own_.row(part, s)];
        }
        l.dc[s] = t;
        if (triple_) l.tp[s] = tp;
      }
    }
  }

  const Graph& graph_;
  const int64_t width_, pitch_;
  const int threads_;
  const bool tanh_, tanh_input_, triple_;
  const Rows<const T> u_;
  const SourceStream by_source_;
  const Stream stream_;
  const PrivateRows own_;
  std::vector<int64_t> written_;  // by part: rows of du_ up to here have been written, those from here on not yet
  Scratch<A> du_;                 // [own rows, pitch]
  Scratch<A> dc_, tp_;            // [own rows], sums of T and of T p
  Scratch<A> dw_;                 // [parts, pitch], sums of T x_j
  Scratch<A> u_along_w_;          // [sets]
  Scratch<A> weight_;             // [edges]
};

// Calls body(part, set, row of zeros) for all sets, cut into a fixed number of parts.
constexpr int64_t kSetParts = 32;

template <class A, class Body>
void for_sets(int64_t sets, int64_t width, int num_threads, Body&& body) {
  const PerThread<A> sums(num_threads, padded<A>(width));
#pragma omp parallel num_threads(num_threads)
  {
    const FlushSubnormals flush;
    A* sum = sums.of(omp_get_thread_num());
#pragma omp for schedule(dynamic, 1)
    for (int64_t part = 0; part < kSetParts; ++part) {
      const int64_t end = sets * (part + 1) / kSetParts;
      for (int64_t s = sets * part / kSetParts; s < end; ++s) {
        std::fill_n(sum, width, A(0));
        body(part, s, sum);
      }
    }
  }
}

// What is left when all layers have run: du; dv where v [L, d] is given; and what the reflectors give to dw where tp
// [L, U] is.
template <class T, class A>
void collect(const std::vector<std::unique_ptr<Backward<T>>>& passes, int64_t sets, int64_t layers, int64_t width,
             const T* reflectors, const A* v, const A* tp, const A* dc, T* du, A* dv, A* dw, int num_threads) {
  const Rows<const T> u{reflectors, width};
  const int64_t pitch = padded<A>(width), partial = kSetParts * layers * pitch;
  const auto partial_dv = scratch<A>(v != nullptr ? partial : 0), partial_dw = scratch<A>(tp != nullptr ? partial : 0);
  if (v != nullptr) std::fill_n(partial_dv.get(), partial, A(0));
  if (tp != nullptr) std::fill_n(partial_dw.get(), partial, A(0));
  for_sets<A>(sets, width, num_threads, [&](int64_t part, int64_t s, A* sum) {
    for (int64_t l = 0; l < layers; ++l) {
      if (v != nullptr) {
        add_row(dc[l * sets + s], v + l * width, sum, width);
        add_row(dc[l * sets + s], u[s], &partial_dv[(part * layers + l) * pitch], width);
      }
      if (tp != nullptr) add_row(-2 * tp[l * sets + s], u[s], &partial_dw[(part * layers + l) * pitch], width);
    }
    for (const auto& pass : passes) pass->add_reflector(s, sum);
    store_row(A(1), sum, du + s * width, width);
  });
  if (v != nullptr) std::fill_n(dv, layers * width, A(0));
  for (int64_t part = 0; part < kSetParts; ++part) {
    for (int64_t l = 0; l < layers; ++l) {
      if (v != nullptr) add_row(A(1), &partial_dv[(part * layers + l) * pitch], dv + l * width, width);
      if (tp != nullptr) add_row(A(1), &partial_dw[(part * layers + l) * pitch], dw + l * width, width);
    }
  }
}

template <class T>
void backward(const std::vector<Graph>& graphs, int64_t width, const Addresses& grad, const Strides& grad_stride,
              const Addresses& z, const Strides& z_stride, const accumulator_t<T>* lse, const accumulator_t<T>* logits,
              const T* reflectors, const accumulator_t<T>* relation_vectors, const accumulator_t<T>* neighbor_vectors,
              bool tanh, bool tanh_input, T* dx, T* du, accumulator_t<T>* dc, accumulator_t<T>* dv,
              accumulator_t<T>* dw, int num_threads) {
  using A = accumulator_t<T>;
  const auto layers = static_cast<int64_t>(z.size()) - 1;
  const Graph &lowest = graphs.front(), &highest = graphs.back();
  const int64_t sets = lowest.sets;
  prefer_huge_pages(dx, lowest.sources * width * static_cast<int64_t>(sizeof(T)));
  prefer_huge_pages(du, sets * width * static_cast<int64_t>(sizeof(T)));
  const auto rows_of = [](const Addresses& address, const Strides& stride, int64_t k) {
    return Rows<const T>{reinterpret_cast<const T*>(address[k]), stride[k]};
  };
  const bool triple = neighbor_vectors != nullptr;
  std::vector<std::unique_ptr<Backward<T>>> passes;
  for (const Graph& g : graphs) {
    passes.push_back(std::make_unique<Backward<T>>(g, width, reflectors, tanh, tanh_input, triple, num_threads));
  }
  const auto tp = scratch<A>(triple ? layers * sets : 0);

  // h and D, a row a destination, of the layer at hand and of the one below. The lowest layer reads one table of h and
  // writes dx, the next reads the other: dx serves as that other one where its type allows.
  const int64_t rows = lowest.destinations;
  const auto h_odd = scratch<A>(rows * width);
  const auto h_spare = scratch<A>(layers > 1 && !std::is_same_v<T, A> ? rows * width : 0);
  const auto d_both = scratch<A>(2 * rows);
  A *h = h_odd.get(), *h_below = h_spare.get(), *d = d_both.get(), *d_below = d_both.get() + rows;
  if constexpr (std::is_same_v<T, A>) h_below = dx;
  if (layers % 2 == 0) std::swap(h, h_below);

  const Rows<const T> z_top = rows_of(z, z_stride, layers), grad_top = rows_of(grad, grad_stride, layers);
#pragma omp parallel num_threads(num_threads)
  {
    const FlushSubnormals flush;
#pragma omp for schedule(static)
    for (int64_t i = 0; i < highest.destinations; ++i) {
      d[i] = through_activation(grad_top[i], z_top[i], tanh, h + i * width, width);
    }
  }
  for (int64_t k = 0; k < layers; ++k) lse += graph_of_layer(graphs, k).destinations;
  for (int64_t k = layers - 1; k >= 0; --k) {
    lse -= graph_of_layer(graphs, k).destinations;
    const Rows<const T> direct = rows_of(grad, grad_stride, k);
    passes[passes.size() == 1 ? 0 : k]->run(
        {rows_of(z, z_stride, k), lse, logits + k * sets, triple ? neighbor_vectors + k * width : nullptr, h, d, direct,
         direct.data != nullptr ? highest.destinations : 0, k == 0 ? nullptr : h_below, d_below, dx, dc + k * sets,
         dw != nullptr ? dw + k * width : nullptr, &tp[triple ? k * sets : 0]});
    std::swap(h, h_below);
    std::swap(d, d_below);
  }
  collect<T, A>(passes, sets, layers, width, reflectors, relation_vectors, triple ? tp.get() : nullptr, dc, du, dv, dw,
                num_threads);
}

}  // namespace

void relation_reflection_backward(DType dtype, Sizes sizes, int64_t num_sets, int64_t width, Addresses index,
                                  Addresses grad, Strides grad_stride, Addresses z, Strides z_stride, const void* lse,
                                  const void* logits, const void* reflectors, const void* relation_vectors,
                                  const void* neighbor_vectors, bool tanh, bool tanh_input, void* dx, void* du,
                                  void* dc, void* dv, void* dw, int num_threads) {
  const std::vector<Graph> graphs = graphs_of(sizes, num_sets, index);
  dispatch(dtype, "relation_reflection_backward", [&](auto element) {
    using T = decltype(element);
    using A = accumulator_t<T>;
    backward<T>(graphs, width, grad, grad_stride, z, z_stride, static_cast<const A*>(lse),
                static_cast<const A*>(logits), static_cast<const T*>(reflectors),
                static_cast<const A*>(relation_vectors), static_cast<const A*>(neighbor_vectors), tanh, tanh_input,
                static_cast<T*>(dx), static_cast<T*>(du), static_cast<A*>(dc), static_cast<A*>(dv), static_cast<A*>(dw),
                num_threads);
  });
}

}  // namespace loginmea
