// Element types of the native kernels. The numbers are those of loginmea_fast.native.dtype_code.
#pragma once

#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <string>

namespace loginmea {

enum class DType : int { f32 = 0, f64 = 1, bf16 = 2, f16 = 3 };

inline const char* name_of(DType dtype) {
  switch (dtype) {
    case DType::f32: return "float32";
    case DType::f64: return "float64";
    case DType::bf16: return "bfloat16";
    case DType::f16: return "float16";
  }
  return "an unknown dtype";
}

// The upper half of a float32. Storage only: arithmetic happens in float.
struct bf16 {
  std::uint16_t bits;

  bf16() = default;
  explicit bf16(float value) {
    std::uint32_t word;
    std::memcpy(&word, &value, sizeof word);
    // A NaN must stay one: rounding could carry its payload out into infinity.
    const bool is_nan = (word & 0x7fffffffu) > 0x7f800000u;
    const std::uint32_t rounded = (word + 0x7fffu + ((word >> 16) & 1u)) >> 16;  // to nearest, ties to even
    bits = static_cast<std::uint16_t>(is_nan ? (word >> 16) | 0x40u : rounded);
  }
  operator float() const {
    const std::uint32_t word = static_cast<std::uint32_t>(bits) << 16;
    float value;
    std::memcpy(&value, &word, sizeof value);
    return value;
  }
};
static_assert(sizeof(bf16) == 2, "bf16 is laid out as torch.bfloat16 is");

#if defined(__FLT16_MAX__)
using f16 = _Float16;  // converts by itself, in hardware where the machine can
#define LOGINMEA_HAS_F16 1
#endif

// The type in which sums over T are kept.
template <class T>
struct accumulator {
  using type = float;
};
template <>
struct accumulator<double> {
  using type = double;
};
template <class T>
using accumulator_t = typename accumulator<T>::type;

// Calls body(T{}) for float32, float64 or bfloat16; the one place where a kernel that serves these three meets a dtype.
template <class Body>
decltype(auto) dispatch(DType dtype, const char* kernel, Body&& body) {
  switch (dtype) {
    case DType::f32: return body(float{});
    case DType::f64: return body(double{});
    case DType::bf16: return body(bf16{});
    default:
      throw std::invalid_argument(std::string(kernel) + ": expected float32, float64 or bfloat16, got " +
                                  name_of(dtype));
  }
}

}  // namespace loginmea
