// One block of threads owns a tile of y (or of dP for one k) and walks through the depth of all modalities, and of all
// ranks, in one pipeline: while tensor cores work on a stage, cp.async brings the next two, across the seams between
// modalities, so that a depth of 300 has no prologue of its own. At a seam the finished P takes part in the product in
// registers. No atomics, no split sums: results repeat bit for bit.
#include <cuda_bf16.h>

#include <stdexcept>
#include <string>

#include "cuda/launch.cuh"
#include "cuda/low_rank_fusion.cuh"
#include "cuda/low_rank_fusion.h"

namespace loginmea {
namespace {

using std::int64_t;
using std::uint32_t;

struct Starts {
  int at[kFusionMostModalities + 1];  // first column of each modality, and the total
};

template <class S>
__device__ float widened(S x) {
  return static_cast<float>(x);
}
template <class S>
__device__ S narrowed(float x) {
  return static_cast<S>(x);
}
template <>
__device__ float widened(__nv_bfloat16 x) {
  return __bfloat162float(x);
}
template <>
__device__ __nv_bfloat16 narrowed(float x) {
  return __float2bfloat16_rn(x);
}

template <class S, class T>
__global__ void __launch_bounds__(kFusionThreads)
    pack_rows(const S* x, int64_t stride, int width, const float* scale, int64_t modalities, int64_t first,
              int64_t count, T* t, int64_t total, int padded) {
  const int64_t row = blockIdx.x;
  const bool filled = row < count;
  const float factor = filled && scale ? scale[(first + row) * modalities] : 1.0f;
  for (int c = threadIdx.x; c < padded; c += kFusionThreads) {
    const float value = filled && c < width ? widened(x[(first + row) * stride + c]) * factor : 0.0f;
    t[row * total + c] = narrowed<T>(value);
  }
}

// The operands of one block's tile, and the pipeline that brings them.
template <class T, int kColumnTiles>
struct Pipeline {
  using Tile = FusionTile<kColumnTiles>;
  static constexpr int kDepth = kFusionWords * 4 / sizeof(T);  // numbers a stage
  static constexpr int kPerCopy = 16 / sizeof(T);

  const T *t, *w;  // row 0 of the tile, column 0 of the tile for k = 0
  int64_t total, columns_per_rank;
  int stages_per_rank, stages;
  uint32_t* shared;

