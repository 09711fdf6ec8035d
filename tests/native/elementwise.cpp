// exp, tanh and (1 - z^2) atanh(z) of numbers and of a NaN; compiled with -fsanitize=undefined, which stops at a NaN
// that is converted to an integer.
#include "cpu/elementwise.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <limits>

int main() {
  const float nan = std::numeric_limits<float>::quiet_NaN(), infinity = std::numeric_limits<float>::infinity();
  for (const float x : {nan, -nan}) {
    if (!std::isnan(loginmea::exponential(x))) return std::puts("exponential"), 1;
    if (!std::isnan(loginmea::hyperbolic_tangent(x))) return std::puts("hyperbolic_tangent"), 1;
    if (!std::isnan(loginmea::slope_times_argument(x))) return std::puts("slope_times_argument"), 1;
  }
  if (loginmea::exponential(-infinity) != 0 || loginmea::exponential(infinity) != infinity) {
    return std::puts("exponential"), 1;
  }
  double worst = 0;
  for (float x = -100; x < 88; x += 0.01f) {
    const double wanted = x < -87.3f ? 0 : std::exp(static_cast<double>(x));
    worst = std::max(worst, std::fabs(loginmea::exponential(x) - wanted) / (wanted + 1e-38));
    const double bent = std::tanh(static_cast<double>(x));
    worst = std::max(worst, std::fabs(loginmea::hyperbolic_tangent(x) - bent) / (std::fabs(bent) + 1e-38));
  }
  std::printf("largest relative error %.1e\n", worst);
  return worst < 4e-7 ? 0 : 1;
}
