// Engine steps: decode a batch and sample every bound sequence that has output rows in it, under one lock of the
// context. Of a chunk with several output rows that is no draft, only the last row is sampled. Where the caller has
// nothing to decide in between, further steps follow in which every sequence computes the token it has just sampled.
//
// Threads: as Context (one owner at a time). Call without the GIL; the batch and the set must not change meanwhile.
#pragma once

#include <cstdint>
#include <vector>

#include "batch.h"
#include "context.h"
#include "sampler_set.h"

namespace donabe {

// A sequence's tokens so far, the one that the batch computes included. Owned by the caller.
struct History {
    int32_t seq_id;
    const int32_t * tokens;
    size_t n_tokens;
};

// When to come back. Always after a step in which a sequence ended, when somebody called Context::request_yield(), or
// when there is no room for another step.
struct StepLimits {
    int32_t n_steps = 1;  // at most; more than 1 only for batches of one output row for each of bound sequences
    double max_s = 0.0;   // after the first step that ends this long after the start; 0: do not look at the time
    int32_t n_repeat = 0; // after a step in which a sequence of `histories` ends in n_repeat tokens that it had before
    std::vector<History> histories;
};

// Immutable after run_steps(). Entry i of `sequences` is row i of the Python arrays.
struct StepResult {
    std::vector<int32_t> seq_ids;
    std::vector<int32_t> counts;
    std::vector<int32_t> tokens;
    std::vector<uint8_t> finish;
    std::vector<int32_t> stop_index;
    std::vector<int32_t> n_drafted;
    std::vector<int32_t> n_accepted;
    std::vector<SequenceStep> sequences;
    int32_t n_steps = 0;
    double decode_s = 0.0; // of all steps
    double sample_s = 0.0;
};

// Throws what decode throws, before anything is sampled; also unsupported for drafts on a memory that can't take the
// rejected ones back, invalid_argument when set and context are of different models, invalid_batch for a batch that
// can't be followed by another step where several are allowed. Failures of single sequences are in the result.
StepResult run_steps(Context & context, const Batch & batch, SamplerSet & samplers, const StepLimits & limits);

} // namespace donabe
