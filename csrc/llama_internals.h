// The only door to llama.cpp's private headers: facts that its public API does not tell, or tells wrong for some memory
// kinds. To be read again at every move of the pin (third_party/ggml/README.md).
#pragma once

#include <cstdint>

#include "llama.h"
#include "model.h"

namespace donabe {

// --- model ----------------------------------------------------------------------------------------------------------
MemoryKind internals_model_memory_kind(const llama_model * model); // what a context of this model will have
bool internals_model_is_causal(const llama_model * model);
int64_t internals_model_n_positions(const llama_model * model); // rows of the learned position table, 0: none
int32_t internals_model_n_expert(const llama_model * model);
bool internals_model_has_classifier(const llama_model * model);

// --- context --------------------------------------------------------------------------------------------------------
MemoryKind internals_context_memory_kind(llama_context * context); // by the class of its memory object
bool internals_context_flash_attention(const llama_context * context);
int32_t internals_context_n_outputs_max(const llama_context * context);
struct CacheBytes {
    uint64_t attention = 0;
    uint64_t window = 0;
    uint64_t state = 0; // recurrent
};
CacheBytes internals_context_cache_bytes(llama_context * context);     // all 0 for memory of an unknown class
uint64_t internals_context_kv_bytes_per_cell(llama_context * context); // of the main (not windowed) attention cache

// --- memory ---------------------------------------------------------------------------------------------------------
// Main attention cache (dense; the not windowed one of iswa; the attention part of hybrid). -1 or 0 without one.
int32_t internals_memory_attention_pos_max(llama_context * context, int32_t seq_id);
uint32_t internals_memory_attention_n_free(llama_context * context, int32_t seq_id); // cells
void internals_memory_attention_remove_tail(llama_context * context, int32_t seq_id, int32_t p0);
// Sliding window cache. llama_memory_seq_pos_min of a hybrid tells the recurrent part's position instead.
int32_t internals_memory_window_pos_min(llama_context * context, int32_t seq_id); // -1: empty or no window
int32_t internals_memory_n_window(llama_context * context);                       // 0: no window
// Whether a cell of the sequence in [p0, p1) belongs to another sequence too.
bool internals_memory_is_shared(llama_context * context, int32_t seq_id, int32_t p0, int32_t p1);

} // namespace donabe
