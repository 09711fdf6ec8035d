// Attention weights of modalities over their lengths: one pass over the rows forward, one backward.
#include <omp.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <type_traits>
#include <vector>

#include "cpu/elementwise.h"
#include "cpu/low_rank_fusion.h"
#include "cpu/low_rank_fusion_blocks.h"
#include "cpu/memory.h"
#include "cpu/subnormals.h"

namespace loginmea {
namespace {

using fusion::pointers;
using gemm::aligned_buffer;
using std::int64_t;
using std::uintptr_t;

// Between these lengths the squares of float32 elements neither vanish nor overflow.
constexpr double kShortestRow = 1e-12, kLongestRow = 1e18;
constexpr int64_t kMostTasks = 64;  // fixed number of partial sums of dq, whatever the threads

// r_m = a_m / n_m of one row, with the lengths and weights that backward needs as well.
template <class S>
struct Scale {
  using A = accumulator_t<S>;
  static constexpr int64_t kNumbers = 3;  // of each modality

  const std::vector<const S*>& inputs;
  const std::vector<int64_t>&strides, &widths;
  const A* query;
  const bool* present;
  A *weight, *length;
  // 1, or what a row is multiplied by first because its length has no cube; 0 where it has no direction.
  A* shrink;

  // storage: of kNumbers for each modality.
  Scale(const std::vector<const S*>& inputs, const std::vector<int64_t>& strides, const std::vector<int64_t>& widths,
        const A* query, const bool* present, A* storage)
      : inputs(inputs),
        strides(strides),
        widths(widths),
        query(query),
        present(present),
        weight(storage),
        length(storage + inputs.size()),
        shrink(storage + 2 * inputs.size()) {}

  void compute(int64_t row) const {
    A greatest = -std::numeric_limits<A>::infinity();
    for (std::size_t m = 0; m < inputs.size(); ++m) {
      if (!is_present(row, m)) {  // no weight, whatever its elements: they are not even read
        length[m] = 1, shrink[m] = 0;
        continue;
      }
      const S* x = inputs[m] + row * strides[m];
      A square = 0, score = 0;
#pragma omp simd reduction(+ : square)
      for (int64_t c = 0; c < widths[m]; ++c) square += static_cast<A>(x[c]) * static_cast<A>(x[c]);
      if (query) {
#pragma omp simd reduction(+ : score)
        for (int64_t c = 0; c < widths[m]; ++c) score += query[c] * hyperbolic_tangent(static_cast<A>(x[c]));
      }
      length[m] = std::sqrt(square);
      shrink[m] = 1;
      if (length[m] <= static_cast<A>(kShortestRow) || length[m] >= static_cast<A>(kLongestRow)) measure(x, m);
      weight[m] = score;
      greatest = std::max(greatest, score);
    }
    A total = 0;
    for (std::size_t m = 0; m < inputs.size(); ++m) {
      weight[m] = !is_present(row, m) ? A(0) : query ? std::exp(weight[m] - greatest) : A(1);
      total += weight[m];
    }
    if (!query || total == 0) return;
    for (std::size_t m = 0; m < inputs.size(); ++m) {
      if (is_present(row, m)) weight[m] /= total;  // which a NaN elsewhere in the row does not touch
    }
  }

  bool is_present(int64_t row, std::size_t m) const { return !present || present[row * inputs.size() + m]; }

  // The factor of x in dr_m x / n_m^3, x multiplied by `shrink` first.
  A along(std::size_t m, A dr) const {
    if (shrink[m] == 0) return 0;
    const A once = -dr * weight[m] / length[m] / length[m];
    return shrink[m] == 1 ? once / length[m] : once;
  }

