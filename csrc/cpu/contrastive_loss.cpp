// A panel of a few hundred queries at a time: its logits against all keys, their softmax, and the two products that
// turn the weights w of the reference into gradients. The panel is the only thing that grows with queries x keys, and a
// step costs three products, as in the plain formula, which keeps everything.
//
// A tile of the panel is made logits, and these exponentials, as soon as it is multiplied, while it lies in L1: a query
// keeps a maximum and a sum for each group of keys, and a group's exponentials become weights by one factor, when the
// gradient of its keys reads them anyway. So there is one exponential an element and one pass over the panel a product.
//
// Lengths never touch the rows. With u_b = 1 / |x_b| and v_j = 1 / |k_j| (or ones), logits are
// ((x_b . k_j) u_b v_j + beta_j) / tau_b, and the panel is left holding w'_bj = w_bj u_b v_j / tau_b, from which
//
//   g_b = sum_j w'_bj k_j ,   dx_b = g_b - (g_b . x_b) u_b^2 x_b         and alike for keys, g_j = sum_b w'_bj x_b
//
// so bfloat16 rows are multiplied as they are, and a row of no direction (u = 0) gets the gradient 0.
#include "cpu/contrastive_loss.h"

#include <omp.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <type_traits>
#include <vector>

#include "cpu/elementwise.h"
#include "cpu/gemm_product.h"
#include "cpu/softmax_rows.h"
#include "cpu/subnormals.h"

namespace loginmea {
namespace {

using gemm::aligned_buffer;
using gemm::kColumns;
using gemm::kRows;
using gemm::kStep;
using gemm::round_up;
using std::int64_t;

constexpr double kShortestRow = 1e-12;
constexpr int64_t kPanelRows = 504;                 // a multiple of kRows; the depth of the keys' gradient product
constexpr int64_t kPanelBytes = int64_t{64} << 20;  // beyond which a panel has fewer rows, but not below kFewestRows
constexpr int64_t kFewestRows = 96;
constexpr int64_t kKeyChunk = 96;  // keys whose weights a thread transposes at a time: 16 tiles, 200 KB
constexpr int64_t kGroup = 192;    // columns, a multiple of kKeyChunk, and
constexpr int64_t kDepth = 768;    // depth, of a right operand that stays in L2 while all row tiles pass over it

// The logit of a key that is not in the denominator: its exponential is 0, and it is 0 times that, too.
constexpr double kOut = -1e30;

// Pieces of equal depth, at most kDepth: a short last one would spend itself on loading and storing its sums.
int64_t even_piece(int64_t depth) {
  const int64_t pieces = (depth + kDepth - 1) / kDepth;
  return pieces == 0 ? kDepth : round_up((depth + pieces - 1) / pieces, 16);
}

// What is asked for, of every type of rows; null as the header says.
template <class S>
struct Problem {
  using A = accumulator_t<S>;
  struct Block {
    const S* rows;
    int64_t stride, count;
    S* gradient;
  };
  const S* queries;
  int64_t query_stride, batch, width;
  std::vector<Block> keys;
  const int64_t *positives, *excluded_start, *excluded;
  const A* key_bias;
  double temperature;
  const A *temperatures, *coefficients;
  bool normalize, positive_counts, both_ways;
  A* row_losses;
  S* query_gradient;
  A *bias_gradient, *temperature_gradient;
  int num_threads;
};

// Rows are stored as S, multiplied as T, summed as A.
template <class S, class T>
class Loss {
  using A = accumulator_t<S>;

  struct Keys {
    const S* rows;
    int64_t stride, count;
    int64_t first, first_group;  // column of the logits, and group of columns, that row 0 belongs to
    S* gradient;
    aligned_buffer<A> sums;  // of the gradient, where S cannot hold them

    A* gradient_sums() const {
      if constexpr (std::is_same_v<S, A>) {
        return gradient;
      } else {
        return sums.get();
      }
    }
  };

