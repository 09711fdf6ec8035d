// A table as tensor copies know it, made by the driver.
#pragma once

#include <cuda.h>

#include "cuda/seam.h"

namespace loginmea {

// Boxes of `box_bytes` of a row and `box_rows` rows, 128-byte swizzle, zeros outside; of float32 or bfloat16, rows a
// multiple of 16 bytes apart. `what` names the caller in errors.
CUtensorMap tensor_map(const char* what, const Matrix& table, int box_bytes, int box_rows);

}  // namespace loginmea
