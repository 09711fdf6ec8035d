// Low-rank fusion on CUDA: the products with the factors and the product over modalities in tensor-core tiles; what is
// left of backward, dP W^T and t^T dP, are plain products of large matrices and the vendor's, called through torch.
//
// Operands are packed, a block of rows at a time. Depths and widths are padded to kFusionPad, blocks of rows to
// kFusionRows; total = sum of padded d_m, columns = K padded d, and modality m has the columns [starts[m], starts[m +
// 1]) of t and w:
//
//   t [R, total]           rows t_m = r_m x_m side by side, zero in the padding
//   w [columns, total]     factors with o_k folded into the first: row k padded_d + j is column j of W'^(k), all m
//   constants [M, columns] row 0 of the same, float32
//
// `compute` is the type of t and w: bfloat16, or float32, whose products are TF32 or, with `exact`, three TF32 products
// of the halves of each operand, as good as float32.
#pragma once

#include <cstdint>
#include <vector>

#include "common/dtype.h"

namespace loginmea {

constexpr int kFusionPad = 64, kFusionRows = 128, kFusionMostModalities = 6;

// t of one modality: rows [first, first + count) of x [B, width] times scale[row, m] of [B, M] (null: ones); the
// block's other rows and columns [width, padded) are zero. `t` points at the modality's first column.
void fusion_pack_rows(DType dtype, const void* x, std::int64_t stride, std::int64_t width, const void* scale,
                      std::int64_t modalities, std::int64_t first, std::int64_t count, DType compute, void* t,
                      std::int64_t total, std::int64_t padded, std::int64_t block, void* stream);

// y rows [first, first + count) of [B, width], dtype `dtype`: sum_k prod_m P_mk + bias (float32). products
// [K, M, B, width] of dtype `dtype`, or null, is given P_mk.
void fusion_forward(const void* t, const void* w, const void* constants, const std::vector<std::int64_t>& starts,
                    DType compute, bool exact, const void* bias, DType dtype, void* products, void* y,
                    std::int64_t first, std::int64_t count, std::int64_t rows, std::int64_t rank, std::int64_t width,
                    void* stream);

// dp [M, block, columns] of type `compute`: g prod_{n != m} P_nk, zero in the padding. products null: computed again.
void fusion_projection_gradient(const void* g, const void* t, const void* w, const void* constants,
                                const std::vector<std::int64_t>& starts, DType compute, bool exact, DType dtype,
                                const void* products, void* dp, std::int64_t first, std::int64_t count,
                                std::int64_t rows, std::int64_t block, std::int64_t rank, std::int64_t width,
                                void* stream);

// dx = r dt of one modality, rows [first, first + count); scale_gradient[row, m] = dt . x where scale is not null. `dt`
// points at the modality's first column.
void fusion_input_gradient(const void* dt, std::int64_t total, DType dtype, const void* x, std::int64_t stride,
                           std::int64_t width, const void* scale, std::int64_t modalities, std::int64_t first,
                           std::int64_t count, void* dx, void* scale_gradient, void* stream);

}  // namespace loginmea
