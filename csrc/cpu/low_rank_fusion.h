// Low-rank fusion on the CPU; formulas in loginmea_fast/reference/low_rank_fusion.py.
//
// Sizes: B rows, M modalities of widths d_m, K rank, d output width. Vectors of pointers and numbers hold one entry a
// modality. `dtype` is that of inputs, factors, output and kept products; rank weights, bias and row scale come in the
// dtype of the sums (float64 for float64, else float32). `compute` is `dtype`, or bfloat16 to round products of float32
// operands to it; on a machine that does not multiply bfloat16 it is float32 all the same.
#pragma once

#include <cstdint>
#include <vector>

#include "common/dtype.h"

namespace loginmea {

// y [B, d]. inputs[m] [B, d_m] with row strides input_strides[m]; factors[m] [K, d_m + 1, d], contiguous; row_scale
// [B, M] or null; products [K, M, B, d] or null.
void low_rank_fusion_forward(const std::vector<std::uintptr_t>& inputs, const std::vector<std::int64_t>& input_strides,
                             const std::vector<std::int64_t>& widths, const std::vector<std::uintptr_t>& factors,
                             const void* rank_weights, const void* bias, const void* row_scale, void* products, void* y,
                             std::int64_t rows, std::int64_t rank, std::int64_t width, DType dtype, DType compute,
                             int num_threads);

// From g [B, d], contiguous: input_grads[m] [B, d_m] and row_scale_grad [B, M] (all null: not wanted), factor_grads[m]
// [K, d_m + 1, d] and rank_grad [1, K] (all null: not wanted), bias_grad [1, d]. The small ones are in the dtype of the
// sums. products null: computed again.
void low_rank_fusion_backward(const void* g, const std::vector<std::uintptr_t>& inputs,
                              const std::vector<std::int64_t>& input_strides, const std::vector<std::int64_t>& widths,
                              const std::vector<std::uintptr_t>& factors, const void* rank_weights,
                              const void* row_scale, const void* products,
                              const std::vector<std::uintptr_t>& input_grads,
                              const std::vector<std::uintptr_t>& factor_grads, void* rank_grad, void* bias_grad,
                              void* row_scale_grad, std::int64_t rows, std::int64_t rank, std::int64_t width,
                              DType dtype, DType compute, int num_threads);

// row_scale [B, M] in the dtype of the sums; query [1, width] likewise, or null; present [B, M], or null where all are.
void modality_scale_forward(const std::vector<std::uintptr_t>& inputs, const std::vector<std::int64_t>& input_strides,
                            const std::vector<std::int64_t>& widths, const void* query, const bool* present,
                            void* row_scale, std::int64_t rows, DType dtype, int num_threads);

// From g [B, M]: input_grads[m] [B, d_m], to which they are added if `add`; query_grad [1, width] or null.
void modality_scale_backward(const void* g, const std::vector<std::uintptr_t>& inputs,
                             const std::vector<std::int64_t>& input_strides, const std::vector<std::int64_t>& widths,
                             const void* query, const bool* present, const std::vector<std::uintptr_t>& input_grads,
                             void* query_grad, std::int64_t rows, bool add, DType dtype, int num_threads);

}  // namespace loginmea