 public:
  explicit Loss(const Problem<S>& problem) : p_(problem) {
    for (const auto& block : p_.keys) {
      keys_.push_back({block.rows, block.stride, block.count, columns_, groups_, block.gradient, {}});
      columns_ += block.count;
      groups_ += (block.count + kGroup - 1) / kGroup;
    }
    panel_stride_ = padded_row(columns_);
    const int64_t bytes_a_row = panel_stride_ * static_cast<int64_t>(sizeof(A));
    const int64_t most = std::clamp(kPanelBytes / bytes_a_row / kRows * kRows, kFewestRows, kPanelRows);
    const int64_t panels = (p_.batch + most - 1) / most;
    panel_rows_ = round_up((p_.batch + panels - 1) / panels, kRows);

    panel_ = aligned_buffer<A>(panel_rows_ * panel_stride_);
    query_rows_ = aligned_buffer<T>(gemm::left_size<T>(panel_rows_, p_.width));
    query_scale_ = aligned_buffer<A>(p_.batch);
    key_scale_ = aligned_buffer<A>(columns_);
    lse_ = aligned_buffer<A>(p_.batch);
    positive_ = aligned_buffer<A>(p_.batch);
    share_ = aligned_buffer<A>(p_.batch);
    largest_ = aligned_buffer<A>(panel_rows_ * groups_);
    total_ = aligned_buffer<A>(panel_rows_ * groups_);
    moment_ = aligned_buffer<A>(p_.temperature_gradient ? panel_rows_ * groups_ : 0);
    if (p_.both_ways) {
      column_largest_ = aligned_buffer<A>(p_.batch);
      column_total_ = aligned_buffer<A>(p_.batch);
      std::fill_n(column_largest_.get(), p_.batch, -std::numeric_limits<A>::infinity());
      std::fill_n(column_total_.get(), p_.batch, A(0));
    }
    int64_t scratch = gemm::right_size<T>(kDepth, kGroup);
    if (wants_gradient()) {
      query_columns_ = aligned_buffer<T>(gemm::right_size<T>(panel_rows_, round_up(p_.width, kColumns<T>)));
      if (!std::is_same_v<S, A>) {
        row_sums_ = aligned_buffer<A>(panel_rows_ * p_.width);
        for (Keys& keys : keys_) keys.sums = aligned_buffer<A>(keys.count * p_.width);
      }
      scratch = std::max(scratch, kKeyChunk * round_up(panel_rows_, kStep<T>));
    }
    for (int t = 0; t < p_.num_threads; ++t) scratch_.emplace_back(scratch);
  }

  double run() {
#pragma omp parallel num_threads(p_.num_threads)
    {
      const FlushSubnormals flush;
      measure_lengths();
      for (int64_t first = 0; first < p_.batch; first += panel_rows_) {
        if (p_.both_ways) {
          fill_panel(first, [&](auto... tile) { measure_tile(first, tile...); });
          finish_rows(first);
        } else {
          fill_panel(first, [&](auto... tile) { exponentiate_tile(first, tile...); });
          finish_rows(first);
          if (wants_gradient()) differentiate(first);
        }
      }
      if (p_.both_ways) {
        finish_columns();
        for (int64_t first = 0; wants_gradient() && first < p_.batch; first += panel_rows_) {
          fill_panel(first, [&](auto... tile) { weigh_tile_both_ways(first, tile...); });
          if (p_.temperature_gradient) finish_moments(first);
          differentiate(first);
        }
      }
      if (wants_gradient()) finish_keys();
    }
    double loss = 0.0;
    for (int64_t b = 0; b < p_.batch; ++b) {
      double row = is_empty(b) ? 0.0 : static_cast<double>(lse_.get()[b]) - positive_.get()[b];
      if (p_.both_ways) row = 0.5 * (row + static_cast<double>(column_lse()[b]) - positive_.get()[b]);
      p_.row_losses[b] = static_cast<A>(row);
      loss += p_.coefficients ? p_.coefficients[b] * row : row;
    }
    return p_.coefficients ? loss : loss / static_cast<double>(p_.batch);
  }

