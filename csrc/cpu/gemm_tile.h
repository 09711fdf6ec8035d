// Matrix products small enough to have an epilogue: out = left right, a tile of 6 rows x 4 vectors at a time.
//
// A vendor's GEMM writes its result to memory before anyone may touch it, and on thin matrices (depth 300) reaches a
// quarter to a half of the machine's peak. Here the caller owns the loop over tiles: it packs the operands, multiplies
// a tile into a buffer that stays in L1, does what it likes with it, and moves on.
//
//   types      float, double, and bf16 where the machine multiplies bf16 pairs (AVX512_BF16); sums are float or double.
//              compute_t<S> is the type to pack storage type S into: S itself, or float for bf16 without that hardware.
//   depth      goes in steps: one element, or for bf16 a pair. Depth is padded to whole steps with zeros.
//   left       any address pattern of row_stride and step: row-major rows are {data, stride, kStep<T>}; a row-major
//              float matrix read as its transpose is {data, 1, stride}. kRows rows are always read, so pad with zeros.
//   right      a panel of kColumns<T> columns (64 floats with AVX-512), depth step after depth step, right_step apart:
//              packed panels have right_step = width of the panel x kStep<T>; rows of a row-major float matrix, padded
//              to whole vectors, may be used where they lie with right_step = stride.
//   out        kRows x (vectors * kLanes<T>) sums, out_stride apart: whole tiles are always written.
//
//   // out[rows, columns] = A[rows, depth] B[columns, depth]^T
//   aligned_buffer<T> a(left_size<T>(rows, depth)), b(right_size<T>(depth, columns));
//   pack_left(A, stride, rows, depth, nullptr, a.get());
//   pack_right_transposed(B, stride, columns, depth, nullptr, b.get());
//   multiply_block(a.get(), b.get(), rows, columns, depth, out, out_stride);    // out padded to whole tiles
//
// Each element of out is summed over the depth in ascending order, whatever the tile it lies in or the thread.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <memory>
#include <new>
#include <type_traits>

#include "common/dtype.h"
#include "cpu/intrinsics.h"
#include "cpu/memory.h"

namespace loginmea::gemm {

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64, kVectors = 4;  // 24 sums, 4 of the right, 1 of the left: 29 of 32 registers
#elif defined(__AVX__)
constexpr int kVectorBytes = 32, kVectors = 2;  // 12 sums, 2 of the right, 1 of the left: 15 of 16 registers
#else
constexpr int kVectorBytes = 16, kVectors = 2;
#endif
constexpr int kRows = 6;

template <class T>
using vector_t [[gnu::vector_size(kVectorBytes)]] = T;

// Vectors at any address.
template <class T>
inline vector_t<T> load(const void* from) {
  vector_t<T> v;
  std::memcpy(&v, from, sizeof v);
  return v;
}
template <class T>
inline void store(T* to, vector_t<T> v) {
  std::memcpy(to, &v, sizeof v);
}

template <class T>
constexpr int kLanes = kVectorBytes / static_cast<int>(sizeof(accumulator_t<T>));
template <class T>
constexpr int kColumns = kVectors * kLanes<T>;
template <class T>
constexpr int kStep = std::is_same_v<T, bf16> ? 2 : 1;

#if defined(__AVX512BF16__)
template <class S>
using compute_t = S;
#else
template <class S>
using compute_t = std::conditional_t<std::is_same_v<S, bf16>, float, S>;
#endif

constexpr std::int64_t round_up(std::int64_t n, std::int64_t multiple) {
  return (n + multiple - 1) / multiple * multiple;
}
constexpr std::int64_t tiles(std::int64_t rows) { return (rows + kRows - 1) / kRows; }

// Vectors of the panel that begins at `column`.
template <class T>
int panel_vectors(std::int64_t columns, std::int64_t column) {
  return static_cast<int>(std::min<std::int64_t>(kVectors, (columns - column + kLanes<T> - 1) / kLanes<T>));
}

// Row stride of a packed left operand: whole steps, and never a multiple of a page, where rows would evict each other.
template <class T>
std::int64_t left_stride(std::int64_t depth) {
  const std::int64_t line = 64 / static_cast<std::int64_t>(sizeof(T));
  const std::int64_t lines = (depth + line - 1) / line;
  return (lines % 16 == 0 ? lines + 1 : lines) * line;
}
template <class T>
std::int64_t left_size(std::int64_t rows, std::int64_t depth) {
  return round_up(rows, kRows) * left_stride<T>(depth);
}
template <class T>
std::int64_t right_size(std::int64_t depth, std::int64_t columns) {
  return round_up(depth, kStep<T>) * round_up(columns, kLanes<T>);
}
// Where the panel of a packed right operand lies that begins at `column`, a multiple of kColumns<T>.
template <class T>
std::int64_t panel_offset(std::int64_t depth, std::int64_t column) {
  return round_up(depth, kStep<T>) * column;
}

// Memory aligned to cache lines, not initialised, on huge pages where it is large.
template <class T>
class aligned_buffer {
 public:
  aligned_buffer() = default;
  explicit aligned_buffer(std::int64_t size)
      : data_(size == 0 ? nullptr : static_cast<T*>(allocate(size * static_cast<std::int64_t>(sizeof(T))))) {}
  T* get() const { return data_.get(); }

