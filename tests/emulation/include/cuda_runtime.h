// The names of CUDA C++ and its runtime that the kernels use, for the emulator.
#pragma once

#include <math.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>

#include "emulator.h"

#define __global__
#define __device__
#define __host__
#define __launch_bounds__(...)
#define __grid_constant__
#define __align__(n) alignas(n)

using cudaStream_t = void*;
enum cudaError_t { cudaSuccess = 0, cudaErrorInvalidValue = 1, cudaErrorLaunchFailure = 719 };
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize };
enum cudaDeviceAttr { cudaDevAttrMaxSharedMemoryPerBlockOptin };

struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  std::size_t dynamicSmemBytes = 0;
  cudaStream_t stream = nullptr;
};

namespace emulation {
inline cudaError_t last_error = cudaSuccess;
inline const char* last_message = "no error";
// What a kernel was promised, 0 where nothing was asked for.
inline std::size_t& allowed_shared(const void* kernel);
// What a kernel declares is known when it runs. So all are said to declare this much, and one that asks for memory may
// not declare more.
constexpr std::size_t kSharedUnasked = 48 << 10, kSharedDeclared = 256;
// What a block can have: that of sm_90, unless a test gives the card another number of KiB.
inline std::size_t most_shared() {
  const char* told = std::getenv("LOGINMEA_EMULATED_CUDA_SHARED");
  return std::size_t{1024} * (told ? std::atoi(told) : 227);
}
}  // namespace emulation

inline std::size_t& emulation::allowed_shared(const void* kernel) {
  static std::size_t allowed[256];
  static const void* kernels[256];
  for (int i = 0; i < 256; ++i) {
    if (kernels[i] == nullptr) kernels[i] = kernel;
    if (kernels[i] == kernel) return allowed[i];
  }
  return allowed[0];
}

inline cudaError_t cudaGetLastError() {
  const cudaError_t error = emulation::last_error;
  emulation::last_error = cudaSuccess;
  return error;
}
inline const char* cudaGetErrorString(cudaError_t error) {
  return error == cudaSuccess ? "no error" : emulation::last_message;
}

template <class... Parameters>
cudaError_t cudaFuncSetAttribute(void (*kernel)(Parameters...), cudaFuncAttribute, int bytes) {
  if (static_cast<std::size_t>(bytes) + emulation::kSharedDeclared > emulation::most_shared()) {
    emulation::last_message = "more shared memory than a block can have";
    return emulation::last_error = cudaErrorInvalidValue;
  }
  emulation::allowed_shared(reinterpret_cast<const void*>(kernel)) = static_cast<std::size_t>(bytes);
  return cudaSuccess;
}

template <class... Parameters, class... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...),
                               Arguments... arguments) {
  const char* error = nullptr;
  const std::size_t asked = emulation::allowed_shared(reinterpret_cast<const void*>(kernel));
  // What a kernel declares counts beside what a launch gives it.
  const std::size_t most =
      asked == 0 ? emulation::kSharedUnasked : config->dynamicSmemBytes + emulation::kSharedDeclared;
  if (asked != 0 && config->dynamicSmemBytes > asked) {
    error = "more shared memory than the kernel was given";
  } else {
    error = emulation::run(config->gridDim, config->blockDim, config->dynamicSmemBytes, most,
                           [&] { kernel(static_cast<Parameters>(arguments)...); });
  }
  if (error == nullptr) return cudaSuccess;
  emulation::last_message = error;
  return emulation::last_error = cudaErrorLaunchFailure;
}

// The driver's release is that of the runtime unless a test says otherwise.
constexpr int kRuntimeVersion = 13000;
inline cudaError_t cudaRuntimeGetVersion(int* version) {
  *version = kRuntimeVersion;
  return cudaSuccess;
}
inline cudaError_t cudaDriverGetVersion(int* version) {
  const char* told = std::getenv("LOGINMEA_EMULATED_CUDA_DRIVER");
  *version = told ? std::atoi(told) : kRuntimeVersion;
  return cudaSuccess;
}
enum cudaDriverEntryPointQueryResult { cudaDriverEntryPointSuccess = 0 };
enum { cudaEnableDefault = 0 };
#define CUDART_VERSION 13000
cudaError_t cudaGetDriverEntryPointByVersion(const char* name, void** function, unsigned version, int flags,
                                             cudaDriverEntryPointQueryResult* result);

struct cudaFuncAttributes {
  std::size_t sharedSizeBytes;
  int ptxVersion;
};
template <class Kernel>
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, Kernel*) {
  attributes->sharedSizeBytes = emulation::kSharedDeclared;
  attributes->ptxVersion = 90;
  return cudaSuccess;
}
inline cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}
inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr, int) {
  *value = static_cast<int>(emulation::most_shared());
  return cudaSuccess;
}

inline void __syncthreads() { emulation::meet_block(); }
inline void __syncwarp(unsigned mask = ~0u) { emulation::meet_warp(emulation::Meeting::sync, mask, nullptr); }

template <class T>
T __shfl_sync(unsigned mask, T value, int lane) {
  return emulation::shuffle(mask, value, static_cast<unsigned>(lane) % 32);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int lanes) {
  return emulation::shuffle(mask, value, (threadIdx.x % 32) ^ static_cast<unsigned>(lanes));
}
inline unsigned __ballot_sync(unsigned mask, bool vote) {
  emulation::Ballot ballot{vote, 0};
  emulation::meet_warp(emulation::Meeting::ballot, mask, &ballot);
  return ballot.got;
}

inline int atomicAdd(int* at, int value) {
  const int before = *at;
  *at = before + value;
  return before;
}

inline int __ffs(int bits) { return __builtin_ffs(bits); }
inline int __popc(unsigned bits) { return __builtin_popcount(bits); }
inline float __uint_as_float(std::uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}
template <class T>
T min(T a, T b) {
  return b < a ? b : a;
}
