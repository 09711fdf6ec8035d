// Blocks of rows, the rank as the inner loop: a projection P_mk lives for as long as one tile does, and only the sum
// over k of products over m is written.
//
// What the plain formula does and this does not:
//   o_k        is folded into the first factor, W'_0 = o_k W_0; its gradient is then the inner product <W_0, dW'_0>.
//   [1 | t]    is never formed: row 0 of a factor is added to the tile, its gradient is a column sum of dP.
//   t = r x    is one multiplication while rows are packed, so normalised and weighted copies of x do not exist.
//   dt         is summed over k in a block that stays in cache, and becomes dx and dr once.
//   dP         is written where the two products that consume it read it: its rows are the left operand of dP W^T and
//   the
//              right operand of t^T dP. bf16 needs pairs along the depth, so there the rows are also kept interleaved.
//
// Backward is one parallel region. For each block of rows and each k, threads first take groups of rows (P, dP, dt),
// then, after a barrier, groups of rows of dW; two dP buffers make one barrier a rank enough. Every element is summed
// by one thread in an order that depends on sizes alone, so results repeat bit for bit for any number of threads.
#include "cpu/low_rank_fusion.h"

#include <omp.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "cpu/gemm_tile.h"
#include "cpu/low_rank_fusion_blocks.h"
#include "cpu/memory.h"
#include "cpu/subnormals.h"

namespace loginmea {
namespace {

using fusion::pointers;
using gemm::aligned_buffer;
using gemm::kColumns;
using gemm::kLanes;
using gemm::kRows;
using gemm::kStep;
using gemm::left_stride;
using gemm::load;
using gemm::multiply_tile;
using gemm::panel_offset;
using gemm::panel_vectors;
using gemm::round_up;
using gemm::store;
using gemm::vector_t;
using std::int64_t;
using std::uintptr_t;

constexpr int64_t kForwardBytes = 192 << 10;  // of packed rows beside which the panels of one rank fit in L2
constexpr int64_t kBackwardRows = 192;        // depth of one product t^T dP: long enough to hide the update of dW
constexpr int64_t kGroupRows = 96;            // rows that share a factor while it passes through L2

int64_t chunks(int64_t n, int64_t size) { return (n + size - 1) / size; }

// Rows stored as S, multiplied as T, summed as A. M modalities if positive, else as many as there are.
template <class S, class T, int M>
class Fusion {
  using A = accumulator_t<T>;
  using Vector = vector_t<A>;
  static constexpr int kPanel = kColumns<T>;
  static constexpr int64_t kTile = kRows * kPanel;
  using Rows = fusion::Rows<T>;
  using Gradients = fusion::Gradients<T>;
  using Sums = fusion::Sums<A>;

 public:
  std::vector<const S*> inputs, factors;
  std::vector<int64_t> strides, widths;
  const A *rank_weights, *row_scale;
  int64_t rows, rank, width;
  int num_threads;

  void forward(const A* bias, S* products, S* y) {
    pack_projections();
    prefer_huge_pages(y, rows * width * static_cast<int64_t>(sizeof(S)));
    if (products) prefer_huge_pages(products, rank * count() * rows * width * static_cast<int64_t>(sizeof(S)));
    int64_t row_bytes = 0;
    for (const int64_t d : widths) row_bytes += left_stride<T>(d) * sizeof(T);
    const int64_t most = std::max<int64_t>(kForwardBytes / std::max<int64_t>(row_bytes, 1), 4 * kRows);
    const int64_t share = std::min(most, std::max<int64_t>(chunks(rows, num_threads), 1));
    const int64_t block = round_up(share, kRows);
    std::vector<Rows> thread_rows;
    for (int thread = 0; thread < num_threads; ++thread) thread_rows.emplace_back(widths, block);
    const PerThread<A> thread_projections(num_threads, count() * kTile), totals(num_threads, block * kPanel);
#pragma omp parallel num_threads(num_threads)
    {
      const FlushSubnormals flush;
      const Rows& t = thread_rows[omp_get_thread_num()];
      t.clear();
      A* projections = thread_projections.of(omp_get_thread_num());
      A* total = totals.of(omp_get_thread_num());
#pragma omp for schedule(dynamic)
      for (int64_t first = 0; first < rows; first += block) {
        const int64_t valid = std::min(block, rows - first);
        pack_rows(t, first, 0, valid);
        for (int64_t column = 0; column < width; column += kPanel) {
          const int vectors = panel_vectors<T>(width, column);
          const int64_t columns = std::min<int64_t>(kPanel, width - column);
          for (int64_t r = 0; r < valid; ++r) {
            std::copy_n(bias + column, columns, total + r * kPanel);
          }
          for (int64_t k = 0; k < rank; ++k) {
            const bool last = k + 1 == rank;
            const Position next{last ? 0 : k + 1, last ? std::min(column + kPanel, last_column()) : column};
            for (int64_t row = 0; row < valid; row += kRows) {
              const Part part{row / kRows, gemm::tiles(valid)};
              project(t, row, {k, column}, next, part, projections);
              add_product(projections, vectors, total + row * kPanel);
              if (products) keep(projections, k, column, columns, first + row, rows_of_tile(row, valid), products);
            }
          }
          for (int64_t r = 0; r < valid; ++r) {
            gemm::detail::convert(total + r * kPanel, columns, A{1}, y + (first + r) * width + column);
          }
        }
      }
    }
  }

