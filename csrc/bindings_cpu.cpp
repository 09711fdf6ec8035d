// The CPU library's one face to Python: a line a function.
#include "common/bind.h"
#include "common/cpu_features.h"
#include "cpu/alignment_search.h"
#include "cpu/contrastive_loss.h"
#include "cpu/graph_mean.h"
#include "cpu/low_rank_fusion.h"
#include "cpu/measure.h"
#include "cpu/memory.h"
#include "cpu/propagation.h"
#include "cpu/relation_reflection_attention.h"
#include "cpu/view.h"

// Entered by cpu/entry.cpp.
PYBIND11_MODULE(loginmea_cpu_kernels, m) {
  using namespace loginmea;
  bind(m, "contrastive_loss", &contrastive_loss);
  bind(m, "low_rank_fusion_backward", &low_rank_fusion_backward);
  bind(m, "low_rank_fusion_forward", &low_rank_fusion_forward);
  bind(m, "measure_copy", &measure_copy);
  bind(m, "measure_fma", &measure_fma);
  bind(m, "measure_gather", &measure_gather);
  bind(m, "modality_scale_backward", &modality_scale_backward);
  bind(m, "modality_scale_forward", &modality_scale_forward);
  bind(m, "prefer_huge_pages", &prefer_huge_pages);
  bind(m, "propagate", &propagate);
  bind(m, "relation_reflection_backward", &relation_reflection_backward);
  bind(m, "relation_reflection_forward", &relation_reflection_forward);
  bind(m, "relation_reflection_stream", &relation_reflection_stream);
  bind(m, "row_sums", &row_sums);
  bind(m, "search_cosines", &search_cosines);
  bind(m, "search_counts", &search_counts);
  bind(m, "search_lists", &search_lists);
  bind(m, "search_norms", &search_norms);
  bind(m, "search_pack", &search_pack);
  bind(m, "search_packed_bytes", &search_packed_bytes);
  bind(m, "unit_reflectors", &unit_reflectors);
  bind(m, "unit_reflectors_backward", &unit_reflectors_backward);
  bind(m, "view_destinations", &view_destinations);
  bind(m, "view_reach", &view_reach);
  bind(m, "view_sources", &view_sources);
}
