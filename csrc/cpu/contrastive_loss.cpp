// A panel of a few hundred left rows at a time: its logits against all keys, their softmax, and the two products that
// turn the weights w of the reference into gradients. The panel is the only thing that grows with rows x keys, and a
// step costs three products, as in the plain formula, which keeps everything.
//
// Lengths never touch the rows. With u_b = 1 / |l_b| and v_j = 1 / |k_j|, logits are (l_b . k_j) u_b v_j / tau, and the
// panel is left holding w'_bj = w_bj u_b v_j, from which
//
//   g_b = sum_j w'_bj k_j ,   dl_b = g_b - (g_b . l_b) u_b^2 l_b         and alike for keys, g_j = sum_b w'_bj l_b
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
#include "cpu/gemm_tile.h"

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
constexpr int64_t kGroup = 128;    // columns, and
constexpr int64_t kDepth = 1024;   // depth, of a right operand that stays in L2 while all row tiles pass over it

// Pieces of equal depth, at most kDepth: a short last one would spend itself on loading and storing its sums.
int64_t even_piece(int64_t depth) {
  const int64_t pieces = (depth + kDepth - 1) / kDepth;
  return pieces == 0 ? kDepth : round_up((depth + pieces - 1) / pieces, 16);
}

// Rows are stored as S, multiplied as T, summed as A.
template <class S, class T>
class Loss {
  using A = accumulator_t<S>;

  struct Keys {
    const S* rows;
    int64_t stride, count, first;  // `first`: column of the logits that belongs to row 0
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
  Loss(const S* left, int64_t left_stride, const S* right, int64_t right_stride, const S* extra, int64_t extra_stride,
       int64_t batch, int64_t num_extra, int64_t width, double temperature, bool both_ways, S* left_gradient,
       S* right_gradient, S* extra_gradient, int num_threads)
      : left_(left),
        left_stride_(left_stride),
        left_gradient_(left_gradient),
        batch_(batch),
        columns_(batch + num_extra),
        width_(width),
        temperature_(temperature),
        both_ways_(both_ways),
        num_threads_(num_threads),
        panel_stride_(padded_row(columns_)),
        sum_stride_(round_up(width, kColumns<T>)) {
    keys_[0] = {right, right_stride, batch, 0, right_gradient, {}};
    keys_[1] = {extra, extra_stride, num_extra, batch, extra_gradient, {}};
    const int64_t bytes_a_row = panel_stride_ * static_cast<int64_t>(sizeof(A));
    const int64_t most = std::clamp(kPanelBytes / bytes_a_row / kRows * kRows, kFewestRows, kPanelRows);
    const int64_t panels = (batch + most - 1) / most;
    panel_rows_ = round_up((batch + panels - 1) / panels, kRows);

    panel_ = aligned_buffer<A>(panel_rows_ * panel_stride_);
    left_rows_ = aligned_buffer<T>(gemm::left_size<T>(panel_rows_, width));
    left_scale_ = aligned_buffer<A>(batch);
    key_scale_ = aligned_buffer<A>(columns_);
    lse_ = aligned_buffer<A>(batch);
    positive_ = aligned_buffer<A>(batch);
    if (both_ways) {
      column_largest_ = aligned_buffer<A>(batch);
      column_total_ = aligned_buffer<A>(batch);
      std::fill_n(column_largest_.get(), batch, -std::numeric_limits<A>::infinity());
      std::fill_n(column_total_.get(), batch, A(0));
    }
    int64_t scratch = gemm::right_size<T>(kDepth, kGroup);
    if (wants_gradient()) {
      left_columns_ = aligned_buffer<T>(gemm::right_size<T>(panel_rows_, sum_stride_));
      row_sums_ = aligned_buffer<A>(panel_rows_ * sum_stride_);
      for (Keys& keys : keys_) {
        if (!std::is_same_v<S, A>) keys.sums = aligned_buffer<A>(keys.count * width);
      }
      scratch = std::max(scratch, kKeyChunk * round_up(panel_rows_, kStep<T>));
    }
    for (int t = 0; t < num_threads; ++t) scratch_.emplace_back(scratch);
  }