  // Stage i: the depth [i % stages_per_rank * kDepth, ...) of rank i / stages_per_rank.
  __device__ void fetch(int i) const {
    if (i < stages) {
      uint32_t* to = shared + i % kFusionStages * Tile::kStageWords;
      const int depth = i % stages_per_rank * kDepth;
      const T* right = w + static_cast<int64_t>(i / stages_per_rank) * columns_per_rank * total;
      for (int copy = threadIdx.x; copy < (Tile::kRows + Tile::kColumns) * 8; copy += kFusionThreads) {
        const int row = copy / 8, part = copy % 8;
        const T* from = row < Tile::kRows ? t + row * total : right + (row - Tile::kRows) * total;
        copy_async(to + row * kFusionStride + part * 4, from + depth + part * kPerCopy);
      }
    }
    commit_copies();
  }
  __device__ void start() const {
    for (int i = 0; i + 1 < kFusionStages; ++i) fetch(i);
  }
  // Waits for stage i and sets the next copy going into the place of stage i - 1, which every warp has left.
  __device__ const uint32_t* stage(int i) const {
    wait_for_copies<kFusionStages - 2>();
    __syncthreads();
    fetch(i + kFusionStages - 1);
    return shared + i % kFusionStages * Tile::kStageWords;
  }
};

// Where a lane's numbers of a tile lie.
struct Lane {
  int warp_row, warp_column, lane;
  template <int kColumnTiles>
  static __device__ Lane of_thread() {
    const int warp = threadIdx.x / 32;
    return {warp / 2 * 32, warp % 2 * 8 * kColumnTiles, static_cast<int>(threadIdx.x % 32)};
  }
  __device__ int row(int r, int i) const { return warp_row + r * 16 + i / 2 * 8 + lane / 4; }
  __device__ int column(int c, int i) const { return warp_column + c * 8 + lane % 4 * 2 + i % 2; }
};

template <int kColumnTiles, class Body>
__device__ void each(Body&& body) {
#pragma unroll
  for (int r = 0; r < kRowTiles; ++r) {
#pragma unroll
    for (int c = 0; c < kColumnTiles; ++c) {
#pragma unroll
      for (int i = 0; i < 4; ++i) body(r, c, i);
    }
  }
}

template <class S, class T, Products kProducts, int kColumnTiles>
__global__ void __launch_bounds__(kFusionThreads)
    forward(const T* t, const T* w, const float* constants, Starts starts, int modalities, const float* bias,
            S* products, S* y, int64_t first, int64_t count, int64_t rows, int rank, int width, int padded) {
  extern __shared__ __align__(16) uint32_t shared[];
  using Tile = FusionTile<kColumnTiles>;
  const int64_t row0 = static_cast<int64_t>(blockIdx.x) * Tile::kRows;
  const int column0 = blockIdx.y * Tile::kColumns;
  const int64_t total = starts.at[modalities], columns = static_cast<int64_t>(rank) * padded;
  const Lane at = Lane::of_thread<kColumnTiles>();
  constexpr int kDepth = Pipeline<T, kColumnTiles>::kDepth;
  const int per_rank = static_cast<int>(total) / kDepth;
  const Pipeline<T, kColumnTiles> pipeline{t + row0 * total, w + column0 * total, total, padded,
                                           per_rank,         rank * per_rank,     shared};
  pipeline.start();

  Fragments<kColumnTiles> sum, product, p;
  each<kColumnTiles>([&](int r, int c, int i) {
    const int column = column0 + at.column(c, i);
    sum[r][c][i] = column < width ? bias[column] : 0.0f;
  });
  int stage = 0;
  for (int k = 0; k < rank; ++k) {
    for (int m = 0; m < modalities; ++m) {
      const float* constant = constants + m * columns + static_cast<int64_t>(k) * padded + column0;
      each<kColumnTiles>([&](int r, int c, int i) { p[r][c][i] = constant[at.column(c, i)]; });
      const int end = k * per_rank + starts.at[m + 1] / kDepth;
      for (; stage < end; ++stage) {
        multiply_stage<kColumnTiles, kProducts>(pipeline.stage(stage), at.warp_row, at.warp_column, at.lane, p);
      }
      if (products) {
        S* kept = products + (static_cast<int64_t>(k) * modalities + m) * rows * width;
        each<kColumnTiles>([&](int r, int c, int i) {
          const int64_t row = row0 + at.row(r, i);
          const int column = column0 + at.column(c, i);
          if (row < count && column < width) kept[(first + row) * width + column] = narrowed<S>(p[r][c][i]);
        });
      }
      each<kColumnTiles>(
          [&](int r, int c, int i) { product[r][c][i] = m == 0 ? p[r][c][i] : product[r][c][i] * p[r][c][i]; });
    }
    each<kColumnTiles>([&](int r, int c, int i) { sum[r][c][i] += product[r][c][i]; });
  }
  each<kColumnTiles>([&](int r, int c, int i) {
    const int64_t row = row0 + at.row(r, i);
    const int column = column0 + at.column(c, i);
    if (row < count && column < width) y[(first + row) * width + column] = narrowed<S>(sum[r][c][i]);
  });
}

template <class S, class T, Products kProducts, int kColumnTiles, int kModalities>
__global__ void __launch_bounds__(kFusionThreads)
    projection_gradient(const S* g, const T* t, const T* w, const float* constants, Starts starts, const S* products,
                        T* dp, int64_t first, int64_t count, int64_t rows, int64_t block, int rank, int width,
                        int padded) {
  extern __shared__ __align__(16) uint32_t shared[];
  using Tile = FusionTile<kColumnTiles>;
  const int64_t row0 = static_cast<int64_t>(blockIdx.x) * Tile::kRows;
  const int column0 = blockIdx.y * Tile::kColumns, k = blockIdx.z;
  const int64_t total = starts.at[kModalities], columns = static_cast<int64_t>(rank) * padded;
  const int64_t packed_column = static_cast<int64_t>(k) * padded + column0;
  const Lane at = Lane::of_thread<kColumnTiles>();
  constexpr int kDepth = Pipeline<T, kColumnTiles>::kDepth;

  Fragments<kColumnTiles> p[kModalities];
  if (products) {
#pragma unroll
    for (int m = 0; m < kModalities; ++m) {
      const S* kept = products + (static_cast<int64_t>(k) * kModalities + m) * rows * width;
      each<kColumnTiles>([&](int r, int c, int i) {
        const int64_t row = row0 + at.row(r, i);
        const int column = column0 + at.column(c, i);
        p[m][r][c][i] = row < count && column < width ? widened(kept[(first + row) * width + column]) : 0.0f;
      });
    }
  } else if (kModalities > 1) {
    const int stages = static_cast<int>(total) / kDepth;
    const Pipeline<T, kColumnTiles> pipeline{
        t + row0 * total, w + packed_column * total, total, padded, stages, stages, shared};
    pipeline.start();
    int stage = 0;
#pragma unroll
    for (int m = 0; m < kModalities; ++m) {
      const float* constant = constants + m * columns + packed_column;
      each<kColumnTiles>([&](int r, int c, int i) { p[m][r][c][i] = constant[at.column(c, i)]; });
      for (; stage < starts.at[m + 1] / kDepth; ++stage) {
        multiply_stage<kColumnTiles, kProducts>(pipeline.stage(stage), at.warp_row, at.warp_column, at.lane, p[m]);
      }
    }
  }
  each<kColumnTiles>([&](int r, int c, int i) {
    const int64_t row = row0 + at.row(r, i);
    const int column = column0 + at.column(c, i);
    const bool inside = row < count && column < width;
    const float upstream = inside ? widened(g[(first + row) * width + column]) : 0.0f;
#pragma unroll
    for (int m = 0; m < kModalities; ++m) {
      float gradient = upstream;
#pragma unroll
      for (int n = 0; n < kModalities; ++n) {
        if (n != m) gradient *= p[n][r][c][i];
      }
      // A factor may be NaN; what pads it must still be 0.
      dp[(m * block + row) * columns + packed_column + at.column(c, i)] = narrowed<T>(inside ? gradient : 0.0f);
    }
  });
}

// A warp a row.
template <class S>
__global__ void __launch_bounds__(kFusionThreads)
    input_gradient(const float* dt, int64_t total, const S* x, int64_t stride, int width, const float* scale,
                   int64_t modalities, int64_t first, int64_t count, S* dx, float* scale_gradient) {
  const int64_t row = static_cast<int64_t>(blockIdx.x) * (kFusionThreads / 32) + threadIdx.x / 32;
  if (row >= count) return;
  const float factor = scale ? scale[(first + row) * modalities] : 1.0f;
  float inner = 0;
  for (int c = threadIdx.x % 32; c < width; c += 32) {
    const float gradient = dt[row * total + c];
    if (scale) inner += gradient * widened(x[(first + row) * stride + c]);
    dx[(first + row) * width + c] = narrowed<S>(gradient * factor);
  }
  if (!scale) return;
  for (int lanes = 16; lanes > 0; lanes /= 2) inner += __shfl_xor_sync(~0u, inner, lanes);
  if (threadIdx.x % 32 == 0) scale_gradient[(first + row) * modalities] = inner;
}

// Calls body(S{}) with the storage type.
template <class Body>
void with_storage(DType dtype, Body&& body) {
  switch (dtype) {
    case DType::f32: return body(float{});
    case DType::bf16: return body(__nv_bfloat16{});
    default:
      throw std::invalid_argument(std::string("low_rank_fusion: expected float32 or bfloat16, got ") + name_of(dtype));
  }
}

template <Products kValue>
struct Kind {
  static constexpr Products value = kValue;
};

// Calls body(S{}, T{}, Kind) with the types of storage and products.
template <class Body>
void with_types(DType dtype, DType compute, bool exact, Body&& body) {
  with_storage(dtype, [&](auto s) {
    if (compute == DType::bf16) return body(s, __nv_bfloat16{}, Kind<Products::bf16>{});
    if constexpr (std::is_same_v<decltype(s), float>) {
      if (exact) return body(s, float{}, Kind<Products::exact>{});
      return body(s, float{}, Kind<Products::tf32>{});
    }
    throw std::invalid_argument("low_rank_fusion: bfloat16 operands are multiplied in bfloat16");
  });
}

Starts starts_of(const std::vector<int64_t>& starts) {
  if (starts.size() < 2 || starts.size() > kFusionMostModalities + 1) {
    throw std::invalid_argument("low_rank_fusion: expected 1 to " + std::to_string(kFusionMostModalities) +
                                " modalities, got " + std::to_string(static_cast<int>(starts.size()) - 1));
  }
  Starts result{};
  for (std::size_t m = 0; m < starts.size(); ++m) result.at[m] = static_cast<int>(starts[m]);
  return result;
}

int padded_width(int64_t width) { return static_cast<int>(blocks(width, kFusionPad) * kFusionPad); }

}  // namespace

void fusion_pack_rows(DType dtype, const void* x, int64_t stride, int64_t width, const void* scale, int64_t modalities,
                      int64_t first, int64_t count, DType compute, void* t, int64_t total, int64_t padded,
                      int64_t block, void* stream) {
  with_types(dtype, compute, false, [&](auto s, auto p, auto) {
    using S = decltype(s);
    using T = decltype(p);
    launch("fusion_pack_rows", pack_rows<S, T>, {block}, kFusionThreads, 0, stream, static_cast<const S*>(x), stride,
           static_cast<int>(width), static_cast<const float*>(scale), modalities, first, count, static_cast<T*>(t),
           total, static_cast<int>(padded));
  });
}

void fusion_forward(const void* t, const void* w, const void* constants, const std::vector<int64_t>& starts,
                    DType compute, bool exact, const void* bias, DType dtype, void* products, void* y, int64_t first,
                    int64_t count, int64_t rows, int64_t rank, int64_t width, void* stream) {
  const Starts at = starts_of(starts);
  with_types(dtype, compute, exact, [&](auto s, auto p, auto kind) {
    using S = decltype(s);
    using T = decltype(p);
    using Tile = FusionTile<4>;
    const int padded = padded_width(width);
    launch("fusion_forward", forward<S, T, decltype(kind)::value, 4>,
           {blocks(count, Tile::kRows), padded / Tile::kColumns}, kFusionThreads, Tile::kSharedBytes, stream,
           static_cast<const T*>(t), static_cast<const T*>(w), static_cast<const float*>(constants), at,
           static_cast<int>(starts.size()) - 1, static_cast<const float*>(bias), static_cast<S*>(products),
           static_cast<S*>(y), first, count, rows, static_cast<int>(rank), static_cast<int>(width), padded);
  });
}

void fusion_projection_gradient(const void* g, const void* t, const void* w, const void* constants,
                                const std::vector<int64_t>& starts, DType compute, bool exact, DType dtype,
                                const void* products, void* dp, int64_t first, int64_t count, int64_t rows,
                                int64_t block, int64_t rank, int64_t width, void* stream) {
  const Starts at = starts_of(starts);
  with_types(dtype, compute, exact, [&](auto s, auto p, auto kind) {
    using S = decltype(s);
    using T = decltype(p);
    // All P_mk of a tile are held at once: beyond three modalities a tile is half as wide.
    const auto start = [&](auto kernel, auto tile) {
      using Tile = decltype(tile);
      const int padded = padded_width(width);
      launch("fusion_projection_gradient", kernel, {blocks(count, Tile::kRows), padded / Tile::kColumns, rank},
             kFusionThreads, Tile::kSharedBytes, stream, static_cast<const S*>(g), static_cast<const T*>(t),
             static_cast<const T*>(w), static_cast<const float*>(constants), at, static_cast<const S*>(products),
             static_cast<T*>(dp), first, count, rows, block, static_cast<int>(rank), static_cast<int>(width), padded);
    };
    constexpr Products kProducts = decltype(kind)::value;
    switch (starts.size() - 1) {
      case 1: return start(projection_gradient<S, T, kProducts, 4, 1>, FusionTile<4>{});
      case 2: return start(projection_gradient<S, T, kProducts, 4, 2>, FusionTile<4>{});
      case 3: return start(projection_gradient<S, T, kProducts, 4, 3>, FusionTile<4>{});
      case 4: return start(projection_gradient<S, T, kProducts, 2, 4>, FusionTile<2>{});
      case 5: return start(projection_gradient<S, T, kProducts, 2, 5>, FusionTile<2>{});
      case 6: return start(projection_gradient<S, T, kProducts, 2, 6>, FusionTile<2>{});
    }
  });
}

void fusion_input_gradient(const void* dt, int64_t total, DType dtype, const void* x, int64_t stride, int64_t width,
                           const void* scale, int64_t modalities, int64_t first, int64_t count, void* dx,
                           void* scale_gradient, void* stream) {
  with_storage(dtype, [&](auto s) {
    using S = decltype(s);
    launch("fusion_input_gradient", input_gradient<S>, {blocks(count, kFusionThreads / 32)}, kFusionThreads, 0, stream,
           static_cast<const float*>(dt), total, static_cast<const S*>(x), stride, static_cast<int>(width),
           static_cast<const float*>(scale), modalities, first, count, static_cast<S*>(dx),
           static_cast<float*>(scale_gradient));
  });
}

}  // namespace loginmea
