// The sequences' memory of a context: what can be removed, shared, saved and restored, per memory kind. Every method
// takes the context's lock; ranges are half-open [p0, p1), negative p0 is 0, negative p1 the end.
//
// What fork(src, dst, k) does, after emptying dst:
//
//   kind         shares            exact when                                        else
//   dense        seq_cp [0, k)     always                                            -
//   iswa         seq_cp [0, k)     window before k is resident in src                checkpoint(k), or false
//   recurrent    seq_cp (state)    src ends at k                                     checkpoint(k), or false
//   hybrid       seq_cp [0, k)     src ends at k                                     checkpoint(k), or false
//   opaque       nothing           -                                                 whole checkpoint(k), or false
//   streams      nothing           (kv_unified=False) src ends at k: state copy      checkpoint(k), or false
//
// "iswa" relies on patch 0001: cells shared by several sequences are recycled once all of them are past the window.
#pragma once

#include <cstdint>
#include <memory>

#include "context.h"
#include "state_blob.h"

namespace donabe {

class Memory {
  public:
    explicit Memory(std::shared_ptr<Context> context); // throws unsupported when the context has no memory

    const char * kind() const { return memory_kind_name(kind_); }
    bool can_shift() const;
    void clear(bool data);
    int32_t pos_min(int32_t seq_id) const;
    int32_t pos_max(int32_t seq_id) const; // -1: empty
    bool seq_rm(int32_t seq_id, int32_t p0, int32_t p1);
    void seq_cp(int32_t src, int32_t dst, int32_t p0, int32_t p1); // throws unsupported where it would be wrong
    void seq_keep(int32_t seq_id);
    void seq_add(int32_t seq_id, int32_t p0, int32_t p1, int32_t delta);
    void seq_div(int32_t seq_id, int32_t p0, int32_t p1, int32_t divisor);
    bool fork(int32_t src, int32_t dst, int32_t n_tokens, const StateBlob * checkpoint);
    std::shared_ptr<StateBlob> get_state(int32_t seq_id, bool is_partial) const;
    void set_state(int32_t seq_id, const StateBlob & blob); // throws state, kv_full; then the sequence is empty

  private:
    bool has_recurrent_state() const;
    bool has_window() const;
    bool has_attention_cells() const;
    bool has_streams() const;
    void require_seq(const char * name, int32_t seq_id) const;
    // The rest is called with the context's lock held.
    void require_shift(llama_context * context, int32_t seq_id, int32_t p0, int32_t p1) const;
    void require_partial_fits(llama_context * context, int32_t seq_id, const StateBlob & blob) const;
    bool has_window_at(llama_context * context, int32_t seq_id, int32_t n_tokens) const;
    bool share(llama_context * context, int32_t src, int32_t dst, int32_t n_tokens, bool is_at_end,
               const StateBlob * checkpoint) const;
    bool is_exact_fork(llama_context * context, int32_t dst, int32_t n_tokens) const;
    size_t state_size_bound(int32_t n_tokens, bool is_partial) const;
    std::shared_ptr<StateBlob> read_state(llama_context * context, int32_t seq_id, bool is_partial) const;
    bool restore(llama_context * context, int32_t seq_id, const StateBlob & blob) const;

    std::shared_ptr<Context> context_;
    MemoryKind kind_;
};

} // namespace donabe
