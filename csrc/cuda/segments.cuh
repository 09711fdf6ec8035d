// Gather rows along a CSR, make something of each edge, add up in order. A warp a segment, its lanes across the
// columns: rows are read in 16-byte pieces and kept in registers. Rows of any degree are cut into segments of bounded
// length, so that a hub does not serialise a launch; a second kernel joins the partial sums of a cut row, a block a
// row, each warp its share, in a fixed order: no atomics, and the same bits again.
//
// An operator is a functor with what it needs of memory, and
//
//   R, kScalars                          the row of a sum, and how many numbers are summed beside it
//   begin(row)                           what all edges of a row need
//   gathers(e), first(), second()        the two rows that edge e reads, and of which tables
//   edge(of_row, e, at, a, b, sum)       takes edge e into the sum, given them
//   join(sum, other)                     adds another sum of the same row
//   end(row, sum, empty)                 the whole sum of a row
//
// Rows of an edge come straight into registers; or, from compute capability 9.0 on, by bulk copies into a ring of a
// warp in shared memory, several edges ahead.
#pragma once

#include <initializer_list>
#include <type_traits>

#include "cuda/launch.cuh"
#include "cuda/ptx.cuh"
#include "cuda/rows.cuh"

namespace loginmea {

constexpr int kSegmentThreads = 128, kSegmentWarps = kSegmentThreads / 32;
constexpr int kJoiners = 8;                           // warps that join a cut row
constexpr int kRingBytes = 55 << 10, kMostSlots = 8;  // of a block, so that four blocks share an SM; edges ahead a warp

// The numbers of the two rows that an edge reads.
struct Gathered {
  std::int32_t first, second;
};

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

// The sum of a segment, which is a part of its row or all of it.
template <class Op>
__device__ void finish(const Op& op, const Segments& segments, const Parts<typename Op::R::A>& parts,
                       std::int64_t segment, Sum<typename Op::R>& sum) {
  if (segment < segments.parts) {
    parts.template store<Op>(segment, sum);
  } else {
    op.end(segments.row[segment], sum, segments.start[segment] == segments.stop[segment]);
  }
}

template <class Op>
__global__ void __launch_bounds__(kSegmentThreads) walk(Segments segments, Parts<typename Op::R::A> parts, Op op) {
  const std::int64_t segment = std::int64_t{blockIdx.x} * kSegmentWarps + threadIdx.x / 32;
  if (segment >= segments.count) return;
  const int start = segments.start[segment], stop = segments.stop[segment];
  auto of_row = op.begin(segments.row[segment]);
  auto sum = Op::nothing();
  for (int e = start; e < stop; ++e) {
    using R = typename Op::R;
    const Gathered at = op.gathers(e);
    op.edge(of_row, e, at, R::load(op.first()[at.first], op.width), R::load(op.second()[at.second], op.width), sum);
  }
  finish(op, segments, parts, segment, sum);
}

// The edges of a segment, whose row numbers a warp holds 32 at a time and the next 32, so that no copy waits for them.
template <class Op>
struct Ahead {
  const Op& op;
  int start, stop;
  Gathered now{}, next{};