 private:
  bool wants_gradient() const { return p_.query_gradient != nullptr; }
  int64_t rows_of(int64_t first) const { return std::min(panel_rows_, p_.batch - first); }
  A* panel_row(int64_t r) const { return panel_.get() + r * panel_stride_; }
  int64_t weight_stride() const { return panel_stride_ * static_cast<int64_t>(sizeof(A) / sizeof(T)); }
  // Weights overwrite their exponentials, and those of a chunk of keys begin where its exponentials begin.
  T* weights(int64_t r, int64_t column) const { return reinterpret_cast<T*>(panel_row(r) + column); }
  // Finishing the columns leaves their log-sum-exp where their maxima were.
  A* column_lse() const { return column_largest_.get(); }
  int64_t positive_column(int64_t b) const { return p_.positives ? p_.positives[b] : b; }
  A inverse_temperature(int64_t b) const {
    return A(1) / (p_.temperatures ? p_.temperatures[b] : static_cast<A>(p_.temperature));
  }
  A coefficient(int64_t b) const {
    return p_.coefficients ? p_.coefficients[b] : A(1) / static_cast<A>(static_cast<double>(p_.batch));
  }
  // No key is in the denominator. A NaN is no empty row.
  bool is_empty(int64_t b) const { return lse_.get()[b] < static_cast<A>(kOut / 2); }
  A* row_sums(int64_t first, int64_t r) const {
    if constexpr (std::is_same_v<S, A>) {
      return p_.query_gradient + (first + r) * p_.width;
    } else {
      return row_sums_.get() + r * p_.width;
    }
  }

  // A row of the panel: whole tiles of columns, and never a multiple of a page, where rows would evict each other.
  static int64_t padded_row(int64_t columns) {
    const int64_t padded = round_up(columns, kColumns<T>);
    return padded * static_cast<int64_t>(sizeof(A)) % 1024 == 0 ? padded + 64 / static_cast<int64_t>(sizeof(A))
                                                                : padded;
  }

  static A dot(const S* a, const S* b, int64_t n) {
    A sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t d = 0; d < n; ++d) sum += static_cast<A>(a[d]) * static_cast<A>(b[d]);
    return sum;
  }

  A inverse_length(const S* row) const {
    if (!p_.normalize) return A(1);
    const A length = std::sqrt(dot(row, row, p_.width));
    return length <= static_cast<A>(kShortestRow) ? A(0) : A(1) / length;
  }

  void measure_lengths() {
#pragma omp for nowait
    for (int64_t b = 0; b < p_.batch; ++b) query_scale_.get()[b] = inverse_length(p_.queries + b * p_.query_stride);
    for (const Keys& keys : keys_) {
#pragma omp for nowait
      for (int64_t j = 0; j < keys.count; ++j) {
        key_scale_.get()[keys.first + j] = inverse_length(keys.rows + j * keys.stride);
      }
    }
#pragma omp barrier
  }

  // panel = x k^T for the queries from `first` on, and their copies as both operands. Each tile of up to kRows rows and
  // kGroup columns is handed to epilogue(row, height, column, width, group) as soon as it is complete.
  template <class Epilogue>
  void fill_panel(int64_t first, Epilogue&& epilogue) {
    const int64_t rows = rows_of(first), stride = gemm::left_stride<T>(p_.width);
    const S* queries = p_.queries + first * p_.query_stride;
#pragma omp for nowait
    for (int64_t r = 0; r < round_up(rows, kRows); r += kRows) {
      gemm::pack_left<S, T>(queries + r * p_.query_stride, p_.query_stride, std::min<int64_t>(kRows, rows - r),
                            p_.width, nullptr, query_rows_.get() + r * stride);
    }
#pragma omp for
    for (int64_t d = 0; d < (wants_gradient() ? p_.width : 0); d += kColumns<T>) {
      gemm::pack_right<S, T>(queries + d, p_.query_stride, rows, std::min<int64_t>(kColumns<T>, p_.width - d), A(1),
                             query_columns_.get() + gemm::panel_offset<T>(rows, d));
    }
    for (const Keys& keys : keys_) {
#pragma omp for schedule(dynamic) nowait
      for (int64_t j = 0; j < keys.count; j += kGroup) {
        const int64_t count = std::min(kGroup, keys.count - j), column = keys.first + j;
        for (int64_t d = 0, piece = even_piece(p_.width); d < p_.width; d += piece) {
          const int64_t depth = std::min(piece, p_.width - d);
          gemm::pack_right_transposed<S, T>(keys.rows + j * keys.stride + d, keys.stride, count, depth, nullptr,
                                            scratch());
          const bool complete = d + piece >= p_.width;
          gemm::multiply<T>({query_rows_.get() + d, stride, kStep<T>, kRows * stride}, scratch(), rows, count, depth,
                            panel_.get() + column, panel_stride_, d > 0, nullptr, [&](int64_t row, int64_t height) {
                              if (complete) epilogue(row, height, column, count, keys.first_group + j / kGroup);
                            });
        }
      }
    }
#pragma omp barrier
  }

