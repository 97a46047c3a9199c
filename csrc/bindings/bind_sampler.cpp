// Sampler, its parameters, and the set of running sequences. Values are converted with the GIL held; everything that
// samples, compiles a grammar or starts threads runs without it on C++ objects kept alive by shared_ptr arguments.
#include <pybind11/stl.h>

#include <map>

#include "bindings/arrays.h"
#include "bindings/register.h"
#include "json_schema_grammar.h"
#include "sampler.h"
#include "sampler_set.h"

namespace donabe::bindings {

namespace {

using ReleaseGil = py::call_guard<py::gil_scoped_release>;

GrammarTrigger make_trigger(const std::string & kind, std::string value, int32_t token) {
    GrammarTrigger trigger{grammar_trigger_kind_from_name(kind), std::move(value), token};
    trigger.validate();
    return trigger;
}

// Assigns the keyword arguments to the fields of their names. The signature in the stub is the full list.
class Keywords {
  public:
    explicit Keywords(const py::kwargs & kwargs) : rest_(py::reinterpret_borrow<py::dict>(kwargs).attr("copy")()) {}

    template <typename T> Keywords & take(const char * name, T & field) {
        if (rest_.contains(name)) {
            try {
                field = py::cast<T>(rest_.attr("pop")(name));
            } catch (const py::cast_error &) {
                throw Error(ErrorCode::invalid_argument, std::string(name) + " has the wrong type or is out of range");
            }
        }
        return *this;
    }
    void require_empty() const {
        for (auto item : rest_) {
            throw py::type_error("unexpected keyword argument '" + py::cast<std::string>(item.first) + "'");
        }
    }

