#include "sampler_params.h"

#include <cmath>

#include "base/errors.h"
#include "grammar_check.h"

namespace donabe {

namespace {

constexpr int64_t max_window = INT32_MAX; // Sampler cuts it to the context
constexpr size_t max_biases = 1 << 16;
constexpr size_t max_stops = 256;
constexpr size_t max_stop_bytes = 4096;

void require_count(const char * name, size_t n, size_t limit) {
    require_range(name, static_cast<int64_t>(n), int64_t(0), static_cast<int64_t>(limit));
}

} // namespace

const char * grammar_trigger_kind_name(GrammarTriggerKind kind) noexcept {
    switch (kind) {
    case GrammarTriggerKind::token:
        return "token";
    case GrammarTriggerKind::word:
        return "word";
    case GrammarTriggerKind::pattern:
        return "pattern";
    case GrammarTriggerKind::pattern_full:
        return "pattern_full";
    }
    return "unknown";
}

GrammarTriggerKind grammar_trigger_kind_from_name(const std::string & name) {
    for (GrammarTriggerKind kind : {GrammarTriggerKind::token, GrammarTriggerKind::word, GrammarTriggerKind::pattern,
                                    GrammarTriggerKind::pattern_full}) {
        if (name == grammar_trigger_kind_name(kind)) {
            return kind;
        }
    }
    throw Error(ErrorCode::invalid_argument, "grammar trigger kind '" + name + "' is unknown",
                "use token, word, pattern or pattern_full");
}

void GrammarTrigger::validate() const {
    if (kind == GrammarTriggerKind::token) {
        require_range("grammar trigger token", static_cast<int64_t>(token), int64_t(0), int64_t(INT32_MAX));
    } else if (value.empty()) {
        throw Error(ErrorCode::invalid_argument, "a grammar trigger needs a text in `value`");
    }
}

void SamplerParams::validate() const {
    require_range("temperature", temperature, 0.0, 1000.0);
    require_range("top_k", static_cast<int64_t>(top_k), int64_t(-1), int64_t(INT32_MAX));
    require_range("top_p", top_p, 0.0, 1.0);
    require_range("min_p", min_p, 0.0, 1.0);
    require_range("typical_p", typical_p, 0.0, 1.0);
    require_range("repeat_last_n", static_cast<int64_t>(repeat_last_n), int64_t(-1), max_window);
    require_range("repeat_penalty", repeat_penalty, 1e-6, 1000.0);
    require_range("presence_penalty", presence_penalty, -1000.0, 1000.0);
    require_range("frequency_penalty", frequency_penalty, -1000.0, 1000.0);
    require_range("xtc_probability", xtc_probability, 0.0, 1.0);
    require_range("xtc_threshold", xtc_threshold, 0.0, 1.0);
    require_range("dry_multiplier", dry_multiplier, 0.0, 1000.0);
    require_range("dry_base", dry_base, 0.0, 1000.0);
    require_range("dry_allowed_length", static_cast<int64_t>(dry_allowed_length), int64_t(0), max_window);
    require_range("dry_penalty_last_n", static_cast<int64_t>(dry_penalty_last_n), int64_t(-1), max_window);
    require_count("len(dry_sequence_breakers)", dry_sequence_breakers.size(), 64);
    require_range("mirostat", static_cast<int64_t>(mirostat), int64_t(0), int64_t(2));
    require_range("mirostat_tau", mirostat_tau, 0.0, 1000.0);
    require_range("mirostat_eta", mirostat_eta, 0.0, 1000.0);
    require_range("n_logprobs", static_cast<int64_t>(n_logprobs), int64_t(-1), int64_t(1 << 20));
    require_range("thinking_budget", static_cast<int64_t>(thinking_budget), int64_t(-1), int64_t(INT32_MAX));
    require_count("len(logit_bias)", logit_bias.size(), max_biases);
    for (const auto & [token, bias] : logit_bias) {
        if (std::isnan(bias) || bias > 1e6f) {
            throw Error(ErrorCode::invalid_argument, "logit_bias of token " + std::to_string(token) +
                                                         " must be a number up to 1e6, or -inf to ban the token");
        }
    }
    for (const GrammarTrigger & trigger : grammar_triggers) {
        trigger.validate();
    }
    grammar_require_limits(grammar);
    if (grammar_lazy && !grammar.empty() && grammar_triggers.empty()) {
        throw Error(ErrorCode::invalid_argument,
                    "grammar_lazy needs grammar_triggers: nothing would ever wake the grammar");
    }
    if (thinking_budget >= 0 && (thinking_start.empty() || thinking_ends.empty() || thinking_ends.front().empty())) {
        throw Error(ErrorCode::invalid_argument, "thinking_budget needs thinking_start and thinking_ends");
    }
}

void OutputLimits::validate() const {
    if (max_tokens == 0) {
        throw Error(ErrorCode::invalid_argument, "max_tokens must be -1 (no limit) or at least 1",
                    "a request for no tokens needs no sampling");
    }
    require_range("max_tokens", static_cast<int64_t>(max_tokens), int64_t(-1), int64_t(INT32_MAX));
    require_range("min_tokens", static_cast<int64_t>(min_tokens), int64_t(0), int64_t(INT32_MAX));
    require_range("n_ctx", static_cast<int64_t>(n_ctx), int64_t(0), int64_t(INT32_MAX));
    require_count("len(stop)", stops.size(), max_stops);
    for (const std::string & stop : stops) {
        require_range("length of a stop string in bytes", static_cast<int64_t>(stop.size()), int64_t(1),
                      static_cast<int64_t>(max_stop_bytes));
    }
}

} // namespace donabe
