#include "step.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "base/errors.h"

namespace donabe {

namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
    return std::chrono::duration<double>(Clock::now() - start).count();
}

void require_step(const Context & context, const Batch & batch, SamplerSet & samplers, bool may_go_on) {
    if (context.model() != samplers.model()) {
        throw Error(ErrorCode::invalid_argument, "the sampler set belongs to another model than the context");
    }
    for (const BatchSpan & span : batch.spans()) {
        if (may_go_on && (span.is_draft || span.n_rows != 1 || !samplers.find_locked(span.seq_id))) {
            throw Error(ErrorCode::invalid_batch,
                        "several steps need one output row for each sequence and a sampler for "
                        "it; sequence " +
                            std::to_string(span.seq_id) + " differs");
        }
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

// Whether the last n tokens occur earlier, too.
bool ends_in_repeat(const std::vector<int32_t> & tokens, int32_t n) {
    const auto length = static_cast<ptrdiff_t>(n);
    const auto size = static_cast<ptrdiff_t>(tokens.size());
    if (length <= 0 || size <= length) {
        return false;
    }
    const auto tail = tokens.end() - length;
    return std::search(tokens.begin(), tokens.end() - 1, tail, tokens.end()) != tokens.end() - 1;
}

// The steps of one call. Owns what lives from step to step.
class Burst {
  public:
    Burst(Context & context, const Context::Guard & guard, SamplerSet & samplers, const StepLimits & limits)
        : context_(context), guard_(guard), samplers_(samplers), limits_(limits) {
        for (const History & history : limits.histories) {
            histories_.emplace_back(history.seq_id,
                                    std::vector<int32_t>(history.tokens, history.tokens + history.n_tokens));
        }
    }

    StepResult run(const Batch & batch) {
        steps_ = run_one(batch);
        const int32_t n_steps = limits_.n_steps > 1 ? 1 + run_more(batch) : 1;
        StepResult result = pack(std::move(steps_));
        result.n_steps = n_steps;
        result.decode_s = decode_s_;
        result.sample_s = sample_s_;
        return result;
    }

  private:
    // Returns how many steps followed the batch's.
    int32_t run_more(const Batch & batch) {
        Batch next(batch.n_outputs());
        std::vector<int32_t> positions;
        for (const BatchSpan & span : batch.spans()) {
            positions.push_back(span.pos0 + span.n_tokens);
        }
        int32_t n_more = 0;
        while (1 + n_more < limits_.n_steps && goes_on()) {
            next.clear();
            for (size_t i = 0; i < steps_.size(); i++) {
                next.add_decode(&steps_[i].seq_id, &steps_[i].tokens.back(), &positions[i], 1);
                positions[i]++;
            }
            try {
                append(run_one(next));
            } catch (const Error & error) {
                if (error.code() != ErrorCode::kv_full) {
                    throw;
                }
                break; // the caller makes room; what the steps before have sampled stands
            }
            n_more++;
        }
        return n_more;
    }

    std::vector<SequenceStep> run_one(const Batch & batch) {
        const auto start = Clock::now();
        context_.decode_locked(guard_, batch);
        std::vector<const float *> pointers;
        const std::vector<SamplerSet::Work> work = collect_work(context_, guard_, batch, samplers_, pointers);
        decode_s_ += seconds_since(start); // fetching a row waits for the backend

        const auto sampling_start = Clock::now();
        std::vector<SequenceStep> steps = samplers_.sample_locked(work);
        for (size_t i = 0; i < work.size(); i++) {
            SequenceStep & step = steps[i];
            const int32_t n_kept = work[i].rows.pos0 + 1 + step.n_accepted;
            if (step.n_accepted < step.n_drafted && !context_.memory_remove_tail_locked(guard_, step.seq_id, n_kept)) {
                step.finish = Finish::error;
                step.error = "rejected drafts could not be removed from memory";
            }
        }
        sample_s_ += seconds_since(sampling_start);
        return steps;
    }

    bool goes_on() {
        if (context_.is_yield_requested() || (limits_.max_s > 0.0 && seconds_since(started_) >= limits_.max_s)) {
            return false;
        }
        return std::all_of(steps_.begin(), steps_.end(),
                           [](const SequenceStep & step) { return step.finish == Finish::running; }) &&
               !has_repeat();
    }

    bool has_repeat() {
        bool is_found = false;
        for (auto & [seq_id, tokens] : histories_) {
            const int32_t id = seq_id;
            const auto step = std::find_if(steps_.begin(), steps_.end(),
                                           [id](const SequenceStep & candidate) { return candidate.seq_id == id; });
            if (step != steps_.end()) {
                tokens.push_back(step->tokens.back());
                is_found = is_found || ends_in_repeat(tokens, limits_.n_repeat);
            }
        }
        return is_found;
    }

    void append(std::vector<SequenceStep> && more) {
        for (size_t i = 0; i < more.size(); i++) {
            SequenceStep & step = steps_[i];
            step.tokens.insert(step.tokens.end(), more[i].tokens.begin(), more[i].tokens.end());
            step.text += more[i].text;
            step.logprobs.insert(step.logprobs.end(), std::make_move_iterator(more[i].logprobs.begin()),
                                 std::make_move_iterator(more[i].logprobs.end()));
            step.finish = more[i].finish;
            step.stop_index = more[i].stop_index;
            step.error = std::move(more[i].error);
        }
    }

    const Clock::time_point started_ = Clock::now();
    Context & context_;
    const Context::Guard & guard_;
    SamplerSet & samplers_;
    const StepLimits & limits_;
    std::vector<std::pair<int32_t, std::vector<int32_t>>> histories_;
    std::vector<SequenceStep> steps_;
    double decode_s_ = 0.0;
    double sample_s_ = 0.0;
};

} // namespace

StepResult run_steps(Context & context, const Batch & batch, SamplerSet & samplers, const StepLimits & limits) {
    const auto guard = context.lock();
    const auto samplers_in_use = samplers.use();
    require_step(context, batch, samplers, limits.n_steps > 1);
    return Burst(context, guard, samplers, limits).run(batch);
}

} // namespace donabe
