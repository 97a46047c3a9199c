#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "llama.h"

#include "adapter.h"
#include "bindings/gil.h"
#include "bindings/register.h"
#include "bindings/text.h"
#include "model.h"
#include "vocab.h"

namespace donabe::bindings {
namespace {

ModelParams make_params(int32_t n_gpu_layers, std::string split_mode, int32_t main_gpu, std::vector<float> tensor_split,
                        std::optional<std::vector<std::string>> devices, std::string load_mode, bool vocab_only,
                        bool check_tensors, bool use_extra_bufts, bool no_alloc, std::vector<std::string> cpu_tensors,
                        const std::optional<std::map<std::string, KvOverride>> & kv_overrides) {
    ModelParams params;
    params.n_gpu_layers = n_gpu_layers;
    params.split_mode = std::move(split_mode);
    params.main_gpu = main_gpu;
    params.tensor_split = std::move(tensor_split);
    params.devices = std::move(devices);
    params.load_mode = std::move(load_mode);
    params.vocab_only = vocab_only;
    params.check_tensors = check_tensors;
    params.use_extra_bufts = use_extra_bufts;
    params.no_alloc = no_alloc;
    params.cpu_tensors = std::move(cpu_tensors);
    params.kv_overrides = kv_overrides.value_or(std::map<std::string, KvOverride>{});
    params.validate();
    return params;
}

std::shared_ptr<ModelHandle> load(const std::variant<std::string, std::vector<std::string>> & path,
                                  const ModelParams * params, std::shared_ptr<LoadProgress> progress) {
    const std::vector<std::string> paths = std::holds_alternative<std::string>(path)
                                               ? std::vector<std::string>{std::get<std::string>(path)}
                                               : std::get<std::vector<std::string>>(path);
    const ModelParams copy = params == nullptr ? ModelParams{} : *params;
    // Works on copies and on the file; the progress is atomic.
    auto handle = without_gil([&] { return std::make_unique<ModelHandle>(Model::load(paths, copy, progress)); });
    return share_without_gil(std::move(handle));
}

std::shared_ptr<Vocab> vocab(const ModelHandle & handle) {
    return share_without_gil(std::make_unique<Vocab>(handle.get()));
}

std::shared_ptr<Adapter> load_adapter(const ModelHandle & handle, const std::string & path) {
    // The model locks itself; the adapter's own deleter takes no Python objects.
    return without_gil([&] { return handle.get()->load_adapter(path); });
}

py::dict meta(const ModelHandle & handle) {
    py::dict dict;
    for (const auto & [key, value] : handle.get()->meta()) {
        dict[text_from_bytes(key)] = text_from_bytes(value);
    }
    return dict;
}

std::optional<py::str> chat_template(const ModelHandle & handle, const std::optional<std::string> & name) {
    const auto text = handle.get()->chat_template(name.value_or(""));
    return text ? std::optional<py::str>(text_from_bytes(*text)) : std::nullopt;
}

py::list class_labels(const ModelHandle & handle) {
    py::list labels;
    for (const std::string & label : handle.get()->class_labels()) {
        labels.append(text_from_bytes(label));
    }
    return labels;
}

void register_params(py::module_ & m) {
    py::class_<LoadProgress, std::shared_ptr<LoadProgress>>(m, "LoadProgress", py::is_final())
        .def(py::init<>())
        .def_property_readonly("value", [](const LoadProgress & p) { return p.value.load(); })
        .def("cancel", [](LoadProgress & p) { p.is_cancelled.store(true); });

    py::class_<ModelParams>(m, "ModelParams", py::is_final())
        .def(py::init(&make_params), py::kw_only(), py::arg("n_gpu_layers") = -1, py::arg("split_mode") = "layer",
             py::arg("main_gpu") = 0, py::arg("tensor_split") = py::tuple(), py::arg("devices") = py::none(),
             py::arg("load_mode") = "auto", py::arg("vocab_only") = false, py::arg("check_tensors") = false,
             py::arg("use_extra_bufts") = true, py::arg("no_alloc") = false, py::arg("cpu_tensors") = py::tuple(),
             py::arg("kv_overrides") = py::none());
}

} // namespace

void register_model(py::module_ & m) {
    register_params(m);
    py::class_<Adapter, std::shared_ptr<Adapter>>(m, "Adapter", py::is_final())
        .def_property_readonly("path", &Adapter::path);

    // A number that llama.cpp tells about a model.
    const auto fact = [](auto read) {
        return [read](const ModelHandle & handle) {
            const auto model = handle.get();
            return read(model->raw());
        };
    };
    py::class_<ModelHandle, std::shared_ptr<ModelHandle>>(m, "Model", py::is_final())
        .def(py::init(&load), py::arg("path"), py::arg("params") = py::none(), py::arg("progress") = py::none())
        .def("close", [](ModelHandle & handle) { without_gil([&] { handle.close(); }); })
        .def_property_readonly("vocab", &vocab)
        .def_property_readonly("description",
                               [](const ModelHandle & h) { return text_from_bytes(h.get()->description()); })
        .def_property_readonly("architecture",
                               [](const ModelHandle & h) { return text_from_bytes(h.get()->architecture()); })
        .def_property_readonly("memory_kind",
                               [](const ModelHandle & h) { return memory_kind_name(h.get()->memory_kind()); })
        .def_property_readonly("size_bytes", fact(&llama_model_size))
        .def_property_readonly("n_params", fact(&llama_model_n_params))
        .def_property_readonly("n_ctx_train", fact(&llama_model_n_ctx_train))
        .def_property_readonly("n_embd", fact(&llama_model_n_embd))
        .def_property_readonly("n_embd_out", fact(&llama_model_n_embd_out))
        .def_property_readonly("n_layer", fact(&llama_model_n_layer))
        .def_property_readonly("n_swa", [](const ModelHandle & h) { return h.get()->n_swa(); })
        .def_property_readonly("n_expert", [](const ModelHandle & h) { return h.get()->n_expert(); })
        .def_property_readonly("n_cls_out", fact(&llama_model_n_cls_out))
        .def_property_readonly("has_encoder", fact(&llama_model_has_encoder))
        .def_property_readonly("has_decoder", fact(&llama_model_has_decoder))
        .def_property_readonly("is_causal", [](const ModelHandle & h) { return h.get()->is_causal(); })
        .def_property_readonly("uses_mrope", [](const ModelHandle & h) { return h.get()->uses_mrope(); })
        .def("meta", &meta)
        .def("chat_template", &chat_template, py::arg("name") = py::none())
        .def("class_labels", &class_labels)
        .def("load_adapter", &load_adapter, py::arg("path"));
}

} // namespace donabe::bindings
