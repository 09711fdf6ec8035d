// Where Python enters the library: the processor is asked whether it has what the kernels were compiled for before any
// code of theirs runs. This file alone is compiled for every processor of its kind (csrc/CMakeLists.txt), and it calls
// nothing that another file may hold a copy of: of an inline function or a template the linker keeps one copy, and that
// may be one with instructions that this processor lacks.
#include <Python.h>

#include "common/cpu_feature.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif

extern "C" PyObject* PyInit_loginmea_cpu_kernels();

namespace {

#if defined(__x86_64__)

bool has(const loginmea::CpuFeature& feature) {
  unsigned registers[4] = {0, 0, 0, 0};
  return __get_cpuid_count(feature.leaf, feature.subleaf, &registers[0], &registers[1], &registers[2], &registers[3]) &&
         ((registers[feature.reg] >> feature.bit) & 1) != 0;
}

// The first instruction set of the kernels that the processor lacks, or null.
const char* missing() {
  bool avx = false, avx512 = false;
  for (const auto* feature = loginmea::kCompiledFor; feature->name != nullptr; ++feature) {
    if (feature->compiled[0] != '1') continue;
    if (!has(*feature)) return feature->name;
    avx |= __builtin_strcmp(feature->name, "AVX") == 0;
    avx512 |= __builtin_strcmp(feature->name, "AVX512F") == 0;
  }
  // Wide registers also need an operating system that keeps them; these two ask it.
  __builtin_cpu_init();
  if (avx && !__builtin_cpu_supports("avx")) return "AVX";
  if (avx512 && !__builtin_cpu_supports("avx512f")) return "AVX512F";
  return nullptr;
}

#else

const char* missing() { return nullptr; }

#endif

}  // namespace

PyMODINIT_FUNC PyInit_loginmea_cpu() {
  if (const char* feature = missing()) {
    return PyErr_Format(PyExc_RuntimeError, "was built for a processor with %s, which this one lacks", feature);
  }
  return PyInit_loginmea_cpu_kernels();
}