  double run() {
#pragma omp parallel num_threads(num_threads_)
    {
      measure_lengths();
      for (int64_t first = 0; first < batch_; first += panel_rows_) {
        fill_panel(first);
        normalise_rows(first);
        if (both_ways_) {
          normalise_columns(first);
        } else if (wants_gradient()) {
          differentiate(first);
        }
      }
      if (both_ways_) {
        finish_columns();
        for (int64_t first = 0; wants_gradient() && first < batch_; first += panel_rows_) {
          fill_panel(first);
          normalise_rows(first);
          differentiate(first);
        }
      }
      if (wants_gradient()) finish_keys();
    }
    double loss = 0.0;
    for (int64_t b = 0; b < batch_; ++b) {
      double row = static_cast<double>(lse_.get()[b]) - positive_.get()[b];
      if (both_ways_) row = 0.5 * (row + static_cast<double>(column_lse()[b]) - positive_.get()[b]);
      loss += row;
    }
    return loss / static_cast<double>(batch_);
  }

 private:
  bool wants_gradient() const { return left_gradient_ != nullptr; }
  int64_t rows_of(int64_t first) const { return std::min(panel_rows_, batch_ - first); }
  A* panel_row(int64_t r) const { return panel_.get() + r * panel_stride_; }
  // The weights overwrite their logits, and begin where these begin: their rows are as far apart, in bytes.
  int64_t weight_stride() const { return panel_stride_ * static_cast<int64_t>(sizeof(A) / sizeof(T)); }
  T* weight_row(int64_t r) const { return reinterpret_cast<T*>(panel_row(r)); }
  // Finishing the columns leaves their log-sum-exp where their maxima were.
  A* column_lse() const { return column_largest_.get(); }

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
    const A length = std::sqrt(dot(row, row, width_));
    return length <= static_cast<A>(kShortestRow) ? A(0) : A(1) / length;
  }

  void measure_lengths() {
#pragma omp for nowait
    for (int64_t b = 0; b < batch_; ++b) left_scale_.get()[b] = inverse_length(left_ + b * left_stride_);
#pragma omp for
    for (int64_t j = 0; j < columns_; ++j) {
      const Keys& keys = keys_[j >= keys_[0].count];
      key_scale_.get()[j] = inverse_length(keys.rows + (j - keys.first) * keys.stride);
    }
  }

  // panel = l k^T for the left rows from `first` on, and their copies as both operands.
  void fill_panel(int64_t first) {
    const int64_t rows = rows_of(first), stride = gemm::left_stride<T>(width_);
#pragma omp for nowait
    for (int64_t r = 0; r < round_up(rows, kRows); r += kRows) {
      gemm::pack_left<S, T>(left_ + (first + r) * left_stride_, left_stride_, std::min<int64_t>(kRows, rows - r),
                            width_, nullptr, left_rows_.get() + r * stride);
    }
#pragma omp for
    for (int64_t d = 0; d < (wants_gradient() ? width_ : 0); d += kColumns<T>) {
      gemm::pack_right<S, T>(left_ + first * left_stride_ + d, left_stride_, rows,
                             std::min<int64_t>(kColumns<T>, width_ - d), A(1),
                             left_columns_.get() + gemm::panel_offset<T>(rows, d));
    }
    for (const Keys& keys : keys_) {
#pragma omp for schedule(dynamic) nowait
      for (int64_t j = 0; j < keys.count; j += kGroup) {
        const int64_t count = std::min(kGroup, keys.count - j);
        for (int64_t d = 0, piece = even_piece(width_); d < width_; d += piece) {
          const int64_t depth = std::min(piece, width_ - d);
          gemm::pack_right_transposed<S, T>(keys.rows + j * keys.stride + d, keys.stride, count, depth, nullptr,
                                            scratch());
          multiply({left_rows_.get() + d, stride, kStep<T>, kRows * stride}, scratch(), rows, count, depth,
                   panel_.get() + keys.first + j, panel_stride_, d > 0);
        }
      }
    }
#pragma omp barrier
  }

