#include "measure.h"

#include <omp.h>

#include <algorithm>
#include <cstring>
#include <limits>
#include <stdexcept>
#include <vector>

#include "lanes.h"
#include "memory.h"
#include "rows.h"

namespace loginmea {
namespace {

using vector = Lanes<float>;

// Rows between asking for one and summing it.
constexpr std::int64_t kAhead = 12;

// Enough independent chains to hide the latency of a multiply-add on two pipes, few enough for sixteen registers.
constexpr int kChains = 12;

void require(bool condition, const char* message) {
  if (!condition) throw std::invalid_argument(message);
}

// Written once by the threads that will read it, so that each page lies next to its reader.
Scratch<float> touched(std::int64_t n, int num_threads) {
  Scratch<float> data = scratch<float>(n);
#pragma omp parallel for num_threads(num_threads) schedule(static)
  for (std::int64_t i = 0; i < n; ++i) data[i] = 1.0f;
  return data;
}

template <class Body>
double best_seconds(int repeats, Body&& body) {
  double best = std::numeric_limits<double>::infinity();
  for (int r = 0; r < repeats; ++r) {
    const double start = omp_get_wtime();
    body();
    best = std::min(best, omp_get_wtime() - start);
  }
  return best;
}

float fma_chains(std::int64_t steps, float factor) {
  volatile float seed =
      0.5f;  // a start the compiler cannot see: it leaves out a chain whose value it can prove to stay
  vector chain[kChains];
  for (int c = 0; c < kChains; ++c) chain[c] = vector{} + (seed + static_cast<float>(c));
  const vector a = vector{} + factor, b = vector{} + 1e-3f;
  for (std::int64_t s = 0; s < steps; ++s) {
    for (int c = 0; c < kChains; ++c) chain[c] = chain[c] * a + b;
  }
  vector sum = {};
  for (int c = 0; c < kChains; ++c) sum += chain[c];
  return total<float>(sum);
}

}  // namespace

double measure_copy(std::int64_t bytes, int repeats, int num_threads) {
  require(bytes >= 64 && repeats > 0 && num_threads > 0, "measure_copy: expected bytes >= 64, repeats and threads > 0");
  const std::int64_t n = bytes / static_cast<std::int64_t>(sizeof(float));
  const auto source = touched(n, num_threads), target = touched(n, num_threads);
  const double seconds = best_seconds(repeats, [&] {
#pragma omp parallel num_threads(num_threads)
    {
      const std::int64_t threads = omp_get_num_threads(), thread = omp_get_thread_num();
      const std::int64_t begin = n * thread / threads, end = n * (thread + 1) / threads;
      std::memcpy(target.get() + begin, source.get() + begin, (end - begin) * sizeof(float));
    }
  });
  return 2.0 * static_cast<double>(n) * sizeof(float) / seconds;
}

double measure_fma(double seconds, int num_threads) {
  require(seconds > 0 && num_threads > 0, "measure_fma: expected seconds and threads > 0");
  constexpr std::int64_t kSteps = 4000000;  // some ten milliseconds: starting threads must not count
  volatile float sink = 0;                  // keeps the loops alive
  double best = std::numeric_limits<double>::infinity();
  for (const double start = omp_get_wtime(); omp_get_wtime() - start < seconds;) {
    best = std::min(best, best_seconds(1, [&] {
                      float total = 0;
#pragma omp parallel num_threads(num_threads) reduction(+ : total)
                      total += fma_chains(kSteps, 0.999f);
                      sink = sink + total;
                    }));
  }
  return 2.0 * kLanes<float> * kChains * static_cast<double>(kSteps) * num_threads / best;
}

double measure_gather(std::int64_t rows, std::int64_t width, std::int64_t count, int repeats, int num_threads) {
  require(rows > 0 && width > 0 && count > 0 && repeats > 0 && num_threads > 0,
          "measure_gather: expected rows, width, count, repeats and threads > 0");
  const auto table = touched(rows * width, num_threads);
  std::vector<std::int64_t> pick(count);
  std::uint64_t state = 0x9e3779b97f4a7c15u;  // xorshift: any fixed sequence without locality does
  for (auto& p : pick) {
    state ^= state << 13, state ^= state >> 7, state ^= state << 17;
    p = static_cast<std::int64_t>(state % static_cast<std::uint64_t>(rows));
  }
  volatile float sink = 0;
  const PerThread<float> sums(num_threads, width);
  const double seconds = best_seconds(repeats, [&] {
    float total = 0;
#pragma omp parallel num_threads(num_threads) reduction(+ : total)
    {
      float* out = sums.of(omp_get_thread_num());
      std::fill_n(out, width, 0.0f);
#pragma omp for schedule(static)
      for (std::int64_t i = 0; i < count; ++i) {
        const float* row = table.get() + pick[i] * width;
        prefetch_row(table.get() + pick[std::min(i + kAhead, count - 1)] * width, width);
        add_row(1.0f, row, out, width);
      }
      total += out[0];
    }
    sink = sink + total;
  });
  return static_cast<double>(count) * width * sizeof(float) / seconds;
}

}  // namespace loginmea
