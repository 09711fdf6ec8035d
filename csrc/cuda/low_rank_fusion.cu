#include "cuda/low_rank_fusion.h"
#include "cuda/low_rank_fusion_dispatch.cuh"

namespace loginmea {

using namespace fusion;
using std::int64_t;

namespace {

// Beyond three modalities the products of a tile fill the registers, and it is half as wide.
template <int kModalities>
using TileOf = Tile<(kModalities > 3) ? 2 : 4>;

template <class T, class Epilogue>
void multiply_as(bool exact, const char* what, const Operands<T>& operands, int64_t count, const Epilogue& epilogue,
                 void* stream) {
  if constexpr (std::is_same_v<T, float>) {
    if (exact) return multiply<T, Products::exact>(what, operands, count, epilogue, stream);
    return multiply<T, Products::tf32>(what, operands, count, epilogue, stream);
  } else {
    return multiply<T, Products::bf16>(what, operands, count, epilogue, stream);
  }
}

}  // namespace

void fusion_pack_rows(const Matrix& x, const Matrix& scale, int64_t first, int64_t count, const Matrix& t, bool rounded,
                      void* stream) {
  with_types(x.dtype, t.dtype, [&](auto s, auto p) {
    launch("fusion_pack_rows", pack_rows<decltype(s), decltype(p)>, {t.rows}, kTileThreads, 0, stream, x, x.columns,
           scale, first, count, t, t.columns, rounded);
  });
}

void fusion_forward(const Matrix& t, const Matrix& w, const Matrix& constants, const std::vector<int64_t>& starts,
                    bool exact, const Matrix& bias, const Matrix& products, const Matrix& y, int64_t first,
                    int64_t count, int64_t rank, void* stream) {
  with_types(y.dtype, t.dtype, [&](auto s, auto p) {
    const auto operands = operands_of<decltype(p)>(t, w, constants, starts, rank);
    multiply_as(exact, "fusion_forward", operands, count,
                forward_of<Tile<4>, decltype(s)>(operands, bias, products, y, first, count), stream);
  });
}

void fusion_projection_gradient(const Matrix& t, const Matrix& w, const Matrix& constants,
                                const std::vector<int64_t>& starts, bool exact, const Matrix& g, const Matrix& products,
                                const Matrix& dp, int64_t first, int64_t count, int64_t rank, void* stream) {
  with_types(g.dtype, t.dtype, [&](auto s, auto p) {
    const auto operands = operands_of<decltype(p)>(t, w, constants, starts, rank);
    with_parts(operands.parts, [&](auto parts) {
      constexpr int kModalities = decltype(parts)::value;
      multiply_as(exact, "fusion_projection_gradient", operands, count,
                  projection_gradient_of<TileOf<kModalities>, kModalities, decltype(s)>(operands, g, products, dp,
                                                                                        first, count),
                  stream);
    });
  });
}

void fusion_input_gradient(const Matrix& dt, const Matrix& x, const Matrix& scale, int64_t first, int64_t count,
                           const Matrix& dx, const Matrix& scale_gradient, void* stream) {
  with_storage(x.dtype, [&](auto s) {
    launch("fusion_input_gradient", input_gradient<decltype(s)>, {blocks(count, kTileThreads / 32)}, kTileThreads, 0,
           stream, dt, x, x.columns, scale, first, count, dx, scale_gradient);
  });
}

}  // namespace loginmea