  // The logits of row r of the panel in place of its products.
  void make_logits(int64_t b, A* s, int64_t column, int64_t count) {
    const A inverse = inverse_temperature(b), scale = query_scale_.get()[b] * inverse;
    const A* key_scale = key_scale_.get() + column;
    if (p_.key_bias) {
      const A* bias = p_.key_bias + column;
#pragma omp simd
      for (int64_t c = 0; c < count; ++c) s[c] = s[c] * (scale * key_scale[c]) + bias[c] * inverse;
    } else {
#pragma omp simd
      for (int64_t c = 0; c < count; ++c) s[c] *= scale * key_scale[c];
    }
    const int64_t own = positive_column(b) - column;
    if (own >= 0 && own < count) {
      positive_.get()[b] = s[own];
      if (!p_.positive_counts) s[own] = static_cast<A>(kOut);
    }
    if (!p_.excluded_start) return;
    const int64_t* end = p_.excluded + p_.excluded_start[b + 1];
    const int64_t* out = std::lower_bound(p_.excluded + p_.excluded_start[b], end, column);
    for (; out < end && *out < column + count; ++out) s[*out - column] = static_cast<A>(kOut);
  }

  // One way: exponentials over the group's maximum take the place of logits.
  void exponentiate_tile(int64_t first, int64_t row, int64_t height, int64_t column, int64_t count, int64_t group) {
    for (int64_t r = row; r < row + height; ++r) {
      A* s = panel_row(r) + column;
      make_logits(first + r, s, column, count);
      const int64_t place = r * groups_ + group;
      largest_.get()[place] = maximum(s, count);
      A* moment = p_.temperature_gradient ? moment_.get() + place : nullptr;
      total_.get()[place] = exponentiate(s, count, largest_.get()[place], moment);
    }
  }

  // Both ways, first pass: maxima and sums of rows, and running ones of the columns that are queries of the way back.
  void measure_tile(int64_t first, int64_t row, int64_t height, int64_t column, int64_t count, int64_t group) {
    for (int64_t r = row; r < row + height; ++r) {
      A* s = panel_row(r) + column;
      make_logits(first + r, s, column, count);
      const int64_t place = r * groups_ + group;
      largest_.get()[place] = maximum(s, count);
      total_.get()[place] = exponential_sum(s, count, largest_.get()[place]);
    }
    const int64_t square = std::min(count, p_.batch - column);
    if (square <= 0) return;
    add_to_columns<kGroup>(panel_row(row) + column, height, panel_stride_, square, column_largest_.get() + column,
                           column_total_.get() + column);
  }

  // Both ways, second pass: logits become 2 tau w, less the diagonal.
  void weigh_tile_both_ways(int64_t first, int64_t row, int64_t height, int64_t column, int64_t count, int64_t group) {
    const int64_t square = std::clamp<int64_t>(p_.batch - column, 0, count);
    const A* theirs = p_.coefficients ? p_.coefficients + column : nullptr;
    for (int64_t r = row; r < row + height; ++r) {
      A* s = panel_row(r) + column;
      const int64_t b = first + r, place = r * groups_ + group;
      make_logits(b, s, column, count);
      A* moment = p_.temperature_gradient ? moment_.get() + place : nullptr;
      weigh_both_ways(s, count, square, lse_.get()[b], column_lse() + column, coefficient(b), theirs, moment);
      largest_.get()[place] = inverse_temperature(b) / 2;
    }
  }