  void backward(const S* g, const S* products, const std::vector<S*>& input_grads, const std::vector<S*>& factor_grads,
                A* rank_grad, A* bias_grad, A* row_scale_grad) {
    const bool want_inputs = !input_grads.empty(), want_factors = !factor_grads.empty();
    const bool project_again = !products && count() > 1;  // with one modality dP is g
    if (project_again) pack_projections();
    if (want_inputs) pack_transposed();
    const int64_t block = std::min(kBackwardRows, std::max<int64_t>(round_up(rows, kRows), kRows));
    const int64_t group = std::min(kGroupRows, round_up(chunks(block, num_threads), kRows));
    const Rows t(widths, block);
    t.clear();
    const Gradients d(widths, padded_width(), block);
    const Sums sums(widths, padded_width(), rank, want_factors);
    std::fill_n(bias_grad, width, A(0));
    for (std::size_t m = 0; m < input_grads.size(); ++m) {
      prefer_huge_pages(input_grads[m], rows * widths[m] * static_cast<int64_t>(sizeof(S)));
    }

    std::vector<int64_t> first_tile(count() + 1, 0);  // of dW: tiles of all modalities, one after another
    for (int64_t m = 0; m < count(); ++m) first_tile[m + 1] = first_tile[m] + gemm::tiles(widths[m]);
    const int64_t factor_tiles = first_tile.back();
    const int64_t share = std::clamp<int64_t>(chunks(factor_tiles, 6 * num_threads), 1, 25);

    const PerThread<A> thread_projections(num_threads, count() * kTile);
#pragma omp parallel num_threads(num_threads)
    {
      const FlushSubnormals flush;
      A* projections = thread_projections.of(omp_get_thread_num());
      for (int64_t first = 0; first < rows; first += block) {
        const int64_t valid = std::min(block, rows - first), padded = round_up(valid, kRows);
#pragma omp for schedule(dynamic)
        for (int64_t row = 0; row < padded; row += group) {
          const int64_t end = std::min(row + group, padded);
          pack_rows(t, first, row, std::min(end, valid));
          if (kStep<T> == 2) interleave_rows(t, row, end);
          widen_gradient(g, first, row, end, valid, d.g.get());
        }
        for (int64_t k = 0; k < rank; ++k) {
          const typename Gradients::Side& dp = d.dp[k % 2];
#pragma omp for schedule(dynamic)
          for (int64_t row = 0; row < padded; row += group) {
            const int64_t end = std::min(row + group, padded);
            projection_gradient(t, d, dp, k, first, row, end, valid, products, projections);
            if (want_inputs) input_gradient(d, dp, k, row, end);
          }
          if (want_factors) {
#pragma omp for schedule(dynamic) nowait
            for (int64_t tile = 0; tile < factor_tiles; tile += share) {
              factor_gradient(t, d, dp, sums, k, first_tile, tile, std::min(tile + share, factor_tiles), padded);
            }
#pragma omp for schedule(dynamic) nowait
            for (int64_t m = 0; m < count(); ++m) constant_gradient(dp.sums[m].get(), padded, sums.constants(k, m));
          }
        }
#pragma omp for schedule(static) nowait
        for (int64_t column = 0; column < width; column += kPanel) {
          for (int64_t r = 0; r < valid; ++r) {
            const A* from = d.g.get() + r * d.g_stride;
            for (int64_t c = column; c < std::min(column + kPanel, width); ++c) bias_grad[c] += from[c];
          }
        }
        if (want_inputs) {
#pragma omp for schedule(dynamic) nowait
          for (int64_t row = 0; row < valid; row += group) {
            write_input_gradient(d, first, row, std::min(row + group, valid), input_grads, row_scale_grad);
          }
        }
        // The next block overwrites the rows that the last products of this one still read.
#pragma omp barrier
      }
    }
    // Nobody has touched the pages of the factors' gradients yet: they may take the place of the panels.
    forward_panels_ = {}, transposed_panels_ = {};
    if (want_factors) write_factor_gradient(sums, factor_grads, rank_grad);
  }

