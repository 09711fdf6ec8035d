// What follows the products: each score is read once for its row and once for its column. Rows and columns have kernels
// of their own for lists, because a row's list lives in a warp's registers and a column's with the lane that walks down
// the column; counting serves both at once, a warp's ballot for the row and a lane's register for the column.
#include <stdexcept>
#include <string>

#include "cuda/alignment_search.cuh"
#include "cuda/alignment_search.h"
#include "cuda/launch.cuh"

namespace loginmea {
namespace {

using namespace search;

constexpr int kRowWarps = 8;      // rows that a block of offer_to_rows serves
constexpr int kCountRows = 64;    // rows that a block of count_scores passes over
constexpr int kCountWidth = 256;  // its columns, one a thread

__global__ void __launch_bounds__(kRowWarps* kWarp)
    offer_to_rows(const float* cosines, std::int64_t num_rows, std::int64_t num_columns, float scale,
                  const float* column_shift, std::int64_t first_column, float* values, std::int32_t* index,
                  int capacity) {
  const int lane = threadIdx.x % kWarp;
  const std::int64_t row = static_cast<std::int64_t>(blockIdx.x) * kRowWarps + threadIdx.x / kWarp;
  if (row >= num_rows) return;  // a whole warp at a time
  const float* line = cosines + row * num_columns;
  WarpList list;
  list.load(values + row * capacity, index + row * capacity, capacity, lane);
  for (std::int64_t start = 0; start < num_columns; start += kWarp) {
    const std::int64_t j = start + lane;
    const float score = j < num_columns ? scale * line[j] - column_shift[j] : -INFINITY;
    for (unsigned open = __ballot_sync(kAll, score > list.smallest); open; open &= open - 1) {
      const int from = __ffs(static_cast<int>(open)) - 1;
      const float offered = __shfl_sync(kAll, score, from);
      if (offered > list.smallest) {  // the list has risen since the ballot
        list.replace(offered, static_cast<std::int32_t>(first_column + start + from), lane);
      }
    }
  }
  list.store(values + row * capacity, index + row * capacity, capacity, lane);
}

__global__ void __launch_bounds__(kWarp)
    offer_to_columns(const float* cosines, std::int64_t num_rows, std::int64_t num_columns, float scale,
                     const float* row_shift, std::int64_t first_row, float* values, std::int32_t* index, int capacity) {
  extern __shared__ float shared[];  // values, then indices: [capacity][kWarp] each
  const std::int64_t column = static_cast<std::int64_t>(blockIdx.x) * kWarp + threadIdx.x;
  if (column >= num_columns) return;
  LaneList list{shared + threadIdx.x, reinterpret_cast<std::int32_t*>(shared + capacity * kWarp) + threadIdx.x,
                capacity, 0};
  for (int s = 0; s < capacity; ++s) {
    list.value[s * kWarp] = values[column * capacity + s];
    list.index[s * kWarp] = index[column * capacity + s];
  }
  list.find_smallest();
#pragma unroll 8
  for (std::int64_t i = 0; i < num_rows; ++i) {
    const float score = scale * cosines[i * num_columns + column] - row_shift[i];
    if (score > list.smallest()) list.replace(score, static_cast<std::int32_t>(first_row + i));
  }
  for (int s = 0; s < capacity; ++s) {
    values[column * capacity + s] = list.value[s * kWarp];
    index[column * capacity + s] = list.index[s * kWarp];
  }
}

struct Thresholds {
  const float *high, *low, *above, *below;
};

__global__ void __launch_bounds__(kCountWidth)
    count_scores(const float* cosines, std::int64_t num_rows, std::int64_t num_columns, float scale, Thresholds row,
                 Thresholds column, std::int64_t row_offset, std::int64_t pair_shift, std::int32_t* row_count,
                 std::int32_t* column_count, std::int32_t* codes, std::int64_t room, std::int32_t* num_undecided) {
  __shared__ int of_row[kCountRows];
  for (int r = threadIdx.x; r < kCountRows; r += kCountWidth) of_row[r] = 0;
  __syncthreads();

  const std::int64_t first = static_cast<std::int64_t>(blockIdx.y) * kCountRows;
  const std::int64_t j = static_cast<std::int64_t>(blockIdx.x) * kCountWidth + threadIdx.x;
  const bool inside = j < num_columns;
  const float high = inside ? column.high[j] : INFINITY, low = inside ? column.low[j] : INFINITY;
  const float above = inside ? column.above[j] : INFINITY, below = inside ? column.below[j] : INFINITY;
  const auto note = [&](std::int64_t i, int way) {
    const int at = atomicAdd(num_undecided, 1);
    if (at < room) codes[at] = way << 28 | static_cast<int>(row_offset + i) << 14 | static_cast<int>(j);
  };
  int of_column = 0;
  const int rows = static_cast<int>(min(static_cast<std::int64_t>(kCountRows), num_rows - first));
  for (int r = 0; r < rows; ++r) {
    const std::int64_t i = first + r;
    const float scaled = inside ? scale * cosines[i * num_columns + j] : -INFINITY;
    const Answer in_row = ask(scaled, high, low, row.above[i], row.below[i]);
    const Answer in_column = ask(scaled, row.high[i], row.low[i], above, below);
    const unsigned counted = __ballot_sync(kAll, in_row == Answer::above);
    if (threadIdx.x % kWarp == 0 && counted) atomicAdd(&of_row[r], __popc(counted));
    of_column += in_column == Answer::above;
    if (row_offset + i + pair_shift == j) continue;  // ballots are per turn: the lane is back for the next one
    if (in_row == Answer::undecided) note(i, 0);
    if (in_column == Answer::undecided) note(i, 1);
  }
  if (inside && of_column) atomicAdd(column_count + j, of_column);
  __syncthreads();
  for (int r = threadIdx.x; r < rows; r += kCountWidth) {
    if (of_row[r]) atomicAdd(row_count + first + r, of_row[r]);
  }
}

}  // namespace

void search_offer(const float* cosines, std::int64_t num_rows, std::int64_t num_columns, float scale,
                  const float* row_shift, const float* column_shift, std::int64_t first_row, std::int64_t first_column,
                  float* row_values, std::int32_t* row_index, std::int64_t row_capacity, float* column_values,
                  std::int32_t* column_index, std::int64_t column_capacity, cudaStream_t stream) {
  if (row_capacity > kLongest || column_capacity > kLongest) {
    throw std::invalid_argument("search_offer: expected lists of at most " + std::to_string(kLongest) + ", got " +
                                std::to_string(row_capacity) + " and " + std::to_string(column_capacity));
  }
  if (num_rows == 0 || num_columns == 0) return;
  if (row_capacity > 0) {
    launch("search_offer, rows", offer_to_rows, {blocks(num_rows, kRowWarps)}, kRowWarps * kWarp, 0, stream, cosines,
           num_rows, num_columns, scale, column_shift, first_column, row_values, row_index,
           static_cast<int>(row_capacity));
  }
  if (column_capacity > 0) {
    const int capacity = static_cast<int>(column_capacity);
    const int shared = capacity * kWarp * static_cast<int>(sizeof(float) + sizeof(std::int32_t));  // 32 KiB at most
    launch("search_offer, columns", offer_to_columns, {blocks(num_columns, kWarp)}, kWarp, shared, stream, cosines,
           num_rows, num_columns, scale, row_shift, first_row, column_values, column_index, capacity);
  }
}

void search_count(const float* cosines, std::int64_t num_rows, std::int64_t num_columns, float scale,
                  const float* row_high, const float* row_low, const float* row_above, const float* row_below,
                  const float* column_high, const float* column_low, const float* column_above,
                  const float* column_below, std::int64_t row_offset, std::int64_t pair_shift, std::int32_t* row_count,
                  std::int32_t* column_count, std::int32_t* codes, std::int64_t room, std::int32_t* num_undecided,
                  cudaStream_t stream) {
  if (num_rows == 0 || num_columns == 0) return;
  launch("search_count", count_scores, {blocks(num_columns, kCountWidth), blocks(num_rows, kCountRows)}, kCountWidth, 0,
         stream, cosines, num_rows, num_columns, scale, Thresholds{row_high, row_low, row_above, row_below},
         Thresholds{column_high, column_low, column_above, column_below}, row_offset, pair_shift, row_count,
         column_count, codes, room, num_undecided);
}

}  // namespace loginmea
