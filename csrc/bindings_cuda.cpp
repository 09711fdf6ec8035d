// The CUDA library's one face to Python: a line a function.
#include "common/bind.h"
#include "cuda/alignment_search.h"
#include "cuda/contrastive_loss.h"
#include "cuda/low_rank_fusion.h"

PYBIND11_MODULE(loginmea_cuda, m) {
  using namespace loginmea;
  bind(m, "contrastive_inverse_lengths", &contrastive_inverse_lengths);
  bind(m, "contrastive_normalise_columns", &contrastive_normalise_columns);
  bind(m, "contrastive_normalise_rows", &contrastive_normalise_rows);
  bind(m, "contrastive_through_length", &contrastive_through_length);
  bind(m, "contrastive_weigh", &contrastive_weigh);
  bind(m, "fusion_forward", &fusion_forward);
  bind(m, "fusion_input_gradient", &fusion_input_gradient);
  bind(m, "fusion_pack_rows", &fusion_pack_rows);
  bind(m, "fusion_projection_gradient", &fusion_projection_gradient);
  bind(m, "search_count", &search_count);
  bind(m, "search_offer", &search_offer);
}
