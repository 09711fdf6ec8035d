// A row is one thread's and its sums run in the order of its edges, so that results repeat bit for bit. Rows are summed
// in a register-wide accumulator row that stays in the first-level cache; a clump of edges is added in one go, so that
// the accumulator is stored once for all of them. What bounds it is the gather of rows, which are asked for ahead.
#include "propagation.h"

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

// Edges between asking for a row and using it.
constexpr int64_t kAhead = 8;

// sum += sum_k weight_k * row_k, element by element
template <class T, class A, std::size_t... k>
inline void add_products(const T* const* row, const A* const* weight, A* sum, int64_t width,
                         std::index_sequence<k...>) {
  const T* const rows[] = {row[k]...};
  const A* const weights[] = {weight[k]...};
  over_row<A>(width, [&](int64_t c, auto part) {
    store(sum + c, load<A>(sum + c, part) + (... + (load<A>(weights[k] + c, part) * load<A>(rows[k] + c, part))), part);
  });
}

// The edges [begin, begin + count) of a row: a weight an edge, one for every column, or one for each group of them.
template <class T, class A>
void add_edges(int count, const T* const* row, const A* const* weight, A* sum, int64_t width, int64_t groups) {
  if (groups == width && width > 1) {
    with_count(count, [&](auto n) { add_products(row, weight, sum, width, n); });
    return;
  }
  const int64_t columns = width / groups;
  for (int64_t g = 0; g < groups; ++g) {
    const T* part[kClump];
    A factor[kClump];
    for (int n = 0; n < count; ++n) {
      part[n] = row[n] + g * columns;
      factor[n] = weight[n][g];
    }
    with_count(count, [&](auto n) { add_rows(part, factor, sum + g * columns, columns, n); });
  }
}

template <class T>
void propagate(int64_t rows, int64_t width, int64_t groups, const int64_t* ptr, const int32_t* source,
               const int32_t* set, const int32_t* order, const accumulator_t<T>* weights, const accumulator_t<T>* own,
               bool normalize, double eps, const T* x, int64_t x_stride, T* y, int64_t y_stride, int num_threads) {
  using A = accumulator_t<T>;
  prefer_huge_pages(y, rows * y_stride * static_cast<int64_t>(sizeof(T)));
  const PerThread<A> sums(num_threads, width);
#pragma omp parallel num_threads(num_threads)
  {
    const FlushSubnormals flush;
    A* sum = sums.of(omp_get_thread_num());
#pragma omp for schedule(dynamic, 16)
    for (int64_t r = 0; r < rows; ++r) {
      const int64_t i = order[r], end = ptr[i + 1];
      std::fill_n(sum, width, A(0));
      if (own != nullptr && own[i] != 0) add_row(own[i], x + i * x_stride, sum, width);
      const T* row[kClump];
      const A* weight[kClump];
      for (int64_t k = ptr[i]; k < end; k += kClump) {
        const int count = static_cast<int>(std::min<int64_t>(kClump, end - k));
        for (int n = 0; n < count; ++n) {
          if (k + n + kAhead < end) prefetch_row(x + source[k + n + kAhead] * x_stride, width);
          row[n] = x + source[k + n] * x_stride;
          weight[n] = weights + set[k + n] * groups;
        }
        add_edges(count, row, weight, sum, width, groups);
      }
      A scale = 1;
      if (normalize) {
        const A length = std::sqrt(dot<A>(sum, sum, width));
        scale = length <= A(eps) ? A(0) : 1 / length;  // a NaN stays one
      }
      store_row(scale, sum, y + i * y_stride, width);
      // The rows that the next entity begins with.
      if (r + 1 < rows) {
        const int64_t next = order[r + 1];
        for (int64_t k = ptr[next]; k < std::min(ptr[next] + kAhead, ptr[next + 1]); ++k) {
          prefetch_row(x + source[k] * x_stride, width);
        }
      }
    }
  }
}

}  // namespace

void propagate(DType dtype, int64_t rows, int64_t width, int64_t groups, const int64_t* ptr, const int32_t* source,
               const int32_t* set, const int32_t* order, const void* weights, const void* own, bool normalize,
               double eps, const void* x, int64_t x_stride, void* y, int64_t y_stride, int num_threads) {
  dispatch(dtype, "propagate", [&](auto element) {
    using T = decltype(element);
    using A = accumulator_t<T>;
    propagate<T>(rows, width, groups, ptr, source, set, order, static_cast<const A*>(weights),
                 static_cast<const A*>(own), normalize, eps, static_cast<const T*>(x), x_stride, static_cast<T*>(y),
                 y_stride, num_threads);
  });
}

}  // namespace loginmea
