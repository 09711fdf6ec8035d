// What this machine can do at best: the ceilings that benchmarks and `loginmea-fast doctor` print beside a kernel's
// figures.
#pragma once

#include <cstdint>

namespace loginmea {

// Bytes a second, read plus written, of copying `bytes` bytes; the best of `repeats`.
double measure_copy(std::int64_t bytes, int repeats, int num_threads);

// Float32 operations a second (a fused multiply-add counts two) of a loop that stays in registers for about `seconds`.
double measure_fma(double seconds, int num_threads);

// Bytes a second of summing `count` rows of `width` float32 values, picked at random out of `rows`; the best of
// `repeats`.
double measure_gather(std::int64_t rows, std::int64_t width, std::int64_t count, int repeats, int num_threads);

}  // namespace loginmea