  // Logits of each row of the panel in place of the products, and their log-sum-exp.
  void normalise_rows(int64_t first) {
    const A* key_scale = key_scale_.get();
#pragma omp for
    for (int64_t r = 0; r < rows_of(first); ++r) {
      A* s = panel_row(r);
      const A scale = left_scale_.get()[first + r] / static_cast<A>(temperature_);
      A largest = -std::numeric_limits<A>::infinity(), total = 0;
#pragma omp simd reduction(max : largest)
      for (int64_t j = 0; j < columns_; ++j) {
        s[j] *= scale * key_scale[j];
        largest = std::max(largest, s[j]);
      }
#pragma omp simd reduction(+ : total)
      for (int64_t j = 0; j < columns_; ++j) total += exponential(s[j] - largest);
      lse_.get()[first + r] = largest + std::log(total);
      positive_.get()[first + r] = s[first + r];
    }
  }

  // Running maximum and sum of each column of the right rows; a thread owns its columns.
  void normalise_columns(int64_t first) {
#pragma omp for
    for (int64_t j = 0; j < batch_; j += kColumns<T>) {
      const int64_t count = std::min<int64_t>(kColumns<T>, batch_ - j);
      A* largest = column_largest_.get() + j;
      A* total = column_total_.get() + j;
      A higher[kColumns<T>];
      std::copy_n(largest, count, higher);
      for (int64_t r = 0; r < rows_of(first); ++r) {
        const A* s = panel_row(r) + j;
#pragma omp simd
        for (int64_t c = 0; c < count; ++c) higher[c] = std::max(higher[c], s[c]);
      }
#pragma omp simd
      for (int64_t c = 0; c < count; ++c) total[c] *= exponential(largest[c] - higher[c]);
      for (int64_t r = 0; r < rows_of(first); ++r) {
        const A* s = panel_row(r) + j;
#pragma omp simd
        for (int64_t c = 0; c < count; ++c) total[c] += exponential(s[c] - higher[c]);
      }
      std::copy_n(higher, count, largest);
    }
  }

  void finish_columns() {
#pragma omp for
    for (int64_t j = 0; j < batch_; ++j) column_lse()[j] += std::log(column_total_.get()[j]);
  }

  // Logits of the panel become the weights w', and these the gradients of its left rows and their part of the keys'.
  void differentiate(int64_t first) {
    const int64_t rows = rows_of(first);
#pragma omp for
    for (int64_t r = 0; r < rows; ++r) weigh_row(first, r);
#pragma omp for schedule(dynamic) nowait
    for (int64_t d = 0; d < width_; d += kGroup) sum_left(rows, d);
    for (const Keys& keys : keys_) {
#pragma omp for schedule(dynamic) nowait
      for (int64_t j = 0; j < keys.count; j += kKeyChunk) sum_keys(keys, j, rows, first > 0);
    }
#pragma omp barrier
#pragma omp for
    for (int64_t r = 0; r < rows; ++r) {
      const int64_t b = first + r;
      through_length(row_sums_.get() + r * sum_stride_, left_ + b * left_stride_, left_scale_.get()[b],
                     left_gradient_ + b * width_);
    }
  }

  void weigh_row(int64_t first, int64_t r) {
    const int64_t b = first + r, both = both_ways_ ? batch_ : 0;
    const double halves = both_ways_ ? 2.0 : 1.0;
    const A factor = left_scale_.get()[b] / static_cast<A>(halves * temperature_ * static_cast<double>(batch_));
    const A row_lse = lse_.get()[b];
    const A* key_scale = key_scale_.get();
    const A* back = column_lse();
    A* s = panel_row(r);
#pragma omp simd
    for (int64_t j = 0; j < both; ++j) {
      s[j] = (exponential(s[j] - row_lse) + exponential(s[j] - back[j])) * (factor * key_scale[j]);
    }
#pragma omp simd
    for (int64_t j = both; j < columns_; ++j) s[j] = exponential(s[j] - row_lse) * (factor * key_scale[j]);
    s[b] -= static_cast<A>(halves) * factor * key_scale[b];
    // Whole vectors are converted, and pairs may reach one past the end: no NaN may lie there.
    const int64_t whole = round_up(columns_, gemm::kLanes<T>);
    std::fill(s + columns_, s + whole, A(0));
    if constexpr (!std::is_same_v<T, A>) gemm::detail::convert(s, whole, A(1), weight_row(r));
  }