  // Log-sum-exp of each row; one way, also the factor that makes weights, but for lengths, of a group's exponentials.
  void finish_rows(int64_t first) {
#pragma omp for
    for (int64_t r = 0; r < rows_of(first); ++r) {
      const int64_t b = first + r;
      A* largest = largest_.get() + r * groups_;
      const A* total = total_.get() + r * groups_;
      A most = -std::numeric_limits<A>::infinity(), sum = 0;
      for (int64_t g = 0; g < groups_; ++g) most = std::max(most, largest[g]);
      for (int64_t g = 0; g < groups_; ++g) sum += total[g] * exponential(largest[g] - most);
      const A lse = lse_.get()[b] = most + std::log(sum);
      const A inverse = inverse_temperature(b), ways = p_.both_ways ? A(2) : A(1);
      const A share = is_empty(b) ? A(0) : coefficient(b);
      share_.get()[b] = share * inverse;
      if (p_.both_ways) continue;
      if (p_.temperature_gradient) {
        A mean = 0;
        for (int64_t g = 0; g < groups_; ++g) mean += moment_.get()[r * groups_ + g] * exponential(largest[g] - lse);
        p_.temperature_gradient[b] = share == 0 ? A(0) : -share * inverse * (mean - positive_.get()[b]) / ways;
      }
      for (int64_t g = 0; g < groups_; ++g) largest[g] = share * inverse * exponential(largest[g] - lse);
    }
  }

  void finish_moments(int64_t first) {
#pragma omp for
    for (int64_t r = 0; r < rows_of(first); ++r) {
      const int64_t b = first + r;
      A sum = 0;
      for (int64_t g = 0; g < groups_; ++g) sum += moment_.get()[r * groups_ + g];
      p_.temperature_gradient[b] = -(sum / 2 - coefficient(b) * positive_.get()[b]) * inverse_temperature(b);
    }
  }

  void finish_columns() {
#pragma omp for
    for (int64_t j = 0; j < p_.batch; ++j) column_lse()[j] += std::log(column_total_.get()[j]);
  }

  // Exponentials of the panel become weights, and these the gradients of its queries and their part of the keys'.
  void differentiate(int64_t first) {
    const int64_t rows = rows_of(first);
    for (const Keys& keys : keys_) {
#pragma omp for schedule(dynamic) nowait
      for (int64_t j = 0; j < keys.count; j += kKeyChunk) {
        weigh(first, keys, j);
        sum_keys(keys, j, rows, first > 0);
      }
    }
#pragma omp barrier
    // Wide rows make work for all threads by themselves; of narrow ones each thread takes some rows, too.
    const int64_t columns = (p_.width + kGroup - 1) / kGroup;
    const int64_t parts = columns >= 4 * p_.num_threads ? 1 : p_.num_threads;
    const int64_t height = round_up((rows + parts - 1) / parts, kRows);
#pragma omp for schedule(dynamic)
    for (int64_t task = 0; task < columns * parts; ++task) {
      const int64_t row = task % parts * height;
      if (row < rows) sum_queries(first, row, std::min(height, rows - row), task / parts * kGroup);
    }
#pragma omp for
    for (int64_t r = 0; r < rows; ++r) {
      const int64_t b = first + r;
      through_length(row_sums(first, r), p_.queries + b * p_.query_stride, query_scale_.get()[b],
                     p_.query_gradient + b * p_.width);
    }
  }

