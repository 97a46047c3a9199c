// Chat templates, prompts and parsers. Everything that renders or parses runs without the GIL: the objects are const or
// lock themselves, and the call keeps its arguments alive.
#include <pybind11/stl.h>

#include "bindings/arrays.h"
#include "bindings/gil.h"
#include "bindings/register.h"
#include "bindings/text.h"
#include "chat_parser.h"
#include "chat_templates.h"

namespace donabe::bindings {

namespace {

py::list text_list(const std::vector<std::string> & texts) {
    py::list list(texts.size());
    for (size_t i = 0; i < texts.size(); i++) {
        list[i] = text_from_bytes(texts[i]);
    }
    return list;
}

// A property of common_chat_params as str or list[str]: templates may render bytes that are no UTF-8.
template <auto field> py::str text_field(const ChatPrompt & prompt) {
    return text_from_bytes(prompt.params().*field);
}
template <auto field> py::list list_field(const ChatPrompt & prompt) {
    return text_list(prompt.params().*field);
}

py::array message_starts(const ChatPrompt & prompt, const Vocab & vocab, const py::array & tokens) {
    const auto view = int32_view(tokens, "tokens");
    return array_from_vector(without_gil([&] { return prompt.message_starts(vocab, view.data, view.size); }));
}

void register_prompt(py::module_ & m) {
    py::class_<ChatPrompt, std::shared_ptr<ChatPrompt>>(m, "ChatPrompt", py::is_final())
        .def_property_readonly("prompt", &text_field<&common_chat_params::prompt>)
        .def_property_readonly("grammar",
                               [](const ChatPrompt & self) { return text_from_bytes(self.constraint().grammar); })
        .def_property_readonly("grammar_lazy", [](const ChatPrompt & self) { return self.constraint().is_lazy; })
        .def_property_readonly("grammar_triggers", [](const ChatPrompt & self) { return self.constraint().triggers; })
        .def_property_readonly("grammar_prefill",
                               [](const ChatPrompt & self) { return text_from_bytes(self.constraint().prefill); })
        .def_property_readonly("preserved_tokens", &list_field<&common_chat_params::preserved_tokens>)
        .def_property_readonly("generation_prompt", &text_field<&common_chat_params::generation_prompt>)
        .def_property_readonly("stops", &list_field<&common_chat_params::additional_stops>)
        .def_property_readonly("format",
                               [](const ChatPrompt & self) { return common_chat_format_name(self.params().format); })
        .def_property_readonly("supports_thinking",
                               [](const ChatPrompt & self) { return self.params().supports_thinking; })
        .def_property_readonly("thinking_start", &text_field<&common_chat_params::thinking_start_tag>)
        .def_property_readonly("thinking_ends", &list_field<&common_chat_params::thinking_end_tags>)
        .def("preserved_token_ids", &ChatPrompt::preserved_token_ids, py::arg("vocab"))
        .def("message_starts", &message_starts, py::arg("vocab"), py::arg("tokens"));
}

} // namespace

void register_chat(py::module_ & m) {
    register_prompt(m);

    py::class_<ChatTemplates, std::shared_ptr<ChatTemplates>>(m, "ChatTemplates", py::is_final())
        .def(py::init([](const ModelHandle & model, const std::optional<std::string> & source) {
                 return without_gil([&] { return std::make_shared<ChatTemplates>(model.get(), source); });
             }),
             py::arg("model"), py::arg("template") = py::none())
        .def_property_readonly("source", [](const ChatTemplates & self) { return text_from_bytes(self.source()); })
        .def_property_readonly("caps", &ChatTemplates::caps)
        .def_property_readonly("supports_thinking", &ChatTemplates::supports_thinking)
        .def(
            "apply",
            [](const ChatTemplates & self, const std::string & inputs) {
                return without_gil([&] { return self.apply(inputs); });
            },
            py::arg("inputs"));

    py::class_<ChatParser, std::shared_ptr<ChatParser>>(m, "ChatParser", py::is_final())
        .def(py::init([](const ChatPrompt & prompt, bool parse_thinking, bool parse_tool_calls) {
                 return without_gil(
                     [&] { return std::make_shared<ChatParser>(prompt, parse_thinking, parse_tool_calls); });
             }),
             py::arg("prompt"), py::kw_only(), py::arg("parse_thinking") = true, py::arg("parse_tool_calls") = true)
        .def(
            "feed",
            [](ChatParser & self, const py::bytes & text) {
                const std::string_view bytes = text; // owned by the argument, immutable
                return without_gil([&] { return self.feed(bytes); });
            },
            py::arg("text"))
        .def("finish", [](ChatParser & self) { return without_gil([&] { return self.finish(); }); });
}

} // namespace donabe::bindings
