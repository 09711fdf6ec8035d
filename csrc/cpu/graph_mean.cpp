// Rows are summed in a register-wide accumulator row that stays in the first-level cache; each is one thread's, so sums
// run in the matrix's order whatever the number of threads. What bounds it is the gather of rows, which are asked for
// ahead.
#include "graph_mean.h"

#include <omp.h>

#include <algorithm>
#include <cmath>

#include "lanes.h"
#include "memory.h"
#include "rows.h"
#include "subnormals.h"

namespace loginmea {
namespace {

using std::int32_t;
using std::int64_t;

// Entries between asking for a row and using it.
constexpr int64_t kAhead = 8;

template <class T, class Index>
void row_sums(int64_t rows, int64_t width, const int64_t* ptr, const Index* index, const int32_t* order,
              const int32_t* targets, const int32_t* places, const float* value, const accumulator_t<T>* out,
              const accumulator_t<T>* in, const accumulator_t<T>* self, const T* x, int64_t x_stride, T* y,
              int64_t y_rows, int num_threads) {
  using A = accumulator_t<T>;
  prefer_huge_pages(y, y_rows * width * static_cast<int64_t>(sizeof(T)));
  const PerThread<A> sums(num_threads, width);
  const auto row_at = [&](int64_t r) { return order != nullptr ? order[r] : r; };
  const auto target_of = [&](int64_t i) -> int64_t { return targets != nullptr ? targets[i] : i; };
  const auto place_of = [&](int64_t j) -> int64_t { return places != nullptr ? places[j] : j; };
  const auto prefetch = [&](int64_t k) {
    const int64_t place = place_of(index[k]);
    if (place >= 0) prefetch_row(x + place * x_stride, width);
  };
#pragma omp parallel num_threads(num_threads)
  {
    const FlushSubnormals flush;
    A* sum = sums.of(omp_get_thread_num());
#pragma omp for schedule(dynamic, 64)
    for (int64_t r = 0; r < rows; ++r) {
      const int64_t i = row_at(r), end = ptr[i + 1];
      if (target_of(i) < 0) continue;
      T* target = y + target_of(i) * width;
      prefetch_row<Use::write>(target, width);
      std::fill_n(sum, width, A(0));
      const T* row[kClump];
      A weight[kClump];
      for (int64_t k = ptr[i]; k < end;) {
        int count = 0;
        for (; count < kClump && k < end; ++k) {
          if (k + kAhead < end) prefetch(k + kAhead);
          const Index j = index[k];
          const int64_t place = place_of(j);
          if (place < 0) continue;
          row[count] = x + place * x_stride;
          weight[count++] = (value != nullptr ? A(value[k]) : A(1)) * (in != nullptr ? in[j] : A(1));
        }
        if (count > 0) with_count(count, [&](auto n) { add_rows(row, weight, sum, width, n); });
      }
      if (self != nullptr && self[i] != 0 && place_of(i) >= 0) {
        add_row(self[i] * (in != nullptr ? in[i] : A(1)), x + place_of(i) * x_stride, sum, width);
      }
      const A scale = out != nullptr ? out[i] : A(1);
      store_row(scale, sum, target, width);
      // The rows that the next entity begins with.
      if (r + 1 < rows) {
        const int64_t next = row_at(r + 1);
        if (target_of(next) < 0) continue;
        for (int64_t k = ptr[next]; k < std::min(ptr[next] + kAhead, ptr[next + 1]); ++k) prefetch(k);
      }
    }
  }
}

template <class T>
void unit_reflectors(int64_t sets, int64_t width, const int64_t* ptr, const int32_t* relation, const float* count,
                     const T* relations, T* reflectors, accumulator_t<T>* reciprocal, double eps, int num_threads) {
  using A = accumulator_t<T>;
  prefer_huge_pages(reflectors, sets * width * static_cast<int64_t>(sizeof(T)));
  const PerThread<A> sums(num_threads, width);
#pragma omp parallel num_threads(num_threads)
  {
    const FlushSubnormals flush;
    A* sum = sums.of(omp_get_thread_num());
#pragma omp for schedule(dynamic, 64)
    for (int64_t s = 0; s < sets; ++s) {
      std::fill_n(sum, width, A(0));
      for (int64_t k = ptr[s]; k < ptr[s + 1]; ++k) {
        add_row(A(count[k]), relations + relation[k] * width, sum, width);
      }
      const A length = std::sqrt(dot<A>(sum, sum, width));
      reciprocal[s] = 1 / (length < A(eps) ? A(eps) : length);  // a NaN stays one
      store_row(reciprocal[s], sum, reflectors + s * width, width);
    }
  }
}

template <class T>
void unit_reflectors_backward(int64_t relations, int64_t sets, int64_t width, const int64_t* ptr, const int32_t* set,
                              const float* count, const T* grad, const T* reflectors,
                              const accumulator_t<T>* reciprocal, double eps, T* relations_grad, int num_threads) {
  using A = accumulator_t<T>;
  const auto along = scratch<A>(sets);
  const PerThread<A> sums(num_threads, width);
#pragma omp parallel num_threads(num_threads)
  {
    const FlushSubnormals flush;
    A* sum = sums.of(omp_get_thread_num());
#pragma omp for schedule(static)
    for (int64_t s = 0; s < sets; ++s) {
      const bool short_of_direction = reciprocal[s] >= A(1 / eps);
      along[s] = short_of_direction ? A(0) : dot<A>(grad + s * width, reflectors + s * width, width);
    }
#pragma omp for schedule(dynamic, 16)
    for (int64_t j = 0; j < relations; ++j) {
      std::fill_n(sum, width, A(0));
      for (int64_t k = ptr[j]; k < ptr[j + 1]; ++k) {
        const int32_t s = set[k];
        const A weight = A(count[k]) * reciprocal[s];
        add_row(weight, grad + s * width, sum, width);
        add_row(-weight * along[s], reflectors + s * width, sum, width);
      }
      store_row(A(1), sum, relations_grad + j * width, width);
    }
  }
}

}  // namespace

void row_sums(DType dtype, int64_t rows, int64_t width, const int64_t* ptr, const void* index, int index_bytes,
              const int32_t* order, const int32_t* targets, const int32_t* places, const float* value, const void* out,
              const void* in, const void* self, const void* x, int64_t x_stride, void* y, int64_t y_rows,
              int num_threads) {
  dispatch(dtype, "row_sums", [&](auto element) {
    using T = decltype(element);
    using A = accumulator_t<T>;
    const auto sums = [&](const auto* typed_index) {
      row_sums<T>(rows, width, ptr, typed_index, order, targets, places, value, static_cast<const A*>(out),
                  static_cast<const A*>(in), static_cast<const A*>(self), static_cast<const T*>(x), x_stride,
                  static_cast<T*>(y), y_rows, num_threads);
    };
    if (index_bytes == 4) {
      sums(static_cast<const int32_t*>(index));
    } else {
      sums(static_cast<const int64_t*>(index));
    }
  });
}

void unit_reflectors(DType dtype, int64_t sets, int64_t width, const int64_t* ptr, const int32_t* relation,
                     const float* count, const void* relations, void* reflectors, void* reciprocal, double eps,
                     int num_threads) {
  dispatch(dtype, "unit_reflectors", [&](auto element) {
    using T = decltype(element);
    unit_reflectors<T>(sets, width, ptr, relation, count, static_cast<const T*>(relations), static_cast<T*>(reflectors),
                       static_cast<accumulator_t<T>*>(reciprocal), eps, num_threads);
  });
}

void unit_reflectors_backward(DType dtype, int64_t relations, int64_t sets, int64_t width, const int64_t* ptr,
                              const int32_t* set, const float* count, const void* grad, const void* reflectors,
                              const void* reciprocal, double eps, void* relations_grad, int num_threads) {
  dispatch(dtype, "unit_reflectors_backward", [&](auto element) {
    using T = decltype(element);
    unit_reflectors_backward<T>(relations, sets, width, ptr, set, count, static_cast<const T*>(grad),
                                static_cast<const T*>(reflectors), static_cast<const accumulator_t<T>*>(reciprocal),
                                eps, static_cast<T*>(relations_grad), num_threads);
  });
}

}  // namespace loginmea
