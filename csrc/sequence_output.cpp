#include "sequence_output.h"

#include <algorithm>
#include <exception>

#include "base/errors.h"

namespace donabe {

namespace {

OutputLimits checked(OutputLimits limits) {
    limits.validate();
    return limits;
}

} // namespace

SequenceOutput::SequenceOutput(std::shared_ptr<Sampler> sampler, OutputLimits limits,
                               std::shared_ptr<const std::vector<int32_t>> eog_tokens)
    : sampler_(std::move(sampler)), limits_(checked(std::move(limits))), eog_tokens_(std::move(eog_tokens)),
      vocab_(sampler_->model()), text_(limits_.stops) {}

std::string SequenceOutput::take_held_text() {
    std::string held;
    text_.flush(held);
    return held;
}

SequenceStep SequenceOutput::step(const OutputRows & rows, SampleScratch & scratch) noexcept {
    SequenceStep step;
    step.n_drafted = rows.n_rows - 1;
    try {
        const auto in_use = sampler_->use();
        sample_rows(rows, scratch, step);
    } catch (const std::exception & e) {
        step.finish = Finish::error;
        step.error = e.what();
    } catch (...) {
        step.finish = Finish::error;
        step.error = "unknown failure while sampling";
    }
    if (step.finish == Finish::error) {
        text_.flush(step.text);
    }
    // The last token sampled is in no cell yet: what was accepted of the drafts is all before it.
    step.n_accepted = std::max(0, static_cast<int32_t>(step.tokens.size()) - 1);
    return step;
}

void SequenceOutput::sample_rows(const OutputRows & rows, SampleScratch & scratch, SequenceStep & step) {
    static const std::vector<int32_t> none;
    const int32_t n_logprobs = sampler_->params().n_logprobs;
    for (int32_t i = 0; i < rows.n_rows; i++) {
        const bool is_eog_banned = limits_.ignore_eos || n_tokens_ < limits_.min_tokens;
        const int32_t token = sampler_->sample(rows.rows[i], is_eog_banned ? *eog_tokens_ : none, scratch);
        if (n_logprobs >= 0) {
            const int32_t n_vocab = sampler_->model()->n_vocab();
            step.logprobs.push_back(row_logprobs(rows.rows[i], n_vocab, token, n_logprobs));
        }
        step.tokens.push_back(token);
        sampler_->accept(token);
        accept(token, rows.pos0 + i + 1, step);
        const bool is_draft_right = i + 1 < rows.n_rows && rows.drafts[i] == token;
        if (step.finish != Finish::running || !is_draft_right) {
            return;
        }
    }
}

// next_pos: where the token would go.
void SequenceOutput::accept(int32_t token, int32_t next_pos, SequenceStep & step) {
    n_tokens_++;
    const bool is_eog = vocab_.is_eog(token); // sampled although banned: a grammar had nothing else to offer
    const std::string piece = vocab_.has_tokenizer() ? vocab_.piece(token, sampler_->is_preserved(token)) : "";
    if (!is_eog || sampler_->is_preserved(token)) {
        const bool can_stop = n_tokens_ >= limits_.min_tokens;
        step.stop_index = text_.append(piece, can_stop, step.text);
    }
    if (is_eog) {
        step.finish = Finish::eog;
        step.stop_index = -1;
    } else if (step.stop_index >= 0) {
        step.finish = Finish::stop;
    } else if (n_tokens_ == limits_.max_tokens || (limits_.n_ctx > 0 && next_pos >= limits_.n_ctx)) {
        step.finish = Finish::length;
    }
    if (step.finish != Finish::running) {
        text_.flush(step.text);
    }
}

} // namespace donabe
