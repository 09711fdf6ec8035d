// bfloat16 under CUDA's names, for the emulator.
#pragma once

#include "common/dtype.h"
#include "cuda_runtime.h"

using __nv_bfloat16 = loginmea::bf16;

inline float __bfloat162float(__nv_bfloat16 x) { return x; }
inline __nv_bfloat16 __float2bfloat16(float x) { return __nv_bfloat16(x); }
inline __nv_bfloat16 __float2bfloat16_rn(float x) { return __nv_bfloat16(x); }
