// The CUDA library's one face to Python: a line a function.
#include "common/bind.h"
#include "cuda/alignment_search.h"

PYBIND11_MODULE(loginmea_cuda, m) {
  using namespace loginmea;
  bind(m, "search_count", &search_count);
  bind(m, "search_offer", &search_offer);
}
