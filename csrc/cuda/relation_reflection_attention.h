// Relation-reflection attention on CUDA, one layer a call. Formula and gradient:
// loginmea_fast/reference/relation_reflection_attention.py. Arguments are those of loginmea_fast/kernels/_launches.py,
// in that order: x, y, z, reflectors and direct are of the dtype of x (T), everything else of the type of its sums (A),
// and contiguous but for rows of x, y, z, upstream and direct. `ring`: rows of edges come by bulk copies, which are of
// compute capability 9.0 and later, where their bytes allow.
#pragma once

#include <cstdint>

#include "cuda/seam.h"

namespace loginmea {

// y [N, d] and lse [N]. part_sum [parts, d] and part_scalars [2, parts] are room for partial results.
void attention_forward(const Segments& segments, const std::int32_t* edge_source, const std::int32_t* edge_set,
                       const Matrix& x, const Matrix& reflectors, const Matrix& logits, const Matrix& vector, bool tanh,
                       const Matrix& y, const Matrix& lse, const Matrix& part_sum, const Matrix& part_scalars,
                       bool ring, void* stream);

// h = dL/dy [N, d] and along = h . y [N], from upstream = dL/dz of T or of A.
void attention_through_activation(const Matrix& upstream, const Matrix& z, bool tanh, const Matrix& h,
                                  const Matrix& along, void* stream);

// dx [N, d] = direct (for the first `direct_rows`, or none) + the gradient along edges; terms [E, 4] in source order
// for the next call.
void attention_backward_source(const Segments& segments, const std::int32_t* edge_destination,
                               const std::int32_t* edge_set, const Matrix& x, const Matrix& reflectors,
                               const Matrix& logits, const Matrix& vector, const Matrix& h, const Matrix& along,
                               const Matrix& lse, const Matrix& direct, std::int64_t direct_rows, const Matrix& dx,
                               const Matrix& part_sum, const Matrix& terms, bool ring, void* stream);

// du [U, d] += the layer's share, but for what is along the vector, and dc [U]. set_edge: places in source order, by
// set, with their sources and destinations. part_scalars [1, parts].
void attention_backward_set(const Segments& segments, const std::int32_t* set_edge, const std::int32_t* set_source,
                            const std::int32_t* set_destination, const Matrix& x, const Matrix& h, const Matrix& terms,
                            const Matrix& du, const Matrix& dc, const Matrix& part_sum, const Matrix& part_scalars,
                            bool ring, void* stream);

}  // namespace loginmea
