// The CPU library's one face to Python: a line a function.
#include "common/bind.h"
#include "cpu/measure.h"

PYBIND11_MODULE(loginmea_cpu, m) {
  using namespace loginmea;
  bind(m, "measure_copy", &measure_copy);
  bind(m, "measure_fma", &measure_fma);
  bind(m, "measure_gather", &measure_gather);
}
