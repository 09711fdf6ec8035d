// exp, tanh and (1 - z^2) atanh(z) as branch-free scalar code that compilers turn into vector code inside `omp simd`
// loops, on any processor and with any C library. The float32 polynomials are those of Cephes (Moshier); errors are
// below 3 units in the last place, and NaN stays NaN. float64 goes to the C library.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

namespace loginmea {

inline float float_of_bits(std::int32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

inline std::int32_t bits_of_float(float value) {
  std::int32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

// 1.5 * 2^23. Adding it to a number below 2^22 rounds that to an integer, and the integer stands in the last bits: read
// from there, a NaN gives some integer, where a conversion would be undefined.
constexpr float kRound = 12582912.0f;

inline std::int32_t integer_in(float rounded) {
  return static_cast<std::int32_t>(static_cast<std::uint32_t>(bits_of_float(rounded)) -
                                   static_cast<std::uint32_t>(bits_of_float(kRound)));
}

// 2^n for n in [-126, 127]; some number for others.
inline float power_of_two(std::int32_t n) {
  return float_of_bits(static_cast<std::int32_t>((static_cast<std::uint32_t>(n) + 127u) << 23));
}

// A choice that computes both sides: a conditional expression would be turned into a branch around an expensive side.
inline float choose(bool condition, float yes, float no) {
  const std::int32_t mask = -static_cast<std::int32_t>(condition);
  return float_of_bits((bits_of_float(yes) & mask) | (bits_of_float(no) & ~mask));
}

inline double exponential(double x) { return std::exp(x); }

// 0 below -87.3, where float32 leaves the normal range; infinity above 88.7.
inline float exponential(float x) {
  const float clamped = x > 88.8f ? 88.8f : (x < -87.3f ? -87.3f : x);
  const float rounded = clamped * 1.44269504088896341f + kRound, n = rounded - kRound;
  const float r = (clamped - n * 0.693359375f) + n * 2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  // 2^n in two factors, because 2^128 is no float.
  const std::int32_t half = integer_in(rounded) >> 1, rest = integer_in(rounded) - half;
  const float scaled = p * power_of_two(half) * power_of_two(rest);
  return choose(x < -87.3f, 0.0f, scaled);
}

inline double hyperbolic_tangent(double x) { return std::tanh(x); }

// e / (e + 2) with e = exp(2 |x|) - 1, which keeps small arguments accurate without a case of their own.
inline float hyperbolic_tangent(float x) {
  const float magnitude = std::fabs(x);
  const float twice = magnitude > 9.2f ? 18.4f : 2.0f * magnitude;  // tanh is 1 in float32 from 9.02 on
  const float rounded = twice * 1.44269504088896341f + kRound, n = rounded - kRound;
  const float r = (twice - n * 0.693359375f) + n * 2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  const float small = p * r * r + r;  // exp(r) - 1
  const float power = power_of_two(integer_in(rounded));
  const float e = power * small + (power - 1.0f);
  return std::copysign(e / (e + 2.0f), x);
}

// The natural logarithm of a normal, positive number.
inline float logarithm(float x) {
  const std::int32_t bits = bits_of_float(x);
  // Split into 2^n * m with m in [sqrt(1/2), sqrt(2)).
  const std::int32_t shifted = bits - 0x3f3504f3;
  const std::int32_t n = shifted >> 23;
  const float m = float_of_bits((shifted & 0x007fffff) + 0x3f3504f3) - 1.0f;
  const float square = m * m;
  float p = 7.0376836292e-2f;
  p = p * m - 1.1514610310e-1f;
  p = p * m + 1.1676998740e-1f;
  p = p * m - 1.2420140846e-1f;
  p = p * m + 1.4249322787e-1f;
  p = p * m - 1.6668057665e-1f;
  p = p * m + 2.0000714765e-1f;
  p = p * m - 2.4999993993e-1f;
  p = p * m + 3.3333331174e-1f;
  const float exponent = static_cast<float>(n);
  float y = m * square * p - 2.12194440e-4f * exponent - 0.5f * square;
  return m + y + 0.693359375f * exponent;
}

// (1 - z^2) atanh(z) for z = tanh(y), that is tanh'(y) y: finite everywhere, 0 at z = +-1.
inline double slope_times_argument(double z) {
  const double magnitude = std::fabs(z);
  return magnitude == 1.0 ? 0.0 : (1.0 - z) * (1.0 + z) * std::atanh(z);
}

inline float slope_times_argument(float z) {
  const float magnitude = std::fabs(z), square = z * z;
  float p = 1.81740078349e-1f;
  p = p * square + 8.24370301058e-2f;
  p = p * square + 1.46691431730e-1f;
  p = p * square + 1.99782164500e-1f;
  p = p * square + 3.33337300303e-1f;
  const float small = p * square * z + z;
  const float gap = 1.0f - magnitude;
  // At the end of the range the logarithm meets an infinity that the zero slope must not see.
  const float ratio = (1.0f + magnitude) / choose(gap == 0.0f, 1.0f, gap);
  const float large = std::copysign(0.5f * logarithm(ratio), z);
  return gap * (1.0f + magnitude) * choose(magnitude < 0.5f, small, large);
}

}  // namespace loginmea