 private:
  int64_t count() const { return M > 0 ? M : static_cast<int64_t>(inputs.size()); }
  int64_t last_column() const { return (width - 1) / kPanel * kPanel; }
  int64_t padded_width() const { return round_up(width, kLanes<T>); }
  static int64_t rows_of_tile(int64_t row, int64_t valid) { return std::min<int64_t>(kRows, valid - row); }

  struct Position {  // of a panel
    int64_t k, column;
  };
  struct Part {  // of what is fetched ahead
    int64_t index, count;
  };
  struct Panel {
    const T* data;
    int vectors;
    int64_t step, steps;
    gemm::ahead fetch(Part part, int64_t over) const {
      return {data, steps * step * static_cast<int64_t>(sizeof(T)), part.index, part.count, over};
    }
  };
  static Panel panel_of(const T* packed, int64_t depth, int64_t columns, int64_t column) {
    const int vectors = panel_vectors<T>(columns, column);
    return {packed + panel_offset<T>(depth, column), vectors, int64_t{vectors} * kLanes<T> * kStep<T>,
            round_up(depth, kStep<T>) / kStep<T>};
  }
  Panel projection_panel(Position at, int64_t m) const {
    return panel_of(forward_panels_.get() + forward_offset_[at.k * count() + m], widths[m], width, at.column);
  }
  Panel transposed_panel(Position at, int64_t m) const {
    return panel_of(transposed_panels_.get() + transposed_offset_[at.k * count() + m], width, widths[m], at.column);
  }

  A folded(int64_t k, int64_t m) const { return m == 0 ? rank_weights[k] : A{1}; }
  const S* factor(int64_t k, int64_t m) const { return factors[m] + k * (widths[m] + 1) * width; }

  // W' as the right operand of t W', and its row 0.
  void pack_projections() {
    forward_offset_.clear();
    int64_t size = 0;
    for (int64_t k = 0; k < rank; ++k) {
      for (const int64_t d : widths) {
        forward_offset_.push_back(size);
        size += gemm::right_size<T>(d, width);
      }
    }
    forward_panels_ = aligned_buffer<T>(size);
    constants_ = aligned_buffer<A>(rank * count() * padded_width());
#pragma omp parallel for schedule(dynamic) num_threads(num_threads)
    for (int64_t i = 0; i < rank * count(); ++i) {
      const int64_t k = i / count(), m = i % count();
      A* constants = constants_.get() + i * padded_width();
      gemm::detail::convert(factor(k, m), width, accumulator_t<S>(folded(k, m)), constants);
      std::fill(constants + width, constants + padded_width(), A(0));
      gemm::pack_right(factor(k, m) + width, width, widths[m], width, accumulator_t<S>(folded(k, m)),
                       forward_panels_.get() + forward_offset_[i]);
    }
  }

  // W'^T as the right operand of dP W'^T.
  void pack_transposed() {
    transposed_offset_.clear();
    int64_t size = 0;
    for (int64_t k = 0; k < rank; ++k) {
      for (const int64_t d : widths) {
        transposed_offset_.push_back(size);
        size += gemm::right_size<T>(width, d);
      }
    }
    transposed_panels_ = aligned_buffer<T>(size);
    const PerThread<accumulator_t<S>> scales(num_threads, *std::max_element(widths.begin(), widths.end()));
#pragma omp parallel for schedule(dynamic) num_threads(num_threads)
    for (int64_t i = 0; i < rank * count(); ++i) {
      const int64_t k = i / count(), m = i % count();
      accumulator_t<S>* scale = scales.of(omp_get_thread_num());
      std::fill_n(scale, widths[m], accumulator_t<S>(folded(k, m)));
      gemm::pack_right_transposed(factor(k, m) + width, width, widths[m], width, scale,
                                  transposed_panels_.get() + transposed_offset_[i]);
    }
  }

