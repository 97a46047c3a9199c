// Memory and StateBlob. Every call waits for the context's lock, so all run without the GIL.
#include <pybind11/pybind11.h>

#include <cstring>

#include "base/errors.h"
#include "bindings/gil.h"
#include "bindings/register.h"
#include "memory.h"

namespace donabe::bindings {
namespace {

using release_gil = py::call_guard<py::gil_scoped_release>; // Memory locks its context

std::shared_ptr<StateBlob> blob_from_bytes(const py::bytes & data, bool is_partial, int32_t n_tokens) {
    require_range("n_tokens", int64_t{n_tokens}, 1, (int64_t{1} << 30) - 1);
    const std::string_view view = data; // immutable, and the caller keeps it
    if (view.empty()) {
        throw Error(ErrorCode::state, "the state is empty");
    }
    return without_gil([&] {
        auto blob = std::make_shared<StateBlob>(view.size(), is_partial, n_tokens);
        std::memcpy(blob->data(), view.data(), view.size());
        return blob;
    });
}

py::buffer_info blob_buffer(StateBlob & blob) {
    return py::buffer_info(blob.data(), 1, py::format_descriptor<uint8_t>::format(), 1,
                           {static_cast<py::ssize_t>(blob.n_bytes())}, {py::ssize_t{1}}, /*readonly=*/true);
}

} // namespace

void register_memory(py::module_ & m) {
    py::class_<StateBlob, std::shared_ptr<StateBlob>>(m, "StateBlob", py::is_final(), py::buffer_protocol())
        .def_static("from_bytes", &blob_from_bytes, py::arg("data"), py::kw_only(), py::arg("partial"),
                    py::arg("n_tokens"))
        .def_property_readonly("nbytes", &StateBlob::n_bytes)
        .def_property_readonly("partial", &StateBlob::is_partial)
        .def_property_readonly("n_tokens", &StateBlob::n_tokens)
        .def_buffer(&blob_buffer);

    py::class_<Memory, std::shared_ptr<Memory>>(m, "Memory", py::is_final())
        .def_property_readonly("kind", &Memory::kind)
        .def_property_readonly("can_shift",
                               [](const Memory & memory) { return without_gil([&] { return memory.can_shift(); }); })
        .def("clear", &Memory::clear, py::arg("data") = false, release_gil())
        .def("pos_min", &Memory::pos_min, py::arg("seq_id"), release_gil())
        .def("pos_max", &Memory::pos_max, py::arg("seq_id"), release_gil())
        .def("seq_rm", &Memory::seq_rm, py::arg("seq_id"), py::arg("p0") = -1, py::arg("p1") = -1, release_gil())
        .def("seq_cp", &Memory::seq_cp, py::arg("src"), py::arg("dst"), py::arg("p0") = -1, py::arg("p1") = -1,
             release_gil())
        .def("seq_keep", &Memory::seq_keep, py::arg("seq_id"), release_gil())
        .def("seq_add", &Memory::seq_add, py::arg("seq_id"), py::arg("p0"), py::arg("p1"), py::arg("delta"),
             release_gil())
        .def("seq_div", &Memory::seq_div, py::arg("seq_id"), py::arg("p0"), py::arg("p1"), py::arg("divisor"),
             release_gil())
        .def("fork", &Memory::fork, py::arg("src"), py::arg("dst"), py::arg("n_tokens"),
             py::arg("checkpoint") = py::none(), release_gil())
        .def("get_state", &Memory::get_state, py::arg("seq_id"), py::kw_only(), py::arg("partial") = false,
             release_gil())
        .def("set_state", &Memory::set_state, py::arg("seq_id"), py::arg("blob"), release_gil());
}

} // namespace donabe::bindings
