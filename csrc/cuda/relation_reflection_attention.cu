// Backward runs over the edges by source (dx, and the terms of every edge) and by set (du, dc).
#include "cuda/relation_reflection_attention.cuh"
#include "cuda/relation_reflection_attention.h"

namespace loginmea {

using namespace attention;

void attention_forward(const Segments& segments, const std::int32_t* edge_source, const std::int32_t* edge_set,
                       const Matrix& x, const Matrix& reflectors, const Matrix& logits, const Matrix& vector, bool tanh,
                       const Matrix& y, const Matrix& lse, const Matrix& part_sum, const Matrix& part_scalars,
                       bool ring, void* stream) {
  constexpr const char* kName = "attention_forward";
  with_layout(kName, x.dtype, x.columns, {x, y, reflectors, part_sum, vector}, [&](auto layout) {
    using Op = Forward<decltype(layout)>;
    using A = typename Op::A;
    run(kName,
        Op{static_cast<int>(x.columns), edge_source, edge_set, x, reflectors, logits.elements<A>(),
           vector.elements<A>(), tanh, y, lse.elements<A>()},
        segments, part_sum, part_scalars, ring, stream);
  });
}

void attention_through_activation(const Matrix& upstream, const Matrix& z, bool tanh, const Matrix& h,
                                  const Matrix& along, void* stream) {
  constexpr const char* kName = "attention_through_activation";
  with_layout(kName, z.dtype, z.columns, {upstream, z, h}, [&](auto layout) {
    using L = decltype(layout);
    using S = typename L::S;
    using A = typename L::R::A;
    const auto start = [&](auto kernel) {
      launch(kName, kernel, {blocks(z.rows, kSegmentWarps)}, kSegmentThreads, 0, stream, z.rows, z.columns, upstream, z,
             tanh, h, along.elements<A>());
    };
    upstream.dtype == z.dtype ? start(through_activation<L, S>) : start(through_activation<L, A>);
  });
}

void attention_backward_source(const Segments& segments, const std::int32_t* edge_destination,
                               const std::int32_t* edge_set, const Matrix& x, const Matrix& reflectors,
                               const Matrix& logits, const Matrix& vector, const Matrix& h, const Matrix& along,
                               const Matrix& lse, const Matrix& direct, std::int64_t direct_rows, const Matrix& dx,
                               const Matrix& part_sum, const Matrix& terms, bool ring, void* stream) {
  constexpr const char* kName = "attention_backward_source";
  with_layout(kName, x.dtype, x.columns, {x, reflectors, direct, h, dx, part_sum, vector}, [&](auto layout) {
    using Op = BackwardSource<decltype(layout)>;
    using A = typename Op::A;
    run(kName,
        Op{{},
           static_cast<int>(x.columns),
           edge_destination,
           edge_set,
           x,
           reflectors,
           logits.elements<A>(),
           vector.elements<A>(),
           h,
           along.elements<A>(),
           lse.elements<A>(),
           direct,
           direct_rows,
           dx,
           reinterpret_cast<Terms<A>*>(terms.elements<A>())},
        segments, part_sum, Matrix{}, ring, stream);
  });
}

void attention_backward_set(const Segments& segments, const std::int32_t* set_edge, const std::int32_t* set_source,
                            const std::int32_t* set_destination, const Matrix& x, const Matrix& h, const Matrix& terms,
                            const Matrix& du, const Matrix& dc, const Matrix& part_sum, const Matrix& part_scalars,
                            bool ring, void* stream) {
  constexpr const char* kName = "attention_backward_set";
  with_layout(kName, x.dtype, x.columns, {x, h, du, part_sum}, [&](auto layout) {
    using Op = BackwardSet<decltype(layout)>;
    using A = typename Op::A;
    run(kName,
        Op{{},
           static_cast<int>(x.columns),
           set_edge,
           set_source,
           set_destination,
           x,
           h,
           reinterpret_cast<const Terms<A>*>(terms.elements<A>()),
           du,
           dc.elements<A>()},
        segments, part_sum, part_scalars, ring, stream);
  });
}

}  // namespace loginmea
