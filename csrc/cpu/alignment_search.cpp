#include "cpu/alignment_search.h"

#include <omp.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "cpu/gemm_tile.h"

namespace loginmea {
namespace {

constexpr std::int64_t kPanel = 256;  // columns that a thread packs at a time
constexpr std::int64_t kStrip = 192;  // rows of one block of scores, a multiple of gemm::kRows
constexpr std::int64_t kGroup = 16;   // scores that an epilogue tests at a time
constexpr float kInfinity = std::numeric_limits<float>::infinity();
static_assert(kStrip % gemm::kRows == 0 && kPanel % gemm::kColumns<float> == 0 && kPanel % kGroup == 0);

// Calls body(S{}, T{}): S the type of the rows as they came, T that of the products.
template <class Body>
decltype(auto) with_types(DType dtype, bool narrow, Body&& body) {
  const auto with_product = [&](auto stored) -> decltype(auto) {
    // Where the machine does not multiply bf16, compute_t is float: as exact as without screening, and no faster.
    return narrow ? body(stored, gemm::compute_t<bf16>{}) : body(stored, float{});
  };
  switch (dtype) {
    case DType::f32: return with_product(float{});
    case DType::f64: return with_product(double{});
    case DType::bf16: return with_product(bf16{});
#if defined(LOGINMEA_HAS_F16)
    case DType::f16: return with_product(f16{});
#endif
    default: throw std::invalid_argument(std::string("alignment_search: no kernel for ") + name_of(dtype));
  }
}

template <class S>
double as_double(S value) {
  return static_cast<double>(static_cast<accumulator_t<S>>(value));
}

// Summed in the same order for every pair of rows, so that equal rows have equal products.
template <class S>
double dot(const S* x, const S* y, std::int64_t width) {
  constexpr int kChains = 32;
  double sum[kChains] = {};
  std::int64_t k = 0;
  for (; k + kChains <= width; k += kChains) {
#pragma omp simd
    for (int c = 0; c < kChains; ++c) sum[c] += as_double(x[k + c]) * as_double(y[k + c]);
  }
  for (int c = 0; k < width; ++k, ++c) sum[c] += as_double(x[k]) * as_double(y[k]);
  double total = 0;
  for (const double part : sum) total += part;
  return total;
}

// Bound on what the product of two unit rows loses where it is summed: one rounding a term, in whatever order, and one
// a block of the depth.
double lost_in_product(std::int64_t width) { return (static_cast<double>(width) * 65 / 64 + 4) * 0x1p-24; }

// Rows are divided by their length as they are packed, in float; this keeps the factor a number there.
constexpr double kLeastFactor = 1e-37, kLargestFactor = 1e38;

template <class S>
void copy_factors(const double* inverse_norm, std::int64_t count, accumulator_t<S>* factors) {
  for (std::int64_t i = 0; i < count; ++i) {
    factors[i] = static_cast<accumulator_t<S>>(std::min(inverse_norm[i], kLargestFactor));
  }
}

// Bound on the distance of a unit row from what it is packed as.
template <class S, class T>
double lost_in_packing(const S* row, std::int64_t width, double inverse_norm) {
  // The factor of such a row has lost its digits; 2 leaves all scores of the row undecided.
  if (inverse_norm != 0 && !(inverse_norm > kLeastFactor && inverse_norm < kLargestFactor)) return 2;
  double sum = 0;
  if constexpr (std::is_same_v<T, bf16>) {
    const auto factor = static_cast<accumulator_t<S>>(inverse_norm);
#pragma omp simd reduction(+ : sum)
    for (std::int64_t k = 0; k < width; ++k) {
      const bf16 packed(static_cast<float>(static_cast<accumulator_t<S>>(row[k]) * factor));
      const double difference = as_double(row[k]) * inverse_norm - static_cast<double>(static_cast<float>(packed));
      sum += difference * difference;
    }
  }
  return std::sqrt(sum) + 0x1p-22;  // the factor and the product are rounded to float
}

// Blocks of approximate scores, strips of rows of a panel of columns: begin_panel(thread, first column, columns), then
// visit(thread, first row, rows, first column, columns, scores [rows][kPanel]) for each strip, then end_panel.
template <class S, class T, class Begin, class Visit, class End>
void for_each_block(const T* packed, std::int64_t num_rows, const S* columns, std::int64_t stride,
                    std::int64_t num_columns, std::int64_t width, const double* inverse_norm, int num_threads,
                    Begin&& begin_panel, Visit&& visit, End&& end_panel) {
  struct Scratch {
    gemm::aligned_buffer<T> panel;
    gemm::aligned_buffer<float> scores;
  };
  std::vector<Scratch> scratch(num_threads);
  for (auto& s : scratch) {
    s.panel = gemm::aligned_buffer<T>(gemm::right_size<T>(width, kPanel));
    s.scores = gemm::aligned_buffer<float>(kStrip * kPanel);
  }
  const std::int64_t row_stride = gemm::left_stride<T>(width);
#pragma omp parallel for schedule(dynamic, 1) num_threads(num_threads)
  for (std::int64_t first = 0; first < num_columns; first += kPanel) {
    const int thread = omp_get_thread_num();
    T* panel = scratch[thread].panel.get();
    float* scores = scratch[thread].scores.get();
    const std::int64_t count = std::min(kPanel, num_columns - first);
    accumulator_t<S> factors[kPanel];
    copy_factors<S>(inverse_norm + first, count, factors);
    gemm::pack_right_transposed<S, T>(columns + first * stride, stride, count, width, factors, panel);
    begin_panel(thread, first, count);
    for (std::int64_t top = 0; top < num_rows; top += kStrip) {
      const std::int64_t rows = std::min(kStrip, num_rows - top);
      gemm::multiply_block<T>(packed + top * row_stride, panel, rows, count, width, scores, kPanel);
      visit(thread, top, rows, first, count, scores);
    }
    end_panel(thread, first, count);
  }
}

struct List {
  float* value;
  std::int32_t* index;
  std::int64_t capacity;

