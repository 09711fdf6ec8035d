// The tiles of tile.cuh by Hopper's own means, for compute capability 9.0 alone (sm_90a).
//
// A block owns 128 rows and 64 columns, of kRanks ranks at once, so that a row tile is read once for all of them. One
// thread of the producing warpgroup asks for stages: tensor copies (TMA) bring [128 rows | kRanks x 64 columns] x 128
// bytes of depth, swizzled, and report to the stage's `full` barrier. Two warpgroups consume, 64 rows each: wgmma reads
// both operands from shared memory, one instruction m64nNk8 (TF32) or k16 (bfloat16) for all ranks, N = 64 kRanks, and
// a stage goes back by its `empty` barrier once its products have ended. Fragments lie as those of mma.m16n8 do, so
// epilogues are the same. No atomics, no split sums: results repeat bit for bit.
#pragma once

#include <cstdint>

#include "cuda/tensor_map.h"
#include "cuda/tile.cuh"

namespace loginmea {

constexpr int kGroupThreads = 128, kConsumers = 2, kStageBytes = 128;  // a row's depth in one stage

template <int kRanks_>
struct GroupTile {
  static constexpr int kRanks = kRanks_, kRowTiles = 1, kColumnTiles = 8;
  static constexpr int kRows = 64 * kConsumers, kColumns = 8 * kColumnTiles;
  static constexpr int kStage = (kRows + kRanks * kColumns) * kStageBytes;
  static constexpr int kStages = 6, kThreads = (kConsumers + 1) * kGroupThreads, kSharedBytes = kStages * kStage;

