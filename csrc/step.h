// One engine step: decode a batch and sample every bound sequence that has output rows in it, under one lock of the
// context. Of a chunk with several output rows that is no draft, only the last row is sampled.
//
// Threads: as Context (one owner at a time). Call without the GIL; the batch and the set must not change meanwhile.
#pragma once

#include <cstdint>
#include <vector>

#include "batch.h"
#include "context.h"
#include "sampler_set.h"

namespace donabe {

// Immutable after run_step(). Entry i of `sequences` is row i of the Python arrays.
struct StepResult {
    std::vector<int32_t> seq_ids;
    std::vector<int32_t> counts;
    std::vector<int32_t> tokens;
    std::vector<uint8_t> finish;
    std::vector<int32_t> stop_index;
    std::vector<int32_t> n_drafted;
    std::vector<int32_t> n_accepted;
    std::vector<SequenceStep> sequences;
    double decode_s = 0.0;
    double sample_s = 0.0;
};

// Throws what decode throws, before anything is sampled; also unsupported for drafts on a memory that can't take the
// rejected ones back, invalid_argument when set and context are of different models. Failures of single sequences are
// in the result.
StepResult run_step(Context & context, const Batch & batch, SamplerSet & samplers);

} // namespace donabe
