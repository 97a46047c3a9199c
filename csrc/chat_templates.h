// A model's Jinja chat templates, and conversations rendered with them, over llama.cpp's template engine: it also makes
// the grammar, triggers and output parser that fit a template's way of writing tool calls and thinking.
//
// Threads: both classes are const after construction; render from any thread.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "chat.h"

#include "model.h"
#include "sampler_params.h"
#include "vocab.h"

namespace donabe {

class ChatTemplates;

class ChatPrompt {
  public:
    ChatPrompt(std::shared_ptr<const ChatTemplates> templates, common_chat_templates_inputs inputs);

    const common_chat_params & params() const { return params_; }
    // What the sampler needs to constrain the answer: the template's grammar, else the caller's, else one of the JSON
    // schema the template's handler did not provide for.
    struct Constraint {
        std::string grammar;
        bool is_lazy = false;
        std::vector<GrammarTrigger> triggers;
        std::string prefill; // for SamplerParams::grammar_prefill
    };
    const Constraint & constraint() const { return constraint_; }
    bool is_continuation() const;
    // Ids of preserved_tokens that are one token of this vocabulary.
    std::vector<int32_t> preserved_token_ids(const Vocab & vocab) const;
    std::vector<int32_t> message_starts(const Vocab & vocab, const int32_t * tokens, size_t n_tokens) const;
    // How to parse the answer. Renders again when thinking or tool calls are to stay in the content.
    common_chat_parser_params parser_params(bool parse_thinking, bool parse_tool_calls) const;

  private:
    Constraint make_constraint() const;
    bool is_thinking_open() const; // the generation prompt begins a thinking block

    std::shared_ptr<const ChatTemplates> templates_;
    common_chat_templates_inputs inputs_;
    common_chat_params params_;
    Constraint constraint_;
};

class ChatTemplates : public std::enable_shared_from_this<ChatTemplates> {
  public:
    // Without a source: the model's own, or ChatML when it has none. Throws chat_template.
    ChatTemplates(std::shared_ptr<Model> model, const std::optional<std::string> & source);

    const std::string & source() const { return source_; }
    std::map<std::string, bool> caps() const { return caps_; }
    bool supports_thinking() const { return supports_thinking_; }
    // `inputs` is JSON (see _core.pyi). Throws chat_template, grammar, invalid_argument.
    std::shared_ptr<ChatPrompt> apply(const std::string & inputs) const;
    // Throws chat_template, grammar.
    common_chat_params render(const common_chat_templates_inputs & inputs) const;

  private:
    common_chat_templates_inputs read_inputs(const std::string & text) const;

    std::shared_ptr<Model> model_;
    common_chat_templates_ptr templates_;
    std::string source_;
    std::map<std::string, bool> caps_;
    bool supports_thinking_ = false;
};

} // namespace donabe
