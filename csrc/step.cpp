#include "step.h"

#include <chrono>

#include "base/errors.h"

namespace donabe {

namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
    return std::chrono::duration<double>(Clock::now() - start).count();
}

void require_step(const Context & context, const Batch & batch, SamplerSet & samplers) {
    if (context.model() != samplers.model()) {
        throw Error(ErrorCode::invalid_argument, "the sampler set belongs to another model than the context");
    }
    for (const BatchSpan & span : batch.spans()) {
        if (!span.is_draft) {
            continue;
        }
        if (!samplers.find_locked(span.seq_id)) {
            throw Error(ErrorCode::invalid_batch, "sequence " + std::to_string(span.seq_id) +
                                                      " has drafted tokens but is not bound in the sampler set");
        }
        if (span.n_tokens > 1 && !context.can_remove_tail()) {
            throw Error(ErrorCode::unsupported, "this model's memory can't take back rejected drafts",
                        "run it without speculation");
        }
    }
}

// Fetches the row pointers (not thread-safe in llama.cpp) and lists what is to be sampled. `pointers` keeps them.
std::vector<SamplerSet::Work> collect_work(const Context & context, const Context::Guard & guard, const Batch & batch,
                                           SamplerSet & samplers, std::vector<const float *> & pointers) {
    std::vector<SamplerSet::Work> work;
    pointers.reserve(static_cast<size_t>(batch.n_outputs()));
    for (const BatchSpan & span : batch.spans()) {
        SequenceOutput * output = span.n_rows > 0 ? samplers.find_locked(span.seq_id) : nullptr;
        if (!output) {
            continue;
        }
        const int32_t n_rows = span.is_draft ? span.n_rows : 1;
        const size_t first = pointers.size();
        for (int32_t row = span.first_row + span.n_rows - n_rows; row < span.first_row + span.n_rows; row++) {
            pointers.push_back(context.logits_row_locked(guard, row));
        }
        const int32_t first_token = span.n_tokens - n_rows; // within the span, of the first sampled row
        const int32_t * drafts = batch.tokens().data() + span.first_token + first_token + 1;
        work.push_back(
            {span.seq_id, output, OutputRows{pointers.data() + first, n_rows, drafts, span.pos0 + first_token}});
    }
    return work;
}

StepResult pack(std::vector<SequenceStep> && steps) {
    StepResult result;
    for (const SequenceStep & step : steps) {
        result.seq_ids.push_back(step.seq_id);
        result.counts.push_back(static_cast<int32_t>(step.tokens.size()));
        result.tokens.insert(result.tokens.end(), step.tokens.begin(), step.tokens.end());
        result.finish.push_back(static_cast<uint8_t>(step.finish));
        result.stop_index.push_back(step.stop_index);
        result.n_drafted.push_back(step.n_drafted);
        result.n_accepted.push_back(step.n_accepted);
    }
    result.sequences = std::move(steps);
    return result;
}

} // namespace

StepResult run_step(Context & context, const Batch & batch, SamplerSet & samplers) {
    const auto guard = context.lock();
    const auto samplers_in_use = samplers.use();
    require_step(context, batch, samplers);

    const auto start = Clock::now();
    context.decode_locked(guard, batch);
    std::vector<const float *> pointers;
    const std::vector<SamplerSet::Work> work = collect_work(context, guard, batch, samplers, pointers);
    const double decode_s = seconds_since(start); // fetching a row waits for the backend

    const auto sampling_start = Clock::now();
    StepResult result = pack(samplers.sample_locked(work));
    for (size_t i = 0; i < work.size(); i++) {
        SequenceStep & step = result.sequences[i];
        const int32_t n_kept = work[i].rows.pos0 + 1 + step.n_accepted;
        if (step.n_accepted < step.n_drafted && !context.memory_remove_tail_locked(guard, step.seq_id, n_kept)) {
            step.finish = Finish::error;
            step.error = "rejected drafts could not be removed from memory";
            result.finish[i] = static_cast<uint8_t>(Finish::error);
        }
    }
    result.sample_s = seconds_since(sampling_start);
    result.decode_s = decode_s;
    return result;
}

} // namespace donabe
