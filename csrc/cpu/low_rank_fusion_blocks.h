// What the low-rank fusion keeps of one block of rows, and its sums over all blocks.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "cpu/gemm_tile.h"
#include "cpu/memory.h"

namespace loginmea::fusion {

using gemm::aligned_buffer;
using gemm::kLanes;
using gemm::kRows;
using gemm::kStep;
using gemm::left_stride;
using gemm::round_up;
using std::int64_t;
using std::uintptr_t;

template <class P>
std::vector<P*> pointers(const std::vector<uintptr_t>& addresses) {
  std::vector<P*> result;
  for (const uintptr_t address : addresses) result.push_back(reinterpret_cast<P*>(address));
  return result;
}

// t of one block: row-major and, for bf16, rows 2p and 2p + 1 interleaved, the left operand of t^T dP.
template <class T>
struct Rows {
  Rows(const std::vector<int64_t>& widths, int64_t block) : block(block) {
    for (const int64_t d : widths) {
      stride.push_back(left_stride<T>(d));
      // A tile of t^T may reach past the last row by less than a tile; what it reads there is not used.
      storage.emplace_back(block * stride.back() + kRows);
      data.push_back(storage.back().get());
      if (kStep<T> == 2) {
        pair_storage.emplace_back(block * stride.back() + 2 * kRows);
        pairs.push_back(pair_storage.back().get());
      }
    }
  }
  // By the thread that fills the rows, so that their pages lie next to it.
  void clear() const {
    for (std::size_t m = 0; m < data.size(); ++m) {
      std::fill_n(data[m], block * stride[m] + kRows, T(0));
      if (kStep<T> == 2) std::fill_n(pairs[m], block * stride[m] + 2 * kRows, T(0));
    }
  }
  int64_t block;
  std::vector<int64_t> stride;
  std::vector<aligned_buffer<T>> storage, pair_storage;
  std::vector<T*> data, pairs;
};

// Of one block: g, dt, and dP of the present and the last rank.
template <class T>
struct Gradients {
  using A = accumulator_t<T>;
  Gradients(const std::vector<int64_t>& widths, int64_t padded_width, int64_t block)
      : block(block), g_stride(padded_width), dp_stride(left_stride<T>(padded_width)) {
    g = aligned_buffer<A>(block * g_stride);
    for (const int64_t width : widths) {
      dt_stride.push_back(round_up(width, kLanes<T>));
      dt.emplace_back(block * dt_stride.back());
      for (auto& side : dp) {
        side.rows.emplace_back(block * dp_stride);
        std::fill_n(side.rows.back().get(), block * dp_stride, T(0));
        if (kStep<T> == 2) side.pairs.emplace_back(block * g_stride);
        side.sums.emplace_back(block / kRows * g_stride);
      }
    }
  }
  struct Side {
    std::vector<aligned_buffer<T>> rows;   // [block, dp_stride]
    std::vector<aligned_buffer<T>> pairs;  // bf16 only: panels of [block / 2, width of the panel, 2]
    std::vector<aligned_buffer<A>> sums;   // over the rows of each tile, [tiles of block, g_stride]
  };
  int64_t block, g_stride, dp_stride;
  aligned_buffer<A> g;
  std::vector<int64_t> dt_stride;
  std::vector<aligned_buffer<A>> dt;
  Side dp[2];
};

// dW' of all rows so far: for each k and m a row of constants and the tiles of the matrix, each [kRows, its width].
template <class A>
struct Sums {
  Sums(const std::vector<int64_t>& widths, int64_t padded_width, int64_t rank, bool wanted)
      : stride(padded_width), count(static_cast<int64_t>(widths.size())) {
    if (!wanted) return;
    int64_t size = 0;
    for (int64_t k = 0; k < rank; ++k) {
      for (const int64_t d : widths) {
        offset.push_back(size);
        size += (1 + round_up(d, kRows)) * stride;
      }
    }
    data = aligned_buffer<A>(size);
    std::fill_n(data.get(), size, A(0));
  }
  A* constants(int64_t k, int64_t m) const { return data.get() + offset[k * count + m]; }
  // The tile of rows [row, row + kRows) and the columns of the panel that begins at `column`.
  A* tile(int64_t k, int64_t m, int64_t row, int64_t column) const {
    return constants(k, m) + (1 + row) * stride + kRows * column;
  }
  int64_t stride, count;
  std::vector<int64_t> offset;
  aligned_buffer<A> data;
};

}  // namespace loginmea::fusion
