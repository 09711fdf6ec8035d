// Sums over the neighbours of an entity, each edge weighted by its relation set, a weight for every group of columns.
#pragma once

#include <cstdint>

#include "common/dtype.h"

namespace loginmea {

// y_ic = n_i ( own_i x_ic  +  sum over the edges e = (i <- j) of w_{s(e) g(c)} x_jc ),  g(c) = c / (width / groups)
//
//   ptr        [rows + 1], the edges of each row; source, set   [edges], j and s(e) of each
//   order      [rows], the order in which rows are visited
//   weights    [sets, groups], of the accumulator's type; groups divides width
//   own        [rows] of the accumulator's type, null for zeros
//   normalize  n_i = 1 / length of the row, 0 for a row no longer than eps; else n_i = 1
//   x, y       [rows, width] of `dtype`, rows `x_stride` and `y_stride` elements apart
void propagate(DType dtype, std::int64_t rows, std::int64_t width, std::int64_t groups, const std::int64_t* ptr,
               const std::int32_t* source, const std::int32_t* set, const std::int32_t* order, const void* weights,
               const void* own, bool normalize, double eps, const void* x, std::int64_t x_stride, void* y,
               std::int64_t y_stride, int num_threads);

}  // namespace loginmea
