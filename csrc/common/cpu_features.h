// Does this processor have what the library was compiled for? Asked once, when the library is loaded, so that one that
// was built elsewhere is refused with a reason instead of dying of an illegal instruction.
//
// What was compiled for is what the compiler itself says: it defines __AVX2__ and the like for every instruction set
// that it may use. The table has all that compilers emit unasked; a test compares it with what they define.
#pragma once

#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace loginmea {

#if defined(__x86_64__)

struct CpuFeature {
  const char* compiled;  // "1" where the compiler defines the macro, else the macro's own name
  const char* name;
  unsigned leaf, subleaf, reg, bit;  // where CPUID tells of it; registers eax, ebx, ecx, edx are 0 to 3
};

#define LOGINMEA_TEXT_OF(x) #x
#define LOGINMEA_TEXT(x) LOGINMEA_TEXT_OF(x)
#define LOGINMEA_FEATURE(name, leaf, subleaf, reg, bit) {LOGINMEA_TEXT(__##name##__), #name, leaf, subleaf, reg, bit}

constexpr CpuFeature kCpuFeatures[] = {
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
};

#undef LOGINMEA_FEATURE

// The first instruction set this file was compiled with that the processor lacks, or null.
inline const char* missing_cpu_feature() {
  for (const CpuFeature& feature : kCpuFeatures) {
    if (feature.compiled[0] != '1') continue;
    unsigned registers[4] = {0, 0, 0, 0};
    if (!__get_cpuid_count(feature.leaf, feature.subleaf, &registers[0], &registers[1], &registers[2], &registers[3]) ||
        ((registers[feature.reg] >> feature.bit) & 1) == 0) {
      return feature.name;
    }
  }
  // Wide registers also need an operating system that keeps them; these two ask it.
  __builtin_cpu_init();
#if defined(__AVX__)
  if (!__builtin_cpu_supports("avx")) return "AVX";
#endif
#if defined(__AVX512F__)
  if (!__builtin_cpu_supports("avx512f")) return "AVX512F";
#endif
  return nullptr;
}

#else

// Other processors are asked nothing: a library for them is built where it runs.
inline const char* missing_cpu_feature() { return nullptr; }

#endif

}  // namespace loginmea
