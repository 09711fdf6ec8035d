// Tiles of A B^T by tensor cores, handed to an epilogue in registers.
//
// A block of threads owns a tile of 128 rows, eight warps as 4 x 2, a warp 32 rows x 8 kColumnTiles columns, in
// fragments of mma.m16n8: lane l holds of each fragment rows l / 4 and l / 4 + 8, columns 2 (l % 4) and the next. It
// walks through the depth of all parts of a product, and of all ranks, in one pipeline: while tensor cores work on a
// stage, cp.async brings the next two, across the seams between parts, so that a depth of 300 has no prologue of its
// own. At a seam the epilogue takes the finished tile. No atomics, no split sums: results repeat bit for bit.
// warpgroup.cuh has the same for Hopper's own instructions.
//
// Both operands lie in shared memory with the depth running fastest. Seen as 32-bit words, a step of TF32 (8 numbers
// deep) and one of bf16 (16 deep, in pairs) are the same 8 words, so one loader serves both; rows are 36 words apart,
// which puts the 32 words that a warp reads at once into 32 banks.
#pragma once

#include <cstdint>
#include <type_traits>
#include <utility>

#include "cuda/launch.cuh"
#include "cuda/ptx.cuh"
#include "cuda/rows.cuh"

namespace loginmea {

constexpr int kTileThreads = 256;
constexpr int kTileWords = 32;   // depth of one stage: 32 float32 or 64 bf16
constexpr int kTileStride = 36;  // words from row to row in shared memory
constexpr int kTileStages = 3;
constexpr int kMostParts = 6;

// Where a lane's numbers of a tile lie, in the block's rows and in the columns of one rank.
struct Place {
  std::int64_t first_row;
  int first_column, warp_row, warp_column, lane;

  __device__ std::int64_t row(int r, int i) const { return first_row + warp_row + r * 16 + i / 2 * 8 + lane / 4; }
  __device__ int column(int c, int i) const { return first_column + warp_column + c * 8 + lane % 4 * 2 + i % 2; }
};

// How a block's tile is divided: a warp has kRowTiles x kColumnTiles fragments of 16 x 8, of kRanks ranks.
template <int kColumnTiles_>
struct Tile {
  static constexpr int kRanks = 1, kRowTiles = 2, kColumnTiles = kColumnTiles_;
  static constexpr int kRows = 128, kColumns = 2 * 8 * kColumnTiles;
  static constexpr int kStageWords = (kRows + kColumns) * kTileStride;
  static constexpr int kSharedBytes = kTileStages * kStageWords * 4;

