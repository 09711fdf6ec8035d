// Weighted sums of rows over a sparse matrix, and unit reflectors of relation sets: docs/model.md.
#pragma once

#include <cstdint>

#include "common/dtype.h"

namespace loginmea {

// y_i = out_i ( sum over the entries k of row i of value_k in_j x_j  +  self_i in_i x_i ),  j = index[k]
//
//   ptr        [rows + 1]; index of 4 or 8 bytes an entry
//   order      [rows] int32, the order in which rows are visited; null for their own
//   targets    [rows] int32: the row of y that a row of the matrix gives, -1: nobody wants it; null for its own
//   places     [columns] int32: the row of x that a column stands for, -1: there is none, it counts as zero; null for
//              its own
//   value      float32 an entry, null for ones
//   out, in, self   of the accumulator's type, a row of y or of x each; null for ones, ones and zeros
//   x, y       `dtype`, rows `x_stride` and `width` elements apart
void row_sums(DType dtype, std::int64_t rows, std::int64_t width, const std::int64_t* ptr, const void* index,
              int index_bytes, const std::int32_t* order, const std::int32_t* targets, const std::int32_t* places,
              const float* value, const void* out, const void* in, const void* self, const void* x,
              std::int64_t x_stride, void* y, std::int64_t y_rows, int num_threads);

// u_s = p_s / max(|p_s|, eps), p_s = sum of count_k r_j over the relations of set s; reciprocal[s] = 1 / max(|p_s|,
// eps).
void unit_reflectors(DType dtype, std::int64_t sets, std::int64_t width, const std::int64_t* ptr,
                     const std::int32_t* relation, const float* count, const void* relations, void* reflectors,
                     void* reciprocal, double eps, int num_threads);

// dr_j = sum over the sets s of relation j of count_k reciprocal_s ( g_s - (g_s . u_s) u_s ); sets no longer than eps
// have no direction to lose, and there the second term is left out. `ptr`, `set` and `count` are the transpose of the
// above.
void unit_reflectors_backward(DType dtype, std::int64_t relations, std::int64_t sets, std::int64_t width,
                              const std::int64_t* ptr, const std::int32_t* set, const float* count, const void* grad,
                              const void* reflectors, const void* reciprocal, double eps, void* relations_grad,
                              int num_threads);

}  // namespace loginmea
