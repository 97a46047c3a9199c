// Context and its parameters. Every call that takes the context's lock may wait a second, so it runs without the GIL.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "bindings/arrays.h"
#include "bindings/gil.h"
#include "bindings/register.h"
#include "context.h"
#include "memory.h"
#include "memory_plan.h"

namespace donabe::bindings {
namespace {

using release_gil = py::call_guard<py::gil_scoped_release>; // Context locks itself

ContextParams make_params(int32_t n_ctx, int32_t n_batch, int32_t n_ubatch, int32_t n_seq_max, int32_t n_outputs_max,
                          int32_t n_threads, int32_t n_threads_batch, int32_t poll, bool kv_unified,
                          std::string flash_attention, std::string type_k, std::string type_v, bool offload_kqv,
                          bool op_offload, bool swa_full, bool embeddings, std::string pooling, float rope_freq_base,
                          float rope_freq_scale) {
    ContextParams params;
    params.n_ctx = n_ctx;
    params.n_batch = n_batch;
    params.n_ubatch = n_ubatch;
    params.n_seq_max = n_seq_max;
    params.n_outputs_max = n_outputs_max;
    params.n_threads = n_threads;
    params.n_threads_batch = n_threads_batch;
    params.poll = poll;
    params.kv_unified = kv_unified;
    params.flash_attention = std::move(flash_attention);
    params.type_k = std::move(type_k);
    params.type_v = std::move(type_v);
    params.offload_kqv = offload_kqv;
    params.op_offload = op_offload;
    params.swa_full = swa_full;
    params.embeddings = embeddings;
    params.pooling = std::move(pooling);
    params.rope_freq_base = rope_freq_base;
    params.rope_freq_scale = rope_freq_scale;
    params.validate();
    return params;
}

void register_params(py::module_ & m) {
    py::class_<ContextParams>(m, "ContextParams", py::is_final())
        .def(py::init(&make_params), py::kw_only(), py::arg("n_ctx") = 0, py::arg("n_batch") = 512,
             py::arg("n_ubatch") = 512, py::arg("n_seq_max") = 1, py::arg("n_outputs_max") = 0,
             py::arg("n_threads") = 0, py::arg("n_threads_batch") = 0, py::arg("poll") = 50,
             py::arg("kv_unified") = true, py::arg("flash_attention") = "auto", py::arg("type_k") = "f16",
             py::arg("type_v") = "f16", py::arg("offload_kqv") = true, py::arg("op_offload") = true,
             py::arg("swa_full") = false, py::arg("embeddings") = false, py::arg("pooling") = "unspecified",
             py::arg("rope_freq_base") = 0.0f, py::arg("rope_freq_scale") = 0.0f);
}

std::shared_ptr<Context> create(const ModelHandle & model, const ContextParams * params) {
    const ContextParams copy = params == nullptr ? ContextParams{} : *params;
    // Works on the copy; the model is const.
    return share_without_gil(without_gil([&] { return std::make_unique<Context>(model.get(), copy); }));
}

std::shared_ptr<Memory> memory(const std::shared_ptr<Context> & context) {
    return share_without_gil(std::make_unique<Memory>(context));
}

py::array logits_view(Context & context) {
    auto view = without_gil([&] { return context.logits_view(); });
    const py::ssize_t row_bytes = static_cast<py::ssize_t>(view->n_columns) * static_cast<py::ssize_t>(sizeof(float));
    const std::vector<py::ssize_t> shape{view->n_rows, view->n_columns};
    const float * data = view->data;
    if (data == nullptr) {
        return py::array_t<float>(shape);
    }
    // The array's base keeps the view, the view keeps the context: see Context::View.
    py::capsule owner(view.release(), [](void * p) { delete static_cast<Context::View *>(p); });
    py::array_t<float> array(shape, std::vector<py::ssize_t>{row_bytes, sizeof(float)}, data, owner);
    array.attr("flags").attr("writeable") = false;
    return std::move(array);
}

py::array_t<float> sequence_embeddings(const Context & context, const py::array & seq_ids) {
    const ArrayView<int32_t> ids = int32_view(seq_ids, "seq_ids");
    py::array_t<float> out(
        {static_cast<py::ssize_t>(ids.size), static_cast<py::ssize_t>(context.n_embedding_columns())});
    float * data = out.mutable_data();
    without_gil([&] { context.copy_sequence_embeddings(ids.data, ids.size, data); }); // writes the new array's memory
    return out;
}

py::array_t<float> token_embeddings(const Context & context) {
    auto rows = without_gil([&] { return context.token_embeddings(); });
    const py::ssize_t n_columns = context.n_embedding_columns();
    const py::ssize_t n_rows = static_cast<py::ssize_t>(rows.size()) / n_columns;
    return py::array_t<float>(array_from_vector(std::move(rows)).reshape({n_rows, n_columns}));
}

py::list memory_breakdown(const Context & context) {
    const auto uses = without_gil([&] { return context.memory_breakdown(); });
    py::list list;
    for (const MemoryUse & use : uses) {
        list.append(py::make_tuple(use.name, use.model_bytes, use.context_bytes, use.compute_bytes));
    }
    return list;
}

py::dict plan_memory(const ModelHandle & handle, const ContextParams & params) {
    const ContextParams copy = params;
    const MemoryPlan plan = without_gil([&] { return memory_plan(*handle.get(), copy); }); // the model is const
    py::list uses;
    for (const PlannedUse & use : plan.uses) {
        uses.append(
            py::make_tuple(use.buffer, use.device, use.is_host, use.model_bytes, use.context_bytes, use.compute_bytes));
    }
    py::dict dict;
    dict["uses"] = uses;
    dict["attention_bytes"] = plan.cache.attention;
    dict["window_bytes"] = plan.cache.window;
    dict["state_bytes"] = plan.cache.state;
    dict["output_bytes"] = plan.output_bytes;
    dict["n_ctx"] = plan.n_ctx;
    dict["flash_attention"] = plan.flash_attention;
    return dict;
}

} // namespace

ContextClass register_context(py::module_ & m) {
    register_params(m);
    m.def("plan_memory", &plan_memory, py::arg("model"), py::arg("params"));
    ContextClass context(m, "Context", py::is_final());
    context.def(py::init(&create), py::arg("model"), py::arg("params") = py::none())
        .def("close", &Context::close, release_gil())
        .def_property_readonly("memory", &memory)
        .def_property_readonly("n_ctx", &Context::n_ctx)
        .def_property_readonly("n_ctx_seq", &Context::n_ctx_seq)
        .def_property_readonly("n_batch", &Context::n_batch)
        .def_property_readonly("n_ubatch", &Context::n_ubatch)
        .def_property_readonly("n_seq_max", &Context::n_seq_max)
        .def_property_readonly("n_outputs_max", &Context::n_outputs_max)
        .def_property_readonly("flash_attention", &Context::flash_attention)
        .def_property_readonly("kv_bytes_per_cell", &Context::kv_bytes_per_cell)
        .def_property_readonly("pooling", &Context::pooling)
        .def_property_readonly("n_graphs_reused", &Context::n_graphs_reused)
        .def("decode", &Context::decode, py::arg("batch"), release_gil())
        .def("encode", &Context::encode, py::arg("batch"), release_gil())
        .def("logits_view", &logits_view)
        .def("embeddings", &sequence_embeddings, py::arg("seq_ids"))
        .def("token_embeddings", &token_embeddings)
        .def("set_adapters", &Context::set_adapters, py::arg("adapters"), release_gil())
        .def("set_threads", &Context::set_threads, py::arg("n_threads"), py::arg("n_threads_batch"), release_gil())
        .def("set_causal", &Context::set_causal, py::arg("causal"), release_gil())
        .def("request_abort", &Context::request_abort)
        .def("clear_abort", &Context::clear_abort)
        .def("request_yield", &Context::request_yield)
        .def("clear_yield", &Context::clear_yield)
        .def("memory_breakdown", &memory_breakdown)
        .def("warm_up", &Context::warm_up, release_gil())
        .def("synchronize", &Context::synchronize, release_gil());
    return context;
}

} // namespace donabe::bindings