  __device__ Ahead(const Op& op_, int start_, int stop_)
      : op(op_), start(start_), stop(stop_), now(of_lane(start_)), next(of_lane(start_ + 32)) {}
  __device__ Gathered of_lane(int from) const {
    const int e = from + static_cast<int>(threadIdx.x % 32);
    return e < stop ? op.gathers(e) : Gathered{};
  }
  // Those of edge e, asked for in order.
  __device__ Gathered at(int e) {
    const int lane = (e - start) % 32;
    if (lane == 0 && e > start) now = next, next = of_lane(e + 32);
    return {__shfl_sync(~0u, now.first, lane), __shfl_sync(~0u, now.second, lane)};
  }
};

// walk, with the rows of `slots` edges on their way to a warp's ring.
template <class Op>
__global__ void __launch_bounds__(kSegmentThreads)
    walk_ring(Segments segments, Parts<typename Op::R::A> parts, Op op, int slots) {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
  using R = typename Op::R;
  using First = std::remove_pointer_t<decltype(op.first().data)>;
  using Second = std::remove_pointer_t<decltype(op.second().data)>;
  extern __shared__ __align__(32) char ring[];
  __shared__ std::uint64_t full[kSegmentWarps][kMostSlots];
  const int warp = threadIdx.x / 32;
  const std::int64_t segment = std::int64_t{blockIdx.x} * kSegmentWarps + warp;
  if (segment >= segments.count) return;
  const int first_bytes = op.width * sizeof(First), bytes = first_bytes + op.width * sizeof(Second);
  char* const slot_0 = ring + warp * slots * bytes;
  if (first_lane()) {
#pragma unroll 1
    for (int i = 0; i < slots; ++i) start_barrier(&full[warp][i], 1);
    publish_barriers();
  }
  __syncwarp();
  const int start = segments.start[segment], stop = segments.stop[segment];
  Ahead<Op> ahead{op, start, stop};
  const auto ask = [&](int e, int slot) {
    if (e >= stop) return;
    const Gathered at = ahead.at(e);
    if (!first_lane()) return;
    expect_bytes(&full[warp][slot], bytes);
    copy_row(slot_0 + slot * bytes, op.first()[at.first], first_bytes, &full[warp][slot]);
    copy_row(slot_0 + slot * bytes + first_bytes, op.second()[at.second], bytes - first_bytes, &full[warp][slot]);
  };
  for (int slot = 0; slot < slots; ++slot) ask(start + slot, slot);
  auto of_row = op.begin(segments.row[segment]);
  auto sum = Op::nothing();
  int slot = 0, phase = 0;
  for (int e = start; e < stop; ++e) {
    wait_for_barrier(&full[warp][slot], phase);
    const R a = R::load(reinterpret_cast<const First*>(slot_0 + slot * bytes), op.width);
    const R b = R::load(reinterpret_cast<const Second*>(slot_0 + slot * bytes + first_bytes), op.width);
    // All lanes have read the slot, and copies that come know it.
    release_to_copies();
    __syncwarp();
    ask(e + slots, slot);
    if (++slot == slots) slot = 0, phase ^= 1;
    op.edge(of_row, e, op.gathers(e), a, b, sum);
  }
  finish(op, segments, parts, segment, sum);
#else
  __trap();
#endif
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

// Bytes of a row where bulk copies take rows of this table, multiples of 16 at multiples of 16; else 0.
template <class T>
int bulk_bytes(const Table<T>& table, int width) {
  const auto bytes = width * sizeof(T);
  const bool fits =
      bytes % 16 == 0 && table.stride * sizeof(T) % 16 == 0 && reinterpret_cast<std::uintptr_t>(table.data) % 16 == 0;
  return fits ? static_cast<int>(bytes) : 0;
}

// Edges that a ring of such rows holds; 0 where there is none: a library that was compiled for older cards has no code
// for it.
template <class Op>
int ring_slots(const char* what, const Op& op) {
  const int first = bulk_bytes(op.first(), op.width), second = bulk_bytes(op.second(), op.width);
  if (first == 0 || second == 0) return 0;
  cudaFuncAttributes attributes{};
  check(cudaFuncGetAttributes(&attributes, walk_ring<Op>), what);
  const int slots = min(kRingBytes / (kSegmentWarps * (first + second)), kMostSlots);
  return attributes.ptxVersion >= 90 && slots > 1 ? slots : 0;
}

// `ring`: rows come through one where its copies take them.
template <class Op>
void run(const char* what, const Op& op, const Segments& segments, const Matrix& part_rows, const Matrix& part_scalars,
         bool ring, void* stream) {
  using A = typename Op::R::A;
  const Parts<A> parts{part_rows.elements<A>(), part_scalars.elements<A>(), segments.parts,
                       static_cast<int>(part_rows.columns)};
  const Grid grid{blocks(segments.count, kSegmentWarps)};
  if (const int slots = ring ? ring_slots(what, op) : 0) {
    const int bytes = bulk_bytes(op.first(), op.width) + bulk_bytes(op.second(), op.width);
    launch(what, walk_ring<Op>, grid, kSegmentThreads, kSegmentWarps * slots * bytes, stream, segments, parts, op,
           slots);
  } else {
    launch(what, walk<Op>, grid, kSegmentThreads, 0, stream, segments, parts, op);
  }
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
