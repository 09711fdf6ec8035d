// The CUDA library's one face to Python: a line a function, and tuples for what is more than a number.
#include <tuple>

#include "common/bind.h"
#include "cuda/card.h"
#include "cuda/low_rank_fusion.h"
#include "cuda/relation_reflection_attention.h"
#include "cuda/seam.h"

namespace pybind11::detail {

template <class Struct, class... Fields>
struct caster_of_tuple {
  PYBIND11_TYPE_CASTER(Struct, const_name("tuple"));
  bool load(handle source, bool) {
    const auto make = [](const auto&... field) { return Struct{loginmea::from_wire<Fields>(field)...}; };
    value = std::apply(make, source.cast<std::tuple<loginmea::wire_t<Fields>...>>());
    return true;
  }
};

using std::int32_t;
using std::int64_t;
template <>
struct type_caster<loginmea::Matrix>
    : caster_of_tuple<loginmea::Matrix, void*, int64_t, int64_t, int64_t, loginmea::DType> {};
template <>
struct type_caster<loginmea::Segments>
    : caster_of_tuple<loginmea::Segments, int64_t, int64_t, const int32_t*, const int32_t*, const int32_t*, int64_t,
                      const int32_t*, const int64_t*> {};

}  // namespace pybind11::detail

PYBIND11_MODULE(loginmea_cuda, m) {
  using namespace loginmea;
  bind(m, "attention_backward_set", &attention_backward_set);
  bind(m, "attention_backward_source", &attention_backward_source);
  bind(m, "attention_forward", &attention_forward);
  bind(m, "attention_through_activation", &attention_through_activation);
  bind(m, "card_reason", &card_reason);
  bind(m, "fusion_forward", &fusion_forward);
#if LOGINMEA_SM90A
  bind(m, "fusion_group_forward", &fusion_group_forward);
  bind(m, "fusion_group_projection_gradient", &fusion_group_projection_gradient);
#endif
  bind(m, "fusion_input_gradient", &fusion_input_gradient);
  bind(m, "fusion_pack_rows", &fusion_pack_rows);
  bind(m, "fusion_projection_gradient", &fusion_projection_gradient);
}
