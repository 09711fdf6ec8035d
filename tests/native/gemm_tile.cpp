// Products by packed tiles beside three loops, for whatever instruction set this file is compiled for.
#include "cpu/gemm_tile.h"

#include <cmath>
#include <cstdio>
#include <vector>

namespace {

using namespace loginmea;
using std::int64_t;

// Largest error of out = (scale A) B, from B as it lies and from its transpose, as a share of the largest element.
template <class S>
double error(int64_t rows, int64_t depth, int64_t columns) {
  using T = gemm::compute_t<S>;
  using A = accumulator_t<T>;
  std::vector<S> a(rows * depth), b(depth * columns), transposed(columns * depth);
  std::vector<A> scale(rows);
  unsigned state = 1;
  const auto next = [&state] {
    state = state * 1664525u + 1013904223u;
    return static_cast<accumulator_t<S>>(static_cast<int>(state >> 24) - 128) / 128;  // exact in eight bits
  };
  for (S& x : a) x = static_cast<S>(next());
  for (int64_t d = 0; d < depth; ++d) {
    for (int64_t c = 0; c < columns; ++c) {
      transposed[c * depth + d] = b[d * columns + c] = static_cast<S>(next());
    }
  }
  for (int64_t r = 0; r < rows; ++r) scale[r] = static_cast<A>(r % 3 + 1) / 2;
  const gemm::aligned_buffer<T> left(gemm::left_size<T>(rows, depth)), right(gemm::right_size<T>(depth, columns));
  const int64_t stride = gemm::round_up(columns, gemm::kLanes<T>);
  std::vector<A> out(gemm::round_up(rows, gemm::kRows) * stride);
  gemm::pack_left(a.data(), depth, rows, depth, scale.data(), left.get());
  double worst = 0, largest = 0;
  for (const bool from_transposed : {false, true}) {
    if (from_transposed) {
      gemm::pack_right_transposed<S, T>(transposed.data(), depth, columns, depth, nullptr, right.get());
    } else {
      gemm::pack_right<S, T>(b.data(), columns, depth, columns, 1, right.get());
    }
    gemm::multiply_block(left.get(), right.get(), rows, columns, depth, out.data(), stride);
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t c = 0; c < columns; ++c) {
        double sum = 0;
        for (int64_t d = 0; d < depth; ++d) {
          const double scaled = static_cast<double>(static_cast<T>(static_cast<A>(a[r * depth + d]) * scale[r]));
          sum += scaled * static_cast<double>(b[d * columns + c]);
        }
        worst = std::fmax(worst, std::fabs(sum - static_cast<double>(out[r * stride + c])));
        largest = std::fmax(largest, std::fabs(sum));
      }
    }
  }
  return worst / largest;
}

}  // namespace

int main() {
  for (const int64_t rows : {1, 6, 13}) {
    for (const int64_t depth : {1, 16, 63, 600}) {
      for (const int64_t columns : {1, 64, 75}) {
        const double single = error<float>(rows, depth, columns), half = error<bf16>(rows, depth, columns);
        const double twice = error<double>(rows, depth, columns);
        if (single < 2e-6 && half < 2e-6 && twice < 1e-14) continue;
        std::printf("%lld x %lld x %lld: float32 %g, bfloat16 %g, float64 %g\n", static_cast<long long>(rows),
                    static_cast<long long>(depth), static_cast<long long>(columns), single, half, twice);
        return 1;
      }
    }
  }
  std::printf("vectors of %d bytes\n", gemm::kVectorBytes);
  return 0;
}
