// Splits an answer, as it comes, into content, thinking and tool calls, with the parser that came with the prompt.
//
// Each feed parses all text again (llama.cpp's parsers keep no state), so feed once per flush, not per token. What was
// handed out is never taken back: a later parse that disagrees with it only adds what extends it. A text that does not
// parse is content as it stands.
//
// Threads: one at a time; use() proves it.
#pragma once

#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "chat.h"

#include "chat_templates.h"

namespace donabe {

class ChatParser {
  public:
    ChatParser(const ChatPrompt & prompt, bool parse_thinking, bool parse_tool_calls); // throws chat_template

    // Both return JSON text (see _core.pyi). Throw busy, and invalid_argument after finish().
    std::string feed(std::string_view bytes);
    std::string finish();

  private:
    struct Deltas {
        std::string content;
        std::string thinking;
        std::vector<std::pair<size_t, common_chat_tool_call>> tool_calls; // with their index

        bool empty() const { return content.empty() && thinking.empty() && tool_calls.empty(); }
    };

    std::unique_lock<std::mutex> use() const;
    common_chat_msg parse(size_t n_bytes, bool is_partial) const;
    Deltas advance(const common_chat_msg & message, bool is_final);
    void advance_tool_calls(const std::vector<common_chat_tool_call> & calls, bool is_final, Deltas & deltas);
    std::string finish_parsed(const common_chat_msg & message);
    std::string finish_unparsed(const std::string & reason);

    common_chat_parser_params params_;
    std::string text_;
    std::string prefill_content_; // of a continued message: what the template wrote is not ours to report
    std::string prefill_thinking_;
    common_chat_msg emitted_;    // all deltas so far, joined
    size_t n_bytes_emitted_ = 0; // length of text_ at the last feed that gave something
    bool is_finished_ = false;
    mutable std::mutex mutex_;
};

} // namespace donabe
