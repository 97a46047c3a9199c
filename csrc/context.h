// A llama_context with its thread pools, owned by one thread at a time.
//
// Every method takes the context's lock itself, except those that want a `const Guard &`: they are for callers that do
// several things under one lock, as a step does:
//
//     auto guard = context.lock();             // at most one second, then Error busy; also closed, unsupported
//     context.decode_locked(guard, batch);     // checks every rule llama.cpp would abort on, then llama_decode
//     const float * row = context.logits_row_locked(guard, span.first_row);   // synchronised, valid until next decode
//
// request_abort(), clear_abort() and the const properties need no lock. Call everything that takes the lock without the
// GIL. The destructor frees the llama_context before the model and the pools.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "adapter.h"
#include "batch.h"
#include "model.h"
#include "thread_pools.h"

struct llama_context;
struct llama_context_params;

namespace donabe {

struct ContextParams {
    int32_t n_ctx = 0;
    int32_t n_batch = 512;
    int32_t n_ubatch = 512;
    int32_t n_seq_max = 1;
    int32_t n_outputs_max = 0;
    int32_t n_threads = 0;
    int32_t n_threads_batch = 0;
    int32_t poll = 50;
    bool kv_unified = true;
    std::string flash_attention = "auto";
    std::string type_k = "f16";
    std::string type_v = "f16";
    bool offload_kqv = true;
    bool op_offload = true;
    bool swa_full = false;
    bool embeddings = false;
    std::string pooling = "unspecified";
    float rope_freq_base = 0.0f;
    float rope_freq_scale = 0.0f;

    void validate() const; // throws invalid_argument
    // Checked, also against the model. Throws invalid_argument, unsupported.
    llama_context_params to_native(const Model & model) const;
};

const char * pooling_name(int32_t pooling_type) noexcept; // of a llama_pooling_type

struct MemoryUse {
    std::string name; // device or buffer type
    uint64_t model_bytes;
    uint64_t context_bytes;
    uint64_t compute_bytes;
};

class Context : public std::enable_shared_from_this<Context> {
  public:
    // Proof that the lock is held and the context is open.
    class Guard {
      public:
        Guard(Guard &&) = default;
        Guard & operator=(Guard &&) = delete;

      private:
        friend class Context;
        explicit Guard(std::unique_lock<std::timed_mutex> held) : held_(std::move(held)) {}
        std::unique_lock<std::timed_mutex> held_;
    };

    Context(std::shared_ptr<Model> model, const ContextParams & params); // throws load, invalid_argument, unsupported
    ~Context();
    Context(const Context &) = delete;
    Context & operator=(const Context &) = delete;

    void close(); // idempotent; throws busy while another thread is inside or a view is alive
    Guard lock() const;
    llama_context * raw(const Guard & guard) const;
    const std::shared_ptr<Model> & model() const { return model_; }

    // --- constants -------------------------------------------------------------------------------------------------
    int32_t n_ctx() const { return n_ctx_; }
    int32_t n_ctx_seq() const { return n_ctx_seq_; }
    int32_t n_batch() const { return n_batch_; }
    int32_t n_ubatch() const { return n_ubatch_; }
    int32_t n_seq_max() const { return n_seq_max_; }
    int32_t n_outputs_max() const { return n_outputs_max_; }
    bool flash_attention() const { return flash_attention_; }
    bool is_kv_unified() const { return is_kv_unified_; }
    bool has_memory() const { return memory_kind_ != MemoryKind::none; }
    bool is_embedding() const { return is_embedding_; }
    uint64_t kv_bytes_per_cell() const { return kv_bytes_per_cell_; }
    const char * pooling() const { return pooling_; }       // none, mean, cls, last, rank
    MemoryKind memory_kind() const { return memory_kind_; } // none when the context has no memory
    // Whether rejected drafted tokens can be taken back with memory_remove_tail_locked (dense and window caches).
    bool can_remove_tail() const { return memory_kind_ == MemoryKind::dense || memory_kind_ == MemoryKind::iswa; }
    // Graphs of past computations that were the one before with other inputs, instead of being built anew. Any thread.
    int32_t n_graphs_reused() const noexcept { return n_graphs_reused_.load(std::memory_order_relaxed); }