  // Rows [row, end) of the block that begins at `first`, scaled; zeros up to a whole tile.
  void pack_rows(const Rows& t, int64_t first, int64_t row, int64_t end) const {
    if (end <= row) return;
    for (int64_t m = 0; m < count(); ++m) {
      const A* scale = row_scale ? row_scale + (first + row) * count() + m : nullptr;
      gemm::pack_left(inputs[m] + (first + row) * strides[m], strides[m], end - row, widths[m], scale,
                      t.data[m] + row * t.stride[m], count());
    }
  }

  void interleave_rows(const Rows& t, int64_t row, int64_t end) const {
    for (int64_t m = 0; m < count(); ++m) {
      for (int64_t r = row; r < end; r += 2) {
        const T *even = t.data[m] + r * t.stride[m], *odd = even + t.stride[m];
        T* to = t.pairs[m] + r * t.stride[m];
        for (int64_t c = 0; c < t.stride[m]; ++c) to[2 * c] = even[c], to[2 * c + 1] = odd[c];
      }
    }
  }

  void widen_gradient(const S* g, int64_t first, int64_t row, int64_t end, int64_t valid, A* to) const {
    const int64_t stride = padded_width();
    for (int64_t r = row; r < end; ++r) {
      const int64_t filled = r < valid ? width : 0;
      if (filled) gemm::detail::convert(g + (first + r) * width, width, accumulator_t<S>{1}, to + r * stride);
      std::fill(to + r * stride + filled, to + (r + 1) * stride, A(0));
    }
  }

  // P_mk of one tile for all m, [M] of kRows x kPanel; the panels at `next` come nearer meanwhile.
  void project(const Rows& t, int64_t row, Position at, Position next, Part part, A* projections) const {
    for (int64_t m = 0; m < count(); ++m) {
      const Panel panel = projection_panel(at, m);
      multiply_tile<T>(panel.vectors, t.data[m] + row * t.stride[m], t.stride[m], kStep<T>, panel.data, panel.step,
                       panel.steps, projections + m * kTile, kPanel, false,
                       projection_panel(next, m).fetch(part, panel.steps),
                       constants_.get() + (at.k * count() + m) * padded_width() + at.column);
    }
  }

  void add_product(const A* projections, int vectors, A* total) const {
    for (int r = 0; r < kRows; ++r) {
      for (int v = 0; v < vectors; ++v) {
        const int64_t at = r * kPanel + v * kLanes<T>;
        Vector product = load<A>(projections + at);
        for (int64_t m = 1; m < count(); ++m) product *= load<A>(projections + m * kTile + at);
        store<A>(total + at, load<A>(total + at) + product);
      }
    }
  }

  void keep(const A* projections, int64_t k, int64_t column, int64_t columns, int64_t row, int64_t valid,
            S* products) const {
    for (int64_t m = 0; m < count(); ++m) {
      S* to = products + ((k * count() + m) * rows + row) * width + column;
      for (int64_t r = 0; r < valid; ++r) {
        gemm::detail::convert(projections + m * kTile + r * kPanel, columns, A{1}, to + r * width);
      }
    }
  }

  // P_mk of one tile: m after m, row after row.
  struct Projections {
    const A* data;
    int64_t step, stride;
    const A* at(int64_t m, int r, int v) const { return data + m * step + r * stride + v * kLanes<T>; }
  };

  // P_mk as it was kept, where it lies if a whole tile of A lies there.
  Projections fetch(const S* products, int64_t k, int64_t column, int vectors, int64_t row, int64_t valid,
                    A* projections) const {
    const int64_t columns = std::min<int64_t>(kPanel, width - column);
    const S* from = products + (k * count() * rows + row) * width + column;
    if constexpr (std::is_same_v<S, A>) {
      if (valid == kRows && columns == vectors * kLanes<T>) return {from, rows * width, width};
    }
    for (int64_t m = 0; m < count(); ++m) {
      for (int64_t r = 0; r < kRows; ++r) {
        A* to = projections + m * kTile + r * kPanel;
        const int64_t filled = r < valid ? columns : 0;
        if (filled) gemm::detail::convert(from + (m * rows + r) * width, columns, accumulator_t<S>{1}, to);
        std::fill(to + filled, to + vectors * kLanes<T>, A(0));
      }
    }
    return {projections, kTile, kPanel};
  }

