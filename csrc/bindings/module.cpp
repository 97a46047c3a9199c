// The extension module: error translation, build facts, and the order in which the classes are registered.
// Thread safe without the GIL: no global Python state is kept except the error classes, imported once.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <new>

#include "base/errors.h"
#include "base/log_ring.h"
#include "base/process.h"
#include "bindings/register.h"

namespace py = pybind11;

namespace {

using donabe::Error;
using donabe::ErrorCode;

// Leaked on purpose: an error may be translated while the interpreter shuts down.
std::array<PyObject *, donabe::n_error_codes> error_classes{};

void import_error_classes() {
    py::module_ errors = py::module_::import("donabe.errors");
    for (int32_t code = 0; code < donabe::n_error_codes; code++) {
        const char * name = donabe::error_class_name(static_cast<ErrorCode>(code));
        error_classes[static_cast<size_t>(code)] = py::object(errors.attr(name)).release().ptr();
    }
}

void raise_python_error(const Error & error) {
    py::object type = py::reinterpret_borrow<py::object>(error_classes[static_cast<size_t>(error.code())]);
    py::tuple tail(error.log_tail().size());
    for (size_t i = 0; i < error.log_tail().size(); i++) {
        const std::string & line = error.log_tail()[i];
        tail[i] = py::reinterpret_steal<py::str>(
            PyUnicode_DecodeUTF8(line.data(), static_cast<py::ssize_t>(line.size()), "replace"));
    }
    const std::string message = error.what();
    py::object text = py::reinterpret_steal<py::object>(
        PyUnicode_DecodeUTF8(message.data(), static_cast<py::ssize_t>(message.size()), "replace"));
    py::object hint = error.hint().empty() ? py::object(py::none()) : py::object(py::str(error.hint()));
    py::object value = type(text, py::arg("hint") = hint, py::arg("log_tail") = tail);
    PyErr_SetObject(type.ptr(), value.ptr());
}

py::dict error_codes() {
    py::dict codes;
    for (int32_t code = 0; code < donabe::n_error_codes; code++) {
        codes[donabe::error_class_name(static_cast<ErrorCode>(code))] = code;
    }
    return codes;
}

} // namespace

PYBIND11_MODULE(_core, m, py::mod_gil_not_used()) {
    donabe::process_install_fork_guard();
    donabe::log_install();
    import_error_classes();
    py::register_exception_translator([](std::exception_ptr pending) {
        try {
            if (pending) {
                std::rethrow_exception(pending);
            }
        } catch (const Error & error) {
            raise_python_error(error);
        }
    });

    m.attr("__version__") = DONABE_VERSION;
    m.def("_error_codes", &error_codes);

    donabe::bindings::register_devices(m);
    donabe::bindings::register_gguf(m);
    donabe::bindings::register_quantize(m);
    donabe::bindings::register_vocab(m);
    donabe::bindings::register_model(m);
    donabe::bindings::register_batch(m);
    donabe::bindings::register_memory(m);
    auto context = donabe::bindings::register_context(m);
    donabe::bindings::register_sampler(m);
    donabe::bindings::register_step(m, context);
    donabe::bindings::register_chat(m);
}