 private:
  std::unique_ptr<T, FreeAligned> data_;
};

// Memory that a tile brings into L2 while it multiplies: a line a step, `step` bytes apart. A panel that comes straight
// from L3 costs its first user a tenth of the time of sixteen tiles, which this takes away.
struct ahead {
  const char* from = nullptr;
  std::int64_t step = 0;

  ahead() = default;
  // Part `part` of `parts` of `bytes` bytes, over a tile of `steps` steps.
  ahead(const void* begin, std::int64_t bytes, std::int64_t part, std::int64_t parts, std::int64_t steps)
      : from(static_cast<const char*>(begin) + bytes / parts * part),
        step(bytes / (parts * std::max<std::int64_t>(steps, 1)) + 1) {}
};

namespace detail {

template <class T>
inline void multiply_add(vector_t<accumulator_t<T>>& sum, const T* left, const vector_t<accumulator_t<T>>& right) {
  if constexpr (std::is_same_v<T, bf16>) {
#if defined(__AVX512BF16__)
    std::int32_t pair;
    std::memcpy(&pair, left, sizeof pair);
    sum = (vector_t<float>)_mm512_dpbf16_ps((__m512)sum, (__m512bh)_mm512_set1_epi32(pair), (__m512bh)right);
#endif
  } else {
    sum += (*left - vector_t<T>{}) * right;  // x - 0 is x for every x, so this is a broadcast
  }
}

template <class T, int V>
[[gnu::noinline]] void multiply_tile(const T* left, std::int64_t row_stride, std::int64_t left_step, const T* right,
                                     std::int64_t right_step, std::int64_t steps, accumulator_t<T>* out,
                                     std::int64_t out_stride, bool add, ahead next, const accumulator_t<T>* start) {
  using A = accumulator_t<T>;
  constexpr int kUnit = kLanes<T> * kStep<T>;  // elements of T in one vector of the right
  vector_t<A> sum[kRows][V];
#pragma GCC unroll 6
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) sum[r][v] = start ? load<A>(start + v * kLanes<T>) : vector_t<A>{};
  }
  const T* lower = left + 3 * row_stride;  // two bases and four offsets reach six rows
  for (std::int64_t s = 0; s < steps; ++s) {
    vector_t<A> b[V];
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) b[v] = load<A>(right + v * kUnit);
#pragma GCC unroll 6
    for (int r = 0; r < kRows; ++r) {
      const T* a = r < 3 ? left + r * row_stride : lower + (r - 3) * row_stride;
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) multiply_add<T>(sum[r][v], a, b[v]);
    }
    __builtin_prefetch(next.from, 0, 2);
    left += left_step, lower += left_step, right += right_step, next.from += next.step;
  }
#pragma GCC unroll 6
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) {
      A* place = out + r * out_stride + v * kLanes<T>;
      store<A>(place, add ? load<A>(place) + sum[r][v] : sum[r][v]);
    }
  }
}

}  // namespace detail