  static __device__ Place place() {
    return {std::int64_t{blockIdx.x} * kRows, static_cast<int>(blockIdx.y) * kColumns,
            static_cast<int>(threadIdx.x / 32) * 16, 0, static_cast<int>(threadIdx.x % 32)};
  }
};

// The table of rows of 128 bytes, swizzled in groups of eight, that wgmma reads as an operand with the depth running
// fastest ("PTX ISA", 9.7.15.5, Matrix Descriptor): address, leading offset (unused), 1,024 bytes from group to group,
// 128-byte swizzle. Addresses are in units of 16 bytes.
__device__ inline std::uint64_t operand_at(const void* shared) {
  return std::uint64_t{shared_address(shared) >> 4 & 0x3fff} | 1ull << 16 | std::uint64_t{1024 >> 4} << 32 | 1ull << 62;
}

// What a thread has of a tile, number after number, as wgmma takes it.
template <class Of>
__device__ inline auto& numbers_of(Fragments<Of> (&p)[Of::kRanks]) {
  return reinterpret_cast<float (&)[Of::kRanks * Of::kColumnTiles * 4]>(p);
}

// Adds one stage to what a warpgroup has of a tile; the products go on until they are waited for.
template <class T, class Of>
__device__ inline void multiply_group_stage(const char* stage, Fragments<Of> (&p)[Of::kRanks]) {
  begin_products();
  // The same in all lanes, which a shuffle tells the compiler.
  const int group = __shfl_sync(~0u, static_cast<int>(threadIdx.x / kGroupThreads), 0);
  const std::uint64_t left = operand_at(stage + group * 64 * kStageBytes);
  const std::uint64_t right = operand_at(stage + Of::kRows * kStageBytes);
#pragma unroll
  for (int step = 0; step < kStageBytes / 32; ++step) {  // 32 bytes of depth an instruction
    multiply_group<sizeof(T) == 2>(numbers_of<Of>(p), left + 2 * step, right + 2 * step);
  }
  commit_products();
}

// See tile_products; the maps are of operands.t and operands.w, in boxes of one stage.
template <class T, class Epilogue>
__global__ void __launch_bounds__(Epilogue::Of::kThreads, 1)
    group_products(const __grid_constant__ CUtensorMap rows, const __grid_constant__ CUtensorMap columns,
                   const __grid_constant__ Operands<T> operands, Epilogue epilogue) {
  using Of = typename Epilogue::Of;
  extern __shared__ __align__(1024) char stages[];
  __shared__ std::uint64_t full[Of::kStages], empty[Of::kStages];
  constexpr int kDepth = kStageBytes / sizeof(T);
  const Place at = Of::place();
  const int first = Epilogue::kOneTile ? blockIdx.z * Of::kRanks : 0;
  const int last = Epilogue::kOneTile ? min(first + Of::kRanks, operands.ranks) : operands.ranks;
  const int parts = Epilogue::kParts > 0 ? Epilogue::kParts : operands.parts;
  const int per_rank = operands.starts[parts] / kDepth;
  if (threadIdx.x == 0) {
    for (int i = 0; i < Of::kStages; ++i) {
      start_barrier(&full[i], 1);
      start_barrier(&empty[i], kConsumers * kGroupThreads / 32);
    }
    publish_barriers();
  }
  __syncthreads();

  if (threadIdx.x / kGroupThreads == kConsumers) {
    release_registers<40>();
    if (threadIdx.x % kGroupThreads != 0) return;
    int stage = 0;
    for (int k = first; k < last; k += Of::kRanks) {
      for (int step = 0; step < per_rank; ++step, ++stage) {
        const int slot = stage % Of::kStages;
        char* to = stages + slot * Of::kStage;
        wait_for_barrier(&empty[slot], (stage / Of::kStages + 1) % 2);
        expect_bytes(&full[slot], Of::kStage);
        copy_box(to, &rows, step * kDepth, static_cast<int>(at.first_row), &full[slot]);
        for (int r = 0; r < Of::kRanks; ++r) {  // beyond the last rank they are zeros
          copy_box(to + (Of::kRows + r * Of::kColumns) * kStageBytes, &columns, step * kDepth,
                   (k + r) * operands.columns + at.first_column, &full[slot]);
        }
      }
    }
    return;
  }

  take_registers<232>();
  auto state = epilogue.begin(at, first);
  int stage = 0;
  for (int k = first; k < last; k += Of::kRanks) {
    each_part<Epilogue::kParts>(parts, [&](auto m) {
      auto& p = epilogue.room(state, m);
#pragma unroll
      for (int among = 0; among < Of::kRanks; ++among) {
        const bool there = k + among < last;
        const float* constant = operands.constants[m] + std::int64_t{there ? k + among : k} * operands.columns;
        each<Of>([&](int r, int c, int i) { p[among][r][c][i] = constant[at.column(c, i)]; });
      }
      const int start = stage, end = (k - first) / Of::kRanks * per_rank + operands.starts[m + 1] / kDepth;
      settle(numbers_of<Of>(p));
      for (; stage < end; ++stage) {
        wait_for_barrier(&full[stage % Of::kStages], stage / Of::kStages % 2);
        multiply_group_stage<T, Of>(stages + stage % Of::kStages * Of::kStage, p);
        // While this stage is multiplied the one before has ended.
        wait_for_products<1>();
        if (stage > start && first_lane()) arrive_at_barrier(&empty[(stage - 1) % Of::kStages]);
      }
      wait_for_products<0>();
      settle(numbers_of<Of>(p));
      if (stage > start && first_lane()) arrive_at_barrier(&empty[(stage - 1) % Of::kStages]);
#pragma unroll
      for (int among = 0; among < Of::kRanks; ++among) {
        if (k + among < last) epilogue.take(at, state, among, k + among, m);
      }
    });
    if (Epilogue::kOneTile) break;  // which the compiler would not know
  }
  epilogue.end(at, state, first);
}

template <class T, class Epilogue>
void multiply_by_groups(const char* what, const Operands<T>& operands, const Matrix& t, const Matrix& w,
                        std::int64_t rows, const Epilogue& epilogue, void* stream) {
  using Of = typename Epilogue::Of;
  launch(what, group_products<T, Epilogue>, grid_of(operands, rows, epilogue), Of::kThreads, Of::kSharedBytes, stream,
         tensor_map(what, t, kStageBytes, Of::kRows), tensor_map(what, w, kStageBytes, Of::kColumns), operands,
         epilogue);
}

}  // namespace loginmea
