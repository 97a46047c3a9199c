// How one sequence picks its next token, and what it remembers for that: recent tokens, grammar and budget state,
// random state. A driver over llama.cpp's samplers that avoids their full-vocabulary arrays and sorts:
//
//   1. logit_bias, penalties and dry change a few tokens: they run on those alone, and patch a copy of the row
//   2. the first cut picks candidates straight from the row (candidates.h), the rest of the chain works on these few:
//
//        temperature 0          argmax (truncation, xtc and mirostat are skipped)
//        mirostat               all, sorted; temperature, mirostat
//        top_k                  the k best           -> typical_p, top_p, min_p, xtc, temperature, draw
//        typical_p, xtc         all, sorted          -> typical_p, top_p, min_p, xtc, temperature, draw
//        top_p                  the nucleus          -> min_p, temperature, draw
//        min_p                  those above the bar  -> temperature, draw
//        nothing                temperature and draw over the row itself
//
//   3. a grammar is asked about the one token drawn; only when it refuses, candidates are filtered through it, best
//   first
//      and only as many as the chain needs, and drawn from again
//
// Draws take 53 bits of a Mersenne Twister (mt19937) per token, so a seed means the same on every platform.
//
// Threads: one at a time. use() proves it: the set samples under it, and so does every method Python calls.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <random>
#include <vector>

#include "llama-cpp.h"

#include "candidates.h"
#include "grammar_constraint.h"
#include "model.h"
#include "sampler_params.h"
#include "token_window.h"
#include "vocab.h"

namespace donabe {

// Buffers of one sampling thread, reused for every row.
struct SampleScratch {
    std::vector<float> row;
    Candidates candidates;
    std::vector<double> block_sums;
};

class Sampler {
  public:
    // n_ctx_train bounds how far penalties look back; 0 = the model's. Slow with dry_sequence_breakers (looks at the
    // text of every token): construct it outside the engine's thread. Throws grammar, invalid_argument, unsupported.
    Sampler(std::shared_ptr<Model> model, SamplerParams params, int32_t n_ctx_train);
    Sampler & operator=(const Sampler &) = delete;

    // Same state, also of the random generator: set_seed() makes the copy go its own way.
    std::shared_ptr<Sampler> clone() const;
    void reset();                 // as constructed, with the same seed
    void set_seed(uint32_t seed); // random_seed draws one
    void accept_prompt(const int32_t * tokens, size_t n_tokens);
    void accept(int32_t token);
    // Next token for a row of raw logits (n_vocab,). `banned` tokens are left out unless the grammar allows nothing
    // else. Throws grammar when nothing is left, compute when the row has no finite logit.
    int32_t sample(const float * row, const std::vector<int32_t> & banned, SampleScratch & scratch);

    const SamplerParams & params() const { return params_; }
    const std::shared_ptr<Model> & model() const { return model_; }
    bool is_preserved(int32_t token) const;

    // Throws busy when another thread is inside.
    std::unique_lock<std::mutex> use() const;

  private:
    Sampler(const Sampler & other);

    void create_penalties();
    void create_random();
    const float * adjusted_row(const float * row, const std::vector<int32_t> & banned, SampleScratch & scratch) const;
    const float * forced_row(const float * row, SampleScratch & scratch) const;
    int32_t choose(const float * row, SampleScratch & scratch);
    int32_t choose_allowed(const float * row, SampleScratch & scratch);
    void collect_allowed(const float * row, size_t n_wanted, Candidates & allowed) const;
    int32_t choose_among(Candidates & candidates, bool is_nucleus);
    int32_t choose_mirostat(Candidates & candidates);
    int32_t draw(const Candidates & candidates);
    int32_t draw_from_row(const float * row, std::vector<double> & block_sums);
    double next_uniform();                       // [0, 1)
    int32_t window_length(int32_t last_n) const; // -1 is the whole context

    std::shared_ptr<Model> model_;
    Vocab vocab_;
    SamplerParams params_;
    int32_t n_vocab_;
    int32_t n_ctx_train_;
    uint32_t seed_;
    std::vector<std::pair<int32_t, float>> biases_; // by token, with the model's own suppressed tokens
    TokenWindow window_;                            // of the penalties
    llama_sampler_ptr penalties_;
    llama_sampler_ptr dry_;
    llama_sampler_ptr typical_;
    llama_sampler_ptr xtc_;
    llama_sampler_ptr mirostat_;
    std::unique_ptr<GrammarConstraint> constraint_;
    std::mt19937 random_;
    mutable std::mutex mutex_;
};

} // namespace donabe
