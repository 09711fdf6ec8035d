// Alignment search on a CUDA device: what follows the products. cuBLAS writes a strip of approximate cosines s', these
// kernels read it once for its rows and once for its columns, and nothing larger than a strip exists.
//
// `cosines` is [num_rows][num_columns], adjacent. Arrays hold a value for each row or column of the strip.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace loginmea {

// Offers to row i `scale s'_ij - column_shift[j]`, to column j `scale s'_ij - row_shift[i]`. Lists are [rows or
// columns][capacity] of (value, index) in no order, -infinity where empty; a larger value takes the place of the
// smallest. Capacity at most 128; 0: no such lists.
void search_offer(const float* cosines, std::int64_t num_rows, std::int64_t num_columns, float scale,
                  const float* row_shift, const float* column_shift, std::int64_t first_row, std::int64_t first_column,
                  float* row_values, std::int32_t* row_index, std::int64_t row_capacity, float* column_values,
                  std::int32_t* column_index, std::int64_t column_capacity, cudaStream_t stream);

// Counts of row i: columns with `scale s'_ij - column_high[j] > row_above[i]`. Columns with `scale s'_ij -
// column_low[j] >= row_below[i]` that are not counted are undecided; so with rows and columns exchanged. A code of an
// undecided score, way << 28 | (row_offset + i) << 14 | j, way 0 for the row's question and 1 for the column's, is
// written while there is room and counted in any case. Row row_offset + i and column row_offset + i + pair_shift are a
// pair, which is never undecided.
void search_count(const float* cosines, std::int64_t num_rows, std::int64_t num_columns, float scale,
                  const float* row_high, const float* row_low, const float* row_above, const float* row_below,
                  const float* column_high, const float* column_low, const float* column_above,
                  const float* column_below, std::int64_t row_offset, std::int64_t pair_shift, std::int32_t* row_count,
                  std::int32_t* column_count, std::int32_t* codes, std::int64_t room, std::int32_t* num_undecided,
                  cudaStream_t stream);

}  // namespace loginmea
