// Contrastive loss and its gradient; the mathematics head loginmea_fast/reference/contrastive_loss.py.
#pragma once

#include <cstdint>
#include <vector>

#include "common/dtype.h"

namespace loginmea {

// Returns the loss of queries [batch, width] against keys, which come in one or two blocks [key_counts[i], width] whose
// columns follow each other: C in all. Strides are those of rows, in elements; a row is contiguous.
//
// Of the rows' dtype: queries, keys and their gradients, which are contiguous. Of the sums' dtype (float64 for float64,
// else float32): everything else that is not an index. Null where it is not wanted or has its default:
//   positives             [batch] the column of each query's own key; null: query b's is column b
//   excluded_start        [batch + 1], and excluded: for each query columns, ascending, that its denominator leaves out
//   key_bias              [C]
//   temperatures          [batch]; null: `temperature` for all
//   coefficients          [batch]; null: 1 / batch
//   row_losses            [batch], written always
//   query_gradient        null: no gradient is wanted; else key_gradients has one entry a block
//   bias_gradient         [C]; temperature_gradient [batch]
//
// normalize: divide rows by their lengths. positive_counts: it is in the denominator. both_ways: the mean with the loss
// of the first `batch` columns against queries; then positives, excluded_start, key_bias and temperatures are null.
// round_products: multiply float32 rows in bfloat16, with float32 sums.
//
// Every number is summed in an order that the shapes alone decide, so results do not depend on num_threads.
double contrastive_loss(DType dtype, const void* queries, std::int64_t query_stride, std::int64_t batch,
                        std::int64_t width, std::vector<std::uintptr_t> keys, std::vector<std::int64_t> key_strides,
                        std::vector<std::int64_t> key_counts, const std::int64_t* positives,
                        const std::int64_t* excluded_start, const std::int64_t* excluded, const void* key_bias,
                        double temperature, const void* temperatures, const void* coefficients, bool normalize,
                        bool positive_counts, bool both_ways, bool round_products, void* row_losses,
                        void* query_gradient, std::vector<std::uintptr_t> key_gradients, void* bias_gradient,
                        void* temperature_gradient, int num_threads);

}  // namespace loginmea