  // dP_m = g prod_{n != m} P_n of rows [row, end) for all m.
  void projection_gradient(const Rows& t, const Gradients& d, const typename Gradients::Side& dp, int64_t k,
                           int64_t first, int64_t row, int64_t end, int64_t valid, const S* products,
                           A* projections) const {
    for (int64_t column = 0; column < width; column += kPanel) {
      const int vectors = panel_vectors<T>(width, column);
      for (int64_t r = row; r < end; r += kRows) {
        Projections p{projections, kTile, kPanel};
        if (products) {
          p = fetch(products, k, column, vectors, first + r, rows_of_tile(r, valid), projections);
        } else if (count() > 1) {
          const Part part{(r - row) / kRows, gemm::tiles(end - row)};
          project(t, r, {k, column}, {k, std::min(column + kPanel, last_column())}, part, projections);
        }
        for (int64_t m = 0; m < count(); ++m) product_of_others(p, d, dp, m, r, column, vectors);
      }
    }
  }

  void product_of_others(const Projections& p, const Gradients& d, const typename Gradients::Side& dp, int64_t m,
                         int64_t row, int64_t column, int vectors) const {
    const A* g = d.g.get() + row * d.g_stride + column;
    T* rows_at = dp.rows[m].get() + row * d.dp_stride + column;
    T* pairs_at = kStep<T> == 2 ? dp.pairs[m].get() + column * d.block + row * vectors * kLanes<T> : nullptr;
    A* sums_at = dp.sums[m].get() + row / kRows * d.g_stride + column;
    for (int v = 0; v < vectors; ++v) {
      Vector sum{};
      for (int r = 0; r < kRows; r += 2) {
        Vector pair[2];
        for (int side = 0; side < 2; ++side) {
          Vector product = load<A>(g + (r + side) * d.g_stride + v * kLanes<T>);
          for (int64_t n = 0; n < count(); ++n) {
            if (n != m) product *= load<A>(p.at(n, r + side, v));
          }
          pair[side] = product;
          sum += product;
        }
        store_pair(pair, rows_at + r * d.dp_stride + v * kLanes<T>, d.dp_stride,
                   pairs_at + (r * vectors + 2 * v) * kLanes<T>);
      }
      store<A>(sums_at + v * kLanes<T>, sum);
    }
  }

  // Two rows of dP, for bf16 also interleaved.
  static void store_pair(const Vector (&pair)[2], T* rows_at, int64_t stride, T* pairs_at) {
    const A* even = reinterpret_cast<const A*>(&pair[0]);
    const A* odd = reinterpret_cast<const A*>(&pair[1]);
    gemm::detail::convert(even, kLanes<T>, A{1}, rows_at);
    gemm::detail::convert(odd, kLanes<T>, A{1}, rows_at + stride);
    if constexpr (kStep<T> == 2) gemm::detail::interleave(even, odd, kLanes<T>, A{1}, pairs_at);
  }

  // dt_m (+)= dP_m W'^T of rows [row, end).
  void input_gradient(const Gradients& d, const typename Gradients::Side& dp, int64_t k, int64_t row,
                      int64_t end) const {
    for (int64_t m = 0; m < count(); ++m) {
      for (int64_t column = 0; column < widths[m]; column += kPanel) {
        const Panel panel = transposed_panel({k, column}, m);
        const Panel next = column + kPanel < widths[m] ? transposed_panel({k, column + kPanel}, m)
                           : m + 1 < count()           ? transposed_panel({k, 0}, m + 1)
                                                       : panel;
        for (int64_t r = row; r < end; r += kRows) {
          multiply_tile<T>(panel.vectors, dp.rows[m].get() + r * d.dp_stride, d.dp_stride, kStep<T>, panel.data,
                           panel.step, panel.steps, d.dt[m].get() + r * d.dt_stride[m] + column, d.dt_stride[m], k > 0,
                           next.fetch({(r - row) / kRows, gemm::tiles(end - row)}, panel.steps));
        }
      }
    }
  }

