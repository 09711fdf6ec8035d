// csrc/cuda/ptx.cuh for the CPU.
#pragma once

#include <cuda.h>
#include <cuda_bf16.h>

#include <cstdint>

namespace loginmea {

inline void copy_async(std::uint32_t* shared, const void* global) { emulation::copy(shared, global, 16); }
inline void commit_copies() { emulation::commit(); }
template <int kPending>
void wait_for_copies() {
  emulation::wait(kPending);
}

inline void multiply_tf32(float (&c)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2]) {
  emulation::Product product{c, a, b};
  emulation::meet_warp(emulation::Meeting::mma_tf32, ~0u, &product);
}
inline void multiply_bf16(float (&c)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2]) {
  emulation::Product product{c, a, b};
  emulation::meet_warp(emulation::Meeting::mma_bf16, ~0u, &product);
}

inline std::uint32_t shared_address(const void* shared) { return emulation::shared_address(shared); }
inline void start_barrier(std::uint64_t* barrier, int arrivals) { emulation::start_barrier(barrier, arrivals); }
inline void publish_barriers() {}
inline void release_to_copies() {}
inline void arrive_at_barrier(std::uint64_t* barrier) { emulation::arrive_at_barrier(barrier, 0); }
inline void expect_bytes(std::uint64_t* barrier, int bytes) { emulation::arrive_at_barrier(barrier, bytes); }
inline void wait_for_barrier(std::uint64_t* barrier, int parity) { emulation::wait_for_barrier(barrier, parity); }
inline void copy_box(void* shared, const CUtensorMap* map, int column, int row, std::uint64_t* barrier) {
  emulation::copy_box(shared, *map, column, row, barrier);
}
inline void copy_row(void* shared, const void* global, int bytes, std::uint64_t* barrier) {
  emulation::copy_row(shared, global, bytes, barrier);
}
template <int kRegisters>
void take_registers() {}
template <int kRegisters>
void release_registers() {}
inline void begin_products() { emulation::begin_products(); }
inline void commit_products() { emulation::commit_products(); }
template <int kPending>
void wait_for_products() {
  emulation::wait_for_products(kPending);
}
template <int kNumbers>
void settle(float (&)[kNumbers]) {}
template <bool kNarrow, int kNumbers>
void multiply_group(float (&c)[kNumbers], std::uint64_t a, std::uint64_t b) {
  emulation::multiply_group({c, kNumbers, a, b, kNarrow});
}

inline std::uint32_t to_tf32(float x) {
  std::uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  const bool finite = (bits & 0x7f800000u) != 0x7f800000u;
  return finite ? (bits + 0x1000u) & ~0x1fffu : bits;
}

}  // namespace loginmea
