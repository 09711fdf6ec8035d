// Where dtypes and numbers of modalities meet the kernels of low-rank fusion.
#pragma once

#include <stdexcept>
#include <string>
#include <type_traits>
#include <vector>

#include "cuda/low_rank_fusion.cuh"

namespace loginmea {
namespace fusion {

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

// Calls body(S{}, T{}) with the types of rows in memory and of operands.
template <class Body>
void with_types(DType dtype, DType compute, Body&& body) {
  with_storage(dtype, [&](auto s) {
    if (compute == DType::bf16) return body(s, __nv_bfloat16{});
    if constexpr (std::is_same_v<decltype(s), float>) return body(s, float{});
    throw std::invalid_argument("low_rank_fusion: bfloat16 operands are multiplied in bfloat16");
  });
}

// Calls body(integral_constant) with the number of modalities.
template <class Body>
void with_parts(int parts, Body&& body) {
  switch (parts) {
    case 1: return body(std::integral_constant<int, 1>{});
    case 2: return body(std::integral_constant<int, 2>{});
    case 3: return body(std::integral_constant<int, 3>{});
    case 4: return body(std::integral_constant<int, 4>{});
    case 5: return body(std::integral_constant<int, 5>{});
    case 6: return body(std::integral_constant<int, 6>{});
  }
}

template <class T>
Operands<T> operands_of(const Matrix& t, const Matrix& w, const Matrix& constants,
                        const std::vector<std::int64_t>& starts, std::int64_t rank) {
  const int parts = static_cast<int>(starts.size()) - 1;
  if (parts < 1 || parts > kMostParts) {
    throw std::invalid_argument("low_rank_fusion: expected 1 to " + std::to_string(kMostParts) + " modalities, got " +
                                std::to_string(parts));
  }
  Operands<T> operands{t, w, constants, {}, parts, static_cast<int>(rank), static_cast<int>(constants.columns / rank)};
  for (int m = 0; m <= parts; ++m) operands.starts[m] = static_cast<int>(starts[m]);
  return operands;
}

template <class Of, class S, class T>
Forward<S, Of> forward_of(const Operands<T>& operands, const Matrix& bias, const Matrix& products, const Matrix& y,
                          std::int64_t first, std::int64_t count) {
  return {{first, count, y.rows, static_cast<int>(y.columns)},
          operands.parts,
          bias.elements<float>(),
          products.elements<S>(),
          y};
}

template <class Of, int kModalities, class S, class T>
ProjectionGradient<S, T, Of, kModalities> projection_gradient_of(const Operands<T>& operands, const Matrix& g,
                                                                 const Matrix& products, const Matrix& dp,
                                                                 std::int64_t first, std::int64_t count) {
  return {{first, count, g.rows, static_cast<int>(g.columns)},
          g,
          products.elements<S>(),
          dp,
          dp.rows / operands.parts,
          operands.ranks,
          operands.columns};
}

}  // namespace fusion
}  // namespace loginmea