  // dW'_m += t_m^T dP_m, tiles of rows [tile, end) counted through all modalities.
  void factor_gradient(const Rows& t, const Gradients& d, const typename Gradients::Side& dp, const Sums& sums,
                       int64_t k, const std::vector<int64_t>& first_tile, int64_t tile, int64_t end,
                       int64_t padded) const {
    for (int64_t m = 0; m < count(); ++m) {
      const int64_t begin = (std::max(tile, first_tile[m]) - first_tile[m]) * kRows;
      const int64_t stop = (std::min(end, first_tile[m + 1]) - first_tile[m]) * kRows;
      for (int64_t column = 0; column < width && begin < stop; column += kPanel) {
        const int vectors = panel_vectors<T>(width, column);
        const int64_t panel_width = int64_t{vectors} * kLanes<T>, steps = padded / kStep<T>;
        const T* right = kStep<T> == 1 ? dp.rows[m].get() + column : dp.pairs[m].get() + column * d.block;
        const int64_t right_step = kStep<T> == 1 ? d.dp_stride : 2 * panel_width;
        for (int64_t i = begin; i < stop; i += kRows) {
          const bool last = i + kRows == stop;
          const A* following =
              sums.tile(k, m, last ? begin : i + kRows, last ? std::min(column + kPanel, last_column()) : column);
          const T* left = kStep<T> == 1 ? t.data[m] + i : t.pairs[m] + 2 * i;
          multiply_tile<T>(vectors, left, kStep<T>, kStep<T> * t.stride[m], right, right_step, steps,
                           sums.tile(k, m, i, column), panel_width, true,
                           {following, kRows * panel_width * static_cast<int64_t>(sizeof(A)), 0, 1, steps});
        }
      }
    }
  }

  void constant_gradient(const A* tile_sums, int64_t padded, A* to) const {
    for (int64_t tile = 0; tile < padded / kRows; ++tile) {
      for (int64_t c = 0; c < width; ++c) to[c] += tile_sums[tile * padded_width() + c];
    }
  }

  // dx = r dt and dr = dt . x of rows [row, end) of the block that begins at `first`.
  void write_input_gradient(const Gradients& d, int64_t first, int64_t row, int64_t end,
                            const std::vector<S*>& input_grads, A* row_scale_grad) const {
    for (int64_t m = 0; m < count(); ++m) {
      for (int64_t r = row; r < end; ++r) {
        const A* dt = d.dt[m].get() + r * d.dt_stride[m];
        const S* x = inputs[m] + (first + r) * strides[m];
        const A scale = row_scale ? row_scale[(first + r) * count() + m] : A{1};
        if (row_scale_grad) {
          A sum = 0;
#pragma omp simd reduction(+ : sum)
          for (int64_t c = 0; c < widths[m]; ++c) sum += dt[c] * static_cast<A>(x[c]);
          row_scale_grad[(first + r) * count() + m] = sum;
        }
        gemm::detail::convert(dt, widths[m], scale, input_grads[m] + (first + r) * widths[m]);
      }
    }
  }

  // dW_0 = o_k dW'_0, do_k = <W_0, dW'_0>, the others as they are.
  void write_factor_gradient(const Sums& sums, const std::vector<S*>& factor_grads, A* rank_grad) const {
#pragma omp parallel num_threads(num_threads)
    {
      const FlushSubnormals flush;
#pragma omp for schedule(dynamic)
      for (int64_t i = 0; i < rank * count(); ++i) {
        const int64_t k = i / count(), m = i % count();
        double inner = 0;
        const auto write = [&](const A* from, int64_t row, int64_t column, int64_t columns) {
          if (m == 0) {
            const S* w = factor(k, m) + row * width + column;
            for (int64_t c = 0; c < columns; ++c) inner += static_cast<double>(from[c]) * static_cast<double>(w[c]);
          }
          S* to = factor_grads[m] + (k * (widths[m] + 1) + row) * width + column;
          gemm::detail::convert(from, columns, folded(k, m), to);
        };
        write(sums.constants(k, m), 0, 0, width);
        for (int64_t row = 0; row < widths[m]; ++row) {
          for (int64_t column = 0; column < width; column += kPanel) {
            const int64_t panel_width = int64_t{panel_vectors<T>(width, column)} * kLanes<T>;
            const A* from = sums.tile(k, m, row / kRows * kRows, column) + row % kRows * panel_width;
            write(from, row + 1, column, std::min<int64_t>(kPanel, width - column));
          }
        }
        if (m == 0) rank_grad[k] = static_cast<A>(inner);
      }
    }
  }

