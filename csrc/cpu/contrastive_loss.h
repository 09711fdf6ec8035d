// In-batch contrastive loss and its gradient; the mathematics head loginmea_fast/reference/contrastive_loss.py.
#pragma once

#include <cstdint>

#include "common/dtype.h"

namespace loginmea {

// Returns the loss of left rows [batch, width] against keys [right rows; extra rows], and back the other way if
// `bidirectional`. Strides are those of rows, in elements; a row is contiguous. Gradients are contiguous, of the rows'
// dtype; left_gradient null: none is wanted. round_products: multiply float32 rows in bfloat16, with float32 sums.
//
// Every number is summed in an order that the shapes alone decide, so results do not depend on num_threads.
double contrastive_loss(DType dtype, const void* left, std::int64_t left_stride, const void* right,
                        std::int64_t right_stride, const void* extra, std::int64_t extra_stride, std::int64_t batch,
                        std::int64_t num_extra, std::int64_t width, double temperature, bool bidirectional,
                        bool round_products, void* left_gradient, void* right_gradient, void* extra_gradient,
                        int num_threads);

}  // namespace loginmea
