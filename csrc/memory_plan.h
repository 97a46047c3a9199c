// What a context of a model would take, told without allocating it: the model may be loaded with no_alloc.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "context.h"
#include "llama_internals.h"
#include "model.h"

namespace donabe {

struct PlannedUse {
    std::string buffer; // buffer type
    std::string device; // "" when the buffer type belongs to none
    bool is_host;       // in the machine's own memory
    uint64_t model_bytes;
    uint64_t context_bytes;
    uint64_t compute_bytes;
};

struct MemoryPlan {
    std::vector<PlannedUse> uses;
    CacheBytes cache;
    uint64_t output_bytes; // rows of logits or embeddings, in the machine's memory
    int32_t n_ctx;         // as llama.cpp rounds it
    bool flash_attention;
};

// Throws load, invalid_argument, unsupported. Only recurrent state is really allocated meanwhile. Of a model with its
// weights the plan allocates the context for a moment.
MemoryPlan memory_plan(const Model & model, const ContextParams & params);

} // namespace donabe
