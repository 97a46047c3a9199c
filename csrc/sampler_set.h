// The sequences being sampled, and the threads that do it. One call per step samples all of them; each sequence is
// worked on by one thread, so the results do not depend on how many there are.
//
// Threads: every method takes the set's lock; a second thread gets busy at once. Call without the GIL.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include "sequence_output.h"
#include "worker_pool.h"

namespace donabe {

// A sequence taken out of a set, with everything it remembers. Empty once it was bound again.
struct SequenceOutputState {
    std::unique_ptr<SequenceOutput> output;
};

class SamplerSet {
  public:
    SamplerSet(std::shared_ptr<Model> model, int32_t n_threads);

    void bind(int32_t seq_id, std::shared_ptr<Sampler> sampler, const OutputLimits & limits);
    std::string unbind(int32_t seq_id); // text held back
    std::unique_ptr<SequenceOutput> take(int32_t seq_id);
    void restore(int32_t seq_id, SequenceOutputState & state); // leaves it empty; unchanged when this throws
    std::vector<int32_t> bound() const;
    const std::shared_ptr<Model> & model() const { return model_; }

    // --- for step.cpp ------------------------------------------------------------------------------------------------
    std::unique_lock<std::mutex> use() const; // throws busy
    struct Work {
        int32_t seq_id;
        SequenceOutput * output;
        OutputRows rows;
    };
    SequenceOutput * find_locked(int32_t seq_id); // null when not bound
    // One result per piece of work, in its order.
    std::vector<SequenceStep> sample_locked(const std::vector<Work> & work);

  private:
    SequenceOutput & require_locked(int32_t seq_id);
    void require_bindable_locked(int32_t seq_id, const Sampler & sampler) const;

    std::shared_ptr<Model> model_;
    std::shared_ptr<const std::vector<int32_t>> eog_tokens_;
    WorkerPool pool_;
    std::vector<SampleScratch> scratch_; // one per thread
    std::map<int32_t, std::unique_ptr<SequenceOutput>> outputs_;
    mutable std::mutex mutex_;
};

} // namespace donabe
