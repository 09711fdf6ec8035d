// Where dtypes, precisions and numbers of modalities meet the kernels of low-rank fusion.
#include <stdexcept>
#include <string>

#include "cuda/low_rank_fusion.cuh"
#include "cuda/low_rank_fusion.h"

namespace loginmea {
namespace {

using std::int64_t;

// Calls body(S{}) with the type of rows in memory.
template <class Body>
void with_storage(DType dtype, Body&& body) {
  switch (dtype) {
    case DType::f32: return body(float{});
    case DType::bf16: return body(__nv_bfloat16{});
    default:
      throw std::invalid_argument(std::string("low_rank_fusion: expected float32 or bfloat16, got ") + name_of(dtype));
  }
}

template <Products kValue>
struct Kind {
  static constexpr Products value = kValue;
};

// Calls body(S{}, T{}, Kind) with the types of rows, operands and products.
template <class Body>
void with_types(DType dtype, DType compute, bool exact, Body&& body) {
  with_storage(dtype, [&](auto s) {
    if (compute == DType::bf16) return body(s, __nv_bfloat16{}, Kind<Products::bf16>{});
    if constexpr (std::is_same_v<decltype(s), float>) {
      if (exact) return body(s, float{}, Kind<Products::exact>{});
      return body(s, float{}, Kind<Products::tf32>{});
    }
    throw std::invalid_argument("low_rank_fusion: bfloat16 operands are multiplied in bfloat16");
  });
}

template <class T>
Operands<T> operands_of(const Matrix& t, const Matrix& w, const Matrix& constants, const std::vector<int64_t>& starts,
                        int64_t rank) {
  const int parts = static_cast<int>(starts.size()) - 1;
  if (parts < 1 || parts > kMostParts) {
    throw std::invalid_argument("low_rank_fusion: expected 1 to " + std::to_string(kMostParts) + " modalities, got " +
                                std::to_string(parts));
  }
  Operands<T> operands{t, w, constants, {}, parts, static_cast<int>(rank), static_cast<int>(constants.columns / rank)};
  for (int m = 0; m <= parts; ++m) operands.starts[m] = static_cast<int>(starts[m]);
  return operands;
}

}  // namespace

void fusion_pack_rows(const Matrix& x, const Matrix& scale, int64_t first, int64_t count, const Matrix& t, bool rounded,
                      void* stream) {
  with_types(x.dtype, t.dtype, false, [&](auto s, auto p, auto) {
    launch("fusion_pack_rows", fusion::pack_rows<decltype(s), decltype(p)>, {t.rows}, kTileThreads, 0, stream, x,
           x.columns, scale, first, count, t, t.columns, rounded);
  });
}

void fusion_forward(const Matrix& t, const Matrix& w, const Matrix& constants, const std::vector<int64_t>& starts,
                    bool exact, const Matrix& bias, const Matrix& products, const Matrix& y, int64_t first,
                    int64_t count, int64_t rank, void* stream) {
  with_types(y.dtype, t.dtype, exact, [&](auto s, auto p, auto kind) {
    using S = decltype(s);
    using T = decltype(p);
    const auto operands = operands_of<T>(t, w, constants, starts, rank);
    const fusion::Forward<S> epilogue{{first, count, y.rows, static_cast<int>(y.columns)},
                                      operands.parts,
                                      bias.elements<float>(),
                                      products.elements<S>(),
                                      y};
    multiply<T, decltype(kind)::value>("fusion_forward", operands, count, epilogue, stream);
  });
}

void fusion_projection_gradient(const Matrix& t, const Matrix& w, const Matrix& constants,
                                const std::vector<int64_t>& starts, bool exact, const Matrix& g, const Matrix& products,
                                const Matrix& dp, int64_t first, int64_t count, int64_t rank, void* stream) {
  with_types(g.dtype, t.dtype, exact, [&](auto s, auto p, auto kind) {
    using S = decltype(s);
    using T = decltype(p);
    const auto operands = operands_of<T>(t, w, constants, starts, rank);
    const auto start = [&](auto modalities) {
      const fusion::ProjectionGradient<S, T, decltype(modalities)::value> epilogue{
          {first, count, g.rows, static_cast<int>(g.columns)},
          g,
          products.elements<S>(),
          dp,
          dp.rows / operands.parts,
          operands.columns};
      multiply<T, decltype(kind)::value>("fusion_projection_gradient", operands, count, epilogue, stream);
    };
    switch (operands.parts) {
      case 1: return start(std::integral_constant<int, 1>{});
      case 2: return start(std::integral_constant<int, 2>{});
      case 3: return start(std::integral_constant<int, 3>{});
      case 4: return start(std::integral_constant<int, 4>{});
      case 5: return start(std::integral_constant<int, 5>{});
      case 6: return start(std::integral_constant<int, 6>{});
    }
  });
}

void fusion_input_gradient(const Matrix& dt, const Matrix& x, const Matrix& scale, int64_t first, int64_t count,
                           const Matrix& dx, const Matrix& scale_gradient, void* stream) {
  with_storage(x.dtype, [&](auto s) {
    launch("fusion_input_gradient", fusion::input_gradient<decltype(s)>, {blocks(count, kTileThreads / 32)},
           kTileThreads, 0, stream, dt, x, x.columns, scale, first, count, dx, scale_gradient);
  });
}

}  // namespace loginmea