  // row_sums = w' k for a group of columns.
  void sum_left(int64_t rows, int64_t d) {
    const int64_t count = std::min(kGroup, width_ - d);
    bool add = false;
    for (const Keys& keys : keys_) {
      for (int64_t j = 0, piece = even_piece(keys.count); j < keys.count; j += piece) {
        const int64_t depth = std::min(piece, keys.count - j);
        gemm::pack_right<S, T>(keys.rows + j * keys.stride + d, keys.stride, depth, count, A(1), scratch());
        multiply({weight_row(0) + keys.first + j, weight_stride(), kStep<T>, kRows * weight_stride()}, scratch(), rows,
                 count, depth, row_sums_.get() + d, sum_stride_, add);
        add = true;
      }
    }
  }

  // gradient (+)= w'^T l for a chunk of keys.
  void sum_keys(const Keys& keys, int64_t j, int64_t rows, bool add) {
    constexpr int64_t kTileStep = kRows * kStep<T>;
    const int64_t count = std::min(kKeyChunk, keys.count - j), tile = kRows * round_up(rows, kStep<T>);
    T* transposed = scratch();  // [tiles of keys][steps of left rows][kRows keys][kStep left rows]
    for (int64_t r = 0; r < rows; r += kStep<T>) {
      T* step = transposed + r / kStep<T> * kTileStep;
      const T* weights = weight_row(r) + keys.first + j;
      const T* next = weights + weight_stride();
      for (int64_t c = 0; c < count; c += kRows, step += tile) {
        if (kStep<T> == 1 && c + kRows <= count) {
          std::memcpy(step, weights + c, kTileStep * sizeof(T));
          continue;
        }
        for (int64_t i = 0; i < kRows; ++i) {
          step[i * kStep<T>] = c + i < count ? weights[c + i] : T(0);
          if (kStep<T> == 2) step[i * kStep<T> + 1] = c + i < count && r + 1 < rows ? next[c + i] : T(0);
        }
      }
    }
    for (int64_t d = 0; d < width_; d += kColumns<T>) {
      const T* panel = left_columns_.get() + gemm::panel_offset<T>(rows, d);
      const T* following =
          left_columns_.get() + gemm::panel_offset<T>(rows, d + kColumns<T> < width_ ? d + kColumns<T> : 0);
      multiply({transposed, kStep<T>, kTileStep, tile}, panel, count, std::min<int64_t>(kColumns<T>, width_ - d), rows,
               keys.gradient_sums() + j * width_ + d, width_, add, following);
    }
  }

  // dx = g - (g . x) u^2 x, stored as S; g is lost, and may be where dx goes.
  void through_length(A* gradient, const S* row, A inverse_length, S* out) const {
    A along = 0;
#pragma omp simd reduction(+ : along)
    for (int64_t d = 0; d < width_; ++d) along += gradient[d] * static_cast<A>(row[d]);
    along *= inverse_length * inverse_length;
#pragma omp simd
    for (int64_t d = 0; d < width_; ++d) gradient[d] -= along * static_cast<A>(row[d]);
    if constexpr (std::is_same_v<S, A>) {
      if (out != gradient) std::copy_n(gradient, width_, out);
    } else {
      gemm::detail::convert(gradient, width_, A(1), out);
    }
  }

  void finish_keys() {
    for (const Keys& keys : keys_) {
#pragma omp for
      for (int64_t j = 0; j < keys.count; ++j) {
        through_length(keys.gradient_sums() + j * width_, keys.rows + j * keys.stride, key_scale_.get()[keys.first + j],
                       keys.gradient + j * width_);
      }
    }
  }

  struct LeftOperand {
    const T* data;
    int64_t row_stride, step, tile;
  };

