#include "chat_parser.h"

#include "json.h"

#include "base/errors.h"
#include "text_limits.h"
#include "text_stream.h"

namespace donabe {

namespace {

// The parser recurses once per nested value.
constexpr int max_output_depth = 256;

bool starts_with(const std::string & text, const std::string & prefix) {
    return text.compare(0, prefix.size(), prefix) == 0;
}

// What `now` adds to `emitted`, and appends it there.
std::string take_growth(std::string & emitted, const std::string & now) {
    if (now.size() <= emitted.size() || !starts_with(now, emitted)) {
        return "";
    }
    std::string growth = now.substr(emitted.size());
    emitted += growth;
    return growth;
}

std::string without_prefix(const std::string & text, const std::string & prefix) {
    return starts_with(text, prefix) ? text.substr(prefix.size()) : text;
}

common_json tool_call_json(size_t index, const common_chat_tool_call & call) {
    return common_json::object({{"index", index}, {"id", call.id}, {"name", call.name}, {"arguments", call.arguments}});
}

} // namespace

ChatParser::ChatParser(const ChatPrompt & prompt, bool parse_thinking, bool parse_tool_calls)
    : params_(prompt.parser_params(parse_thinking, parse_tool_calls)) {
    if (params_.is_continuation) {
        const common_chat_msg prefill = parse(0, true);
        prefill_content_ = prefill.content;
        prefill_thinking_ = prefill.reasoning_content;
    }
}

std::unique_lock<std::mutex> ChatParser::use() const {
    std::unique_lock<std::mutex> lock(mutex_, std::try_to_lock);
    if (!lock.owns_lock()) {
        throw Error(ErrorCode::busy, "the chat parser is in use by another thread");
    }
    if (is_finished_) {
        throw Error(ErrorCode::invalid_argument, "the chat parser has finished", "make a new one for another answer");
    }
    return lock;
}

common_chat_msg ChatParser::parse(size_t n_bytes, bool is_partial) const {
    if (max_bracket_depth(text_) > max_output_depth) {
        throw std::runtime_error("the answer nests brackets deeper than " + std::to_string(max_output_depth));
    }
    common_chat_msg message = common_chat_parse(text_.substr(0, n_bytes), is_partial, params_);
    message.content = without_prefix(message.content, prefill_content_);
    message.reasoning_content = without_prefix(message.reasoning_content, prefill_thinking_);
    return message;
}

ChatParser::Deltas ChatParser::advance(const common_chat_msg & message, bool is_final) {
    Deltas deltas;
    deltas.content = take_growth(emitted_.content, message.content);
    deltas.thinking = take_growth(emitted_.reasoning_content, message.reasoning_content);
    advance_tool_calls(message.tool_calls, is_final, deltas);
    if (!deltas.empty()) {
        n_bytes_emitted_ = text_.size();
    }
    return deltas;
}

void ChatParser::advance_tool_calls(const std::vector<common_chat_tool_call> & calls, bool is_final, Deltas & deltas) {
    for (size_t i = 0; i < calls.size(); i++) {
        const common_chat_tool_call & call = calls[i];
        if (i == emitted_.tool_calls.size()) {
            // A name may still grow until the arguments begin.
            const bool is_name_complete = is_final || i + 1 < calls.size() || !call.arguments.empty();
            if (call.name.empty() || !is_name_complete) {
                return;
            }
            emitted_.tool_calls.push_back(call);
            deltas.tool_calls.emplace_back(i, call);
            continue;
        }
        common_chat_tool_call & emitted = emitted_.tool_calls[i];
        std::string growth = take_growth(emitted.arguments, call.arguments);
        const bool is_id_new = emitted.id.empty() && !call.id.empty();
        if (is_id_new) {
            emitted.id = call.id;
        }
        if (!growth.empty() || is_id_new) {
            deltas.tool_calls.push_back({i, {"", std::move(growth), is_id_new ? call.id : ""}});
        }
    }
}

namespace {

template <typename Deltas> common_json deltas_json(const Deltas & deltas) {
    common_json calls = common_json::array();
    for (const auto & [index, call] : deltas.tool_calls) {
        calls.push_back(tool_call_json(index, call));
    }
    return common_json::object({{"content", deltas.content}, {"thinking", deltas.thinking}, {"tool_calls", calls}});
}

} // namespace

std::string ChatParser::feed(std::string_view bytes) {
    const auto in_use = use();
    text_ += bytes;
    Deltas deltas;
    try {
        deltas = advance(parse(utf8_complete_length(text_), true), false);
    } catch (const std::exception &) {
        // It may parse once more text is there; finish() has the last word.
    }
    return deltas_json(deltas).dump_safe();
}

std::string ChatParser::finish() {
    const auto in_use = use();
    is_finished_ = true;
    try {
        return finish_parsed(parse(text_.size(), false));
    } catch (const std::exception & e) {
        return finish_unparsed(e.what());
    }
}

std::string ChatParser::finish_parsed(const common_chat_msg & message) {
    const Deltas deltas = advance(message, true);
    const bool is_consistent = starts_with(emitted_.content, message.content) &&
                               starts_with(emitted_.reasoning_content, message.reasoning_content) &&
                               emitted_.tool_calls.size() == message.tool_calls.size();
    common_json calls = common_json::array();
    for (size_t i = 0; i < emitted_.tool_calls.size(); i++) {
        calls.push_back(tool_call_json(i, emitted_.tool_calls[i]));
    }
    common_json result = common_json::object({{"content", emitted_.content},
                                              {"thinking", emitted_.reasoning_content},
                                              {"tool_calls", calls},
                                              {"deltas", deltas_json(deltas)},
                                              {"error", nullptr}});
    if (!is_consistent) {
        result["error"] = "the answer reads differently as a whole than in parts; the parts are given";
    }
    return result.dump_safe();
}

std::string ChatParser::finish_unparsed(const std::string & reason) {
    Deltas deltas;
    const bool is_prefix = starts_with(text_, emitted_.content) && emitted_.reasoning_content.empty();
    deltas.content = text_.substr(is_prefix ? emitted_.content.size() : n_bytes_emitted_);
    return common_json::object({{"content", text_},
                                {"thinking", ""},
                                {"tool_calls", common_json::array()},
                                {"deltas", deltas_json(deltas)},
                                {"error", reason}})
        .dump_safe();
}

} // namespace donabe
