// What stands between the matrix products of the contrastive loss on CUDA; the products are the vendor's, called
// through torch. The mathematics head loginmea_fast/reference/contrastive_loss.py, and csrc/cpu/contrastive_loss.cpp
// says how lengths are kept out of the products: a panel holds raw products l_b . k_j, logits are s_bj = u_b v_j (l_b .
// k_j) / tau with reciprocal lengths u, v, and the weights that multiply rows are w'_bj = u_b v_j w_bj.
//
// Rows are float32, float64 or bfloat16; everything else is float64 for float64 rows and float32 otherwise (`sums`). A
// panel is [rows, columns], its rows panel_stride elements apart; its first row is row `first` of the batch.
#pragma once

#include <cstdint>

#include "common/dtype.h"

namespace loginmea {

// out[b] = 1 / |rows_b|, or 0 where |rows_b| <= 1e-12.
void contrastive_inverse_lengths(DType dtype, const void* rows, std::int64_t stride, std::int64_t count,
                                 std::int64_t width, void* out, void* stream);

// lse[first + r] = log sum_j exp s_rj and positive[first + r] = s_r,first+r for the rows of a panel.
void contrastive_normalise_rows(DType sums, const void* panel, std::int64_t panel_stride, std::int64_t rows,
                                std::int64_t columns, std::int64_t first, const void* left_scale, const void* key_scale,
                                double temperature, void* lse, void* positive, void* stream);

// Takes a panel's rows into the running maximum and sum of exponentials of its first `batch` columns.
void contrastive_normalise_columns(DType sums, const void* panel, std::int64_t panel_stride, std::int64_t rows,
                                   std::int64_t batch, std::int64_t first, const void* left_scale,
                                   const void* key_scale, double temperature, void* largest, void* total, void* stream);

// weights[r, j] = w'_rj, stored as `dtype`, weights_stride apart; where dtype is that of the sums, weights may be the
// panel. column_lse: the columns' log-sum-exp [batch] for both ways, null for one.
void contrastive_weigh(DType dtype, DType sums, const void* panel, std::int64_t panel_stride, std::int64_t rows,
                       std::int64_t columns, std::int64_t batch, std::int64_t first, const void* left_scale,
                       const void* key_scale, const void* lse, const void* column_lse, double temperature,
                       void* weights, std::int64_t weights_stride, void* stream);

// out = g - (g . x) u^2 x a row: from g = sum_j w' k_j to the gradient to the row x. Sums may be out where dtypes
// agree.
void contrastive_through_length(DType dtype, const void* sums, const void* rows, std::int64_t stride,
                                std::int64_t count, std::int64_t width, const void* inverse_length, void* out,
                                void* stream);

}  // namespace loginmea
