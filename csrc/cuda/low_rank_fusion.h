// Low-rank fusion on CUDA: the products with the factors and the product over modalities in tensor-core tiles; what is
// left of backward, dP W^T and t^T dP, are plain products of large matrices and the vendor's, called through torch.
//
// Operands are packed (loginmea_fast/kernels/_operands.py), a block of rows at a time: t [block, total] and w [columns,
// total] of bfloat16, or of float32, rounded to TF32, or of float32 whose products are, with `exact`, three TF32
// products of the halves of each operand, as good as float32; constants [M, columns] float32. A call is about rows
// [first, first + count).
#pragma once

#include <cstdint>
#include <vector>

#include "cuda/seam.h"

namespace loginmea {

// t of one modality, zero beyond its rows and columns, from x [B, d_m] times scale [B] (none: ones); `rounded` to TF32.
void fusion_pack_rows(const Matrix& x, const Matrix& scale, std::int64_t first, std::int64_t count, const Matrix& t,
                      bool rounded, void* stream);

// y [B, d] = sum_k prod_m P_mk + bias (float32). products [K M B, d] of the dtype of y, or none, is given P_mk.
void fusion_forward(const Matrix& t, const Matrix& w, const Matrix& constants, const std::vector<std::int64_t>& starts,
                    bool exact, const Matrix& bias, const Matrix& products, const Matrix& y, std::int64_t first,
                    std::int64_t count, std::int64_t rank, void* stream);

// dp [M block, columns] of the dtype of t: g prod_{n != m} P_nk, zero in the padding. No products: computed again.
void fusion_projection_gradient(const Matrix& t, const Matrix& w, const Matrix& constants,
                                const std::vector<std::int64_t>& starts, bool exact, const Matrix& g,
                                const Matrix& products, const Matrix& dp, std::int64_t first, std::int64_t count,
                                std::int64_t rank, void* stream);

// The same by warpgroups, on compute capability 9.0 alone; operands of bfloat16, or of float32 rounded to TF32.
// Backward of several modalities without kept products: of others nothing is left to multiply. There where sm_90a was
// compiled for.
void fusion_group_forward(const Matrix& t, const Matrix& w, const Matrix& constants,
                          const std::vector<std::int64_t>& starts, const Matrix& bias, const Matrix& products,
                          const Matrix& y, std::int64_t first, std::int64_t count, std::int64_t rank, void* stream);
void fusion_group_projection_gradient(const Matrix& t, const Matrix& w, const Matrix& constants,
                                      const std::vector<std::int64_t>& starts, const Matrix& g, const Matrix& dp,
                                      std::int64_t first, std::int64_t count, std::int64_t rank, void* stream);

// dx [B, d_m] = scale dt of one modality; scale_gradient [B] = dt . x where there is a scale.
void fusion_input_gradient(const Matrix& dt, const Matrix& x, const Matrix& scale, std::int64_t first,
                           std::int64_t count, const Matrix& dx, const Matrix& scale_gradient, void* stream);

}  // namespace loginmea
