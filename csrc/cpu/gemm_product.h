// Products of whole matrices from tiles: the operands are packed, what reaches over an edge is not written there.
#pragma once

#include <algorithm>
#include <cstdint>

#include "cpu/gemm_tile.h"

namespace loginmea {
namespace gemm {

// Rows that tiles read: element (r, step) of a tile at data + tile + r * row_stride + step.
template <class T>
struct LeftOperand {
  const T* data;
  std::int64_t row_stride, step, tile;
};

struct Nothing {
  void operator()(std::int64_t, std::int64_t) const {}
};

// out[rows, columns] (+)= left right, where right is packed; done(row, height) follows each row of tiles.
template <class T, class Done = Nothing>
void multiply(LeftOperand<T> left, const T* right, std::int64_t rows, std::int64_t columns, std::int64_t depth,
              accumulator_t<T>* out, std::int64_t out_stride, bool add, const T* following = nullptr,
              Done&& done = {}) {
  using A = accumulator_t<T>;
  const std::int64_t steps = round_up(depth, kStep<T>) / kStep<T>;
  for (std::int64_t row = 0; row < rows; row += kRows) {
    const T* operand = left.data + row / kRows * left.tile;
    const std::int64_t height = std::min<std::int64_t>(kRows, rows - row);
    for (std::int64_t column = 0; column < columns; column += kColumns<T>) {
      const int vectors = panel_vectors<T>(columns, column);
      const std::int64_t width = vectors * kLanes<T>, count = std::min(width, columns - column);
      const T* panel = right + panel_offset<T>(depth, column);
      const ahead next(following ? following : panel, following ? steps * width * kStep<T> * sizeof(T) : 0, row / kRows,
                       tiles(rows), steps);
      A* place = out + row * out_stride + column;
      if (height == kRows && count == width) {
        // Sums of the keys' gradient come from memory: they arrive while the tile is multiplied.
        for (std::int64_t r = 0; add && r < kRows; ++r) {
          for (std::int64_t c = 0; c < width; c += 64 / static_cast<std::int64_t>(sizeof(A))) {
            __builtin_prefetch(place + r * out_stride + c, 1);
          }
        }
        multiply_tile<T>(vectors, operand, left.row_stride, left.step, panel, width * kStep<T>, steps, place,
                         out_stride, add, next);
        continue;
      }
      // A tile that reaches over an edge must not write there.
      alignas(64) A tile[kRows * kColumns<T>];
      multiply_tile<T>(vectors, operand, left.row_stride, left.step, panel, width * kStep<T>, steps, tile, width);
      for (std::int64_t r = 0; r < height; ++r) {
        for (std::int64_t c = 0; c < count; ++c) {
          place[r * out_stride + c] = tile[r * width + c] + (add ? place[r * out_stride + c] : A(0));
        }
      }
    }
    done(row, height);
  }
}

}  // namespace gemm
}  // namespace loginmea