// One tile: out[kRows, vectors * kLanes<T>] = left right, or += with `add`; `next` is fetched meanwhile, and `start`,
// where given, is a row (a bias) that every row of the sum begins with.
template <class T>
void multiply_tile(int vectors, const T* left, std::int64_t row_stride, std::int64_t left_step, const T* right,
                   std::int64_t right_step, std::int64_t steps, accumulator_t<T>* out, std::int64_t out_stride,
                   bool add = false, ahead next = {}, const accumulator_t<T>* start = nullptr) {
  if (!next.from) next.from = reinterpret_cast<const char*>(right);  // already there
#define LOGINMEA_TILE(V)                                                                                            \
  case V:                                                                                                           \
    return detail::multiply_tile<T, V>(left, row_stride, left_step, right, right_step, steps, out, out_stride, add, \
                                       next, start)
  switch (vectors) {
    LOGINMEA_TILE(1);
    LOGINMEA_TILE(2);
#if defined(__AVX512F__)
    LOGINMEA_TILE(3);
    LOGINMEA_TILE(4);
#endif
  }
#undef LOGINMEA_TILE
}

// A block: out[rows, columns] = left right from packed operands; out has whole tiles of rows and whole vectors of
// columns. A panel of at most kBlockSteps steps stays in L2 while all row tiles pass over it.
template <class T>
void multiply_block(const T* left, const T* right, std::int64_t rows, std::int64_t columns, std::int64_t depth,
                    accumulator_t<T>* out, std::int64_t out_stride) {
  constexpr std::int64_t kBlockSteps = 512;
  const std::int64_t stride = left_stride<T>(depth), steps = round_up(depth, kStep<T>) / kStep<T>;
  for (std::int64_t begin = 0; begin < std::max<std::int64_t>(steps, 1); begin += kBlockSteps) {
    const std::int64_t count = std::min(kBlockSteps, steps - begin);
    for (std::int64_t column = 0; column < columns; column += kColumns<T>) {
      const int vectors = panel_vectors<T>(columns, column);
      const std::int64_t right_step = vectors * kLanes<T> * kStep<T>;
      const T* panel = right + panel_offset<T>(depth, column) + begin * right_step;
      const T* following = column + kColumns<T> < columns ? panel + steps * right_step : panel;
      for (std::int64_t row = 0; row < rows; row += kRows) {
        const ahead next(following, count * right_step * sizeof(T), row / kRows, tiles(rows), count);
        multiply_tile<T>(vectors, left + row * stride + begin * kStep<T>, stride, kStep<T>, panel, right_step, count,
                         out + row * out_stride + column, out_stride, begin > 0, next);
      }
    }
  }
}

