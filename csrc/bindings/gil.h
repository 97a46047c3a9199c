// Releasing the GIL around C++ work.
#pragma once

#include <pybind11/pybind11.h>

#include <memory>

namespace donabe::bindings {

namespace py = pybind11;

// Run without the GIL. The callable must not touch Python objects; what it reads must be C++ state that its own lock,
// or its being immutable, protects.
template <typename F> auto without_gil(F && work) {
    py::gil_scoped_release released;
    return work();
}

// A holder whose deleter frees without the GIL: destructors here join threads and free gigabytes. The last owner may be
// a thread that does not hold the GIL.
template <typename T> std::shared_ptr<T> share_without_gil(std::unique_ptr<T> object) {
    return std::shared_ptr<T>(object.release(), [](T * raw) {
        if (Py_IsInitialized() != 0 && PyGILState_Check() == 1) {
            py::gil_scoped_release released;
            delete raw;
        } else {
            delete raw;
        }
    });
}

} // namespace donabe::bindings
