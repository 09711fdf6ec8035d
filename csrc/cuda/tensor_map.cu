#include "cuda/launch.cuh"
#include "cuda/tensor_map.h"

namespace loginmea {
namespace {

// The driver's function, asked of the runtime: the library is linked to no driver.
decltype(&cuTensorMapEncodeTiled) encoder(const char* what) {
  static void* const found = [what] {
    void* function = nullptr;
    cudaDriverEntryPointQueryResult result{};
#if CUDART_VERSION >= 12050
    check(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, 12000, cudaEnableDefault, &result),
          what);
#else
    check(cudaGetDriverEntryPoint("cuTensorMapEncodeTiled", &function, cudaEnableDefault, &result), what);
#endif
    if (result != cudaDriverEntryPointSuccess) {
      throw std::runtime_error(std::string(what) + ": this driver has no tensor maps; it needs one for CUDA 12.0");
    }
    return function;
  }();
  return reinterpret_cast<decltype(&cuTensorMapEncodeTiled)>(found);
}

}  // namespace

CUtensorMap tensor_map(const char* what, const Matrix& table, int box_bytes, int box_rows) {
  const bool narrow = table.dtype == DType::bf16;
  const cuuint32_t bytes = narrow ? 2 : 4;
  const cuuint64_t size[] = {static_cast<cuuint64_t>(table.columns), static_cast<cuuint64_t>(table.rows)};
  const cuuint64_t row_bytes[] = {static_cast<cuuint64_t>(table.stride) * bytes};
  const cuuint32_t box[] = {static_cast<cuuint32_t>(box_bytes) / bytes, static_cast<cuuint32_t>(box_rows)};
  const cuuint32_t every[] = {1, 1};
  CUtensorMap map;
  const CUresult result =
      encoder(what)(&map, narrow ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 : CU_TENSOR_MAP_DATA_TYPE_FLOAT32, 2, table.data,
                    size, row_bytes, box, every, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                    CU_TENSOR_MAP_L2_PROMOTION_L2_128B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (result != CUDA_SUCCESS) {
    throw std::runtime_error(std::string(what) + ": the driver makes no tensor map of a table of " +
                             std::to_string(table.rows) + " x " + std::to_string(table.columns) + ", rows " +
                             std::to_string(table.stride) + " apart (CUDA error " + std::to_string(result) + ")");
  }
  return map;
}

}  // namespace loginmea