 private:
  // A row whose squares may have left the range of A: its length by way of its largest element.
  [[gnu::noinline]] void measure(const S* x, std::size_t m) const {
    A largest = 0, square = 0;
    for (int64_t c = 0; c < widths[m]; ++c) largest = std::max(largest, std::fabs(static_cast<A>(x[c])));
    if (largest < std::numeric_limits<A>::min()) {
      length[m] = static_cast<A>(kShortestRow);
      shrink[m] = 0;
      return;
    }
    for (int64_t c = 0; c < widths[m]; ++c) {
      const A part = static_cast<A>(x[c]) / largest;
      square += part * part;
    }
    length[m] = largest * std::sqrt(square);
    shrink[m] = 1 / length[m];
  }
};

}  // namespace

void modality_scale_forward(const std::vector<uintptr_t>& inputs, const std::vector<int64_t>& input_strides,
                            const std::vector<int64_t>& widths, const void* query, const bool* present, void* row_scale,
                            int64_t rows, DType dtype, int num_threads) {
  dispatch(dtype, "modality_scale", [&](auto s) {
    using S = decltype(s);
    using A = accumulator_t<S>;
    const auto x = pointers<const S>(inputs);
    const int64_t count = static_cast<int64_t>(x.size());
    const PerThread<A> numbers(num_threads, Scale<S>::kNumbers * count);
#pragma omp parallel num_threads(num_threads)
    {
      const FlushSubnormals flush;
      const Scale<S> scale(x, input_strides, widths, static_cast<const A*>(query), present,
                           numbers.of(omp_get_thread_num()));
#pragma omp for schedule(static)
      for (int64_t row = 0; row < rows; ++row) {
        scale.compute(row);
        A* to = static_cast<A*>(row_scale) + row * count;
        for (int64_t m = 0; m < count; ++m) to[m] = scale.weight[m] / scale.length[m];
      }
    }
  });
}

void modality_scale_backward(const void* g, const std::vector<uintptr_t>& inputs,
                             const std::vector<int64_t>& input_strides, const std::vector<int64_t>& widths,
                             const void* query, const bool* present, const std::vector<uintptr_t>& input_grads,
                             void* query_grad, int64_t rows, bool add, DType dtype, int num_threads) {
  dispatch(dtype, "modality_scale", [&](auto s) {
    using S = decltype(s);
    using A = accumulator_t<S>;
    const auto x = pointers<const S>(inputs);
    const auto dx = pointers<S>(input_grads);
    const int64_t count = static_cast<int64_t>(x.size()), width = widths[0];
    const A* q = static_cast<const A*>(query);
    const aligned_buffer<A> partial(q ? kMostTasks * width : 0);
    if (q) std::fill_n(partial.get(), kMostTasks * width, A(0));
    const PerThread<A> numbers(num_threads, Scale<S>::kNumbers * count);
#pragma omp parallel num_threads(num_threads)
    {
      const FlushSubnormals flush;
      const Scale<S> scale(x, input_strides, widths, q, present, numbers.of(omp_get_thread_num()));
#pragma omp for schedule(static)
      for (int64_t task = 0; task < kMostTasks; ++task) {
        A* dq = partial.get() + task * width;
        for (int64_t row = rows * task / kMostTasks; row < rows * (task + 1) / kMostTasks; ++row) {
          scale.compute(row);
          const A* dr = static_cast<const A*>(g) + row * count;
          A mean = 0;
          for (int64_t m = 0; m < count; ++m) {
            if (scale.is_present(row, m)) mean += scale.weight[m] * dr[m] / scale.length[m];
          }
          for (int64_t m = 0; m < count; ++m) {
            if (!scale.is_present(row, m)) {
              if (!add) std::fill_n(dx[m] + row * widths[m], widths[m], S(0));
              continue;
            }
            const A along = scale.along(m, dr[m]), shrink = scale.shrink[m];
            const A ds = scale.weight[m] * (dr[m] / scale.length[m] - mean);
            const S* from = x[m] + row * input_strides[m];
            S* to = dx[m] + row * widths[m];
            // Whether something is there to add to is known before the loops: asked in them, it keeps them from
            // vectors.
            const auto differentiate = [&](auto adds) {
              if (!q) {
#pragma omp simd
                for (int64_t c = 0; c < widths[m]; ++c) {
                  const A before = adds ? static_cast<A>(to[c]) : A(0);
                  to[c] = static_cast<S>(before + along * (shrink * static_cast<A>(from[c])));
                }
                return;
              }
#pragma omp simd
              for (int64_t c = 0; c < width; ++c) {
                const A value = static_cast<A>(from[c]), bent = hyperbolic_tangent(value);
                const A before = adds ? static_cast<A>(to[c]) : A(0);
                dq[c] += ds * bent;
                to[c] = static_cast<S>(before + along * (shrink * value) + ds * q[c] * (A{1} - bent * bent));
              }
            };
            if (add) {
              differentiate(std::true_type{});
            } else {
              differentiate(std::false_type{});
            }
          }
        }
      }
    }
    if (!q) return;
    A* dq = static_cast<A*>(query_grad);
    std::fill_n(dq, width, A(0));
    for (int64_t task = 0; task < kMostTasks; ++task) {
      for (int64_t c = 0; c < width; ++c) dq[c] += partial.get()[task * width + c];
    }
  });
}

}  // namespace loginmea
