// Low-rank fusion by warpgroups. This file alone is compiled for sm_90a, which runs on compute capability 9.0 and on
// nothing later.
#include "cuda/low_rank_fusion.h"
#include "cuda/low_rank_fusion_dispatch.cuh"
#include "cuda/warpgroup.cuh"

namespace loginmea {

using namespace fusion;
using std::int64_t;

namespace {

// Beyond three modalities the products of two ranks do not fit the registers.
template <int kModalities>
using GroupTileOf = GroupTile<(kModalities > 3) ? 1 : 2>;

}  // namespace

void fusion_group_forward(const Matrix& t, const Matrix& w, const Matrix& constants, const std::vector<int64_t>& starts,
                          const Matrix& bias, const Matrix& products, const Matrix& y, int64_t first, int64_t count,
                          int64_t rank, void* stream) {
  with_types(y.dtype, t.dtype, [&](auto s, auto p) {
    const auto operands = operands_of<decltype(p)>(t, w, constants, starts, rank);
    multiply_by_groups("fusion_group_forward", operands, t, w, count,
                       forward_of<GroupTile<2>, decltype(s)>(operands, bias, products, y, first, count), stream);
  });
}

void fusion_group_projection_gradient(const Matrix& t, const Matrix& w, const Matrix& constants,
                                      const std::vector<int64_t>& starts, const Matrix& g, const Matrix& dp,
                                      int64_t first, int64_t count, int64_t rank, void* stream) {
  with_types(g.dtype, t.dtype, [&](auto s, auto p) {
    const auto operands = operands_of<decltype(p)>(t, w, constants, starts, rank);
    with_parts(operands.parts, [&](auto parts) {
      constexpr int kModalities = decltype(parts)::value;
      if constexpr (kModalities == 1) {
        throw std::invalid_argument("fusion_group_projection_gradient: of one modality nothing is multiplied");
      } else {
        multiply_by_groups("fusion_group_projection_gradient", operands, t, w, count,
                           projection_gradient_of<GroupTileOf<kModalities>, kModalities, decltype(s)>(
                               operands, g, Matrix{}, dp, first, count),
                           stream);
      }
    });
  });
}

}  // namespace loginmea
