// Binds a plain function of pointers and numbers, so that Python calls it with tensor.data_ptr().
//
//   bind(m, "name", &function);
//
// A pointer parameter becomes an integer (0 is null; a CUDA stream is a pointer too), a DType becomes its code,
// everything else stays what it is. The GIL is released during the call, and C++ exceptions arrive as Python's
// (std::invalid_argument as ValueError, std::bad_alloc as MemoryError, std::runtime_error as RuntimeError).
#pragma once

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdint>
#include <type_traits>

#include "dtype.h"

namespace loginmea {

template <class T>
using wire_t = std::conditional_t<std::is_pointer_v<T>, std::uintptr_t, std::conditional_t<std::is_enum_v<T>, int, T>>;

template <class T>
T from_wire(const wire_t<T>& value) {
  if constexpr (std::is_pointer_v<T>) {
    return reinterpret_cast<T>(value);
  } else {
    return static_cast<T>(value);
  }
}

template <class Result, class... Parameters>
void bind(pybind11::module_& m, const char* name, Result (*function)(Parameters...)) {
  m.def(
      name,
      [function](const wire_t<std::decay_t<Parameters>>&... values) -> Result {
        return function(from_wire<std::decay_t<Parameters>>(values)...);
      },
      pybind11::call_guard<pybind11::gil_scoped_release>());
}

}  // namespace loginmea
