// What a library was compiled for, as data: cpu/entry.cpp asks the processor for it when the library is loaded, so that
// one that was built elsewhere is refused with a reason instead of dying of an illegal instruction. The compiler itself
// says it: it defines __AVX2__ and the like for every instruction set that it may use. The table has all that compilers
// emit unasked; a test compares it with what they define. To be included by one file, with the flags of the kernels.
#pragma once

#include "cpu_feature.h"

namespace loginmea {

#if defined(__x86_64__)

#define LOGINMEA_TEXT_OF(x) #x
#define LOGINMEA_TEXT(x) LOGINMEA_TEXT_OF(x)
#define LOGINMEA_FEATURE(name, leaf, subleaf, reg, bit) {LOGINMEA_TEXT(__##name##__), #name, leaf, subleaf, reg, bit}

extern const CpuFeature kCompiledFor[] = {
    LOGINMEA_FEATURE(SSE3, 1, 0, 2, 0),
    LOGINMEA_FEATURE(PCLMUL, 1, 0, 2, 1),
    LOGINMEA_FEATURE(SSSE3, 1, 0, 2, 9),
    LOGINMEA_FEATURE(FMA, 1, 0, 2, 12),
    LOGINMEA_FEATURE(SSE4_1, 1, 0, 2, 19),
    LOGINMEA_FEATURE(SSE4_2, 1, 0, 2, 20),
    LOGINMEA_FEATURE(MOVBE, 1, 0, 2, 22),
    LOGINMEA_FEATURE(POPCNT, 1, 0, 2, 23),
    LOGINMEA_FEATURE(AES, 1, 0, 2, 25),
    LOGINMEA_FEATURE(AVX, 1, 0, 2, 28),
    LOGINMEA_FEATURE(F16C, 1, 0, 2, 29),
    LOGINMEA_FEATURE(BMI, 7, 0, 1, 3),
    LOGINMEA_FEATURE(AVX2, 7, 0, 1, 5),
    LOGINMEA_FEATURE(BMI2, 7, 0, 1, 8),
    LOGINMEA_FEATURE(AVX512F, 7, 0, 1, 16),
    LOGINMEA_FEATURE(AVX512DQ, 7, 0, 1, 17),
    LOGINMEA_FEATURE(ADX, 7, 0, 1, 19),
    LOGINMEA_FEATURE(AVX512IFMA, 7, 0, 1, 21),
    LOGINMEA_FEATURE(AVX512PF, 7, 0, 1, 26),
    LOGINMEA_FEATURE(AVX512ER, 7, 0, 1, 27),
    LOGINMEA_FEATURE(AVX512CD, 7, 0, 1, 28),
    LOGINMEA_FEATURE(SHA, 7, 0, 1, 29),
    LOGINMEA_FEATURE(AVX512BW, 7, 0, 1, 30),
    LOGINMEA_FEATURE(AVX512VL, 7, 0, 1, 31),
    LOGINMEA_FEATURE(AVX512VBMI, 7, 0, 2, 1),
    LOGINMEA_FEATURE(AVX512VBMI2, 7, 0, 2, 6),
    LOGINMEA_FEATURE(GFNI, 7, 0, 2, 8),
    LOGINMEA_FEATURE(VAES, 7, 0, 2, 9),
    LOGINMEA_FEATURE(VPCLMULQDQ, 7, 0, 2, 10),
    LOGINMEA_FEATURE(AVX512VNNI, 7, 0, 2, 11),
    LOGINMEA_FEATURE(AVX512BITALG, 7, 0, 2, 12),
    LOGINMEA_FEATURE(AVX512VPOPCNTDQ, 7, 0, 2, 14),
    LOGINMEA_FEATURE(AVX5124VNNIW, 7, 0, 3, 2),
    LOGINMEA_FEATURE(AVX5124FMAPS, 7, 0, 3, 3),
    LOGINMEA_FEATURE(AVX512VP2INTERSECT, 7, 0, 3, 8),
    LOGINMEA_FEATURE(AVX512FP16, 7, 0, 3, 23),
    LOGINMEA_FEATURE(AVXVNNI, 7, 1, 0, 4),
    LOGINMEA_FEATURE(AVX512BF16, 7, 1, 0, 5),
    LOGINMEA_FEATURE(AVXIFMA, 7, 1, 0, 23),
    LOGINMEA_FEATURE(AVXVNNIINT8, 7, 1, 3, 4),
    LOGINMEA_FEATURE(AVXNECONVERT, 7, 1, 3, 5),
    LOGINMEA_FEATURE(LZCNT, 0x80000001, 0, 2, 5),
    LOGINMEA_FEATURE(SSE4A, 0x80000001, 0, 2, 6),
    LOGINMEA_FEATURE(XOP, 0x80000001, 0, 2, 11),
    LOGINMEA_FEATURE(FMA4, 0x80000001, 0, 2, 16),
    LOGINMEA_FEATURE(TBM, 0x80000001, 0, 2, 21),
    {nullptr, nullptr, 0, 0, 0, 0},
};

#undef LOGINMEA_FEATURE

#else

// Other processors are asked nothing: a library for them is built where it runs.
extern const CpuFeature kCompiledFor[] = {{nullptr, nullptr, 0, 0, 0, 0}};

#endif

}  // namespace loginmea
