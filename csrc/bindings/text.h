// Native text as Python str. Bytes from model files and logs need not be UTF-8.
#pragma once

#include <pybind11/pybind11.h>

#include <string_view>

namespace donabe::bindings {

namespace py = pybind11;

inline py::str text_from_bytes(std::string_view bytes) {
    PyObject * text = PyUnicode_DecodeUTF8(bytes.data(), static_cast<py::ssize_t>(bytes.size()), "replace");
    if (text == nullptr) {
        throw py::error_already_set();
    }
    return py::reinterpret_steal<py::str>(text);
}

} // namespace donabe::bindings
