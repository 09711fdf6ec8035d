// An instruction set that a library may have been compiled with, and where the processor tells whether it has it.
#pragma once

namespace loginmea {

struct CpuFeature {
  const char* compiled;  // "1" where the compiler defines the macro, else the macro's own name; null ends the list
  const char* name;
  unsigned leaf, subleaf, reg, bit;  // where CPUID tells of it; registers eax, ebx, ecx, edx are 0 to 3
};

extern const CpuFeature kCompiledFor[];

}  // namespace loginmea