namespace detail {

// to[0, n) = T(from * scale). The products are rounded once.
template <class S, class T>
[[gnu::always_inline]] inline void convert(const S* from, std::int64_t n, accumulator_t<S> scale, T* to) {
  std::int64_t i = 0;
#if defined(__AVX512BF16__)
  if constexpr (std::is_same_v<T, bf16> && std::is_same_v<S, float>) {
    for (; i + 16 <= n; i += 16) {
      const __m512 x = _mm512_mul_ps(_mm512_loadu_ps(from + i), _mm512_set1_ps(scale));
      const __m256bh rounded = _mm512_cvtneps_pbh(x);
      std::memcpy(to + i, &rounded, sizeof rounded);
    }
  }
#endif
  for (; i < n; ++i) {
    const auto value = static_cast<accumulator_t<S>>(from[i]) * scale;
    to[i] = static_cast<T>(static_cast<accumulator_t<T>>(value));
  }
}

// Pairs for bf16: to[2c] = even[c] * scale and to[2c + 1] = odd[c] * scale, sixteen at a time; returns how many were
// made.
template <class S>
inline std::int64_t interleave(const S* even, const S* odd, std::int64_t n, accumulator_t<S> scale, bf16* to) {
  std::int64_t c = 0;
#if defined(__AVX512BF16__)
  const auto halves = [&](const S* from) {  // sixteen bf16, each in the low half of 32 bits
    if constexpr (std::is_same_v<S, float>) {
      const __m512 x = _mm512_mul_ps(_mm512_loadu_ps(from), _mm512_set1_ps(scale));
      return _mm512_maskz_cvtepu16_epi32(0xffff, (__m256i)_mm512_cvtneps_pbh(x));
    } else {
      return _mm512_maskz_cvtepu16_epi32(0xffff, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
    }
  };
  if constexpr (!std::is_same_v<S, double>) {
    for (; (std::is_same_v<S, float> || scale == 1) && c + 16 <= n; c += 16) {
      _mm512_storeu_si512(to + 2 * c,
                          _mm512_or_si512(halves(even + c), _mm512_maskz_slli_epi32(0xffff, halves(odd + c), 16)));
    }
  }
#else
  (void)even, (void)odd, (void)n, (void)scale, (void)to;
#endif
  return c;
}

// to[c * to_stride + r] = from[r * from_stride + c] for 32-bit units, r and c below 16.
inline void transpose_16x16(const std::uint32_t* from, std::int64_t from_stride, std::uint32_t* to,
                            std::int64_t to_stride) {
#if defined(__AVX512F__)
  // The zero-masked forms compile to the plain ones, without GCC's warning about its own undefined operand.
  __m512i a[16], b[16];
#pragma GCC unroll 16
  for (int r = 0; r < 16; ++r) a[r] = _mm512_loadu_si512(from + r * from_stride);
#pragma GCC unroll 8
  for (int r = 0; r < 16; r += 2) {
    b[r] = _mm512_maskz_unpacklo_epi32(0xffff, a[r], a[r + 1]);
    b[r + 1] = _mm512_maskz_unpackhi_epi32(0xffff, a[r], a[r + 1]);
  }
#pragma GCC unroll 4
  for (int r = 0; r < 16; r += 4) {  // a[r + q] holds column q of each 4-lane group, rows r .. r + 3
    a[r] = _mm512_maskz_unpacklo_epi64(0xff, b[r], b[r + 2]);
    a[r + 1] = _mm512_maskz_unpackhi_epi64(0xff, b[r], b[r + 2]);
    a[r + 2] = _mm512_maskz_unpacklo_epi64(0xff, b[r + 1], b[r + 3]);
    a[r + 3] = _mm512_maskz_unpackhi_epi64(0xff, b[r + 1], b[r + 3]);
  }
#pragma GCC unroll 4
  for (int q = 0; q < 4; ++q) {
    b[q] = _mm512_maskz_shuffle_i32x4(0xffff, a[q], a[q + 4], 0x88);      // groups 0, 2 of rows 0 .. 7
    b[q + 4] = _mm512_maskz_shuffle_i32x4(0xffff, a[q], a[q + 4], 0xdd);  // groups 1, 3
    b[q + 8] = _mm512_maskz_shuffle_i32x4(0xffff, a[q + 8], a[q + 12], 0x88);
    b[q + 12] = _mm512_maskz_shuffle_i32x4(0xffff, a[q + 8], a[q + 12], 0xdd);
  }
#pragma GCC unroll 4
  for (int q = 0; q < 4; ++q) {
    _mm512_storeu_si512(to + q * to_stride, _mm512_maskz_shuffle_i32x4(0xffff, b[q], b[q + 8], 0x88));
    _mm512_storeu_si512(to + (q + 4) * to_stride, _mm512_maskz_shuffle_i32x4(0xffff, b[q + 4], b[q + 12], 0x88));
    _mm512_storeu_si512(to + (q + 8) * to_stride, _mm512_maskz_shuffle_i32x4(0xffff, b[q], b[q + 8], 0xdd));
    _mm512_storeu_si512(to + (q + 12) * to_stride, _mm512_maskz_shuffle_i32x4(0xffff, b[q + 4], b[q + 12], 0xdd));
  }
#else
  for (int c = 0; c < 16; ++c) {
    for (int r = 0; r < 16; ++r) to[c * to_stride + r] = from[r * from_stride + c];
  }
#endif
}

}  // namespace detail

// Left operand, row-major with left_stride<T>(depth): to[r] = row_scale[r] * from[r], converted. Zeros fill the row to
// its stride and the rows to a whole tile. row_scale null: ones.
template <class S, class T>
void pack_left(const S* from, std::int64_t from_stride, std::int64_t rows, std::int64_t depth,
               const accumulator_t<S>* row_scale, T* to, std::int64_t row_scale_stride = 1) {
  const std::int64_t stride = left_stride<T>(depth);
  for (std::int64_t r = 0; r < rows; ++r) {
    T* row = to + r * stride;
    detail::convert(from + r * from_stride, depth, row_scale ? row_scale[r * row_scale_stride] : accumulator_t<S>{1},
                    row);
    std::fill(row + depth, row + stride, T(0));
  }
  std::fill(to + rows * stride, to + round_up(rows, kRows) * stride, T(0));
}

// Right operand from row-major B[depth, columns], times `scale`: panels, each [steps][width of the panel][kStep<T>].
template <class S, class T>
void pack_right(const S* from, std::int64_t from_stride, std::int64_t depth, std::int64_t columns,
                accumulator_t<S> scale, T* to) {
  for (std::int64_t column = 0; column < columns; column += kColumns<T>) {
    const std::int64_t width = panel_vectors<T>(columns, column) * kLanes<T>;
    const std::int64_t count = std::min(width, columns - column);
    for (std::int64_t d = 0; d < depth; d += kStep<T>, to += width * kStep<T>) {
      if constexpr (kStep<T> == 1) {
        detail::convert(from + d * from_stride + column, count, scale, to);
        std::fill(to + count, to + width, T(0));
      } else {
        if (d + 1 < depth && count == width) {
          const S* row = from + d * from_stride + column;
          if (detail::interleave(row, row + from_stride, width, scale, to) == width) continue;
        }
        T even[kColumns<T>], odd[kColumns<T>];
        std::fill(odd, odd + width, T(0));
        detail::convert(from + d * from_stride + column, count, scale, even);
        if (d + 1 < depth) detail::convert(from + (d + 1) * from_stride + column, count, scale, odd);
        for (std::int64_t c = 0; c < width; ++c) {
          to[2 * c] = c < count ? even[c] : T(0);
          to[2 * c + 1] = c < count ? odd[c] : T(0);
        }
      }
    }
  }
}

// Right operand from row-major B[columns, depth], that is from B^T: the same panels. row_scale (null: ones) multiplies
// the rows of B.
template <class S, class T>
void pack_right_transposed(const S* from, std::int64_t from_stride, std::int64_t columns, std::int64_t depth,
                           const accumulator_t<S>* row_scale, T* to) {
  constexpr std::int64_t kPiece = 16 * kStep<T>;  // depth that is transposed at a time: 16 units
  const std::int64_t steps = round_up(depth, kStep<T>) / kStep<T>;
  alignas(64) T piece[16 * kPiece];
  for (std::int64_t column = 0; column < columns; column += kColumns<T>) {
    const std::int64_t width = panel_vectors<T>(columns, column) * kLanes<T>;
    for (std::int64_t c = 0; c < width; c += 16) {
      const std::int64_t lanes = std::min<std::int64_t>(16, width - c);
      for (std::int64_t begin = 0; begin < steps; begin += 16) {
        const std::int64_t count = std::min<std::int64_t>(16, steps - begin), first = begin * kStep<T>;
        const std::int64_t length = std::min(kPiece, depth - first);
        for (std::int64_t r = 0; r < lanes; ++r) {
          T* row = piece + r * kPiece;
          const std::int64_t source = column + c + r;
          if (source >= columns) {
            std::fill_n(row, kPiece, T(0));
            continue;
          }
          const auto scale = row_scale ? row_scale[source] : accumulator_t<S>{1};
          const S* start = from + source * from_stride + first;
          __builtin_prefetch(start + 256 / sizeof(S));  // sixteen streams a row apart are too many for the hardware
          if (length == kPiece) {
            detail::convert(start, kPiece, scale, row);  // a length known to the compiler: a few instructions
          } else {
            detail::convert(start, length, scale, row);
            std::fill(row + length, row + kPiece, T(0));
          }
        }
        T* place = to + (begin * width + c) * kStep<T>;
        if (sizeof(T) * kStep<T> == 4 && lanes == 16 && count == 16) {
          detail::transpose_16x16(reinterpret_cast<const std::uint32_t*>(piece), 16,
                                  reinterpret_cast<std::uint32_t*>(place), width);
        } else {
          for (std::int64_t s = 0; s < count; ++s) {
            for (std::int64_t r = 0; r < lanes; ++r) {
              std::copy_n(piece + r * kPiece + s * kStep<T>, kStep<T>, place + (s * width + r) * kStep<T>);
            }
          }
        }
      }
    }
    to += steps * width * kStep<T>;
  }
}

}  // namespace loginmea::gemm
