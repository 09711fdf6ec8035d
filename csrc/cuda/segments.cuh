// Gather rows along a CSR, make something of each edge, add up in order. A warp a segment, its lanes across the
// columns: rows are read in 16-byte pieces and kept in registers. Rows of any degree are cut into segments of bounded
// length, so that a hub does not serialise a launch; a second kernel joins the partial sums of a cut row, a block a
// row, each warp its share, in a fixed order: no atomics, and the same bits again.
//
// An operator is a functor with what it needs of memory, and
//
//   R, kScalars                       the row of a sum, and how many numbers are summed beside it
//   begin(row)                        what all edges of a row need
//   edge(of_row, e, sum)              takes edge e into the sum
//   join(sum, other)                  adds another sum of the same row
//   end(row, sum, empty)              the whole sum of a row
#pragma once

#include <initializer_list>
#include <type_traits>

#include "cuda/launch.cuh"
#include "cuda/rows.cuh"

namespace loginmea {

constexpr int kSegmentThreads = 128, kSegmentWarps = kSegmentThreads / 32;
constexpr int kJoiners = 8;  // warps that join a cut row

// A row and up to two numbers, in every lane.
template <class R>
struct Sum {
  R row = R::zero();
  typename R::A scalar[2] = {};
};

// Memory for the sums of parts: [parts, width], and the scalars one after the other, [kScalars, parts].
template <class A>
struct Parts {
  A *rows, *scalars;
  std::int64_t count;
  int width;

  template <class Op>
  __device__ void store(std::int64_t part, const Sum<typename Op::R>& sum) const {
    sum.row.store(rows + part * width, width);
#pragma unroll
    for (int i = 0; i < Op::kScalars; ++i) {
      if (first_lane()) scalars[i * count + part] = sum.scalar[i];
    }
  }
  template <class Op>
  __device__ Sum<typename Op::R> load(std::int64_t part) const {
    Sum<typename Op::R> sum;
    sum.row = Op::R::load(rows + part * width, width);
#pragma unroll
    for (int i = 0; i < Op::kScalars; ++i) sum.scalar[i] = scalars[i * count + part];
    return sum;
  }
};

template <class Op>
__global__ void __launch_bounds__(kSegmentThreads) walk(Segments segments, Parts<typename Op::R::A> parts, Op op) {
  const std::int64_t segment = std::int64_t{blockIdx.x} * kSegmentWarps + threadIdx.x / 32;
  if (segment >= segments.count) return;
  const std::int64_t row = segments.row[segment];
  const int start = segments.start[segment], stop = segments.stop[segment];
  auto of_row = op.begin(row);
  auto sum = Op::nothing();
  for (int e = start; e < stop; ++e) op.edge(of_row, e, sum);
  if (segment < segments.parts) {
    parts.template store<Op>(segment, sum);
  } else {
    op.end(row, sum, start == stop);
  }
}

// Each warp every kJoiners-th part of a row, the first warp what the others have.
template <class Op>
__global__ void __launch_bounds__(32 * kJoiners) join(Segments segments, Parts<typename Op::R::A> parts, Op op) {
  using R = typename Op::R;
  using A = typename R::A;
  alignas(32) __shared__ A rows[kJoiners][R::kColumns];
  __shared__ A scalars[kJoiners][2];
  const int warp = threadIdx.x / 32;
  const std::int64_t stop = segments.shared_ptr[blockIdx.x + 1];
  auto sum = Op::nothing();
  for (std::int64_t part = segments.shared_ptr[blockIdx.x] + warp; part < stop; part += kJoiners) {
    op.join(sum, parts.template load<Op>(part));
  }
  sum.row.store(rows[warp], R::kColumns);
  if (first_lane()) scalars[warp][0] = sum.scalar[0], scalars[warp][1] = sum.scalar[1];
  __syncthreads();
  if (warp != 0) return;
  for (int other = 1; other < kJoiners; ++other) {
    op.join(sum, Sum<R>{R::load(rows[other], R::kColumns), {scalars[other][0], scalars[other][1]}});
  }
  op.end(segments.shared[blockIdx.x], sum, false);
}

template <class Op>
void run(const char* what, const Op& op, const Segments& segments, const Matrix& part_rows, const Matrix& part_scalars,
         void* stream) {
  using A = typename Op::R::A;
  const Parts<A> parts{part_rows.elements<A>(), part_scalars.elements<A>(), segments.parts,
                       static_cast<int>(part_rows.columns)};
  launch(what, walk<Op>, {blocks(segments.count, kSegmentWarps)}, kSegmentThreads, 0, stream, segments, parts, op);
  launch(what, join<Op>, {segments.num_shared}, 32 * kJoiners, 0, stream, segments, parts, op);
}

// How rows of S lie in registers.
template <class S_, int kVector, int kChunks>
struct Layout {
  using S = S_;
  using R = Row<accumulator_t<S>, kVector, kChunks>;
};

// Calls body(Layout) for rows of `width` columns of these tables; the one place where a width meets a shape. Four
// columns a lane where everything lies on four-column boundaries. Shapes end where a row, its sum and its reflector no
// longer fit the registers, for float64 at half the columns.
template <class Body>
void with_layout(const char* what, DType dtype, std::int64_t width, std::initializer_list<Matrix> tables, Body&& body) {
  bool aligned = width % 4 == 0;
  for (const Matrix& table : tables) aligned = aligned && table.in_fours();
  dispatch(dtype, what, [&](auto element) {
    using T = decltype(element);
    using S = std::conditional_t<std::is_same_v<T, bf16>, __nv_bfloat16, T>;
    constexpr bool kNarrow = sizeof(accumulator_t<T>) == 4;
    if (aligned) {
      if (width <= 128) return body(Layout<S, 4, 1>{});
      if (width <= 384) return body(Layout<S, 4, 3>{});
      if constexpr (kNarrow) {
        if (width <= 1024) return body(Layout<S, 4, 8>{});
      }
    } else {
      if (width <= 64) return body(Layout<S, 1, 2>{});
      if (width <= 320) return body(Layout<S, 1, 10>{});
      if constexpr (kNarrow) {
        if (width <= 512) return body(Layout<S, 1, 16>{});
      }
    }
    throw std::invalid_argument(
        std::string(what) + ": the CUDA kernels serve widths up to " +
        (kNarrow ? "1024 (512 where not a multiple of 4)" : "384 (320 where not a multiple of 4)") + ", got " +
        std::to_string(width));
  });
}

}  // namespace loginmea