    // --- compute ---------------------------------------------------------------------------------------------------
    void decode(const Batch & batch);
    void encode(const Batch & batch);
    // After any throw except compute/aborted the memory is as before; after these, memory that can't go back to where
    // the batch began (recurrent, hybrid, opaque) has lost the batch's sequences. The batch must not change meanwhile.
    void decode_locked(const Guard & guard, const Batch & batch);
    // Outputs of the last decode. Rows as in Batch; pointers are valid until the next decode or encode.
    int32_t n_outputs_locked(const Guard & guard) const;
    const float * logits_row_locked(const Guard & guard, int32_t row) const; // synchronises; throws invalid_argument
    // Remove positions [p0, end) of a sequence. False when the memory kind can't.
    bool memory_remove_tail_locked(const Guard & guard, int32_t seq_id, int32_t p0);

    // --- outputs ---------------------------------------------------------------------------------------------------
    // While a view is alive decode(), encode() and close() throw busy.
    class View {
      public:
        View(std::shared_ptr<Context> context, const float * data, int32_t n_rows, int32_t n_columns);
        ~View();
        View(const View &) = delete;
        View & operator=(const View &) = delete;
        const float * data;
        int32_t n_rows;
        int32_t n_columns;

      private:
        std::shared_ptr<Context> context_;
    };
    std::unique_ptr<View> logits_view();
    int32_t n_embedding_columns() const; // n_cls_out for pooling rank, else n_embd_out
    void copy_sequence_embeddings(const int32_t * seq_ids, size_t n, float * out) const;
    std::vector<float> token_embeddings() const;

    // --- settings --------------------------------------------------------------------------------------------------
    void set_adapters(const std::vector<std::pair<std::shared_ptr<Adapter>, float>> & adapters);
    void set_threads(int32_t n_threads, int32_t n_threads_batch);
    void set_causal(bool causal);
    void request_abort() noexcept { abort_requested_.store(true, std::memory_order_relaxed); }
    void clear_abort() noexcept { abort_requested_.store(false, std::memory_order_relaxed); }
    // Asks run_steps() to come back after the step it is in. Any thread; sticks until clear_yield().
    void request_yield() noexcept { yield_requested_.store(true, std::memory_order_relaxed); }
    void clear_yield() noexcept { yield_requested_.store(false, std::memory_order_relaxed); }
    bool is_yield_requested() const noexcept { return yield_requested_.load(std::memory_order_relaxed); }
    std::vector<MemoryUse> memory_breakdown() const;
    void warm_up();
    void synchronize();

  private:
    void read_constants(const ContextParams & params);
    void require_batch(const Batch & batch, bool is_encode) const;
    void require_span(const BatchSpan & span, bool is_encode) const;
    void require_no_views() const;
    void run_locked(const Batch & batch, bool is_encode);
    void drop_broken_sequences(const Batch & batch);

    std::shared_ptr<Model> model_;
    std::vector<std::shared_ptr<Adapter>> adapters_;
    std::unique_ptr<ThreadPools> pools_;
    // Replaced pools. The CPU backend pauses the pool it used last when it gets another one, so that must still exist
    // then: they are freed after the next computation.
    std::vector<std::unique_ptr<ThreadPools>> retired_pools_;
    llama_context * context_ = nullptr; // null after close()
    mutable std::timed_mutex mutex_;
    std::atomic<bool> abort_requested_{false};
    std::atomic<bool> yield_requested_{false};
    std::atomic<int32_t> n_views_{0};
    std::atomic<int32_t> n_graphs_reused_{0};
    int32_t n_outputs_ = 0;                // rows of the last decode or encode
    std::vector<int32_t> encoded_seq_ids_; // encoder-decoder models: whom the encoder's output is for

    int32_t n_ctx_ = 0;
    int32_t n_ctx_seq_ = 0;
    int32_t n_batch_ = 0;
    int32_t n_ubatch_ = 0;
    int32_t n_seq_max_ = 0;
    int32_t n_outputs_max_ = 0;
    int32_t poll_ = 50;
    const char * pooling_ = "none";
    bool flash_attention_ = false;
    bool is_kv_unified_ = true;
    bool is_embedding_ = false;
    bool is_causal_ = true;
    bool has_logits_ = true;
    int64_t n_positions_ = 0; // rows of a learned position table, 0: none
    MemoryKind memory_kind_ = MemoryKind::none;
    uint64_t kv_bytes_per_cell_ = 0;
};

} // namespace donabe