  // w' of a chunk of keys in place of its exponentials, rounded to T.
  void weigh(int64_t first, const Keys& keys, int64_t j) {
    const int64_t count = std::min(kKeyChunk, keys.count - j), column = keys.first + j;
    const int64_t group = keys.first_group + j / kGroup;
    const A* key_scale = key_scale_.get() + column;
    A* bias_gradient = p_.bias_gradient ? p_.bias_gradient + column : nullptr;
    if (bias_gradient && first == 0) std::fill_n(bias_gradient, count, A(0));
    for (int64_t r = 0; r < rows_of(first); ++r) {
      const int64_t b = first + r, own = positive_column(b) - column;
      const A factor = largest_.get()[r * groups_ + group], length = query_scale_.get()[b];
      A* s = panel_row(r) + column;
      const bool positive = own >= 0 && own < count;
      if (bias_gradient) {
#pragma omp simd
        for (int64_t c = 0; c < count; ++c) bias_gradient[c] += s[c] * factor;
        if (positive) bias_gradient[own] -= share_.get()[b];
      }
      const A scaled = factor * length;
#pragma omp simd
      for (int64_t c = 0; c < count; ++c) s[c] *= scaled * key_scale[c];
      if (positive) s[own] -= share_.get()[b] * length * key_scale[own];
      if constexpr (!std::is_same_v<T, A>) {
        T rounded[kKeyChunk + 1];
        gemm::detail::convert(s, count, A(1), rounded);
        rounded[count] = T(0);  // the partner of the last one
        std::memcpy(weights(r, column), rounded, round_up(count, kStep<T>) * sizeof(T));
      }
    }
  }

  // row_sums = w' k for some queries of the panel and a group of columns.
  void sum_queries(int64_t first, int64_t row, int64_t rows, int64_t d) {
    const int64_t count = std::min(kGroup, p_.width - d);
    bool add = false;
    for (const Keys& keys : keys_) {
      // Rounded weights lie together chunk by chunk alone.
      const int64_t piece = std::is_same_v<T, A> ? even_piece(keys.count) : kKeyChunk;
      for (int64_t j = 0; j < keys.count; j += piece) {
        const int64_t depth = std::min(piece, keys.count - j);
        gemm::pack_right<S, T>(keys.rows + j * keys.stride + d, keys.stride, depth, count, A(1), scratch());
        gemm::multiply<T>({weights(row, keys.first + j), weight_stride(), kStep<T>, kRows * weight_stride()}, scratch(),
                          rows, count, depth, row_sums(first, row) + d, p_.width, add);
        add = true;
      }
    }
  }

  // gradient (+)= w'^T x for a chunk of keys.
  void sum_keys(const Keys& keys, int64_t j, int64_t rows, bool add) {
    constexpr int64_t kTileStep = kRows * kStep<T>;
    const int64_t count = std::min(kKeyChunk, keys.count - j), tile = kRows * round_up(rows, kStep<T>);
    T* transposed = scratch();  // [tiles of keys][steps of queries][kRows keys][kStep queries]
    for (int64_t r = 0; r < rows; r += kStep<T>) {
      T* step = transposed + r / kStep<T> * kTileStep;
      const T* row = weights(r, keys.first + j);
      const T* next = row + weight_stride();
      for (int64_t c = 0; c < count; c += kRows, step += tile) {
        if (kStep<T> == 1 && c + kRows <= count) {
          std::memcpy(step, row + c, kTileStep * sizeof(T));
          continue;
        }
        for (int64_t i = 0; i < kRows; ++i) {
          step[i * kStep<T>] = c + i < count ? row[c + i] : T(0);
          if (kStep<T> == 2) step[i * kStep<T> + 1] = c + i < count && r + 1 < rows ? next[c + i] : T(0);
        }
      }
    }
    for (int64_t d = 0; d < p_.width; d += kColumns<T>) {
      const T* panel = query_columns_.get() + gemm::panel_offset<T>(rows, d);
      const T* following =
          query_columns_.get() + gemm::panel_offset<T>(rows, d + kColumns<T> < p_.width ? d + kColumns<T> : 0);
      gemm::multiply<T>({transposed, kStep<T>, kTileStep, tile}, panel, count,
                        std::min<int64_t>(kColumns<T>, p_.width - d), rows, keys.gradient_sums() + j * p_.width + d,
                        p_.width, add, following);
    }
  }

