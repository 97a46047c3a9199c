#include "memory_plan.h"

#include <memory>

#include "llama-ext.h"
#include "llama.h"

#include "base/errors.h"
#include "base/log_ring.h"
#include "base/process.h"

namespace donabe {
namespace {

std::vector<PlannedUse> planned_uses(const llama_context * context) {
    std::vector<PlannedUse> uses;
    for (const auto & [buffer_type, use] : llama_get_memory_breakdown(context)) {
        ggml_backend_dev_t device = ggml_backend_buft_get_device(buffer_type);
        uses.push_back({ggml_backend_buft_name(buffer_type), device == nullptr ? "" : ggml_backend_dev_name(device),
                        ggml_backend_buft_is_host(buffer_type) ||
                            (device != nullptr && ggml_backend_dev_type(device) == GGML_BACKEND_DEVICE_TYPE_CPU),
                        use.model, use.context, use.compute});
    }
    return uses;
}

uint64_t output_row_bytes(const Model & model, const ContextParams & params) {
    uint64_t n_floats = static_cast<uint64_t>(model.n_vocab());
    if (params.embeddings) {
        n_floats += static_cast<uint64_t>(llama_model_n_embd_out(model.raw()));
    }
    return n_floats * sizeof(float);
}

} // namespace

MemoryPlan memory_plan(const Model & model, const ContextParams & params) {
    process_require_not_forked();
    if (model.is_vocab_only()) {
        throw Error(ErrorCode::unsupported, "a model loaded with vocab_only does not know its tensors");
    }
    const llama_context_params raw = params.to_native(model);
    log_tail_reset();
    const std::unique_ptr<llama_context, decltype(&llama_free)> context(
        llama_init_from_model(const_cast<llama_model *>(model.raw()), raw), &llama_free); // the C API knows no const
    if (!context) {
        throw Error(ErrorCode::load, "a context of n_ctx " + std::to_string(params.n_ctx) + " can't be planned",
                    "the reason is in the log lines attached to this error");
    }
    MemoryPlan plan;
    plan.uses = planned_uses(context.get());
    plan.cache = internals_context_cache_bytes(context.get());
    plan.output_bytes = output_row_bytes(model, params) * llama_n_seq_max(context.get());
    plan.n_ctx = static_cast<int32_t>(llama_n_ctx(context.get()));
    plan.flash_attention = internals_context_flash_attention(context.get());
    return plan;
}

} // namespace donabe
