// What one request asks of sampling and of its output: plain values, range-checked once. Meanings and "off" values are
// those of donabe.types.SamplingOptions and OutputOptions.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace donabe {

inline constexpr uint32_t random_seed = 0xFFFFFFFF; // stands for "draw one"

enum class GrammarTriggerKind : int32_t { token, word, pattern, pattern_full };

// What wakes a lazy grammar. `pattern` is searched in the output, `pattern_full` must match all of it; the grammar is
// fed from the first group on, or from the match.
struct GrammarTrigger {
    GrammarTriggerKind kind;
    std::string value;
    int32_t token = -1; // only for kind token

    void validate() const; // throws invalid_argument
};
const char * grammar_trigger_kind_name(GrammarTriggerKind kind) noexcept;
GrammarTriggerKind grammar_trigger_kind_from_name(const std::string & name); // throws invalid_argument

struct SamplerParams {
    uint32_t seed = random_seed;
    float temperature = 0.8f;
    int32_t top_k = 40;
    float top_p = 0.9f;
    float min_p = 0.0f;
    float typical_p = 1.0f;
    int32_t repeat_last_n = 64;
    float repeat_penalty = 1.0f;
    float presence_penalty = 0.0f;
    float frequency_penalty = 0.0f;
    float xtc_probability = 0.0f;
    float xtc_threshold = 0.1f;
    float dry_multiplier = 0.0f;
    float dry_base = 1.75f;
    int32_t dry_allowed_length = 2;
    int32_t dry_penalty_last_n = -1;
    std::vector<std::string> dry_sequence_breakers;
    int32_t mirostat = 0;
    float mirostat_tau = 5.0f;
    float mirostat_eta = 0.1f;
    std::vector<std::pair<int32_t, float>> logit_bias;
    int32_t n_logprobs = -1;

    std::string grammar; // GBNF with a rule `root`
    bool grammar_lazy = false;
    std::vector<GrammarTrigger> grammar_triggers;
    std::vector<int32_t> preserved_tokens;
    // What the template already wrote of the answer. Advances the thinking budget and, unless the grammar is lazy, the
    // grammar.
    std::string grammar_prefill;
    std::string thinking_start;
    std::vector<std::string> thinking_ends; // the first is forced when the budget is used up
    int32_t thinking_budget = -1;           // tokens, -1 = unlimited

    // Everything that needs no vocabulary; token ids are checked by Sampler.
    void validate() const; // throws invalid_argument

    bool is_greedy() const { return temperature == 0.0f; }
    bool has_penalties() const {
        return repeat_last_n != 0 && (repeat_penalty != 1.0f || presence_penalty != 0.0f || frequency_penalty != 0.0f);
    }
    bool has_dry() const { return dry_multiplier != 0.0f && dry_base >= 1.0f && dry_penalty_last_n != 0; }
    bool has_xtc() const { return xtc_probability > 0.0f && xtc_threshold <= 0.5f; }
};

struct OutputLimits {
    int32_t max_tokens = -1;
    int32_t min_tokens = 0;         // end-of-generation tokens and stop strings are ignored before
    std::vector<std::string> stops; // bytes
    bool ignore_eos = false;
    int32_t n_ctx = 0; // positions a sequence may use, 0 = no limit

    void validate() const; // throws invalid_argument
};

} // namespace donabe