  static __device__ Place place() {
    const int warp = threadIdx.x / 32;
    return {std::int64_t{blockIdx.x} * kRows, static_cast<int>(blockIdx.y) * kColumns, warp / 2 * 32,
            warp % 2 * 8 * kColumnTiles, static_cast<int>(threadIdx.x % 32)};
  }
};

template <class Of>
using Fragments = float[Of::kRowTiles][Of::kColumnTiles][4];

// Calls body(r, c, i) for every number that a lane has of a tile.
template <class Of, class Body>
__device__ void each(Body&& body) {
#pragma unroll
  for (int r = 0; r < Of::kRowTiles; ++r) {
#pragma unroll
    for (int c = 0; c < Of::kColumnTiles; ++c) {
#pragma unroll
      for (int i = 0; i < 4; ++i) body(r, c, i);
    }
  }
}

// Words of float32 become the part of them that TF32 holds; `low` is given what that leaves, itself in TF32.
template <int kWords>
__device__ inline void split(std::uint32_t (&word)[kWords], std::uint32_t (&low)[kWords]) {
#pragma unroll
  for (int i = 0; i < kWords; ++i) {
    const std::uint32_t high = to_tf32(__uint_as_float(word[i]));
    low[i] = to_tf32(__uint_as_float(word[i]) - __uint_as_float(high));
    word[i] = high;
  }
}

// tf32: of operands that have been rounded to TF32 where they were packed. exact: three of halves, as good as float32.
enum class Products { tf32, exact, bf16 };

// Adds one stage to the fragments of this warp.
template <class Of, Products kProducts>
__device__ inline void multiply_stage(const std::uint32_t* stage, const Place& at, Fragments<Of>& sum) {
  constexpr int kRowTiles = Of::kRowTiles, kColumnTiles = Of::kColumnTiles;
  const std::uint32_t* left = stage + (at.warp_row + at.lane / 4) * kTileStride + at.lane % 4;
  const std::uint32_t* right = stage + (Of::kRows + at.warp_column + at.lane / 4) * kTileStride + at.lane % 4;
#pragma unroll
  for (int step = 0; step < kTileWords; step += 8) {
    std::uint32_t a[kRowTiles][4], b[kColumnTiles][2];
#pragma unroll
    for (int r = 0; r < kRowTiles; ++r) {
      const std::uint32_t* from = left + r * 16 * kTileStride + step;
      a[r][0] = from[0], a[r][1] = from[8 * kTileStride], a[r][2] = from[4], a[r][3] = from[8 * kTileStride + 4];
    }
#pragma unroll
    for (int c = 0; c < kColumnTiles; ++c) {
      const std::uint32_t* from = right + c * 8 * kTileStride + step;
      b[c][0] = from[0], b[c][1] = from[4];
    }
    std::uint32_t a_low[kRowTiles][4], b_low[kColumnTiles][2];
    if constexpr (kProducts == Products::exact) {
#pragma unroll
      for (int r = 0; r < kRowTiles; ++r) split(a[r], a_low[r]);
#pragma unroll
      for (int c = 0; c < kColumnTiles; ++c) split(b[c], b_low[c]);
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
        } else if constexpr (kProducts == Products::bf16) {
          multiply_bf16(sum[r][c], a[r], b[c]);
        } else {
          multiply_tf32(sum[r][c], a[r], b[c]);
        }
      }
    }
  }
}

// The operands of one tile, and the pipeline that brings them.
template <class T, class Of>
struct Pipeline {
  static constexpr int kDepth = kTileWords * 4 / sizeof(T);  // numbers a stage
  static constexpr int kPerCopy = 16 / sizeof(T);

  const T *t, *w;  // row 0 of the tile, column 0 of the tile for the first rank
  std::int64_t total, columns_per_rank;
  int stages_per_rank, stages;
  std::uint32_t* shared;

  // Stage i: the depth [i % stages_per_rank * kDepth, ...) of rank i / stages_per_rank.
  __device__ void fetch(int i) const {
    if (i < stages) {
      std::uint32_t* to = shared + i % kTileStages * Of::kStageWords;
      const int depth = i % stages_per_rank * kDepth;
      const T* right = w + static_cast<std::int64_t>(i / stages_per_rank) * columns_per_rank * total;
      for (int copy = threadIdx.x; copy < (Of::kRows + Of::kColumns) * 8; copy += kTileThreads) {
        const int row = copy / 8, part = copy % 8;
        const T* from = row < Of::kRows ? t + row * total : right + (row - Of::kRows) * total;
        copy_async(to + row * kTileStride + part * 4, from + depth + part * kPerCopy);
      }
    }
    commit_copies();
  }
  __device__ void start() const {
    for (int i = 0; i + 1 < kTileStages; ++i) fetch(i);
  }
  // Waits for stage i and sets the next copy going into the place of stage i - 1, which every warp has left.
  __device__ const std::uint32_t* stage(int i) const {
    wait_for_copies<kTileStages - 2>();
    __syncthreads();
    fetch(i + kTileStages - 1);
    return shared + i % kTileStages * Of::kStageWords;
  }
};

// P = constants + t w^T for each part of the depth: part m has the columns [starts[m], starts[m + 1]) of t and of w,
// and rank k the rows [k columns, (k + 1) columns) of w.
template <class T>
struct Operands {
  Table<const T> t, w;
  Table<const float> constants;  // [parts, ranks columns]
  int starts[kMostParts + 1];
  int parts, ranks, columns;
};

