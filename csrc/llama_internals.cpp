#include "llama_internals.h"

#include <typeinfo>

#include "llama-arch.h"
#include "llama-context.h"
#include "llama-kv-cache-iswa.h"
#include "llama-kv-cache.h"
#include "llama-memory-hybrid-iswa.h"
#include "llama-memory-hybrid.h"
#include "llama-memory-recurrent.h"
#include "llama-model.h"

namespace donabe {
namespace {

// The parts of a memory object that the kinds this code knows are made of; null where there is none.
struct Parts {
    MemoryKind kind = MemoryKind::opaque;
    llama_kv_cache * attention = nullptr;
    llama_kv_cache * window = nullptr;
    llama_memory_recurrent * state = nullptr;
};

Parts memory_parts(llama_memory_t memory) {
    if (memory == nullptr) {
        return {MemoryKind::none, nullptr, nullptr, nullptr};
    }
    // By exact class: a subclass or a sibling with rules of its own stays opaque.
    const std::type_info & type = typeid(*memory);
    if (type == typeid(llama_kv_cache)) {
        return {MemoryKind::dense, static_cast<llama_kv_cache *>(memory), nullptr, nullptr};
    }
    if (type == typeid(llama_kv_cache_iswa)) {
        auto * iswa = static_cast<llama_kv_cache_iswa *>(memory);
        return {MemoryKind::iswa, iswa->get_base(), iswa->get_swa(), nullptr};
    }
    if (type == typeid(llama_memory_recurrent)) {
        return {MemoryKind::recurrent, nullptr, nullptr, static_cast<llama_memory_recurrent *>(memory)};
    }
    if (type == typeid(llama_memory_hybrid)) {
        auto * hybrid = static_cast<llama_memory_hybrid *>(memory);
        return {MemoryKind::hybrid, hybrid->get_mem_attn(), nullptr, hybrid->get_mem_recr()};
    }
    if (type == typeid(llama_memory_hybrid_iswa)) {
        auto * hybrid = static_cast<llama_memory_hybrid_iswa *>(memory);
        auto * attention = hybrid->get_mem_attn();
        return {MemoryKind::hybrid_iswa, attention->get_base(), attention->get_swa(), hybrid->get_mem_recr()};
    }
    return {};
}

Parts context_parts(llama_context * context) {
    return memory_parts(llama_get_memory(context));
}

uint64_t total_bytes(const llama_memory_i * memory) {
    uint64_t n_bytes = 0;
    if (memory != nullptr) {
        for (const auto & use : memory->memory_breakdown()) {
            n_bytes += use.second;
        }
    }
    return n_bytes;
}

bool is_shared(const llama_kv_cache * cache, int32_t seq_id, int32_t p0, int32_t p1) {
    const llama_kv_cells & cells = cache->get_cells(seq_id);
    for (uint32_t i = 0; i < cells.size(); i++) {
        if (cells.pos_in(i, p0, p1) && cells.seq_has(i, seq_id) && cells.seq_count(i) > 1) {
            return true;
        }
    }
    return false;
}

} // namespace

MemoryKind internals_model_memory_kind(const llama_model * model) {
    switch (model->arch) {
    // As in llama_model::create_memory. Encoders and diffusion models: none.
    case LLM_ARCH_BERT:
    case LLM_ARCH_JINA_BERT_V2:
    case LLM_ARCH_JINA_BERT_V3:
    case LLM_ARCH_NOMIC_BERT:
    case LLM_ARCH_NOMIC_BERT_MOE:
    case LLM_ARCH_NEO_BERT:
    case LLM_ARCH_EUROBERT:
    case LLM_ARCH_WAVTOKENIZER_DEC:
    case LLM_ARCH_MODERN_BERT:
    case LLM_ARCH_GEMMA_EMBEDDING:
    case LLM_ARCH_DREAM:
    case LLM_ARCH_LLADA:
    case LLM_ARCH_LLADA_MOE:
    case LLM_ARCH_RND1:
    case LLM_ARCH_T5ENCODER:
        return MemoryKind::none;
    // Indexer, compressed or borrowed caches.
    case LLM_ARCH_MINIMAX_M3:
    case LLM_ARCH_GLM_DSA:
    case LLM_ARCH_DEEPSEEK32:
    case LLM_ARCH_GLM5_NEXT:
    case LLM_ARCH_DOTS3NOTE:
    case LLM_ARCH_DEEPSEEK4:
    case LLM_ARCH_QWEN4EXP:
    case LLM_ARCH_GEMMA4_ASSISTANT:
        return MemoryKind::opaque;
    case LLM_ARCH_HY_V4:
        return model->hparams.indexer_top_k == 0 ? MemoryKind::dense : MemoryKind::opaque;
    default:
        break;
    }
    const bool has_window = model->hparams.swa_type != LLAMA_SWA_TYPE_NONE;
    if (llm_arch_is_recurrent(model->arch)) {
        return MemoryKind::recurrent;
    }
    if (llm_arch_is_hybrid(model->arch)) {
        return has_window ? MemoryKind::hybrid_iswa : MemoryKind::hybrid;
    }
    return has_window ? MemoryKind::iswa : MemoryKind::dense;
}

bool internals_model_is_causal(const llama_model * model) {
    return model->hparams.causal_attn;
}

int64_t internals_model_n_positions(const llama_model * model) {
    return model->pos_embd == nullptr ? 0 : model->pos_embd->ne[1];
}

int32_t internals_model_n_expert(const llama_model * model) {
    return static_cast<int32_t>(model->hparams.n_expert);
}

bool internals_model_has_classifier(const llama_model * model) {
    return model->cls != nullptr || model->cls_out != nullptr;
}

MemoryKind internals_context_memory_kind(llama_context * context) {
    if (!llama_model_has_decoder(llama_get_model(context))) {
        return MemoryKind::none; // an encoder that is given a cache which nothing uses
    }
    if (llama_get_model(context)->arch == LLM_ARCH_GEMMA4_ASSISTANT) {
        return MemoryKind::opaque; // shares the cells of another context
    }
    return context_parts(context).kind;
}

bool internals_context_flash_attention(const llama_context * context) {
    return context->get_cparams().flash_attn;
}

int32_t internals_context_n_outputs_max(const llama_context * context) {
    return static_cast<int32_t>(context->get_cparams().n_outputs_max);
}

CacheBytes internals_context_cache_bytes(llama_context * context) {
    const Parts parts = context_parts(context);
    return {total_bytes(parts.attention), total_bytes(parts.window), total_bytes(parts.state)};
}

uint64_t internals_context_kv_bytes_per_cell(llama_context * context) {
    const llama_kv_cache * cache = context_parts(context).attention;
    if (cache == nullptr) {
        return 0;
    }
    return total_bytes(cache) / (uint64_t{cache->get_size()} * cache->get_n_stream());
}

int32_t internals_memory_attention_pos_max(llama_context * context, int32_t seq_id) {
    const llama_kv_cache * cache = context_parts(context).attention;
    return cache == nullptr ? -1 : cache->seq_pos_max(seq_id);
}

uint32_t internals_memory_attention_n_free(llama_context * context, int32_t seq_id) {
    const llama_kv_cache * cache = context_parts(context).attention;
    return cache == nullptr ? 0 : cache->get_size() - cache->get_cells(seq_id).get_used();
}

void internals_memory_attention_remove_tail(llama_context * context, int32_t seq_id, int32_t p0) {
    if (llama_kv_cache * cache = context_parts(context).attention) {
        cache->seq_rm(seq_id, p0, -1);
    }
}

int32_t internals_memory_window_pos_min(llama_context * context, int32_t seq_id) {
    const llama_kv_cache * cache = context_parts(context).window;
    return cache == nullptr ? -1 : cache->seq_pos_min(seq_id);
}

int32_t internals_memory_n_window(llama_context * context) {
    return context_parts(context).window == nullptr ? 0 : static_cast<int32_t>(llama_get_model(context)->hparams.n_swa);
}

bool internals_memory_is_shared(llama_context * context, int32_t seq_id, int32_t p0, int32_t p1) {
    const Parts parts = context_parts(context);
    return (parts.attention != nullptr && is_shared(parts.attention, seq_id, p0, p1)) ||
           (parts.window != nullptr && is_shared(parts.window, seq_id, p0, p1));
}

} // namespace donabe
