#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "bindings/gil.h"
#include "bindings/register.h"
#include "quantize.h"

namespace donabe::bindings {
namespace {

QuantizeParams make_params(std::string ftype, int32_t n_threads, std::optional<std::string> output_tensor_type,
                           std::optional<std::string> token_embedding_type,
                           std::vector<std::pair<std::string, std::string>> tensor_types, bool allow_requantize,
                           bool pure, bool quantize_output_tensor, bool keep_split) {
    QuantizeParams params;
    params.ftype = std::move(ftype);
    params.n_threads = n_threads;
    params.output_tensor_type = std::move(output_tensor_type);
    params.token_embedding_type = std::move(token_embedding_type);
    params.tensor_types = std::move(tensor_types);
    params.allow_requantize = allow_requantize;
    params.pure = pure;
    params.quantize_output_tensor = quantize_output_tensor;
    params.keep_split = keep_split;
    params.validate();
    return params;
}

} // namespace

void register_quantize(py::module_ & m) {
    py::class_<QuantizeParams>(m, "QuantizeParams", py::is_final())
        .def(py::init(&make_params), py::kw_only(), py::arg("ftype"), py::arg("n_threads") = 0,
             py::arg("output_tensor_type") = py::none(), py::arg("token_embedding_type") = py::none(),
             py::arg("tensor_types") = py::tuple(), py::arg("allow_requantize") = false, py::arg("pure") = false,
             py::arg("quantize_output_tensor") = true, py::arg("keep_split") = false);
    m.def(
        "quantize",
        [](const std::string & source, const std::string & target, const QuantizeParams & params) {
            const QuantizeParams copy = params;
            without_gil([&] { quantize_file(source, target, copy); }); // works on the copy and on files
        },
        py::arg("source"), py::arg("target"), py::arg("params"));
    m.def("ftype_names", &quantize_ftype_names);
}

} // namespace donabe::bindings
