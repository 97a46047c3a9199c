// Context.decode_and_sample and its result. One GIL release covers decoding and sampling; the arrays of a StepResult
// are read-only views that keep it alive.
#include <pybind11/stl.h>

#include "bindings/arrays.h"
#include "bindings/gil.h"
#include "bindings/register.h"
#include "step.h"

namespace donabe::bindings {

namespace {

constexpr int64_t max_steps = 1 << 20;
constexpr double max_seconds = 3600.0;
constexpr int64_t max_repeat = 64;

template <typename T> py::object view_of(const py::object & owner, const std::vector<T> & values) {
    py::array_t<T> array(static_cast<py::ssize_t>(values.size()), values.data(), owner);
    py::detail::array_proxy(array.ptr())->flags &= ~py::detail::npy_api::NPY_ARRAY_WRITEABLE_;
    return array;
}

template <typename T, std::vector<T> StepResult::* field> py::object field_view(const py::object & self) {
    return view_of(self, py::cast<const StepResult &>(self).*field);
}

py::list texts(const StepResult & result) {
    py::list list(result.sequences.size());
    for (size_t i = 0; i < result.sequences.size(); i++) {
        list[i] = py::bytes(result.sequences[i].text);
    }
    return list;
}

py::dict logprobs(const StepResult & result) {
    py::dict by_sequence;
    for (const SequenceStep & step : result.sequences) {
        if (step.logprobs.empty()) {
            continue;
        }
        py::list tokens;
        for (const TokenLogprobs & entry : step.logprobs) {
            py::list top;
            for (const auto & [token, logprob] : entry.top) {
                top.append(py::make_tuple(token, logprob));
            }
            tokens.append(py::make_tuple(entry.token, entry.logprob, top));
        }
        by_sequence[py::int_(step.seq_id)] = tokens;
    }
    return by_sequence;
}

py::dict errors(const StepResult & result) {
    py::dict by_sequence;
    for (const SequenceStep & step : result.sequences) {
        if (!step.error.empty()) {
            by_sequence[py::int_(step.seq_id)] = py::reinterpret_steal<py::object>(
                PyUnicode_DecodeUTF8(step.error.data(), static_cast<py::ssize_t>(step.error.size()), "replace"));
        }
    }
    return by_sequence;
}

std::shared_ptr<StepResult> decode_and_sample(Context & context, const Batch & batch, SamplerSet & samplers,
                                              int64_t n_steps, double max_s, int64_t n_repeat,
                                              const py::sequence & histories) {
    StepLimits limits;
    require_range("n_steps", n_steps, 1, max_steps);
    require_range("max_s", max_s, 0.0, max_seconds);
    require_range("n_repeat", n_repeat, 0, max_repeat);
    limits.n_steps = static_cast<int32_t>(n_steps);
    limits.max_s = max_s;
    limits.n_repeat = static_cast<int32_t>(n_repeat);
    std::vector<py::array> arrays; // keeps their memory
    for (const py::handle & item : histories) {
        const auto [seq_id, array] = py::cast<std::pair<int32_t, py::array>>(item);
        const ArrayView<int32_t> view = int32_view(array, "histories");
        limits.histories.push_back({seq_id, view.data, view.size});
        arrays.push_back(array);
    }
    // Context and set lock themselves; the call keeps all three alive.
    return without_gil([&] { return std::make_shared<StepResult>(run_steps(context, batch, samplers, limits)); });
}

} // namespace

void register_step(py::module_ & m, ContextClass & context) {
    py::class_<StepResult, std::shared_ptr<StepResult>>(m, "StepResult", py::is_final())
        .def_property_readonly("seq_ids", &field_view<int32_t, &StepResult::seq_ids>)
        .def_property_readonly("counts", &field_view<int32_t, &StepResult::counts>)
        .def_property_readonly("tokens", &field_view<int32_t, &StepResult::tokens>)
        .def_property_readonly("finish", &field_view<uint8_t, &StepResult::finish>)
        .def_property_readonly("stop_index", &field_view<int32_t, &StepResult::stop_index>)
        .def_property_readonly("n_drafted", &field_view<int32_t, &StepResult::n_drafted>)
        .def_property_readonly("n_accepted", &field_view<int32_t, &StepResult::n_accepted>)
        .def_property_readonly("text", &texts)
        .def_property_readonly("logprobs", &logprobs)
        .def_property_readonly("errors", &errors)
        .def_readonly("n_steps", &StepResult::n_steps)
        .def_readonly("decode_s", &StepResult::decode_s)
        .def_readonly("sample_s", &StepResult::sample_s);

    context.def("decode_and_sample", &decode_and_sample, py::arg("batch"), py::arg("samplers"), py::kw_only(),
                py::arg("n_steps") = 1, py::arg("max_s") = 0.0, py::arg("n_repeat") = 0,
                py::arg("histories") = py::tuple());
}

} // namespace donabe::bindings