  // dx = g - (g . x) u^2 x, stored as S; g is lost, and may be where dx goes.
  void through_length(A* gradient, const S* row, A inverse_length, S* out) const {
    if (p_.normalize) {
      A along = 0;
#pragma omp simd reduction(+ : along)
      for (int64_t d = 0; d < p_.width; ++d) along += gradient[d] * static_cast<A>(row[d]);
      along *= inverse_length * inverse_length;
#pragma omp simd
      for (int64_t d = 0; d < p_.width; ++d) gradient[d] -= along * static_cast<A>(row[d]);
    }
    if constexpr (!std::is_same_v<S, A>) gemm::detail::convert(gradient, p_.width, A(1), out);
  }

  void finish_keys() {
    for (const Keys& keys : keys_) {
#pragma omp for
      for (int64_t j = 0; j < keys.count; ++j) {
        through_length(keys.gradient_sums() + j * p_.width, keys.rows + j * keys.stride,
                       key_scale_.get()[keys.first + j], keys.gradient + j * p_.width);
      }
    }
  }

  T* scratch() const { return scratch_[omp_get_thread_num()].get(); }

  const Problem<S>& p_;
  std::vector<Keys> keys_;
  int64_t columns_ = 0, groups_ = 0;
  int64_t panel_stride_, panel_rows_;
  aligned_buffer<A> panel_;                       // [panel_rows, columns]: products, logits, exponentials, weights
  aligned_buffer<T> query_rows_, query_columns_;  // the panel's queries as left and as right operand
  aligned_buffer<A> row_sums_;                    // [panel_rows, width]: g of its queries, where S cannot hold it
  aligned_buffer<A> query_scale_, key_scale_;     // u, v
  aligned_buffer<A> lse_, positive_;              // [batch]
  aligned_buffer<A> share_;                       // [batch]: c_b / tau_b, what the positive's weight loses
  aligned_buffer<A> largest_, total_, moment_;    // [panel_rows, groups]: of exponentials; of their logits, so weighted
  aligned_buffer<A> column_largest_, column_total_;
  std::vector<aligned_buffer<T>> scratch_;  // a thread's own operands
};

}  // namespace

double contrastive_loss(DType dtype, const void* queries, int64_t query_stride, int64_t batch, int64_t width,
                        std::vector<std::uintptr_t> keys, std::vector<int64_t> key_strides,
                        std::vector<int64_t> key_counts, const int64_t* positives, const int64_t* excluded_start,
                        const int64_t* excluded, const void* key_bias, double temperature, const void* temperatures,
                        const void* coefficients, bool normalize, bool positive_counts, bool both_ways,
                        bool round_products, void* row_losses, void* query_gradient,
                        std::vector<std::uintptr_t> key_gradients, void* bias_gradient, void* temperature_gradient,
                        int num_threads) {
  return dispatch(dtype, "contrastive_loss", [&](auto stored) {
    using S = decltype(stored);
    using A = accumulator_t<S>;
    Problem<S> problem{static_cast<const S*>(queries),
                       query_stride,
                       batch,
                       width,
                       {},
                       positives,
                       excluded_start,
                       excluded,
                       static_cast<const A*>(key_bias),
                       temperature,
                       static_cast<const A*>(temperatures),
                       static_cast<const A*>(coefficients),
                       normalize,
                       positive_counts,
                       both_ways,
                       static_cast<A*>(row_losses),
                       static_cast<S*>(query_gradient),
                       static_cast<A*>(bias_gradient),
                       static_cast<A*>(temperature_gradient),
                       num_threads};
    for (std::size_t i = 0; i < keys.size(); ++i) {
      problem.keys.push_back({reinterpret_cast<const S*>(keys[i]), key_strides[i], key_counts[i],
                              query_gradient ? reinterpret_cast<S*>(key_gradients[i]) : nullptr});
    }
    if constexpr (std::is_same_v<S, float>) {
      if (round_products) return Loss<S, gemm::compute_t<bf16>>(problem).run();
    }
    return Loss<S, gemm::compute_t<S>>(problem).run();
  });
}

}  // namespace loginmea