  // Takes the place of the smallest; v must be larger.
  void replace(float v, std::int32_t i) const {
    std::int64_t hole = 0;
    for (std::int64_t child = 1; child < capacity; child = 2 * hole + 1) {
      if (child + 1 < capacity && value[child + 1] < value[child]) ++child;
      if (value[child] >= v) break;
      value[hole] = value[child], index[hole] = index[child];
      hole = child;
    }
    value[hole] = v, index[hole] = i;
  }
};

}  // namespace

void search_norms(const void* rows, std::int64_t stride, DType dtype, std::int64_t num_rows, std::int64_t width,
                  bool narrow, double* inverse_norm, float* slack, int num_threads) {
  with_types(dtype, narrow, [&](auto stored, auto product) {
    using S = decltype(stored);
    using T = decltype(product);
#pragma omp parallel for schedule(static) num_threads(num_threads)
    for (std::int64_t i = 0; i < num_rows; ++i) {
      const S* row = static_cast<const S*>(rows) + i * stride;
      const double square = dot(row, row, width);
      inverse_norm[i] = square == 0                                        ? 0
                        : square < std::numeric_limits<double>::infinity() ? 1 / std::sqrt(square)
                                                                           : NAN;
      // 1.01 and 0.51, not 1 and 1/2, cover the products of two small losses.
      slack[i] =
          static_cast<float>(1.01 * lost_in_packing<S, T>(row, width, inverse_norm[i]) + 0.51 * lost_in_product(width));
    }
  });
}

std::int64_t search_packed_bytes(std::int64_t num_rows, std::int64_t width, bool narrow) {
  using Narrow = gemm::compute_t<bf16>;
  return narrow ? gemm::left_size<Narrow>(num_rows, width) * static_cast<std::int64_t>(sizeof(Narrow))
                : gemm::left_size<float>(num_rows, width) * static_cast<std::int64_t>(sizeof(float));
}

void search_pack(const void* rows, std::int64_t stride, DType dtype, std::int64_t num_rows, std::int64_t width,
                 const double* inverse_norm, bool narrow, void* packed, int num_threads) {
  with_types(dtype, narrow, [&](auto stored, auto product) {
    using S = decltype(stored);
    using T = decltype(product);
    const std::int64_t packed_stride = gemm::left_stride<T>(width);
#pragma omp parallel for schedule(static) num_threads(num_threads)
    for (std::int64_t i = 0; i < num_rows; i += gemm::kRows) {
      const std::int64_t count = std::min<std::int64_t>(gemm::kRows, num_rows - i);
      accumulator_t<S> factors[gemm::kRows];
      copy_factors<S>(inverse_norm + i, count, factors);
      gemm::pack_left<S, T>(static_cast<const S*>(rows) + i * stride, stride, count, width, factors,
                            static_cast<T*>(packed) + i * packed_stride);
    }
  });
}

void search_lists(const void* packed, std::int64_t first_row, std::int64_t num_rows, const void* columns,
                  std::int64_t stride, DType dtype, std::int64_t first_column, std::int64_t num_columns,
                  std::int64_t width, const double* inverse_norm, bool narrow, float scale, const float* row_shift,
                  const float* column_shift, float* row_values, std::int32_t* row_index, std::int64_t row_capacity,
                  float* column_values, std::int32_t* column_index, std::int64_t column_capacity, int num_threads) {
  struct Panel {
    alignas(64) float shift[kPanel], smallest[kPanel];
  };
  std::vector<Panel> panels(num_threads);

  const auto begin = [&](int thread, std::int64_t first, std::int64_t count) {
    Panel& p = panels[thread];
    // Infinities keep places without a column, and columns without a list, from ever being offered anything.
    for (std::int64_t c = 0; c < kPanel; ++c) {
      p.shift[c] = c < count ? column_shift[first + c] : kInfinity;
      p.smallest[c] = c < count && column_capacity ? column_values[(first + c) * column_capacity] : kInfinity;
    }
  };
  const auto visit = [&](int thread, std::int64_t top, std::int64_t rows, std::int64_t first, std::int64_t count,
                         const float* scores) {
    Panel& p = panels[thread];
    const float factor = scale;  // what is captured is read anew for each score, and such a loop makes no vectors
    for (std::int64_t r = 0; r < rows; ++r, scores += kPanel) {
      const std::int64_t place = (thread * num_rows + top + r) * row_capacity;
      const List row{row_values + place, row_index + place, row_capacity};
      float smallest = row_capacity ? row.value[0] : kInfinity;
      const float shift = row_shift[top + r];
      for (std::int64_t g = 0; g < count; g += kGroup) {
        int any = 0;
#pragma omp simd reduction(| : any)
        for (std::int64_t c = g; c < g + kGroup; ++c) {
          const float scaled = factor * scores[c];
          any |= (scaled - p.shift[c] > smallest) | (scaled - shift > p.smallest[c]);
        }
        if (!any) continue;
        for (std::int64_t c = g; c < g + kGroup; ++c) {
          const float scaled = factor * scores[c];
          if (scaled - p.shift[c] > smallest) {
            row.replace(scaled - p.shift[c], static_cast<std::int32_t>(first_column + first + c));
            smallest = row.value[0];
          }
          if (scaled - shift > p.smallest[c]) {
            const std::int64_t at = (first + c) * column_capacity;
            const List column{column_values + at, column_index + at, column_capacity};
            column.replace(scaled - shift, static_cast<std::int32_t>(first_row + top + r));
            p.smallest[c] = column.value[0];
          }
        }
      }
    }
  };
  with_types(dtype, narrow, [&](auto stored, auto product) {
    using S = decltype(stored);
    using T = decltype(product);
    for_each_block<S, T>(static_cast<const T*>(packed), num_rows, static_cast<const S*>(columns), stride, num_columns,
                         width, inverse_norm, num_threads, begin, visit, [](int, std::int64_t, std::int64_t) {});
  });
}

std::int64_t search_counts(const void* packed, const void* rows, std::int64_t row_stride, std::int64_t first_row,
                           std::int64_t num_rows, const void* columns, std::int64_t column_stride,
                           std::int64_t first_column, std::int64_t num_columns, DType dtype, std::int64_t width,
                           const double* row_inverse_norm, const double* column_inverse_norm, bool narrow, double scale,
                           const double* row_mean, const double* column_mean, const float* row_slack,
                           const float* column_slack, const double* own, std::int64_t num_pairs, double tie,
                           std::int64_t* counts, int num_threads) {
  constexpr float kRounding = 4e-6f;  // of the comparisons below, in float, on numbers up to 10
  struct Panel {
    // A score is above the row's threshold if scale s' - high > it, not below if scale s' - low >= it; and so for the
    // column's thresholds, which are above and below its own score.
    alignas(64) float high[kPanel], low[kPanel], above[kPanel], below[kPanel];
    alignas(64) std::int32_t num_above[kPanel], num_equal[kPanel];
    std::vector<std::int32_t> row_above, row_equal;
    std::int64_t undecided = 0;
  };
  std::vector<Panel> panels(num_threads);
  for (auto& p : panels) p.row_above.assign(num_rows, 0), p.row_equal.assign(num_rows, 0);

  with_types(dtype, narrow, [&](auto stored, auto product) {
    using S = decltype(stored);
    using T = decltype(product);
    const auto begin = [&](int thread, std::int64_t first, std::int64_t count) {
      Panel& p = panels[thread];
      for (std::int64_t c = 0; c < kPanel; ++c) {
        p.num_above[c] = p.num_equal[c] = 0;
        p.high[c] = p.low[c] = p.above[c] = p.below[c] = kInfinity;  // nothing reaches it
        if (c >= count) continue;
        const double mean = column_mean[first + c], slack = scale * column_slack[first + c];
        p.high[c] = static_cast<float>(mean + slack), p.low[c] = static_cast<float>(mean - slack);
        const std::int64_t pair = first_column + first + c;
        if (pair >= num_pairs) continue;
        p.above[c] = static_cast<float>(own[pair] + mean + slack) + kRounding;
        p.below[c] = static_cast<float>(own[pair] + mean - slack) - kRounding;
      }
    };
    const auto visit = [&](int thread, std::int64_t top, std::int64_t strip, std::int64_t first, std::int64_t count,
                           const float* scores) {
      Panel& p = panels[thread];
      const auto factor = static_cast<float>(scale);
      for (std::int64_t r = top; r < top + strip; ++r, scores += kPanel) {
        const std::int64_t pair = first_row + r;
        const double mean = row_mean[r], slack = scale * row_slack[r];
        const auto high = static_cast<float>(mean + slack), low = static_cast<float>(mean - slack);
        const bool counts_row = pair < num_pairs;
        const float above = counts_row ? static_cast<float>(own[pair] + mean + slack) + kRounding : kInfinity;
        const float below = counts_row ? static_cast<float>(own[pair] + mean - slack) - kRounding : kInfinity;
        std::int32_t row_above = 0;
        for (std::int64_t g = 0; g < count; g += kGroup) {
          int undecided = 0;
#pragma omp simd reduction(| : undecided) reduction(+ : row_above)
          for (std::int64_t c = g; c < g + kGroup; ++c) {
            const float scaled = factor * scores[c];
            const int in_row = scaled - p.high[c] > above, in_column = scaled - high > p.above[c];
            row_above += in_row;
            p.num_above[c] += in_column;
            undecided |= ((scaled - p.low[c] >= below) ^ in_row) | ((scaled - low >= p.below[c]) ^ in_column);
          }
          if (!undecided) continue;
          for (std::int64_t c = g; c < g + kGroup; ++c) {
            const float scaled = factor * scores[c];
            const bool row_open = scaled - p.low[c] >= below && !(scaled - p.high[c] > above);
            const bool column_open = scaled - low >= p.below[c] && !(scaled - high > p.above[c]);
            const std::int64_t column = first + c, column_pair = first_column + column;
            if (!(row_open || column_open) || pair == column_pair) continue;
            const S* x = static_cast<const S*>(rows) + r * row_stride;
            const S* y = static_cast<const S*>(columns) + column * column_stride;
            const double cosine = dot(x, y, width) * row_inverse_norm[r] * column_inverse_norm[column];
            const double score = scale * cosine - mean - column_mean[column];
            if (row_open) {
              row_above += score - own[pair] > tie;
              p.row_equal[r] += std::abs(score - own[pair]) <= tie;
            }
            if (column_open) {
              p.num_above[c] += score - own[column_pair] > tie;
              p.num_equal[c] += std::abs(score - own[column_pair]) <= tie;
            }
            ++p.undecided;
          }
        }
        p.row_above[r] += row_above;
      }
    };
    const auto end = [&](int thread, std::int64_t first, std::int64_t count) {
      const Panel& p = panels[thread];
      for (std::int64_t c = 0; c < count && first_column + first + c < num_pairs; ++c) {
        counts[2 * num_pairs + first_column + first + c] += p.num_above[c];
        counts[3 * num_pairs + first_column + first + c] += p.num_equal[c];
      }
    };
    for_each_block<S, T>(static_cast<const T*>(packed), num_rows, static_cast<const S*>(columns), column_stride,
                         num_columns, width, column_inverse_norm, num_threads, begin, visit, end);
  });

  std::int64_t undecided = 0;
  for (const Panel& p : panels) {
    for (std::int64_t r = 0; r < num_rows && first_row + r < num_pairs; ++r) {
      counts[first_row + r] += p.row_above[r];
      counts[num_pairs + first_row + r] += p.row_equal[r];
    }
    undecided += p.undecided;
  }
  return undecided;
}

void search_cosines(const void* rows, std::int64_t stride, DType dtype, std::int64_t num_rows, std::int64_t width,
                    const double* inverse_norm, const std::int64_t* candidates, const double* candidate_inverse_norm,
                    const std::int32_t* index, std::int64_t count, double* cosines, int num_threads) {
  with_types(dtype, false, [&](auto stored, auto) {
    using S = decltype(stored);
#pragma omp parallel for schedule(dynamic, 16) num_threads(num_threads)
    for (std::int64_t r = 0; r < num_rows; ++r) {
      const S* x = static_cast<const S*>(rows) + r * stride;
      for (std::int64_t c = r * count; c < (r + 1) * count; ++c) {
        cosines[c] = -std::numeric_limits<double>::infinity();
        if (index[c] < 0) continue;
        const std::int64_t* part = candidates;
        std::int64_t row = index[c];
        for (; row >= part[1]; part += 3) row -= part[1];
        const S* y = reinterpret_cast<const S*>(part[0]) + row * part[2];
        cosines[c] = dot(x, y, width) * inverse_norm[r] * candidate_inverse_norm[index[c]];
      }
    }
  });
}

}  // namespace loginmea
