#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <string_view>

#include "bindings/arrays.h"
#include "bindings/gil.h"
#include "bindings/register.h"
#include "vocab.h"

namespace donabe::bindings {
namespace {

constexpr size_t gil_threshold_bytes = 1024; // below, releasing the GIL costs more than it gives

// The view lives as long as the Python object, which the caller's argument keeps alive.
std::string_view text_view(const py::handle & text) {
    char * data = nullptr;
    Py_ssize_t size = 0;
    if (PyUnicode_Check(text.ptr())) {
        const char * utf8 = PyUnicode_AsUTF8AndSize(text.ptr(), &size);
        if (utf8 == nullptr) { // lone surrogates
            throw py::error_already_set();
        }
        return {utf8, static_cast<size_t>(size)};
    }
    if (!PyBytes_Check(text.ptr())) {
        throw py::type_error("text must be str or bytes");
    }
    PyBytes_AsStringAndSize(text.ptr(), &data, &size);
    return {data, static_cast<size_t>(size)};
}

py::array_t<int32_t> tokenize(const Vocab & vocab, const py::object & text, bool add_special, bool parse_special) {
    const std::string_view view = text_view(text);
    if (view.size() < gil_threshold_bytes) {
        return array_from_vector(vocab.tokenize(view, add_special, parse_special));
    }
    // Strings are immutable, and Vocab is const.
    return array_from_vector(without_gil([&] { return vocab.tokenize(view, add_special, parse_special); }));
}

py::list tokenize_batch(const Vocab & vocab, const py::sequence & texts, bool add_special, bool parse_special) {
    std::vector<py::object> owners;
    std::vector<std::string_view> views;
    for (const py::handle & text : texts) {
        owners.push_back(py::reinterpret_borrow<py::object>(text));
        views.push_back(text_view(text));
    }
    auto tokens = without_gil([&] {
        std::vector<std::vector<int32_t>> results;
        for (std::string_view view : views) {
            results.push_back(vocab.tokenize(view, add_special, parse_special));
        }
        return results;
    });
    py::list list(tokens.size());
    for (size_t i = 0; i < tokens.size(); i++) {
        list[i] = array_from_vector(std::move(tokens[i]));
    }
    return list;
}

py::frozenset eog_tokens(const Vocab & vocab) {
    return py::frozenset(py::cast(without_gil([&] { return vocab.eog_tokens(); })));
}

py::bytes detokenize(const Vocab & vocab, const py::array & tokens, bool remove_special, bool unparse_special) {
    const ArrayView<int32_t> view = int32_view(tokens, "tokens");
    return py::bytes(vocab.detokenize(view.data, view.size, remove_special, unparse_special));
}

} // namespace

void register_vocab(py::module_ & m) {
    const auto special = [](int32_t SpecialTokens::* field) {
        return [field](const Vocab & vocab) { return vocab.special_tokens().*field; };
    };
    py::class_<Vocab, std::shared_ptr<Vocab>>(m, "Vocab", py::is_final())
        .def_property_readonly("n_tokens", &Vocab::n_tokens)
        .def_property_readonly("kind", &Vocab::kind)
        .def_property_readonly("bos", special(&SpecialTokens::bos))
        .def_property_readonly("eos", special(&SpecialTokens::eos))
        .def_property_readonly("eot", special(&SpecialTokens::eot))
        .def_property_readonly("sep", special(&SpecialTokens::sep))
        .def_property_readonly("fim_pre", special(&SpecialTokens::fim_pre))
        .def_property_readonly("fim_suf", special(&SpecialTokens::fim_suf))
        .def_property_readonly("fim_mid", special(&SpecialTokens::fim_mid))
        .def_property_readonly("adds_bos", &Vocab::adds_bos)
        .def_property_readonly("adds_eos", &Vocab::adds_eos)
        .def("eog_tokens", &eog_tokens)
        .def("is_control", &Vocab::is_control, py::arg("token"))
        .def("tokenize", &tokenize, py::arg("text"), py::kw_only(), py::arg("add_special") = true,
             py::arg("parse_special") = false)
        .def("tokenize_batch", &tokenize_batch, py::arg("texts"), py::kw_only(), py::arg("add_special") = true,
             py::arg("parse_special") = false)
        .def(
            "piece",
            [](const Vocab & v, int32_t token, bool special_too) { return py::bytes(v.piece(token, special_too)); },
            py::arg("token"), py::kw_only(), py::arg("special") = false)
        .def("detokenize", &detokenize, py::arg("tokens"), py::kw_only(), py::arg("remove_special") = false,
             py::arg("unparse_special") = false);
}

} // namespace donabe::bindings
