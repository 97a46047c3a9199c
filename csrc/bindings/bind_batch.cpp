#include <pybind11/pybind11.h>

#include "batch.h"
#include "bindings/arrays.h"
#include "bindings/register.h"

namespace donabe::bindings {
namespace {

BatchOutputs parse_outputs(const std::string & name) {
    if (name == "none") {
        return BatchOutputs::none;
    }
    if (name == "last") {
        return BatchOutputs::last;
    }
    if (name == "all") {
        return BatchOutputs::all;
    }
    throw Error(ErrorCode::invalid_argument, "outputs must be none, last or all, not '" + name + "'");
}

void add_tokens(Batch & batch, int32_t seq_id, const py::array & tokens, int32_t pos0, const std::string & outputs) {
    const ArrayView<int32_t> view = int32_view(tokens, "tokens");
    batch.add_tokens(seq_id, view.data, view.size, pos0, parse_outputs(outputs));
}

void add_decode(Batch & batch, const py::array & seq_ids, const py::array & tokens, const py::array & positions) {
    const ArrayView<int32_t> ids = int32_view(seq_ids, "seq_ids");
    const ArrayView<int32_t> token_view = int32_view(tokens, "tokens");
    const ArrayView<int32_t> position_view = int32_view(positions, "positions");
    if (ids.size != token_view.size || ids.size != position_view.size) {
        throw Error(ErrorCode::invalid_argument, "seq_ids, tokens and positions must have one length, not " +
                                                     std::to_string(ids.size) + ", " + std::to_string(token_view.size) +
                                                     " and " + std::to_string(position_view.size));
    }
    batch.add_decode(ids.data, token_view.data, position_view.data, ids.size);
}

void add_draft(Batch & batch, int32_t seq_id, const py::array & tokens, int32_t pos0) {
    const ArrayView<int32_t> view = int32_view(tokens, "tokens");
    batch.add_draft(seq_id, view.data, view.size, pos0);
}

} // namespace

void register_batch(py::module_ & m) {
    py::class_<Batch, std::shared_ptr<Batch>>(m, "Batch", py::is_final())
        .def(py::init<int32_t>(), py::arg("capacity"))
        .def_property_readonly("capacity", &Batch::capacity)
        .def_property_readonly("n_tokens", &Batch::n_tokens)
        .def_property_readonly("n_outputs", &Batch::n_outputs)
        .def("clear", &Batch::clear)
        .def("add_tokens", &add_tokens, py::arg("seq_id"), py::arg("tokens"), py::arg("pos0"),
             py::arg("outputs") = "none")
        .def("add_decode", &add_decode, py::arg("seq_ids"), py::arg("tokens"), py::arg("positions"))
        .def("add_draft", &add_draft, py::arg("seq_id"), py::arg("tokens"), py::arg("pos0"));
}

} // namespace donabe::bindings
