// The one way in which a kernel is started: limits of a launch are checked before it, and an error is taken off the
// runtime's books, so that the next call is not blamed for it.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <stdexcept>
#include <string>

namespace loginmea {

struct Grid {
  std::int64_t x, y = 1, z = 1;
};

inline std::int64_t blocks(std::int64_t work, std::int64_t each) { return (work + each - 1) / each; }

inline void check(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  cudaGetLastError();
  throw std::runtime_error(std::string(what) + ": " + cudaGetErrorString(error));
}

// Asks for `shared` bytes a block beside what the kernel declares. Cards of compute capability 8.0 and 9.0 give a block
// 163 and 227 KiB, those of 8.6, 8.9 and 12.0 no more than 99.
template <class... Parameters>
void ask_for_shared(const char* what, void (*kernel)(Parameters...), int shared) {
  int device = 0, most = 0;
  check(cudaGetDevice(&device), what);
  check(cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, device), what);
  cudaFuncAttributes attributes{};
  check(cudaFuncGetAttributes(&attributes, kernel), what);
  most -= static_cast<int>(attributes.sharedSizeBytes);
  if (shared > most) {
    throw std::invalid_argument(std::string(what) + ": needs " + std::to_string(shared) +
                                " bytes of shared memory a block, and this card gives it " + std::to_string(most) +
                                "; backend \"reference\" serves there");
  }
  // Whole steps, so that launches of several sizes from several threads ask for the same.
  const int step = 64 << 10, room = (shared + step - 1) / step * step;
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, room < most ? room : most), what);
}

// Starts kernel(arguments...) on `grid` blocks of `threads`, with `shared` bytes beside what it declares; nothing where
// the grid is empty. Arguments are converted to the kernel's parameters.
template <class... Parameters, class... Arguments>
void launch(const char* what, void (*kernel)(Parameters...), Grid grid, int threads, int shared, void* stream,
            Arguments... arguments) {
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) return;
  if (grid.x > 0x7fffffff || grid.y > 65535 || grid.z > 65535) {
    throw std::invalid_argument(std::string(what) + ": expected a grid of at most 2147483647 x 65535 x 65535 blocks, " +
                                "got " + std::to_string(grid.x) + " x " + std::to_string(grid.y) + " x " +
                                std::to_string(grid.z) + "; use fewer rows, columns or ranks a call");
  }
  // What is not asked for is 48 KiB with what the kernel declares.
  if (shared > 32 << 10) ask_for_shared(what, kernel, shared);
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(grid.x), static_cast<unsigned>(grid.y), static_cast<unsigned>(grid.z));
  config.blockDim = dim3(static_cast<unsigned>(threads));
  config.dynamicSmemBytes = static_cast<std::size_t>(shared);
  config.stream = static_cast<cudaStream_t>(stream);
  check(cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(arguments)...), what);
}

}  // namespace loginmea