// Calls body(m) for every part, as a constant where their number is one: what is indexed by it stays in registers.
template <int kParts, class Body, int... kPart>
__device__ inline void each_part(Body&& body, std::integer_sequence<int, kPart...>) {
  (body(std::integral_constant<int, kPart>{}), ...);
}
template <int kParts, class Body>
__device__ inline void each_part(int parts, Body&& body) {
  if constexpr (kParts > 0) {
    each_part<kParts>(body, std::make_integer_sequence<int, kParts>{});
  } else {
    for (int m = 0; m < parts; ++m) body(m);
  }
}

// An epilogue is a functor with what it needs of memory, and
//
//   Of                                  how its tiles are divided
//   kParts                              the number of parts where it is known, else 0
//   kOneTile                            a block has the ranks of one tile; else it goes through all of them
//   begin(at, rank)                     its state, in registers
//   multiplies()                        whether it wants products at all
//   room(state, part)                   where the products of a part are to lie, for each of Of::kRanks ranks
//   take(at, state, r, rank, part)      they are there, of the r-th rank
//   end(at, state, rank)                rank: the first of its ranks
template <class T, Products kProducts, class Epilogue>
__global__ void __launch_bounds__(kTileThreads)
    tile_products(const __grid_constant__ Operands<T> operands, Epilogue epilogue) {
  extern __shared__ __align__(16) std::uint32_t shared[];
  using Of = typename Epilogue::Of;
  constexpr int kDepth = Pipeline<T, Of>::kDepth;
  const Place at = Of::place();
  const int first = Epilogue::kOneTile ? blockIdx.z : 0, ranks = Epilogue::kOneTile ? 1 : operands.ranks;
  const int parts = Epilogue::kParts > 0 ? Epilogue::kParts : operands.parts;
  auto state = epilogue.begin(at, first);
  if (epilogue.multiplies()) {
    const std::int64_t column = std::int64_t{first} * operands.columns + at.first_column;
    const int per_rank = operands.starts[parts] / kDepth;
    const Pipeline<T, Of> pipeline{operands.t[at.first_row],
                                   operands.w[column],
                                   operands.t.stride,
                                   operands.columns,
                                   per_rank,
                                   ranks * per_rank,
                                   shared};
    pipeline.start();
    int stage = 0;
    for (int k = 0; k < ranks; ++k) {
      each_part<Epilogue::kParts>(parts, [&](auto m) {
        auto& p = epilogue.room(state, m)[0];
        const float* constant = operands.constants[m] + std::int64_t{first + k} * operands.columns;
        each<Of>([&](int r, int c, int i) { p[r][c][i] = constant[at.column(c, i)]; });
        for (const int end = k * per_rank + operands.starts[m + 1] / kDepth; stage < end; ++stage) {
          multiply_stage<Of, kProducts>(pipeline.stage(stage), at, p);
        }
        epilogue.take(at, state, 0, first + k, m);
      });
    }
  }
  epilogue.end(at, state, first);
}

// The blocks of a product: of rows, of columns, of ranks.
template <class T, class Epilogue>
Grid grid_of(const Operands<T>& operands, std::int64_t rows, const Epilogue&) {
  using Of = typename Epilogue::Of;
  return {blocks(rows, Of::kRows), operands.columns / Of::kColumns,
          Epilogue::kOneTile ? blocks(operands.ranks, Of::kRanks) : 1};
}

template <class T, Products kProducts, class Epilogue>
void multiply(const char* what, const Operands<T>& operands, std::int64_t rows, const Epilogue& epilogue,
              void* stream) {
  launch(what, tile_products<T, kProducts, Epilogue>, grid_of(operands, rows, epilogue), kTileThreads,
         Epilogue::Of::kSharedBytes, stream, operands, epilogue);
}

}  // namespace loginmea
