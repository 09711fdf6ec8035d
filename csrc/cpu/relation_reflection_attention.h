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
using Sizes = std::vector<std::int64_t>;

// Graphs come as `sizes`, three each (sources N, destinations D, edges E), and `index`, eight tensors each (dst_ptr,
// dst_source, dst_set, src_ptr, src_destination, src_set, src_edge, visit_order of AlignmentGraph). One serves all
// layers, or each layer has its own: a view's blocks, which have no visit_order and whose edges by destination are
// sorted by set. Layer k then reads the N rows of z[k] and writes the D first of z[k + 1].

// Edges by destination as forward walks them: start [N + 1], other, set and edge [E], written. They depend on the graph
// alone and are kept as long as it is.
void relation_reflection_stream(Sizes sizes, std::int64_t num_sets, Addresses index, std::int64_t* start,
                                std::int32_t* other, std::int32_t* set, std::int32_t* edge, int num_threads);

// z[0] is read, z[1] ... z[L] are written: rows of d, `z_stride[k]` elements apart.
//   stream            what relation_reflection_stream wrote; not read where each layer has its own graph
//   reflectors        [U, d] of `dtype`
// and, of the accumulator's type,
//   set_logits        [L, U], or null for zeros
//   relation_vectors  [L, d]: v of every layer, whose v . u_s is added to the logits; or null
//   neighbor_vectors  [L, d]: w of every layer; null in relation mode
//   logits            [L, U], written: set_logits + v . u
//   lse               [D] of each layer, one after the other, written: log of the softmax's denominator
void relation_reflection_forward(DType dtype, Sizes sizes, std::int64_t num_sets, std::int64_t width, Addresses index,
                                 Addresses stream, Addresses z, Strides z_stride, const void* reflectors,
                                 const void* set_logits, const void* relation_vectors, const void* neighbor_vectors,
                                 bool tanh, void* logits, void* lse, int num_threads);

// grad[k] is dL/dz[k] of `dtype` in the rows that z[L] has, zero in others, or null where z[k] got no gradient but the
// chain's; grad[L] is never null. Written: dx [N, d] and du [U, d] of `dtype`; dc [L, U], dv [L, d] and dw [L, d] of
// the accumulator's type, the last two where relation_vectors and neighbor_vectors are not null. With tanh_input dx is
// the gradient of the x that z[0] = tanh(x) was made of.
void relation_reflection_backward(DType dtype, Sizes sizes, std::int64_t num_sets, std::int64_t width, Addresses index,
                                  Addresses grad, Strides grad_stride, Addresses z, Strides z_stride, const void* lse,
                                  const void* logits, const void* reflectors, const void* relation_vectors,
                                  const void* neighbor_vectors, bool tanh, bool tanh_input, void* dx, void* du,
                                  void* dc, void* dv, void* dw, int num_threads);

}  // namespace loginmea