  aligned_buffer<T> forward_panels_, transposed_panels_;
  aligned_buffer<A> constants_;  // row 0 of each W', [K, M, padded width]
  std::vector<int64_t> forward_offset_, transposed_offset_;
};

// Calls body(Fusion) of the types and the number of modalities at hand.
template <class S, class T, class Body>
void with_count(std::size_t count, Body&& body) {
  switch (count) {
    case 2: return body(Fusion<S, T, 2>{});
    case 3: return body(Fusion<S, T, 3>{});
    default: return body(Fusion<S, T, 0>{});
  }
}

template <class Body>
void with_types(DType dtype, DType compute, std::size_t count, const char* name, Body&& body) {
  dispatch(dtype, name, [&](auto s) {
    using S = decltype(s);
    if constexpr (std::is_same_v<S, float>) {
      if (compute == DType::bf16) return with_count<S, gemm::compute_t<bf16>>(count, body);
    }
    with_count<S, gemm::compute_t<S>>(count, body);
  });
}

template <class F>
void describe(F& fusion, const std::vector<uintptr_t>& inputs, const std::vector<int64_t>& strides,
              const std::vector<int64_t>& widths, const std::vector<uintptr_t>& factors, const void* rank_weights,
              const void* row_scale, int64_t rows, int64_t rank, int64_t width, int num_threads) {
  using S = std::remove_const_t<std::remove_pointer_t<typename decltype(fusion.inputs)::value_type>>;
  using A = accumulator_t<S>;
  fusion.inputs = pointers<const S>(inputs);
  fusion.factors = pointers<const S>(factors);
  fusion.strides = strides;
  fusion.widths = widths;
  fusion.rank_weights = static_cast<const A*>(rank_weights);
  fusion.row_scale = static_cast<const A*>(row_scale);
  fusion.rows = rows;
  fusion.rank = rank;
  fusion.width = width;
  fusion.num_threads = num_threads;
}

}  // namespace

void low_rank_fusion_forward(const std::vector<uintptr_t>& inputs, const std::vector<int64_t>& input_strides,
                             const std::vector<int64_t>& widths, const std::vector<uintptr_t>& factors,
                             const void* rank_weights, const void* bias, const void* row_scale, void* products, void* y,
                             int64_t rows, int64_t rank, int64_t width, DType dtype, DType compute, int num_threads) {
  with_types(dtype, compute, inputs.size(), "low_rank_fusion", [&](auto fusion) {
    describe(fusion, inputs, input_strides, widths, factors, rank_weights, row_scale, rows, rank, width, num_threads);
    using S = std::remove_const_t<std::remove_pointer_t<typename decltype(fusion.inputs)::value_type>>;
    fusion.forward(static_cast<const accumulator_t<S>*>(bias), static_cast<S*>(products), static_cast<S*>(y));
  });
}

void low_rank_fusion_backward(const void* g, const std::vector<uintptr_t>& inputs,
                              const std::vector<int64_t>& input_strides, const std::vector<int64_t>& widths,
                              const std::vector<uintptr_t>& factors, const void* rank_weights, const void* row_scale,
                              const void* products, const std::vector<uintptr_t>& input_grads,
                              const std::vector<uintptr_t>& factor_grads, void* rank_grad, void* bias_grad,
                              void* row_scale_grad, int64_t rows, int64_t rank, int64_t width, DType dtype,
                              DType compute, int num_threads) {
  with_types(dtype, compute, inputs.size(), "low_rank_fusion", [&](auto fusion) {
    describe(fusion, inputs, input_strides, widths, factors, rank_weights, row_scale, rows, rank, width, num_threads);
    using S = std::remove_const_t<std::remove_pointer_t<typename decltype(fusion.inputs)::value_type>>;
    using A = accumulator_t<S>;
    fusion.backward(static_cast<const S*>(g), static_cast<const S*>(products), pointers<S>(input_grads),
                    pointers<S>(factor_grads), static_cast<A*>(rank_grad), static_cast<A*>(bias_grad),
                    static_cast<A*>(row_scale_grad));
  });
}

}  // namespace loginmea
