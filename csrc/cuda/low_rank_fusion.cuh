// Device side of low-rank fusion: a block's tile of P = [1 | t] W' by tensor cores, kept in registers.
//
// A tile is 128 rows, eight warps as 4 x 2, a warp 32 rows x 8 kColumnTiles columns, in fragments of mma.m16n8: lane l
// holds of each fragment rows l / 4 and l / 4 + 8, columns 2 (l % 4) and the next. Both operands lie in shared memory
// with the depth running fastest. Seen as 32-bit words, a step of TF32 (8 numbers deep) and one of bf16 (16 deep, in
// pairs) are the same 8 words, so one loader serves both; rows are 36 words apart, which puts the 32 words that a warp
// reads at once into 32 banks.
#pragma once

#include <cstdint>

#include "cuda/ptx.cuh"

namespace loginmea {

constexpr int kFusionThreads = 256;
constexpr int kFusionWords = 32;   // depth of one stage: 32 float32 or 64 bf16
constexpr int kFusionStride = 36;  // words from row to row in shared memory
constexpr int kFusionStages = 3;
constexpr int kRowTiles = 2;  // of 16 rows, a warp

template <int kColumnTiles>
struct FusionTile {
  static constexpr int kRows = 128, kColumns = 2 * 8 * kColumnTiles;
  static constexpr int kStageWords = (kRows + kColumns) * kFusionStride;
  static constexpr int kSharedBytes = kFusionStages * kStageWords * 4;
};

template <int kColumnTiles>
using Fragments = float[kRowTiles][kColumnTiles][4];

// What TF32 leaves of x, itself in TF32.
__device__ inline std::uint32_t rest_of(std::uint32_t word, std::uint32_t high) {
  return to_tf32(__uint_as_float(word) - __uint_as_float(high));
}

enum class Products { tf32, exact, bf16 };

// Adds one stage to the fragments of this warp.
template <int kColumnTiles, Products kProducts>
__device__ inline void multiply_stage(const std::uint32_t* stage, int warp_row, int warp_column, int lane,
                                      Fragments<kColumnTiles>& sum) {
  const std::uint32_t* left = stage + (warp_row + lane / 4) * kFusionStride + lane % 4;
  const std::uint32_t* right =
      stage + (FusionTile<kColumnTiles>::kRows + warp_column + lane / 4) * kFusionStride + lane % 4;
#pragma unroll
  for (int step = 0; step < kFusionWords; step += 8) {
    std::uint32_t a[kRowTiles][4], b[kColumnTiles][2];
#pragma unroll
    for (int r = 0; r < kRowTiles; ++r) {
      const std::uint32_t* at = left + r * 16 * kFusionStride + step;
      a[r][0] = at[0], a[r][1] = at[8 * kFusionStride], a[r][2] = at[4], a[r][3] = at[8 * kFusionStride + 4];
    }
#pragma unroll
    for (int c = 0; c < kColumnTiles; ++c) {
      const std::uint32_t* at = right + c * 8 * kFusionStride + step;
      b[c][0] = at[0], b[c][1] = at[4];
    }
    if constexpr (kProducts == Products::bf16) {
#pragma unroll
      for (int r = 0; r < kRowTiles; ++r) {
#pragma unroll
        for (int c = 0; c < kColumnTiles; ++c) multiply_bf16(sum[r][c], a[r], b[c]);
      }
    } else {
      std::uint32_t a_low[kRowTiles][4], b_low[kColumnTiles][2];
#pragma unroll
      for (int r = 0; r < kRowTiles; ++r) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const std::uint32_t high = to_tf32(__uint_as_float(a[r][i]));
          if constexpr (kProducts == Products::exact) a_low[r][i] = rest_of(a[r][i], high);
          a[r][i] = high;
        }
      }
#pragma unroll
      for (int c = 0; c < kColumnTiles; ++c) {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          const std::uint32_t high = to_tf32(__uint_as_float(b[c][i]));
          if constexpr (kProducts == Products::exact) b_low[c][i] = rest_of(b[c][i], high);
          b[c][i] = high;
        }
      }
#pragma unroll
      for (int r = 0; r < kRowTiles; ++r) {
#pragma unroll
        for (int c = 0; c < kColumnTiles; ++c) {
          if constexpr (kProducts == Products::exact) {
            // Tensor cores truncate what they add to, which over a long depth is a drift. So sums start from zero here,
            // small terms first, and are rounded to nearest where they join the rest (Ootomo and Yokota, "Recovering
            // single precision accuracy from Tensor Cores", IJHPCA 2022).
            float step_sum[4] = {};
            multiply_tf32(step_sum, a_low[r], b[c]);
            multiply_tf32(step_sum, a[r], b_low[c]);
            multiply_tf32(step_sum, a[r], b[c]);
#pragma unroll
            for (int i = 0; i < 4; ++i) sum[r][c][i] += step_sum[i];
          } else {
            multiply_tf32(sum[r][c], a[r], b[c]);
          }
        }
      }
    }
  }
}

}  // namespace loginmea
