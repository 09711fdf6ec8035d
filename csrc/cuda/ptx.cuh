// The instructions that CUDA C++ has no name for. tests/emulation has functions of these names for the CPU.
#pragma once

#include <cuda.h>
#include <cuda_bf16.h>

#include <cstdint>

namespace loginmea {

// Sets 16 bytes on their way from global to shared memory; they are there when this thread has waited for their group.
__device__ inline void copy_async(std::uint32_t* shared, const void* global) {
  const auto address = static_cast<std::uint32_t>(__cvta_generic_to_shared(shared));
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(address), "l"(global) : "memory");
}
__device__ inline void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Waits for all groups but the last kPending.
template <int kPending>
__device__ inline void wait_for_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

// c [16 x 8] += a [16 x 8] b [8 x 8], a warp together.
__device__ inline void multiply_tf32(float (&c)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
// c [16 x 8] += a [16 x 16] b [16 x 8], two bf16 a word.
__device__ inline void multiply_bf16(float (&c)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// What follows is of compute capability 9.0 ("PTX ISA", 9.7.9 Data Movement, 9.7.13 mbarrier, 9.7.15 Asynchronous
// Warpgroup Level Matrix Instructions).

// An address of shared memory as instructions take it.
__device__ inline std::uint32_t shared_address(const void* shared) {
  return static_cast<std::uint32_t>(__cvta_generic_to_shared(shared));
}

// A barrier in shared memory whose phase ends with so many arrivals, and with the bytes that it was told to expect.
__device__ inline void start_barrier(std::uint64_t* barrier, int arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)), "r"(arrivals) : "memory");
}
// Makes barriers known to copies; to other threads, the barrier of threads that follows does.
__device__ inline void publish_barriers() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }
__device__ inline void arrive_at_barrier(std::uint64_t* barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(barrier)) : "memory");
}
// Arrives, and has the phase wait for so many bytes, too.
__device__ inline void expect_bytes(std::uint64_t* barrier, int bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)), "r"(bytes)
               : "memory");
}
// Waits until the last phase of this parity has ended; of a new barrier the one before the first, of parity 1, has.
__device__ inline void wait_for_barrier(std::uint64_t* barrier, int parity) {
  asm volatile(
      "{\n.reg .pred ended;\n"
      "again:\nmbarrier.try_wait.parity.shared::cta.b64 ended, [%0], %1;\n"
      "@!ended bra again;\n}" ::"r"(shared_address(barrier)),
      "r"(parity)
      : "memory");
}
// What this thread has read of shared memory comes before copies into it, once threads have met.
__device__ inline void release_to_copies() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }
// Sets a box of a table on its way to shared memory, from this column and row on; `barrier` is told of its bytes.
__device__ inline void copy_box(void* shared, const CUtensorMap* map, int column, int row, std::uint64_t* barrier) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3}], [%4];" ::"r"(
          shared_address(shared)),
      "l"(map), "r"(column), "r"(row), "r"(shared_address(barrier))
      : "memory");
}

// A row of a multiple of 16 bytes likewise.
__device__ inline void copy_row(void* shared, const void* global, int bytes, std::uint64_t* barrier) {
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(
                   shared_address(shared)),
               "l"(global), "r"(bytes), "r"(shared_address(barrier))
               : "memory");
}

// How many registers a thread of this warpgroup has from here on.
template <int kRegisters>
__device__ inline void take_registers() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegisters));
}
template <int kRegisters>
__device__ inline void release_registers() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegisters));
}

// Before the first product that adds to registers which a thread has written.
__device__ inline void begin_products() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ inline void commit_products() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
// Waits for all committed groups of products but the last kPending.
template <int kPending>
__device__ inline void wait_for_products() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
}
// Keeps the compiler from moving a use of these registers to the other side.
template <int kNumbers>
__device__ inline void settle(float (&sum)[kNumbers]) {
#pragma unroll
  for (int i = 0; i < kNumbers; ++i) asm volatile("" : "+f"(sum[i])::"memory");
}

#define LOGINMEA_FOUR(i) "+f"(c[i]), "+f"(c[i + 1]), "+f"(c[i + 2]), "+f"(c[i + 3])
#define LOGINMEA_SIXTEEN(i) LOGINMEA_FOUR(i), LOGINMEA_FOUR(i + 4), LOGINMEA_FOUR(i + 8), LOGINMEA_FOUR(i + 12)
#define LOGINMEA_NAMES_32                                                                                          \
  "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29," \
  "%30,%31"
#define LOGINMEA_NAMES_64                                                                                         \
  LOGINMEA_NAMES_32                                                                                               \
  ",%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58," \
  "%59,%60,%61,%62,%63"

#define LOGINMEA_MULTIPLY_GROUP(kind, numbers, of_a, of_b, one, orders, ...)                                         \
  asm volatile("{\n.reg .pred adds;\nsetp.ne.b32 adds, " one ", 0;\nwgmma.mma_async.sync.aligned." kind " {" numbers \
               "}, " of_a ", " of_b ", adds, 1, 1" orders ";\n}"                                                     \
               : __VA_ARGS__                                                                                         \
               : "l"(a), "l"(b), "r"(1))

// c [64 x N] += a [64 x 32 bytes] b [N x 32 bytes]^T, a warpgroup together, N twice the numbers that a thread has; of
// bfloat16, or of float32 as TF32. a and b are descriptors of shared memory.
template <bool kNarrow>
__device__ inline void multiply_group(float (&c)[32], std::uint64_t a, std::uint64_t b) {
  if constexpr (kNarrow) {
    LOGINMEA_MULTIPLY_GROUP("m64n64k16.f32.bf16.bf16", LOGINMEA_NAMES_32, "%32", "%33", "%34", ", 0, 0",
                            LOGINMEA_SIXTEEN(0), LOGINMEA_SIXTEEN(16));
  } else {
    LOGINMEA_MULTIPLY_GROUP("m64n64k8.f32.tf32.tf32", LOGINMEA_NAMES_32, "%32", "%33", "%34", "", LOGINMEA_SIXTEEN(0),
                            LOGINMEA_SIXTEEN(16));
  }
}
template <bool kNarrow>
__device__ inline void multiply_group(float (&c)[64], std::uint64_t a, std::uint64_t b) {
  if constexpr (kNarrow) {
    LOGINMEA_MULTIPLY_GROUP("m64n128k16.f32.bf16.bf16", LOGINMEA_NAMES_64, "%64", "%65", "%66", ", 0, 0",
                            LOGINMEA_SIXTEEN(0), LOGINMEA_SIXTEEN(16), LOGINMEA_SIXTEEN(32), LOGINMEA_SIXTEEN(48));
  } else {
    LOGINMEA_MULTIPLY_GROUP("m64n128k8.f32.tf32.tf32", LOGINMEA_NAMES_64, "%64", "%65", "%66", "", LOGINMEA_SIXTEEN(0),
                            LOGINMEA_SIXTEEN(16), LOGINMEA_SIXTEEN(32), LOGINMEA_SIXTEEN(48));
  }
}

#undef LOGINMEA_FOUR
#undef LOGINMEA_SIXTEEN
#undef LOGINMEA_NAMES_32
#undef LOGINMEA_NAMES_64
#undef LOGINMEA_MULTIPLY_GROUP

// To the digits that TF32 keeps, to nearest, ties away from zero.
__device__ inline std::uint32_t to_tf32(float x) {
  std::uint32_t bits;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(x));
  return bits;
}

}  // namespace loginmea
