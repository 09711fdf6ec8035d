// Small kernels whose answers are known, right and wrong ones, for test_emulator.py.
#include <cuda_bf16.h>

#include <cstdint>

#include "common/bind.h"
#include "cuda/launch.cuh"
#include "cuda/ptx.cuh"
#include "cuda/warpgroup.cuh"

namespace loginmea {
namespace {

__global__ void reverse(float* out, bool together) {
  __shared__ float line[64];
  line[threadIdx.x] = static_cast<float>(threadIdx.x);
  if (together) __syncthreads();
  out[threadIdx.x] = line[63 - threadIdx.x];
}

__global__ void rotate(float* out, bool together) {  // the second write must wait for the first read
  __shared__ float line[64];
  line[threadIdx.x] = static_cast<float>(threadIdx.x);
  __syncthreads();
  const float neighbour = line[(threadIdx.x + 1) % 64];
  if (together) __syncthreads();
  line[threadIdx.x] = -1;
  out[threadIdx.x] = neighbour;
}

__global__ void warp_sum(float* out) {
  float sum = static_cast<float>(threadIdx.x);
  for (int lanes = 16; lanes > 0; lanes /= 2) sum += __shfl_xor_sync(~0u, sum, lanes);
  const unsigned odd = __ballot_sync(~0u, threadIdx.x % 2 == 1);
  out[threadIdx.x] = sum + static_cast<float>(__popc(odd)) + 1000 * __shfl_sync(~0u, sum, 3);
}

__global__ void fetch(const float* in, float* out, bool wait, bool together) {
  extern __shared__ __align__(16) std::uint32_t room[];
  copy_async(room + 4 * threadIdx.x, in + 4 * threadIdx.x);
  commit_copies();
  if (wait) wait_for_copies<0>();
  if (together) __syncthreads();
  for (int i = 0; i < 4; ++i) {
    out[4 * threadIdx.x + i] = __uint_as_float(room[(4 * threadIdx.x + i + 4) % (4 * 64)]);
  }
}

__global__ void product(const std::uint32_t* a, const std::uint32_t* b, float* c, bool narrow) {
  std::uint32_t left[4], right[2];
  float sum[4];
  for (int i = 0; i < 4; ++i) left[i] = a[4 * threadIdx.x + i], sum[i] = c[4 * threadIdx.x + i];
  for (int i = 0; i < 2; ++i) right[i] = b[2 * threadIdx.x + i];
  narrow ? multiply_bf16(sum, left, right) : multiply_tf32(sum, left, right);
  for (int i = 0; i < 4; ++i) c[4 * threadIdx.x + i] = sum[i];
}

__global__ void divide(bool meetings) {
  if (meetings && threadIdx.x % 2) {
    __shfl_sync(~0u, 1.0f, 0);
  } else if (meetings) {
    __ballot_sync(~0u, true);
  } else if (threadIdx.x % 2) {
    __syncthreads();
  } else {
    __syncwarp();
  }
}

__global__ void order(std::int32_t* tickets, std::int32_t* threads) {
  threads[atomicAdd(tickets, 1)] = static_cast<std::int32_t>(threadIdx.x);
}

__global__ void read(const float* in, float* out, std::int64_t at) { out[0] = in[at]; }

struct alignas(16) Four {
  float value[4];
};
__global__ void read_four(const float* in, float* out) { out[0] = reinterpret_cast<const Four*>(in)->value[3]; }

// Two boxes of 64 rows x 128 bytes, as they lie in shared memory.
__global__ void fetch_box(const __grid_constant__ CUtensorMap map, int column, int row, float* out, bool wait) {
  extern __shared__ __align__(1024) char stage[];
  __shared__ std::uint64_t full[1];
  if (threadIdx.x == 0) {
    start_barrier(&full[0], 1);
    publish_barriers();
  }
  __syncthreads();
  if (threadIdx.x == 0) {
    expect_bytes(&full[0], 2 * 64 * 128);
    copy_box(stage, &map, column, row, &full[0]);
    copy_box(stage + 64 * 128, &map, column + 32, row, &full[0]);
  }
  if (wait) wait_for_barrier(&full[0], 0);
  const auto* word = reinterpret_cast<const float*>(stage);
  for (int i = 0; i < 32; ++i) out[threadIdx.x * 32 + i] = word[threadIdx.x * 32 + i];
  wait_for_barrier(&full[0], 0);  // a block must not end before its copies
}

enum class Wrong { nothing, fence, wait, early, other };

// c [64 x 64 kRanks] += a [64 rows] b [64 kRanks rows]^T, 128 bytes deep, thread after thread in c.
template <class T, int kRanks>
__global__ void group_product(const __grid_constant__ CUtensorMap a, const __grid_constant__ CUtensorMap b, float* c,
                              Wrong wrong) {
  extern __shared__ __align__(1024) char stage[];
  __shared__ std::uint64_t full[1];
  constexpr int kNumbers = kRanks * 32;
  if (threadIdx.x == 0) {
    start_barrier(&full[0], 1);
    publish_barriers();
  }
  __syncthreads();
  if (threadIdx.x == 0) {
    expect_bytes(&full[0], (1 + kRanks) * 64 * 128);
    copy_box(stage, &a, 0, 0, &full[0]);
    for (int r = 0; r < kRanks; ++r) copy_box(stage + (1 + r) * 64 * 128, &b, 0, 64 * r, &full[0]);
  }
  float sum[kNumbers];
  for (int i = 0; i < kNumbers; ++i) sum[i] = c[threadIdx.x * kNumbers + i];
  wait_for_barrier(&full[0], 0);
  if (wrong != Wrong::fence) begin_products();
  for (int step = 0; step < 4; ++step) {
    const int off = wrong == Wrong::other && threadIdx.x == 77 ? 1 : 0;
    multiply_group<sizeof(T) == 2>(sum, operand_at(stage) + 2 * step + off, operand_at(stage + 64 * 128) + 2 * step);
    if (wrong == Wrong::early) sum[3] = 1;
  }
  commit_products();
  wrong == Wrong::wait ? wait_for_products<1>() : wait_for_products<0>();
  for (int i = 0; i < kNumbers; ++i) c[threadIdx.x * kNumbers + i] = sum[i];
}

template <class T>
void start_group_product(int ranks, const Matrix& a, const Matrix& b, float* c, Wrong wrong) {
  const auto start = [&](auto kernel) {
    launch("group_product", kernel, {1}, 128, (1 + ranks) * 64 * 128, nullptr, tensor_map("a", a, 128, 64),
           tensor_map("b", b, 128, 64), c, wrong);
  };
  ranks == 1 ? start(group_product<T, 1>) : start(group_product<T, 2>);
}

}  // namespace

void run_fetch_box(void* table, std::int64_t rows, std::int64_t columns, int column, int row, float* out, bool wait) {
  launch("fetch_box", fetch_box, {1}, 128, 2 * 64 * 128, nullptr,
         tensor_map("fetch_box", {table, rows, columns, columns, DType::f32}, 128, 64), column, row, out, wait);
}
void run_group_product(void* a, void* b, float* c, bool narrow, int ranks, int wrong) {
  const std::int64_t depth = narrow ? 64 : 32;
  const DType dtype = narrow ? DType::bf16 : DType::f32;
  const Matrix left{a, 64, depth, depth, dtype}, right{b, 64 * ranks, depth, depth, dtype};
  narrow ? start_group_product<__nv_bfloat16>(ranks, left, right, c, static_cast<Wrong>(wrong))
         : start_group_product<float>(ranks, left, right, c, static_cast<Wrong>(wrong));
}
void run_reverse(float* out, bool together) { launch("reverse", reverse, {1}, 64, 0, nullptr, out, together); }
void run_rotate(float* out, bool together) { launch("rotate", rotate, {1}, 64, 0, nullptr, out, together); }
void run_warp_sum(float* out) { launch("warp_sum", warp_sum, {1}, 32, 0, nullptr, out); }
void run_fetch(const float* in, float* out, bool wait, bool together) {
  launch("fetch", fetch, {1}, 64, 64 * 16, nullptr, in, out, wait, together);
}
void run_product(const void* a, const void* b, float* c, bool narrow) {
  launch("product", product, {1}, 32, 0, nullptr, static_cast<const std::uint32_t*>(a),
         static_cast<const std::uint32_t*>(b), c, narrow);
}
void run_divide(bool meetings) { launch("divide", divide, {1}, 32, 0, nullptr, meetings); }
void run_order(void* tickets, void* threads) {
  launch("order", order, {1}, 64, 0, nullptr, static_cast<std::int32_t*>(tickets), static_cast<std::int32_t*>(threads));
}
void run_read(const float* in, float* out, std::int64_t at) { launch("read", read, {1}, 1, 0, nullptr, in, out, at); }
void run_read_four(const float* in, float* out) { launch("read_four", read_four, {1}, 1, 0, nullptr, in, out); }
void run_grid(std::int64_t x, std::int64_t y, int shared) {
  launch("grid", divide, {x, y}, 32, shared, nullptr, false);
}

}  // namespace loginmea

PYBIND11_MODULE(probes, m) {
  using namespace loginmea;
  bind(m, "divide", &run_divide);
  bind(m, "fetch", &run_fetch);
  bind(m, "fetch_box", &run_fetch_box);
  bind(m, "grid", &run_grid);
  bind(m, "group_product", &run_group_product);
  bind(m, "order", &run_order);
  bind(m, "product", &run_product);
  bind(m, "read", &run_read);
  bind(m, "read_four", &run_read_four);
  bind(m, "reverse", &run_reverse);
  bind(m, "rotate", &run_rotate);
  bind(m, "warp_sum", &run_warp_sum);
}
