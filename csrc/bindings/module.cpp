// The extension module: error translation, build facts, and the order in which the classes are registered.
// The module keeps the GIL: running without it is declared when it is tested on a free-threaded interpreter.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <new>

#include "base/errors.h"
#include "base/log_ring.h"
#include "base/process.h"
#include "bindings/register.h"
#include "bindings/text.h"

namespace py = pybind11;

namespace {

using donabe::Error;
using donabe::ErrorCode;
using donabe::bindings::text_from_bytes;

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
        tail[i] = text_from_bytes(error.log_tail()[i]);
    }
    py::object hint = error.hint().empty() ? py::object(py::none()) : py::object(text_from_bytes(error.hint()));
    py::object value = type(text_from_bytes(error.what()), py::arg("hint") = hint, py::arg("log_tail") = tail);
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

PYBIND11_MODULE(_core, m) {
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
