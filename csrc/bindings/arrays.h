// Array types that cross the boundary, by the names the stub uses.
//
//   Int32Array    int32, 1-d, C-contiguous    token ids, sequence ids, positions
//   Float32Array  float32, C-contiguous       logits, embeddings
//
// Arguments are taken as py::array and checked here: a conversion that would copy (another dtype, a stride) is refused
// instead of made in silence.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <cstdint>
#include <string>
#include <vector>

#include "base/errors.h"

namespace donabe::bindings {

namespace py = pybind11;

using Int32Array = py::array_t<int32_t, py::array::c_style>;
using Float32Array = py::array_t<float, py::array::c_style>;

// Pointer and length of caller-owned memory: valid while the Python array is alive and not written to.
template <typename T> struct ArrayView {
    const T * data;
    size_t size;
};

template <typename T> ArrayView<T> array_view(const py::array & array, const char * name, const char * type_name) {
    if (!py::isinstance<py::array_t<T, py::array::c_style>>(array) || array.ndim() != 1) {
        throw Error(ErrorCode::invalid_argument, std::string(name) + " must be a 1-d C-contiguous " + type_name +
                                                     " array, not " + std::string(py::str(array.dtype())) + " with " +
                                                     std::to_string(array.ndim()) + " dimension(s)");
    }
    return {static_cast<const T *>(array.data()), static_cast<size_t>(array.size())};
}

inline ArrayView<int32_t> int32_view(const py::array & array, const char * name) {
    return array_view<int32_t>(array, name, "int32");
}

inline ArrayView<float> float32_view(const py::array & array, const char * name) {
    return array_view<float>(array, name, "float32");
}

// A new array that owns the vector's memory; no copy.
template <typename T> py::array_t<T> array_from_vector(std::vector<T> && values) {
    auto * owned = new std::vector<T>(std::move(values));
    py::capsule owner(owned, [](void * p) { delete static_cast<std::vector<T> *>(p); });
    return py::array_t<T>(static_cast<py::ssize_t>(owned->size()), owned->data(), owner);
}

} // namespace donabe::bindings
