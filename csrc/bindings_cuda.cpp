// The CUDA library's one face to Python: a line a function.
#include "common/bind.h"
#include "cuda/card.h"
#include "cuda/low_rank_fusion.h"
#include "cuda/relation_reflection_attention.h"

PYBIND11_MODULE(loginmea_cuda, m) {
  using namespace loginmea;
  bind(m, "attention_backward_set", &attention_backward_set);
  bind(m, "attention_backward_source", &attention_backward_source);
  bind(m, "attention_forward", &attention_forward);
  bind(m, "attention_through_activation", &attention_through_activation);
  bind(m, "card_reason", &card_reason);
  bind(m, "fusion_forward", &fusion_forward);
  bind(m, "fusion_input_gradient", &fusion_input_gradient);
  bind(m, "fusion_pack_rows", &fusion_pack_rows);
  bind(m, "fusion_projection_gradient", &fusion_projection_gradient);
}
