#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "bindings/gil.h"
#include "bindings/register.h"
#include "bindings/text.h"
#include "gguf_file.h"

namespace donabe::bindings {
namespace {

struct ToPython {
    py::object operator()(const std::string & text) const { return text_from_bytes(text); }
    py::object operator()(const std::vector<std::string> & texts) const {
        py::list list(texts.size());
        for (size_t i = 0; i < texts.size(); i++) {
            list[i] = text_from_bytes(texts[i]);
        }
        return std::move(list);
    }
    template <typename T> py::object operator()(const T & value) const { return py::cast(value); }
};

py::dict meta(const GgufFile & file) {
    py::dict dict;
    for (const auto & [key, value] : file.meta()) {
        dict[text_from_bytes(key)] = std::visit(ToPython{}, value);
    }
    return dict;
}

py::list tensors(const GgufFile & file) {
    py::list list;
    for (const GgufTensor & tensor : file.tensors()) {
        list.append(py::make_tuple(text_from_bytes(tensor.name), tensor.type, py::tuple(py::cast(tensor.shape)),
                                   tensor.offset));
    }
    return list;
}

} // namespace

void register_gguf(py::module_ & m) {
    py::class_<GgufFile, std::shared_ptr<GgufFile>>(m, "GgufFile", py::is_final())
        .def(py::init([](const std::string & path) {
                 return without_gil([&] { return std::make_shared<GgufFile>(path); }); // reads a file, shares nothing
             }),
             py::arg("path"))
        .def("meta", &meta)
        .def("tensors", &tensors)
        .def_property_readonly("version", &GgufFile::version);
}

} // namespace donabe::bindings
