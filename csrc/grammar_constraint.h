// What one sequence may say next: a GBNF grammar (at once, or woken by triggers) and a thinking budget, over
// llama.cpp's grammar sampler and the reasoning-budget sampler of its common library. Same rules as common_sampler:
//
//   - the budget is looked at first; once used up it forces the end tag token by token
//   - a lazy grammar rests while the budget counts; the end tag is then replayed into it, as it may hold a trigger
//   - what the template wrote of the answer (prefill) advances the budget, and the grammar unless it is lazy
//
// Added here: word triggers are found by an incremental search instead of a regular expression over all text per token;
// an end-of-generation token never reaches the grammar, which aborts the process on one it does not expect.
//
// Threads: none of its own; one thread at a time.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "llama-cpp.h"

#include "sampler_params.h"
#include "vocab.h"

namespace donabe {

class GrammarConstraint {
  public:
    // Null when the params ask for neither. Throws grammar, invalid_argument.
    static std::unique_ptr<GrammarConstraint> create(const Vocab & vocab, const SamplerParams & params);
    std::unique_ptr<GrammarConstraint> clone() const;

    bool is_forcing() const;          // the budget dictates the next token
    bool allows(int32_t token) const; // what the grammar says of one token
    // Sets the logits of forbidden candidates to -inf.
    void apply_budget(llama_token_data_array & candidates) const;
    void apply_grammar(llama_token_data_array & candidates) const;
    // Throws grammar when the grammar does not allow the token.
    void accept(int32_t token);

  private:
    explicit GrammarConstraint(const Vocab & vocab) : vocab_(vocab) {}

    void create_grammar(const SamplerParams & params);
    void create_budget(const SamplerParams & params);
    void prefill(const SamplerParams & params);
    std::vector<int32_t> prefill_tokens(const std::string & text) const;
    bool grammar_is_awake() const;
    void accept_in_grammar(int32_t token);
    void feed_grammar(int32_t token);
    bool find_trigger(int32_t token);

    struct PendingToken {
        int32_t token;
        size_t end; // of its text in pending_text_
    };

    Vocab vocab_;
    llama_sampler_ptr grammar_;
    llama_sampler_ptr budget_;
    bool is_lazy_ = false;
    // A lazy grammar with words and tokens only sleeps here; llama.cpp's own trigger search sees just the trigger.
    bool is_asleep_ = false;
    std::vector<std::string> trigger_words_;
    std::vector<int32_t> trigger_tokens_;
    size_t longest_word_ = 0;
    std::string pending_text_;
    std::vector<PendingToken> pending_tokens_;
};

} // namespace donabe
