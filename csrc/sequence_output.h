// The output side of one running sequence: its sampler, its limits, the text it has not handed out yet. Turns rows of
// logits into accepted tokens and new text, and knows when the sequence ends.
//
// Threads: one at a time (SamplerSet gives each to one worker per step).
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "logprobs.h"
#include "sampler.h"
#include "text_stream.h"

namespace donabe {

// Values are part of the Python contract (StepResult.finish).
enum class Finish : uint8_t { running = 0, eog = 1, stop = 2, length = 3, error = 4 };

// One sequence's rows of a step. Row i holds the logits after position pos0 + i; drafts[i] is what was guessed to
// follow.
struct OutputRows {
    const float * const * rows;
    int32_t n_rows;
    const int32_t * drafts; // n_rows - 1 tokens
    int32_t pos0;           // of the token whose logits row 0 holds
};

// What a sequence got out of one step.
struct SequenceStep {
    int32_t seq_id = -1;
    std::vector<int32_t> tokens;
    std::string text;
    Finish finish = Finish::running;
    int32_t stop_index = -1;
    int32_t n_drafted = 0;
    int32_t n_accepted = 0;
    std::vector<TokenLogprobs> logprobs;
    std::string error;
};

class SequenceOutput {
  public:
    // eog_tokens: the model's, shared by all sequences. Throws invalid_argument.
    SequenceOutput(std::shared_ptr<Sampler> sampler, OutputLimits limits,
                   std::shared_ptr<const std::vector<int32_t>> eog_tokens);

    // Samples from the rows, one after another, as long as the drafts are right and the sequence goes on. Never throws:
    // failures end the sequence with Finish::error.
    SequenceStep step(const OutputRows & rows, SampleScratch & scratch) noexcept;
    // Everything held back.
    std::string take_held_text();
    const std::shared_ptr<Sampler> & sampler() const { return sampler_; }

  private:
    void sample_rows(const OutputRows & rows, SampleScratch & scratch, SequenceStep & step);
    void accept(int32_t token, int32_t next_pos, SequenceStep & step);

    std::shared_ptr<Sampler> sampler_;
    OutputLimits limits_;
    std::shared_ptr<const std::vector<int32_t>> eog_tokens_;
    Vocab vocab_;
    TextStream text_;
    int64_t n_tokens_ = 0;
};

} // namespace donabe
