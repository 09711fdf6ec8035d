// Relation-reflection attention, a chain of L layers in one call. Formula and gradient:
// loginmea_fast/reference/relation_reflection_attention.py; schedule and floor:
// docs/ops/relation_reflection_attention.md.
#pragma once

#include <cstdint>
#include <vector>

#include "common/dtype.h"

namespace loginmea {

using Addresses = std::vector<std::uintptr_t>;
using Strides = std::vector<std::int64_t>;

// z[0] is read, z[1] ... z[L] are written: [N, d] each, rows `z_stride[k]` elements apart.
//   index       dst_ptr, dst_source, dst_set, src_ptr, src_destination, src_set, src_edge, visit_order of
//   AlignmentGraph reflectors  [U, d] of `dtype` set_logits  [L, U] and neighbor_vectors [L, d] (null in relation mode)
//   of the accumulator's type lse         [L, N] of the accumulator's type, written: log of the softmax's denominator
void relation_reflection_forward(DType dtype, std::int64_t num_entities, std::int64_t num_edges, std::int64_t num_sets,
                                 std::int64_t width, Addresses index, Addresses z, Strides z_stride,
                                 const void* reflectors, const void* set_logits, const void* neighbor_vectors,
                                 bool tanh, void* lse, int num_threads);

// grad[k] is dL/dz[k], [N, d] of `dtype`, or null where z[k] got no gradient but the chain's; grad[L] is never null.
//   dx [N, d] and du [U, d] of `dtype`, dc [L, U] and dw [L, d] (null in relation mode) of the accumulator's type:
//   written
void relation_reflection_backward(DType dtype, std::int64_t num_entities, std::int64_t num_edges, std::int64_t num_sets,
                                  std::int64_t width, Addresses index, Addresses grad, Strides grad_stride, Addresses z,
                                  Strides z_stride, const void* lse, const void* reflectors, const void* set_logits,
                                  const void* neighbor_vectors, bool tanh, void* dx, void* du, void* dc, void* dw,
                                  int num_threads);

}  // namespace loginmea
