#include "chat_templates.h"

#include <chrono>
#include <set>

#include "json.h"

#include "base/errors.h"
#include "json_schema_grammar.h"
#include "render_budget.h"
#include "text_limits.h"

namespace donabe {

namespace {

constexpr size_t max_prompt_bytes = 64u << 20;

Error bad_input(const std::string & message) {
    return Error(ErrorCode::invalid_argument, message);
}

std::string type_name(const common_json & value) {
    return value.is_null()      ? "null"
           : value.is_boolean() ? "a boolean"
           : value.is_number()  ? "a number"
           : value.is_string()  ? "a string"
           : value.is_array()   ? "an array"
                                : "an object";
}

bool read_bool(const common_json & inputs, const char * name, bool absent) {
    if (!inputs.contains(name)) {
        return absent;
    }
    if (!inputs.at(name).is_boolean()) {
        throw bad_input(std::string(name) + " must be a boolean, not " + type_name(inputs.at(name)));
    }
    return inputs.at(name).get<bool>();
}

std::string read_string(const common_json & inputs, const char * name) {
    if (!inputs.contains(name) || inputs.at(name).is_null()) {
        return "";
    }
    if (!inputs.at(name).is_string()) {
        throw bad_input(std::string(name) + " must be a string, not " + type_name(inputs.at(name)));
    }
    return inputs.at(name).get<std::string>();
}

void require_known_keys(const common_json & inputs) {
    static const std::set<std::string> known{
        "messages",       "tools", "tool_choice",           "parallel_tool_calls",    "json_schema",
        "grammar",        "now",   "add_generation_prompt", "continue_final_message", "enable_thinking",
        "template_kwargs"};
    for (const auto & entry : inputs.items()) {
        if (known.count(entry.key()) == 0) {
            throw bad_input("chat inputs have no field '" + entry.key() + "'");
        }
    }
}

std::map<std::string, std::string> read_kwargs(const common_json & inputs) {
    std::map<std::string, std::string> kwargs;
    if (!inputs.contains("template_kwargs") || inputs.at("template_kwargs").is_null()) {
        return kwargs;
    }
    const common_json & values = inputs.at("template_kwargs");
    if (!values.is_object()) {
        throw bad_input("template_kwargs must be an object, not " + type_name(values));
    }
    for (const auto & entry : values.items()) {
        kwargs[entry.key()] = entry.value().dump_safe();
    }
    return kwargs;
}

size_t count_bytes(const common_chat_templates_inputs & inputs) {
    size_t n = inputs.json_schema.size();
    for (const common_chat_msg & message : inputs.messages) {
        n += 64 + message.content.size() + message.reasoning_content.size();
        for (const common_chat_msg_content_part & part : message.content_parts) {
            n += 64 + part.text.size();
        }
        for (const common_chat_tool_call & call : message.tool_calls) {
            n += 64 + call.arguments.size();
        }
    }
    for (const common_chat_tool & tool : inputs.tools) {
        n += 64 + tool.description.size() + tool.parameters.size();
    }
    for (const auto & [name, value] : inputs.chat_template_kwargs) {
        n += name.size() + value.size();
    }
    return n;
}

// The grammar's GBNF is made inside apply: check what it is made of before.
void require_tool_schemas(const std::vector<common_chat_tool> & tools) {
    for (const common_chat_tool & tool : tools) {
        require_schema_limits(tool.parameters);
    }
}

GrammarTriggerKind trigger_kind(common_grammar_trigger_type type) {
    switch (type) {
    case COMMON_GRAMMAR_TRIGGER_TYPE_TOKEN:
        return GrammarTriggerKind::token;
    case COMMON_GRAMMAR_TRIGGER_TYPE_WORD:
        return GrammarTriggerKind::word;
    case COMMON_GRAMMAR_TRIGGER_TYPE_PATTERN:
        return GrammarTriggerKind::pattern;
    case COMMON_GRAMMAR_TRIGGER_TYPE_PATTERN_FULL:
        return GrammarTriggerKind::pattern_full;
    }
    return GrammarTriggerKind::word;
}

} // namespace

// --- templates ------------------------------------------------------------------------------------------------------

ChatTemplates::ChatTemplates(std::shared_ptr<Model> model, const std::optional<std::string> & source)
    : model_(std::move(model)) {
    for (const char * variant : {"", "tool_use"}) {
        const auto text = source ? source : model_->chat_template(variant);
        if (text) {
            require_template_limits(*text);
        }
    }
    if (source && source->empty()) {
        throw Error(ErrorCode::chat_template, "the chat template is empty", "leave it out to use the model's own");
    }
    const RenderBudget budget(1, 0); // finding out what the template can do renders it
    try {
        templates_ = common_chat_templates_init(model_->raw(), source.value_or(""));
        source_ = common_chat_templates_source(templates_.get());
        caps_ = common_chat_templates_get_caps(templates_.get());
    } catch (const std::exception & e) {
        budget.require_kept();
        throw Error(ErrorCode::chat_template, std::string("the chat template does not parse: ") + e.what());
    }
    try {
        supports_thinking_ = common_chat_templates_support_enable_thinking(templates_.get());
    } catch (const std::exception &) {
        supports_thinking_ = false; // it refuses a lone user message: it is asked again with each conversation
    }
    budget.require_kept();
}

common_chat_templates_inputs ChatTemplates::read_inputs(const std::string & text) const {
    require_json_limits(text, chat_input_limits, "the chat input", ErrorCode::invalid_argument);
    const common_json json = common_json::parse_no_throw(text);
    if (json.is_discarded() || !json.is_object()) {
        throw bad_input("chat inputs must be a JSON object");
    }
    require_known_keys(json);

    common_chat_templates_inputs inputs;
    try {
        inputs.messages =
            common_chat_msgs_parse_oaicompat(json.contains("messages") ? json.at("messages") : common_json::array());
        inputs.tools = common_chat_tools_parse_oaicompat(json.contains("tools") ? json.at("tools") : common_json());
        const std::string tool_choice = read_string(json, "tool_choice");
        inputs.tool_choice = common_chat_tool_choice_parse_oaicompat(tool_choice.empty() ? "auto" : tool_choice);
    } catch (const Error &) {
        throw;
    } catch (const std::exception & e) {
        throw bad_input(e.what());
    }
    require_tool_schemas(inputs.tools);
    if (json.contains("json_schema") && !json.at("json_schema").is_null()) {
        inputs.json_schema = json.at("json_schema").dump_safe();
        require_schema_limits(inputs.json_schema);
    }
    inputs.grammar = read_string(json, "grammar");
    const auto parallel = caps_.find("supports_parallel_tool_calls");
    inputs.parallel_tool_calls = read_bool(json, "parallel_tool_calls", parallel != caps_.end() && parallel->second);
    const bool is_continuation = read_bool(json, "continue_final_message", false);
    inputs.continue_final_message = is_continuation ? COMMON_CHAT_CONTINUATION_AUTO : COMMON_CHAT_CONTINUATION_NONE;
    inputs.add_generation_prompt = read_bool(json, "add_generation_prompt", !is_continuation);
    inputs.enable_thinking = read_bool(json, "enable_thinking", true);
    inputs.reasoning_format = COMMON_REASONING_FORMAT_AUTO;
    inputs.chat_template_kwargs = read_kwargs(json);
    if (json.contains("now")) {
        if (!json.at("now").is_number()) {
            throw bad_input("now must be a number of seconds, not " + type_name(json.at("now")));
        }
        const double now = json.at("now").get<double>();
        require_range("now", now, 0.0, 253402300799.0); // the end of year 9999
        inputs.now = std::chrono::system_clock::time_point(std::chrono::seconds(static_cast<int64_t>(now)));
    }
    return inputs;
}

std::shared_ptr<ChatPrompt> ChatTemplates::apply(const std::string & text) const {
    common_chat_templates_inputs inputs = read_inputs(text);
    if (inputs.messages.empty()) {
        throw bad_input("messages is empty");
    }
    if (inputs.continue_final_message != COMMON_CHAT_CONTINUATION_NONE) {
        if (inputs.add_generation_prompt) {
            throw bad_input("continue_final_message and add_generation_prompt exclude each other");
        }
        if (inputs.messages.back().role != "assistant" || !inputs.messages.back().tool_calls.empty()) {
            throw bad_input("continue_final_message needs a final assistant message without tool calls");
        }
    }
    if (!inputs.grammar.empty() && (!inputs.tools.empty() || !inputs.json_schema.empty())) {
        throw bad_input("grammar can't be combined with tools or json_schema");
    }
    return std::make_shared<ChatPrompt>(shared_from_this(), std::move(inputs));
}

common_chat_params ChatTemplates::render(const common_chat_templates_inputs & inputs) const {
    const RenderBudget budget(inputs.messages.size(), count_bytes(inputs));
    try {
        common_chat_params params = common_chat_templates_apply(templates_.get(), inputs);
        budget.require_kept();
        if (params.prompt.size() > max_prompt_bytes) {
            throw Error(ErrorCode::chat_template,
                        "the chat template made a prompt of more than " + std::to_string(max_prompt_bytes) + " bytes");
        }
        return params;
    } catch (const Error &) {
        throw;
    } catch (const std::exception & e) {
        budget.require_kept();
        const bool is_schema = std::string(e.what()).rfind("JSON schema conversion failed", 0) == 0;
        throw Error(is_schema ? ErrorCode::grammar : ErrorCode::chat_template, e.what());
    }
}

// --- prompt ---------------------------------------------------------------------------------------------------------

ChatPrompt::ChatPrompt(std::shared_ptr<const ChatTemplates> templates, common_chat_templates_inputs inputs)
    : templates_(std::move(templates)), inputs_(std::move(inputs)), params_(templates_->render(inputs_)),
      constraint_(make_constraint()) {}

ChatPrompt::Constraint ChatPrompt::make_constraint() const {
    if (!params_.grammar.empty()) {
        Constraint constraint{params_.grammar, params_.grammar_lazy, {}, params_.generation_prompt};
        for (const common_grammar_trigger & trigger : params_.grammar_triggers) {
            constraint.triggers.push_back({trigger_kind(trigger.type), trigger.value, trigger.token});
        }
        return constraint;
    }
    if (!inputs_.grammar.empty()) {
        return {inputs_.grammar, false, {}, ""};
    }
    if (inputs_.json_schema.empty()) {
        return {};
    }
    if (!is_thinking_open()) {
        return {json_schema_grammar(inputs_.json_schema), false, {}, ""};
    }
    const std::string & end = params_.thinking_end_tags.front();
    return {json_schema_grammar_after(end, inputs_.json_schema),
            true,
            {{GrammarTriggerKind::word, end, -1}},
            params_.generation_prompt};
}

bool ChatPrompt::is_thinking_open() const {
    if (params_.thinking_start_tag.empty() || params_.thinking_end_tags.empty()) {
        return false;
    }
    const std::string & text = params_.generation_prompt;
    const size_t start = text.rfind(params_.thinking_start_tag);
    return start != std::string::npos && text.find(params_.thinking_end_tags.front(), start) == std::string::npos;
}

bool ChatPrompt::is_continuation() const {
    return inputs_.continue_final_message != COMMON_CHAT_CONTINUATION_NONE;
}

std::vector<int32_t> ChatPrompt::preserved_token_ids(const Vocab & vocab) const {
    std::vector<int32_t> ids;
    for (const std::string & text : params_.preserved_tokens) {
        const std::vector<int32_t> tokens = vocab.tokenize(text, false, true);
        if (tokens.size() == 1) {
            ids.push_back(tokens.front());
        }
    }
    return ids;
}

std::vector<int32_t> ChatPrompt::message_starts(const Vocab & vocab, const int32_t * tokens, size_t n_tokens) const {
    common_chat_msg_delimiters delimiters;
    for (common_chat_msg_delimiter delimiter : params_.message_delimiters.delimiters) {
        delimiter.tokens = vocab.tokenize(delimiter.delimiter, false, true);
        if (!delimiter.tokens.empty()) { // an empty one would match everywhere
            delimiters.delimiters.push_back(std::move(delimiter));
        }
    }
    std::vector<int32_t> starts;
    for (const common_chat_msg_span & span : delimiters.split(llama_tokens(tokens, tokens + n_tokens)).spans) {
        starts.push_back(static_cast<int32_t>(span.pos));
    }
    return starts;
}

common_chat_parser_params ChatPrompt::parser_params(bool parse_thinking, bool parse_tool_calls) const {
    common_chat_params rendered;
    const bool is_other = !parse_thinking || (!parse_tool_calls && !inputs_.tools.empty());
    if (is_other) {
        common_chat_templates_inputs inputs = inputs_;
        inputs.reasoning_format = parse_thinking ? COMMON_REASONING_FORMAT_AUTO : COMMON_REASONING_FORMAT_NONE;
        inputs.tool_choice = parse_tool_calls ? inputs.tool_choice : COMMON_CHAT_TOOL_CHOICE_NONE;
        rendered = templates_->render(inputs);
    }
    const common_chat_params & params = is_other ? rendered : params_;
    common_chat_parser_params result(params);
    result.reasoning_format = parse_thinking ? COMMON_REASONING_FORMAT_AUTO : COMMON_REASONING_FORMAT_NONE;
    result.parse_tool_calls = parse_tool_calls;
    result.is_continuation = is_continuation();
    if (!params.parser.empty()) {
        result.parser.load(params.parser);
    }
    return result;
}

} // namespace donabe
