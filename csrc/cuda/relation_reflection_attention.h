// Relation-reflection attention on CUDA, one layer a call. Formula and gradient:
// loginmea_fast/reference/relation_reflection_attention.py. Rows of `dtype` (T below) may lie apart by a stride;
// everything else is contiguous, and of the accumulator's type A unless said otherwise.
//
// A segment is a run of at most a few hundred edges [start, stop) of one row. The first `num_parts` segments are those
// of rows that have several, and their numbers are the places of their partial results; every other is a whole row.
// `shared` int32 [num_shared] are the rows of several segments and `shared_ptr` int64 [num_shared + 1] their segments,
// whose results are added up in order: no atomics.
#pragma once

#include <cstdint>

#include "common/dtype.h"

namespace loginmea {

// y [N, d] of T and lse [N]. part_sum [num_parts, d], part_peak and part_total [num_parts] are room for partial
// results.
void attention_forward(DType dtype, std::int64_t width, std::int64_t num_segments, std::int64_t num_parts,
                       const std::int32_t* row, const std::int32_t* start, const std::int32_t* stop,
                       std::int64_t num_shared, const std::int32_t* shared, const std::int64_t* shared_ptr,
                       const std::int32_t* edge_source, const std::int32_t* edge_set, const void* x,
                       std::int64_t x_stride, const void* reflectors, const void* logits, const void* neighbor_vector,
                       bool tanh, void* y, std::int64_t y_stride, void* lse, void* part_sum, void* part_peak,
                       void* part_total, void* stream);

// h = dL/dy [N, d] and along = h . y [N], from upstream = dL/dz: of T where `upstream_is_wide` is false, else of A.
void attention_through_activation(DType dtype, std::int64_t entities, std::int64_t width, const void* upstream,
                                  std::int64_t upstream_stride, bool upstream_is_wide, const void* z,
                                  std::int64_t z_stride, bool tanh, void* h, void* along, void* stream);

// dx [N, d] = direct (of T, for the first `direct_rows`, or null) + the gradient along edges; weight and slope [E] in
// source order for the next call.
void attention_backward_source(DType dtype, std::int64_t width, std::int64_t num_segments, std::int64_t num_parts,
                               const std::int32_t* row, const std::int32_t* start, const std::int32_t* stop,
                               std::int64_t num_shared, const std::int32_t* shared, const std::int64_t* shared_ptr,
                               const std::int32_t* edge_destination, const std::int32_t* edge_set, const void* x,
                               std::int64_t x_stride, const void* reflectors, const void* logits,
                               const void* neighbor_vector, const void* h, const void* along, const void* lse,
                               const void* direct, std::int64_t direct_stride, std::int64_t direct_rows, void* dx,
                               void* part_sum, void* weight, void* slope, void* stream);

// du [U, d] += the layer's share and dc [U]; dw_parts [segments, d] where neighbor_vector is not null. set_edge: places
// in source order, by set, with their sources and destinations.
void attention_backward_set(DType dtype, std::int64_t width, std::int64_t num_segments, std::int64_t num_parts,
                            const std::int32_t* row, const std::int32_t* start, const std::int32_t* stop,
                            std::int64_t num_shared, const std::int32_t* shared, const std::int64_t* shared_ptr,
                            const std::int32_t* set_edge, const std::int32_t* set_source,
                            const std::int32_t* set_destination, const void* x, std::int64_t x_stride,
                            const void* reflectors, const void* neighbor_vector, const void* h, const void* weight,
                            const void* slope, void* du, void* dc, void* dw_parts, void* part_sum, void* part_slope,
                            void* stream);

}  // namespace loginmea
