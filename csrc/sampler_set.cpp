#include "sampler_set.h"

#include "llama.h"

#include "base/errors.h"

namespace donabe {

SamplerSet::SamplerSet(std::shared_ptr<Model> model, int32_t n_threads)
    : model_(std::move(model)), eog_tokens_(std::make_shared<const std::vector<int32_t>>(Vocab(model_).eog_tokens())),
      pool_(n_threads), scratch_(static_cast<size_t>(n_threads)) {}

std::unique_lock<std::mutex> SamplerSet::use() const {
    std::unique_lock<std::mutex> lock(mutex_, std::try_to_lock);
    if (!lock.owns_lock()) {
        throw Error(ErrorCode::busy, "the sampler set is in use by another thread");
    }
    return lock;
}

void SamplerSet::bind(int32_t seq_id, std::shared_ptr<Sampler> sampler, const OutputLimits & limits) {
    const auto lock = use();
    require_bindable_locked(seq_id, *sampler);
    outputs_.emplace(seq_id, std::make_unique<SequenceOutput>(std::move(sampler), limits, eog_tokens_));
}

void SamplerSet::restore(int32_t seq_id, SequenceOutputState & state) {
    const auto lock = use();
    if (!state.output) {
        throw Error(ErrorCode::invalid_argument, "the state was restored already", "export() the sequence again");
    }
    require_bindable_locked(seq_id, *state.output->sampler());
    outputs_.emplace(seq_id, std::move(state.output));
}

std::string SamplerSet::unbind(int32_t seq_id) {
    return take(seq_id)->take_held_text();
}

std::unique_ptr<SequenceOutput> SamplerSet::take(int32_t seq_id) {
    const auto lock = use();
    require_locked(seq_id);
    const auto found = outputs_.find(seq_id);
    std::unique_ptr<SequenceOutput> output = std::move(found->second);
    outputs_.erase(found);
    return output;
}

void SamplerSet::require_bindable_locked(int32_t seq_id, const Sampler & sampler) const {
    require_range("seq_id", static_cast<int64_t>(seq_id), int64_t(0),
                  static_cast<int64_t>(llama_max_parallel_sequences()) - 1);
    if (sampler.model() != model_) {
        throw Error(ErrorCode::invalid_argument, "the sampler belongs to another model than the set");
    }
    if (outputs_.count(seq_id) != 0) {
        throw Error(ErrorCode::invalid_argument, "sequence " + std::to_string(seq_id) + " is bound already",
                    "unbind() it first");
    }
    for (const auto & [other, output] : outputs_) {
        if (output->sampler().get() == &sampler) {
            throw Error(ErrorCode::invalid_argument, "the sampler is bound to sequence " + std::to_string(other),
                        "bind a clone()");
        }
    }
}

std::vector<int32_t> SamplerSet::bound() const {
    const auto lock = use();
    std::vector<int32_t> seq_ids;
    for (const auto & entry : outputs_) {
        seq_ids.push_back(entry.first);
    }
    return seq_ids;
}

SequenceOutput * SamplerSet::find_locked(int32_t seq_id) {
    const auto found = outputs_.find(seq_id);
    return found == outputs_.end() ? nullptr : found->second.get();
}

SequenceOutput & SamplerSet::require_locked(int32_t seq_id) {
    SequenceOutput * output = find_locked(seq_id);
    if (!output) {
        throw Error(ErrorCode::invalid_argument, "sequence " + std::to_string(seq_id) + " is not bound");
    }
    return *output;
}

std::vector<SequenceStep> SamplerSet::sample_locked(const std::vector<Work> & work) {
    std::vector<SequenceStep> steps(work.size());
    pool_.run(work.size(), [&](size_t item, size_t thread) {
        steps[item] = work[item].output->step(work[item].rows, scratch_[thread]);
        steps[item].seq_id = work[item].seq_id;
    });
    return steps;
}

} // namespace donabe