  // out[rows, columns] (+)= left right, where right is packed.
  void multiply(LeftOperand left, const T* right, int64_t rows, int64_t columns, int64_t depth, A* out,
                int64_t out_stride, bool add, const T* following = nullptr) const {
    const int64_t steps = round_up(depth, kStep<T>) / kStep<T>;
    for (int64_t row = 0; row < rows; row += kRows) {
      const T* operand = left.data + row / kRows * left.tile;
      const int64_t height = std::min<int64_t>(kRows, rows - row);
      for (int64_t column = 0; column < columns; column += kColumns<T>) {
        const int vectors = gemm::panel_vectors<T>(columns, column);
        const int64_t width = vectors * gemm::kLanes<T>, count = std::min(width, columns - column);
        const T* panel = right + gemm::panel_offset<T>(depth, column);
        const gemm::ahead next(following ? following : panel, following ? steps * width * kStep<T> * sizeof(T) : 0,
                               row / kRows, gemm::tiles(rows), steps);
        A* place = out + row * out_stride + column;
        if (height == kRows && count == width) {
          // Sums of the keys' gradient come from memory: they arrive while the tile is multiplied.
          for (int64_t r = 0; add && r < kRows; ++r) {
            for (int64_t c = 0; c < width; c += 64 / static_cast<int64_t>(sizeof(A))) {
              __builtin_prefetch(place + r * out_stride + c, 1);
            }
          }
          gemm::multiply_tile<T>(vectors, operand, left.row_stride, left.step, panel, width * kStep<T>, steps, place,
                                 out_stride, add, next);
          continue;
        }
        // A tile that reaches over an edge must not write there.
        alignas(64) A tile[kRows * kColumns<T>];
        gemm::multiply_tile<T>(vectors, operand, left.row_stride, left.step, panel, width * kStep<T>, steps, tile,
                               width);
        for (int64_t r = 0; r < height; ++r) {
          for (int64_t c = 0; c < count; ++c) {
            place[r * out_stride + c] = tile[r * width + c] + (add ? place[r * out_stride + c] : A(0));
          }
        }
      }
    }
  }

  T* scratch() const { return scratch_[omp_get_thread_num()].get(); }

  const S* left_;
  int64_t left_stride_;
  S* left_gradient_;
  Keys keys_[2];
  int64_t batch_, columns_, width_;
  double temperature_;
  bool both_ways_;
  int num_threads_;
  int64_t panel_stride_, sum_stride_, panel_rows_;
  aligned_buffer<A> panel_;                     // [panel_rows, columns]: products, logits, weights
  aligned_buffer<T> left_rows_, left_columns_;  // the panel's left rows as left and as right operand
  aligned_buffer<A> row_sums_;                  // [panel_rows, width]: g of the panel's left rows
  aligned_buffer<A> left_scale_, key_scale_;    // u, v
  aligned_buffer<A> lse_, positive_, column_largest_, column_total_;
  std::vector<aligned_buffer<T>> scratch_;  // a thread's own operands
};

}  // namespace

double contrastive_loss(DType dtype, const void* left, int64_t left_stride, const void* right, int64_t right_stride,
                        const void* extra, int64_t extra_stride, int64_t batch, int64_t num_extra, int64_t width,
                        double temperature, bool bidirectional, bool round_products, void* left_gradient,
                        void* right_gradient, void* extra_gradient, int num_threads) {
  const auto run = [&](auto stored, auto multiplied) {
    using S = decltype(stored);
    using T = decltype(multiplied);
    return Loss<S, T>(static_cast<const S*>(left), left_stride, static_cast<const S*>(right), right_stride,
                      static_cast<const S*>(extra), extra_stride, batch, num_extra, width, temperature, bidirectional,
                      static_cast<S*>(left_gradient), static_cast<S*>(right_gradient), static_cast<S*>(extra_gradient),
                      num_threads)
        .run();
  };
  return dispatch(dtype, "contrastive_loss", [&](auto stored) {
    using S = decltype(stored);
    if constexpr (std::is_same_v<S, float>) {
      if (round_products) return run(S{}, gemm::compute_t<bf16>{});
    }
    return run(S{}, gemm::compute_t<S>{});
  });
}

}  // namespace loginmea
