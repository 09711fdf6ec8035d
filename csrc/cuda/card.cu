// The questions that are asked once a card, so that no launch has to fail for the answer.
#include <cuda_runtime.h>

#include "cuda/card.h"

namespace loginmea {
namespace {

__global__ void nothing() {}

std::string release(int version) {
  return "CUDA " + std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10);
}

}  // namespace

std::string card_reason() {
  int driver = 0, runtime = 0;
  cudaDriverGetVersion(&driver);
  cudaRuntimeGetVersion(&runtime);
  // Within a major release a library runs on the driver of an older minor one.
  if (driver / 1000 < runtime / 1000) {
    return "needs a driver for " + release(runtime) + ", this one is for " + release(driver) +
           "; update it, or build with an older CUDA toolkit (CUDA_HOME)";
  }
  cudaFuncAttributes attributes{};
  const cudaError_t error = cudaFuncGetAttributes(&attributes, nothing);
  if (error == cudaSuccess) return "";
  cudaGetLastError();
  return std::string("its kernels are not for this card: ") + cudaGetErrorString(error) +
         "; build for its compute capability (LOGINMEA_CUDA_ARCHS)";
}

}  // namespace loginmea
