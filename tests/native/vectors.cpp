// float32 functions of the kernels in loops of vectors: their values, and a NaN or an infinity in every lane of them.
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <limits>
#include <vector>

#include "cpu/elementwise.h"
#include "cpu/softmax_rows.h"

namespace {

constexpr std::int64_t kCount = 37;  // whole vectors and some left over
constexpr float kInfinity = std::numeric_limits<float>::infinity(), kNan = std::numeric_limits<float>::quiet_NaN();

using Function = void (*)(const float* x, float* y, std::int64_t count);

[[gnu::noinline]] void exponentials(const float* x, float* y, std::int64_t count) {
#pragma omp simd
  for (std::int64_t c = 0; c < count; ++c) y[c] = loginmea::exponential(x[c]);
}

[[gnu::noinline]] void tangents(const float* x, float* y, std::int64_t count) {
#pragma omp simd
  for (std::int64_t c = 0; c < count; ++c) y[c] = loginmea::hyperbolic_tangent(x[c]);
}

[[gnu::noinline]] void slopes(const float* x, float* y, std::int64_t count) {
#pragma omp simd
  for (std::int64_t c = 0; c < count; ++c) y[c] = loginmea::slope_times_argument(x[c]);
}

bool same(float found, double wanted) {
  if (std::isnan(wanted)) return std::isnan(found);
  return found == wanted || std::fabs(found - wanted) < 1e-6 * (1 + std::fabs(wanted));
}

// Ordinary values, but for `special` in one lane after another, whose result is to be `wanted`.
bool right(const char* name, Function function, double (*exact)(double), float special, double wanted) {
  for (std::int64_t lane = 0; lane < kCount; ++lane) {
    std::vector<float> x(kCount), y(kCount);
    for (std::int64_t c = 0; c < kCount; ++c) x[c] = -0.9f + 0.049f * static_cast<float>(c);
    x[lane] = special;
    function(x.data(), y.data(), kCount);
    for (std::int64_t c = 0; c < kCount; ++c) {
      if (same(y[c], c == lane ? wanted : exact(x[c]))) continue;
      std::printf("%s of %g in lane %d: %g\n", name, x[c], static_cast<int>(c), y[c]);
      return false;
    }
  }
  return true;
}

double slope(double z) { return (1 - z * z) * std::atanh(z); }

bool softmax_rows_are_right() {
  for (std::int64_t lane = 0; lane < kCount; ++lane) {
    std::vector<float> s(kCount, 1.0f), back(kCount, 1.0f);
    s[lane] = 2;
    float moment = 0;
    if (loginmea::maximum(s.data(), kCount) != 2) return std::puts("maximum"), false;
    s[lane] = kNan;
    if (loginmea::maximum(s.data(), kCount) != 1) return std::puts("maximum beside a NaN"), false;
    if (!std::isnan(loginmea::exponential_sum(s.data(), kCount, 1.0f))) return std::puts("exponential_sum"), false;
    std::vector<float> e = s;
    if (!std::isnan(loginmea::exponentiate<float>(e.data(), kCount, 1.0f, nullptr)) || !std::isnan(e[lane])) {
      return std::puts("exponentiate"), false;
    }
    e = s;
    if (!std::isnan(loginmea::exponentiate(e.data(), kCount, 1.0f, &moment)) || !std::isnan(moment)) {
      return std::puts("exponentiate with its moment"), false;
    }
    std::vector<float> largest(kCount, 0.5f), total(kCount, 1.0f);
    loginmea::add_to_columns<kCount>(s.data(), 1, kCount, kCount, largest.data(), total.data());
    if (!std::isnan(total[lane])) return std::puts("add_to_columns"), false;
    for (float* wanted : {static_cast<float*>(nullptr), &moment}) {
      e = s;
      loginmea::weigh_both_ways<float>(e.data(), kCount, kCount / 2, 1.0f, back.data(), 1.0f, nullptr, wanted);
      if (!std::isnan(e[lane])) return std::puts("weigh_both_ways"), false;
    }
  }
  return true;
}

}  // namespace

int main() {
  const bool all = right("exponential", exponentials, std::exp, kNan, kNan) &&
                   right("exponential", exponentials, std::exp, kInfinity, kInfinity) &&
                   right("exponential", exponentials, std::exp, -kInfinity, 0) &&
                   right("hyperbolic_tangent", tangents, std::tanh, kNan, kNan) &&
                   right("hyperbolic_tangent", tangents, std::tanh, kInfinity, 1) &&
                   right("hyperbolic_tangent", tangents, std::tanh, -kInfinity, -1) &&
                   right("slope_times_argument", slopes, slope, kNan, kNan) &&
                   right("slope_times_argument", slopes, slope, 1, 0) &&
                   right("slope_times_argument", slopes, slope, -1, 0) && softmax_rows_are_right();
  return all ? 0 : 1;
}
