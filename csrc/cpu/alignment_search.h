// Alignment search: cosines in tiles whose epilogue keeps short lists and counts; no matrix of scores exists.
//
// A pass works on approximations s' of the cosines s, products of rows rounded to float or bf16, with the bound
//
//   |s'_ij - s_ij| <= slack_i + slack_j                        (derived in docs/ops/alignment_search.md)
//
// What it leaves undecided is scored again from the rows as they came, in double. So counts are exact as they leave
// search_counts; lists are made exact by their owner, loginmea_fast/ops/_search_tiles.py, through search_cosines.
//
// Matrices are (address, elements from row to row), elements of a row adjacent. "Columns" are rows of the right matrix.
// Arrays hold a value for each row, or column, of the block at hand unless a comment says otherwise.
#pragma once

#include <cstdint>

#include "common/dtype.h"

namespace loginmea {

// 1 / |row| (0 for a zero row, NaN for one that is not finite) and the slack of each row. narrow: for products in bf16.
void search_norms(const void* rows, std::int64_t stride, DType dtype, std::int64_t num_rows, std::int64_t width,
                  bool narrow, double* inverse_norm, float* slack, int num_threads);

// Bytes that num_rows packed rows take.
std::int64_t search_packed_bytes(std::int64_t num_rows, std::int64_t width, bool narrow);

// Rows divided by their length, as the left operand of the products.
void search_pack(const void* rows, std::int64_t stride, DType dtype, std::int64_t num_rows, std::int64_t width,
                 const double* inverse_norm, bool narrow, void* packed, int num_threads);

// Offers every approximate score of packed rows x columns to the list of its row and to that of its column:
//   to row i:     scale s'_ij - column_shift[j]       to column j:  scale s'_ij - row_shift[i]
// A list is a heap of `capacity` (value, index), smallest value first, which starts as (-infinity, -1); the index
// counts from first_row or first_column. Row lists are [num_threads][num_rows][capacity], one set for each thread;
// column lists are [num_columns][capacity]. Capacity 0: no such lists.
void search_lists(const void* packed, std::int64_t first_row, std::int64_t num_rows, const void* columns,
                  std::int64_t stride, DType dtype, std::int64_t first_column, std::int64_t num_columns,
                  std::int64_t width, const double* inverse_norm, bool narrow, float scale, const float* row_shift,
                  const float* column_shift, float* row_values, std::int32_t* row_index, std::int64_t row_capacity,
                  float* column_values, std::int32_t* column_index, std::int64_t column_capacity, int num_threads);

// Adds to the counts of the pairs b < num_pairs (pair b is row b and column b), for packed rows x columns:
//   counts[0][b], counts[1][b]: columns that score above own[b], equal to own[b], in row b, b itself left out;
//   counts[2][b], counts[3][b]: rows that do so in column b.
// A score is scale s_ij - row_mean[i] - column_mean[j]; equal means a difference of at most `tie`. `own` and `counts`
// belong to all pairs. Returns how many scores were undecided.
std::int64_t search_counts(const void* packed, const void* rows, std::int64_t row_stride, std::int64_t first_row,
                           std::int64_t num_rows, const void* columns, std::int64_t column_stride,
                           std::int64_t first_column, std::int64_t num_columns, DType dtype, std::int64_t width,
                           const double* row_inverse_norm, const double* column_inverse_norm, bool narrow, double scale,
                           const double* row_mean, const double* column_mean, const float* row_slack,
                           const float* column_slack, const double* own, std::int64_t num_pairs, double tie,
                           std::int64_t* counts, int num_threads);

// cosines[r][c] of row r and candidate index[r][c], in double; -infinity where the index is negative. Candidates are a
// table [parts][3] of (address, rows, elements from row to row), matrices one below the other.
void search_cosines(const void* rows, std::int64_t stride, DType dtype, std::int64_t num_rows, std::int64_t width,
                    const double* inverse_norm, const std::int64_t* candidates, const double* candidate_inverse_norm,
                    const std::int32_t* index, std::int64_t count, double* cosines, int num_threads);

}  // namespace loginmea
