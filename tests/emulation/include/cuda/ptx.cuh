// csrc/cuda/ptx.cuh for the CPU.
#pragma once

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

inline std::uint32_t to_tf32(float x) {
  std::uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  const bool finite = (bits & 0x7f800000u) != 0x7f800000u;
  return finite ? (bits + 0x1000u) & ~0x1fffu : bits;
}

}  // namespace loginmea