  private:
    py::dict rest_;
};

SamplerParams make_params(const py::kwargs & kwargs) {
    SamplerParams p;
    std::optional<std::map<int32_t, float>> logit_bias;
    Keywords keywords(kwargs);
    keywords.take("seed", p.seed)
        .take("temperature", p.temperature)
        .take("top_k", p.top_k)
        .take("top_p", p.top_p)
        .take("min_p", p.min_p)
        .take("typical_p", p.typical_p)
        .take("repeat_last_n", p.repeat_last_n)
        .take("repeat_penalty", p.repeat_penalty)
        .take("presence_penalty", p.presence_penalty)
        .take("frequency_penalty", p.frequency_penalty)
        .take("xtc_probability", p.xtc_probability)
        .take("xtc_threshold", p.xtc_threshold)
        .take("dry_multiplier", p.dry_multiplier)
        .take("dry_base", p.dry_base)
        .take("dry_allowed_length", p.dry_allowed_length)
        .take("dry_penalty_last_n", p.dry_penalty_last_n)
        .take("dry_sequence_breakers", p.dry_sequence_breakers)
        .take("mirostat", p.mirostat)
        .take("mirostat_tau", p.mirostat_tau)
        .take("mirostat_eta", p.mirostat_eta)
        .take("logit_bias", logit_bias)
        .take("n_logprobs", p.n_logprobs)
        .take("grammar", p.grammar)
        .take("grammar_lazy", p.grammar_lazy)
        .take("grammar_triggers", p.grammar_triggers)
        .take("preserved_tokens", p.preserved_tokens)
        .take("grammar_prefill", p.grammar_prefill)
        .take("thinking_start", p.thinking_start)
        .take("thinking_ends", p.thinking_ends)
        .take("thinking_budget", p.thinking_budget)
        .require_empty();
    if (logit_bias) {
        p.logit_bias.assign(logit_bias->begin(), logit_bias->end());
    }
    p.validate();
    return p;
}

OutputLimits make_limits(const py::kwargs & kwargs) {
    OutputLimits limits;
    std::vector<py::bytes> stops;
    Keywords keywords(kwargs);
    keywords.take("max_tokens", limits.max_tokens)
        .take("min_tokens", limits.min_tokens)
        .take("stop", stops)
        .take("ignore_eos", limits.ignore_eos)
        .take("n_ctx", limits.n_ctx)
        .require_empty();
    limits.stops.assign(stops.begin(), stops.end());
    limits.validate();
    return limits;
}

int32_t sample_row(Sampler & sampler, const py::array & logits) {
    const auto row = float32_view(logits, "logits");
    const auto n_vocab = static_cast<size_t>(sampler.model()->n_vocab());
    if (row.size != n_vocab) {
        throw Error(ErrorCode::invalid_argument,
                    "logits must have " + std::to_string(n_vocab) + " entries, not " + std::to_string(row.size));
    }
    py::gil_scoped_release release; // the array is kept alive by the caller's reference
    const auto in_use = sampler.use();
    SampleScratch scratch;
    return sampler.sample(row.data, {}, scratch);
}

void accept_prompt(Sampler & sampler, const py::array & tokens) {
    const auto view = int32_view(tokens, "tokens");
    py::gil_scoped_release release; // the array is kept alive by the caller's reference
    const auto in_use = sampler.use();
    sampler.accept_prompt(view.data, view.size);
}

// Runs a method of the sampler under its lock.
template <typename Method, typename... Args> auto locked(const Sampler & sampler, Method method, Args... args) {
    const auto in_use = sampler.use();
    return method(args...);
}

} // namespace

void register_sampler(py::module_ & m) {
    m.def("json_schema_to_grammar", &json_schema_grammar, py::arg("schema"), ReleaseGil());

    py::class_<GrammarTrigger>(m, "GrammarTrigger", py::is_final())
        .def(py::init(&make_trigger), py::arg("kind"), py::arg("value"), py::arg("token") = -1)
        .def_property_readonly("kind", [](const GrammarTrigger & self) { return grammar_trigger_kind_name(self.kind); })
        .def_readonly("value", &GrammarTrigger::value)
        .def_readonly("token", &GrammarTrigger::token);

    py::class_<SamplerParams>(m, "SamplerParams", py::is_final()).def(py::init(&make_params));
    py::class_<OutputLimits>(m, "OutputLimits", py::is_final()).def(py::init(&make_limits));

    py::class_<Sampler, std::shared_ptr<Sampler>>(m, "Sampler", py::is_final())
        .def(py::init([](const ModelHandle & model, const SamplerParams & params, int32_t n_ctx_train) {
                 py::gil_scoped_release release; // both arguments are kept alive by the call
                 return std::make_shared<Sampler>(model.get(), params, n_ctx_train);
             }),
             py::arg("model"), py::arg("params"), py::arg("n_ctx_train") = 0)
        .def("accept_prompt", &accept_prompt, py::arg("tokens"))
        .def(
            "accept", [](Sampler & self, int32_t token) { locked(self, [&] { self.accept(token); }); },
            py::arg("token"))
        .def("sample", &sample_row, py::arg("logits"))
        .def(
            "clone", [](const Sampler & self) { return locked(self, [&] { return self.clone(); }); }, ReleaseGil())
        .def(
            "reset", [](Sampler & self) { locked(self, [&] { self.reset(); }); }, ReleaseGil())
        .def(
            "set_seed", [](Sampler & self, uint32_t seed) { locked(self, [&] { self.set_seed(seed); }); },
            py::arg("seed"));

    py::class_<SequenceOutputState, std::shared_ptr<SequenceOutputState>>(m, "SequenceOutputState", py::is_final());

    py::class_<SamplerSet, std::shared_ptr<SamplerSet>>(m, "SamplerSet", py::is_final())
        .def(py::init([](const ModelHandle & model, int32_t n_threads) {
                 py::gil_scoped_release release; // starts threads; they touch no Python
                 return std::make_shared<SamplerSet>(model.get(), n_threads);
             }),
             py::arg("model"), py::arg("n_threads") = 1)
        .def("bind", &SamplerSet::bind, py::arg("seq_id"), py::arg("sampler").none(false), py::arg("limits"))
        .def(
            "unbind", [](SamplerSet & self, int32_t seq_id) { return py::bytes(self.unbind(seq_id)); },
            py::arg("seq_id"))
        .def(
            "export",
            [](SamplerSet & self, int32_t seq_id) {
                return std::make_shared<SequenceOutputState>(SequenceOutputState{self.take(seq_id)});
            },
            py::arg("seq_id"))
        .def("restore", &SamplerSet::restore, py::arg("seq_id"), py::arg("state").none(false))
        .def("bound", &SamplerSet::bound);
}

} // namespace donabe::bindings
