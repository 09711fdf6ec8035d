// The CUDA library's one face to Python: a line a function.
#include "common/bind.h"

PYBIND11_MODULE(loginmea_cuda, m) {
  using namespace loginmea;
  (void)m;
}
