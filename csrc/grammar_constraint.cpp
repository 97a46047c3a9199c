#include "grammar_constraint.h"

#include <algorithm>
#include <cctype>
#include <climits>
#include <cmath>

#include "common.h"
#include "reasoning-budget.h"

#include "base/errors.h"
#include "grammar_check.h"

namespace donabe {

namespace {

std::string anchored(const std::string & pattern) {
    if (pattern.empty()) {
        return "^$";
    }
    return (pattern.front() == '^' ? "" : "^") + pattern + (pattern.back() == '$' ? "" : "$");
}

bool contains(const std::vector<int32_t> & tokens, int32_t token) {
    return std::find(tokens.begin(), tokens.end(), token) != tokens.end();
}

llama_sampler_ptr clone_sampler(const llama_sampler_ptr & sampler) {
    return llama_sampler_ptr(sampler ? llama_sampler_clone(sampler.get()) : nullptr);
}

} // namespace

std::unique_ptr<GrammarConstraint> GrammarConstraint::create(const Vocab & vocab, const SamplerParams & params) {
    std::unique_ptr<GrammarConstraint> constraint(new GrammarConstraint(vocab));
    if (!params.grammar.empty()) {
        constraint->create_grammar(params);
    }
    constraint->create_budget(params);
    if (!constraint->grammar_ && !constraint->budget_) {
        return nullptr;
    }
    constraint->prefill(params);
    return constraint;
}

std::unique_ptr<GrammarConstraint> GrammarConstraint::clone() const {
    std::unique_ptr<GrammarConstraint> copy(new GrammarConstraint(vocab_));
    copy->grammar_ = clone_sampler(grammar_);
    copy->budget_ = clone_sampler(budget_);
    copy->is_lazy_ = is_lazy_;
    copy->is_asleep_ = is_asleep_;
    copy->trigger_words_ = trigger_words_;
    copy->trigger_tokens_ = trigger_tokens_;
    copy->longest_word_ = longest_word_;
    copy->pending_text_ = pending_text_;
    copy->pending_tokens_ = pending_tokens_;
    return copy;
}

void GrammarConstraint::create_grammar(const SamplerParams & params) {
    grammar_require_valid(vocab_.raw(), params.grammar);
    is_lazy_ = params.grammar_lazy;
    if (!is_lazy_) {
        grammar_.reset(llama_sampler_init_grammar(vocab_.raw(), params.grammar.c_str(), "root"));
    } else {
        std::vector<std::string> patterns;
        bool has_patterns = false;
        for (const GrammarTrigger & trigger : params.grammar_triggers) {
            if (trigger.kind == GrammarTriggerKind::token) {
                vocab_.require_token(trigger.token);
                trigger_tokens_.push_back(trigger.token);
            } else if (trigger.kind == GrammarTriggerKind::word) {
                const std::vector<int32_t> tokens = vocab_.tokenize(trigger.value, false, true);
                if (tokens.size() == 1 && contains(params.preserved_tokens, tokens.front())) {
                    trigger_tokens_.push_back(tokens.front());
                } else {
                    trigger_words_.push_back(trigger.value);
                    patterns.push_back(regex_escape(trigger.value));
                    longest_word_ = std::max(longest_word_, trigger.value.size());
                }
            } else {
                const bool is_full = trigger.kind == GrammarTriggerKind::pattern_full;
                patterns.push_back(is_full ? anchored(trigger.value) : trigger.value);
                has_patterns = true;
            }
        }
        is_asleep_ = !has_patterns;
        std::vector<const char *> pattern_pointers;
        for (const std::string & pattern : patterns) {
            pattern_pointers.push_back(pattern.c_str());
        }
        try {
            grammar_.reset(llama_sampler_init_grammar_lazy_patterns(vocab_.raw(), params.grammar.c_str(), "root",
                                                                    pattern_pointers.data(), pattern_pointers.size(),
                                                                    trigger_tokens_.data(), trigger_tokens_.size()));
        } catch (const std::exception & e) {
            throw Error(ErrorCode::grammar, std::string("a grammar trigger pattern does not compile: ") + e.what());
        }
    }
    if (!grammar_) {
        throw Error(ErrorCode::grammar, "the grammar does not compile (left recursion?)");
    }
}

void GrammarConstraint::create_budget(const SamplerParams & params) {
    const bool has_tags = !params.thinking_start.empty() && !params.thinking_ends.empty();
    const bool is_wanted = params.thinking_budget >= 0 || (grammar_ && is_lazy_);
    if (!has_tags || !is_wanted) {
        return;
    }
    std::vector<llama_tokens> ends;
    for (const std::string & end : params.thinking_ends) {
        if (!end.empty()) {
            ends.push_back(vocab_.tokenize(end, false, true));
        }
    }
    if (ends.empty() || ends.front().empty()) {
        return;
    }
    budget_.reset(common_reasoning_budget_init(vocab_.raw(), {vocab_.tokenize(params.thinking_start, false, true)},
                                               ends, ends.front(),
                                               params.thinking_budget < 0 ? INT_MAX : params.thinking_budget));
}

std::vector<int32_t> GrammarConstraint::prefill_tokens(const std::string & text) const {
    std::vector<int32_t> tokens = vocab_.tokenize(text, false, true);
    if (!tokens.empty()) {
        // Some tokenizers put a space before the first special token that is not in the text.
        const std::string first = vocab_.piece(tokens.front(), true);
        const auto is_space = [](char c) { return std::isspace(static_cast<unsigned char>(c)) != 0; };
        if (!first.empty() && is_space(first.front()) && !is_space(text.front())) {
            tokens.erase(tokens.begin());
        }
    }
    return tokens;
}

void GrammarConstraint::prefill(const SamplerParams & params) {
    if (params.grammar_prefill.empty()) {
        return;
    }
    const bool is_for_grammar = grammar_ && !is_lazy_;
    for (int32_t token : prefill_tokens(params.grammar_prefill)) {
        if (is_for_grammar) {
            try {
                feed_grammar(token);
            } catch (const Error &) {
                throw Error(ErrorCode::grammar, "the grammar does not accept grammar_prefill",
                            "pass grammar_prefill only with grammars made by the chat template");
            }
        }
        if (budget_) {
            llama_sampler_accept(budget_.get(), token);
        }
    }
}

bool GrammarConstraint::is_forcing() const {
    return budget_ && common_reasoning_budget_get_state(budget_.get()) == REASONING_BUDGET_FORCING;
}

bool GrammarConstraint::grammar_is_awake() const {
    if (!grammar_) {
        return false;
    }
    if (!budget_ || !is_lazy_) {
        return true;
    }
    const auto state = common_reasoning_budget_get_state(budget_.get());
    return state == REASONING_BUDGET_IDLE || state == REASONING_BUDGET_DONE;
}

bool GrammarConstraint::allows(int32_t token) const {
    if (is_asleep_ || !grammar_is_awake()) {
        return true;
    }
    llama_token_data candidate{token, 1.0f, 0.0f};
    llama_token_data_array candidates{&candidate, 1, -1, false};
    llama_sampler_apply(grammar_.get(), &candidates);
    return candidate.logit != -INFINITY;
}

void GrammarConstraint::apply_budget(llama_token_data_array & candidates) const {
    if (budget_) {
        llama_sampler_apply(budget_.get(), &candidates);
    }
}

void GrammarConstraint::apply_grammar(llama_token_data_array & candidates) const {
    if (!is_asleep_ && grammar_is_awake()) {
        llama_sampler_apply(grammar_.get(), &candidates);
    }
}

void GrammarConstraint::accept(int32_t token) {
    // Before the budget moves on: the token that ends the thinking is not the grammar's.
    const bool is_grammars = grammar_is_awake();
    if (budget_) {
        llama_sampler_accept(budget_.get(), token);
        if (grammar_ && !is_grammars && common_reasoning_budget_get_state(budget_.get()) == REASONING_BUDGET_DONE) {
            if (const llama_tokens * end = common_reasoning_budget_get_end_match(budget_.get())) {
                for (int32_t end_token : *end) {
                    accept_in_grammar(end_token);
                }
            }
        }
    }
    if (is_grammars) {
        accept_in_grammar(token);
    }
}

void GrammarConstraint::accept_in_grammar(int32_t token) {
    if (vocab_.is_eog(token)) {
        return;
    }
    if (!is_asleep_) {
        feed_grammar(token);
    } else if (find_trigger(token)) {
        is_asleep_ = false;
        for (const PendingToken & pending : pending_tokens_) {
            feed_grammar(pending.token);
        }
        pending_tokens_.clear();
        pending_text_.clear();
    }
}

void GrammarConstraint::feed_grammar(int32_t token) {
    if (vocab_.is_eog(token)) {
        return;
    }
    try {
        llama_sampler_accept(grammar_.get(), token);
    } catch (const std::exception &) {
        throw Error(ErrorCode::grammar, "token " + std::to_string(token) + " does not fit the grammar");
    }
}

// On success pending_tokens_ holds the tokens the trigger's text overlaps.
bool GrammarConstraint::find_trigger(int32_t token) {
    if (contains(trigger_tokens_, token)) {
        pending_tokens_.assign(1, {token, 0});
        return true;
    }
    const size_t old_size = pending_text_.size();
    pending_text_ += vocab_.piece(token, true);
    pending_tokens_.push_back({token, pending_text_.size()});
    for (const std::string & word : trigger_words_) {
        const size_t from = old_size - std::min(old_size, word.size() - 1);
        const size_t start = pending_text_.find(word, from);
        if (start != std::string::npos) {
            const auto first = std::find_if(pending_tokens_.begin(), pending_tokens_.end(),
                                            [&](const PendingToken & pending) { return pending.end > start; });
            pending_tokens_.erase(pending_tokens_.begin(), first);
            return true;
        }
    }
    // Keep what a word that is not complete yet may overlap.
    const size_t n_keep = std::min(pending_text_.size(), longest_word_ > 0 ? longest_word_ - 1 : 0);
    const size_t n_drop = pending_text_.size() - n_keep;
    const auto first = std::find_if(pending_tokens_.begin(), pending_tokens_.end(),
                                    [&](const PendingToken & pending) { return pending.end > n_drop; });
    const size_t n_cut = first == pending_tokens_.begin() ? 0 : (first - 1)->end;
    pending_tokens_.erase(pending_tokens_.begin(), first);
    pending_text_.erase(0, n_cut);
    for (PendingToken & pending : pending_tokens_) {
        pending.end -= n_cut;
    }
    return false;
}

} // namespace donabe
