// What crosses the seam from Python to the launches: tables of rows and the cut of a graph. bindings_cuda.cpp makes
// them of tuples, whose fields have this order.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>

#include "common/dtype.h"

namespace loginmea {

template <class T>
struct code_of;
template <>
struct code_of<float> {
  static constexpr DType value = DType::f32;
};
template <>
struct code_of<double> {
  static constexpr DType value = DType::f64;
};

// Rows of neighbouring elements, `stride` elements from row to row; no data where there is none. A vector is a column.
struct Matrix {
  void* data;
  std::int64_t rows, columns, stride;
  DType dtype;

  // Throws where elements are not of type T.
  template <class T>
  T* elements() const {
    if (data != nullptr && dtype != code_of<T>::value) {
      throw std::invalid_argument(std::string("expected a table of ") + name_of(code_of<T>::value) + ", got " +
                                  name_of(dtype));
    }
    return static_cast<T*>(data);
  }
  // Whether its rows, or a vector as one row, can be read four elements at a time.
  bool in_fours() const {
    const int bytes = dtype == DType::f64 ? 8 : dtype == DType::f32 ? 4 : 2;
    return reinterpret_cast<std::uintptr_t>(data) % (4 * bytes) == 0 && (columns == 1 || stride % 4 == 0);
  }
};

// Rows of a CSR cut into segments of at most a few hundred edges [start, stop). The first `parts` segments are those of
// rows that have several, and their numbers are the places of their partial results; every other is a whole row.
// `shared` are the rows of several segments and shared_ptr [num_shared + 1] their segments.
struct Segments {
  std::int64_t count, parts;
  const std::int32_t *row, *start, *stop;
  std::int64_t num_shared;
  const std::int32_t* shared;
  const std::int64_t* shared_ptr;
};

}  // namespace loginmea
