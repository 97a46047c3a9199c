#include "context.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>

#include "llama-ext.h"
#include "llama.h"

#include "base/errors.h"
#include "base/log_ring.h"
#include "base/process.h"
#include "llama_internals.h"

namespace donabe {
namespace {

constexpr std::chrono::seconds lock_timeout{1};
constexpr int64_t max_ctx = int64_t{1} << 24;
constexpr int64_t max_batch = int64_t{1} << 20;
constexpr int64_t max_threads = 512; // GGML_MAX_N_THREADS

[[noreturn]] void refuse(const std::string & message, const std::string & hint = {}) {
    throw Error(ErrorCode::invalid_argument, message, hint);
}

[[noreturn]] void refuse_batch(const std::string & message) {
    throw Error(ErrorCode::invalid_batch, message);
}

llama_flash_attn_type parse_flash_attention(const std::string & name) {
    if (name == "auto") {
        return LLAMA_FLASH_ATTN_TYPE_AUTO;
    }
    if (name == "on") {
        return LLAMA_FLASH_ATTN_TYPE_ENABLED;
    }
    if (name == "off") {
        return LLAMA_FLASH_ATTN_TYPE_DISABLED;
    }
    refuse("flash_attention must be auto, on or off, not '" + name + "'");
}

enum llama_pooling_type parse_pooling(const std::string & name) {
    if (name == "unspecified") {
        return LLAMA_POOLING_TYPE_UNSPECIFIED;
    }
    for (enum llama_pooling_type type : {LLAMA_POOLING_TYPE_NONE, LLAMA_POOLING_TYPE_MEAN, LLAMA_POOLING_TYPE_CLS,
                                         LLAMA_POOLING_TYPE_LAST, LLAMA_POOLING_TYPE_RANK}) {
        if (name == pooling_name(type)) {
            return type;
        }
    }
    refuse("pooling must be unspecified, none, mean, cls, last or rank, not '" + name + "'");
}

// The types that the attention kernels of every backend take as a cache.
ggml_type parse_cache_type(const char * field, const std::string & name) {
    for (ggml_type type : {GGML_TYPE_F32, GGML_TYPE_F16, GGML_TYPE_BF16, GGML_TYPE_Q8_0, GGML_TYPE_Q4_0, GGML_TYPE_Q4_1,
                           GGML_TYPE_IQ4_NL, GGML_TYPE_Q5_0, GGML_TYPE_Q5_1}) {
        if (name == ggml_type_name(type)) {
            return type;
        }
    }
    refuse(std::string(field) + " must be f32, f16, bf16, q8_0, q5_1, q5_0, q4_1, q4_0 or iq4_nl, not '" + name + "'");
}

bool is_abort_requested(void * flag) {
    return static_cast<std::atomic<bool> *>(flag)->load(std::memory_order_relaxed);
}

int32_t resolve_threads(int32_t n_threads) {
    return n_threads > 0 ? n_threads : process_n_physical_cores();
}

} // namespace

const char * pooling_name(int32_t pooling_type) noexcept {
    switch (pooling_type) {
    case LLAMA_POOLING_TYPE_MEAN:
        return "mean";
    case LLAMA_POOLING_TYPE_CLS:
        return "cls";
    case LLAMA_POOLING_TYPE_LAST:
        return "last";
    case LLAMA_POOLING_TYPE_RANK:
        return "rank";
    default:
        return "none";
    }
}

void ContextParams::validate() const {
    require_range("n_ctx", int64_t{n_ctx}, 0, max_ctx);
    require_range("n_batch", int64_t{n_batch}, 1, max_batch);
    require_range("n_ubatch", int64_t{n_ubatch}, 1, max_batch);
    require_range("n_seq_max", int64_t{n_seq_max}, 1, static_cast<int64_t>(llama_max_parallel_sequences()));
    require_range("n_outputs_max", int64_t{n_outputs_max}, 0, max_batch);
    require_range("n_threads", int64_t{n_threads}, 0, max_threads);
    require_range("n_threads_batch", int64_t{n_threads_batch}, 0, max_threads);
    require_range("poll", int64_t{poll}, 0, 100);
    require_range("rope_freq_base", double{rope_freq_base}, 0.0, 1e12);
    require_range("rope_freq_scale", double{rope_freq_scale}, 0.0, 1e6);
    if (n_batch < n_seq_max) {
        refuse("n_batch (" + std::to_string(n_batch) + ") must be at least n_seq_max (" + std::to_string(n_seq_max) +
               ")");
    }
    if (n_outputs_max != 0 && n_outputs_max < n_seq_max) {
        refuse("n_outputs_max (" + std::to_string(n_outputs_max) + ") must be 0 or at least n_seq_max (" +
               std::to_string(n_seq_max) + ")");
    }
    const llama_flash_attn_type attention = parse_flash_attention(flash_attention);
    parse_cache_type("type_k", type_k);
    if (ggml_is_quantized(parse_cache_type("type_v", type_v)) && attention == LLAMA_FLASH_ATTN_TYPE_DISABLED) {
        refuse("type_v " + type_v + " needs flash attention", "use flash_attention \"auto\" or \"on\", or type_v f16");
    }
    parse_pooling(pooling);
}

llama_context_params ContextParams::to_native(const Model & model) const {
    validate();
    // What depends on the model and would end in an assertion of llama.cpp.
    const int64_t n_cells = n_ctx != 0 ? n_ctx : llama_model_n_ctx_train(model.raw());
    require_range("n_ctx (taken from the model)", n_cells, 1, max_ctx);
    if (model.is_causal() && n_cells < n_seq_max) {
        refuse("n_ctx (" + std::to_string(n_cells) + ") must be at least n_seq_max (" + std::to_string(n_seq_max) +
               ")");
    }
    if (pooling == "rank" && !internals_model_has_classifier(model.raw())) {
        throw Error(ErrorCode::unsupported, "pooling rank needs a model with a classification head");
    }
    llama_context_params raw = llama_context_default_params();
    raw.n_ctx = static_cast<uint32_t>(n_ctx);
    raw.n_batch = static_cast<uint32_t>(n_batch);
    raw.n_ubatch = static_cast<uint32_t>(std::min(n_ubatch, n_batch));
    raw.n_seq_max = static_cast<uint32_t>(n_seq_max);
    raw.n_outputs_max = static_cast<uint32_t>(std::min(n_outputs_max, n_batch));
    raw.flash_attn_type = parse_flash_attention(flash_attention);
    raw.type_k = parse_cache_type("type_k", type_k);
    raw.type_v = parse_cache_type("type_v", type_v);
    raw.pooling_type = parse_pooling(pooling);
    raw.kv_unified = kv_unified;
    raw.offload_kqv = offload_kqv;
    raw.op_offload = op_offload;
    raw.swa_full = swa_full;
    raw.embeddings = embeddings;
    raw.rope_freq_base = rope_freq_base;
    raw.rope_freq_scale = rope_freq_scale;
    raw.no_perf = true;
    return raw;
}

Context::Context(std::shared_ptr<Model> model, const ContextParams & params) : model_(std::move(model)) {
    process_require_not_forked();
    if (!model_->has_weights()) {
        throw Error(ErrorCode::unsupported,
                    "a model loaded with vocab_only or no_alloc has no weights to compute with");
    }
    llama_context_params raw = params.to_native(*model_);
    raw.abort_callback = &is_abort_requested;
    raw.abort_callback_data = &abort_requested_;

    log_tail_reset();
    pools_ = std::make_unique<ThreadPools>(
        resolve_threads(params.n_threads),
        resolve_threads(params.n_threads_batch != 0 ? params.n_threads_batch : params.n_threads), params.poll);
    context_ = llama_init_from_model(model_->raw_mutable(), raw);
    if (context_ == nullptr) {
        throw Error(ErrorCode::load, "the context can't be created (n_ctx " + std::to_string(params.n_ctx) + ")",
                    "the reason is in the log lines attached to this error; a smaller n_ctx needs less memory");
    }
    pools_->attach(context_);
    read_constants(params);
}

void Context::read_constants(const ContextParams & params) {
    n_ctx_ = static_cast<int32_t>(llama_n_ctx(context_));
    n_ctx_seq_ = static_cast<int32_t>(llama_n_ctx_seq(context_));
    n_batch_ = static_cast<int32_t>(llama_n_batch(context_));
    n_ubatch_ = static_cast<int32_t>(llama_n_ubatch(context_));
    n_seq_max_ = static_cast<int32_t>(llama_n_seq_max(context_));
    n_outputs_max_ = internals_context_n_outputs_max(context_);
    poll_ = params.poll;
    flash_attention_ = internals_context_flash_attention(context_);
    is_kv_unified_ = params.kv_unified;
    is_embedding_ = params.embeddings;
    is_causal_ = llama_get_causal_attn(context_);
    memory_kind_ = internals_context_memory_kind(context_);
    has_logits_ = has_memory() || llama_model_is_diffusion(model_->raw());
    n_positions_ = internals_model_n_positions(model_->raw());
    pooling_ = pooling_name(llama_pooling_type(context_));
    kv_bytes_per_cell_ = internals_context_kv_bytes_per_cell(context_);
}

Context::~Context() {
    if (context_ != nullptr && !process_is_forked()) {
        llama_free(context_);
    }
}

void Context::close() {
    if (process_is_forked()) {
        return;
    }
    std::unique_lock<std::timed_mutex> held(mutex_, lock_timeout);
    if (!held.owns_lock()) {
        throw Error(ErrorCode::busy, "another thread has been using this context for more than a second");
    }
    if (context_ == nullptr) {
        return;
    }
    require_no_views();
    llama_free(context_);
    context_ = nullptr;
    pools_.reset();
    retired_pools_.clear();
    adapters_.clear();
}

Context::Guard Context::lock() const {
    process_require_not_forked();
    std::unique_lock<std::timed_mutex> held(mutex_, lock_timeout);
    if (!held.owns_lock()) {
        throw Error(ErrorCode::busy, "another thread has been using this context for more than a second");
    }
    if (context_ == nullptr) {
        throw Error(ErrorCode::closed, "the context was closed");
    }
    return Guard(std::move(held));
}

llama_context * Context::raw(const Guard &) const {
    return context_;
}

// --- compute --------------------------------------------------------------------------------------------------------

void Context::require_no_views() const {
    if (n_views_.load(std::memory_order_acquire) != 0) {
        throw Error(ErrorCode::busy, "a logits view of this context is still alive", "drop or copy the array first");
    }
}

void Context::require_span(const BatchSpan & span, bool is_encode) const {
    const std::string name = "sequence " + std::to_string(span.seq_id);
    if (span.seq_id >= n_seq_max_) {
        refuse_batch(name + " is out of range: the context has n_seq_max " + std::to_string(n_seq_max_));
    }
    if (n_positions_ > 0 && int64_t{span.pos0} + span.n_tokens > n_positions_) {
        refuse_batch(name + " reaches position " + std::to_string(span.pos0 + span.n_tokens - 1) +
                     "; the model has only " + std::to_string(n_positions_));
    }
    if (!has_memory() || is_encode) {
        return;
    }
    const int32_t pos_max = llama_memory_seq_pos_max(llama_get_memory(context_), span.seq_id);
    const bool fits = model_->uses_mrope() ? span.pos0 > pos_max : span.pos0 == pos_max + 1;
    if (!fits && pos_max >= 0) {
        refuse_batch(name + " ends at position " + std::to_string(pos_max) + ", so its next token can't be at " +
                     std::to_string(span.pos0));
    }
    if (pos_max < 0 && span.pos0 != 0) {
        refuse_batch(name + " is empty, so its first token can't be at position " + std::to_string(span.pos0));
    }
    if (llama_model_has_encoder(model_->raw()) &&
        std::find(encoded_seq_ids_.begin(), encoded_seq_ids_.end(), span.seq_id) == encoded_seq_ids_.end()) {
        refuse_batch(name + " was not in the last encode() of this encoder-decoder model");
    }
}

void Context::require_batch(const Batch & batch, bool is_encode) const {
    const int32_t n_tokens = batch.n_tokens();
    if (n_tokens == 0) {
        refuse_batch("the batch is empty");
    }
    if (n_tokens > n_batch_) {
        refuse_batch("the batch has " + std::to_string(n_tokens) + " tokens; the context takes n_batch " +
                     std::to_string(n_batch_));
    }
    const bool is_whole = is_encode || !has_memory();
    if ((is_whole || !is_causal_) && n_tokens > n_ubatch_) {
        refuse_batch("without causal attention the batch must fit n_ubatch " + std::to_string(n_ubatch_) + ", not " +
                     std::to_string(n_tokens) + " tokens");
    }
    const int32_t n_outputs = is_whole || is_embedding_ ? n_tokens : batch.n_outputs();
    if (n_outputs > n_outputs_max_) {
        refuse_batch("the batch wants " + std::to_string(n_outputs) + " outputs; the context has n_outputs_max " +
                     std::to_string(n_outputs_max_));
    }
    for (const BatchSpan & span : batch.spans()) {
        require_span(span, is_encode);
    }
    for (int32_t token : batch.tokens()) {
        if (token >= model_->n_vocab()) {
            refuse_batch("token " + std::to_string(token) + " is out of range: the vocabulary has " +
                         std::to_string(model_->n_vocab()));
        }
    }
}

// Statuses as in llama.h, llama_decode.
void Context::run_locked(const Batch & batch, bool is_encode) {
    const Batch::Reading reading(batch);
    require_no_views();
    require_batch(batch, is_encode);
    log_tail_reset();
    n_outputs_ = 0;
    int32_t status = 0;
    try {
        status = is_encode ? llama_encode(context_, batch.view()) : llama_decode(context_, batch.view());
        llama_synchronize(context_); // a failure of an asynchronous backend belongs to this call
    } catch (const std::bad_alloc &) {
        throw;
    } catch (const std::exception & error) {
        drop_broken_sequences(batch);
        throw Error(ErrorCode::compute, std::string("the computation failed: ") + error.what());
    }
    n_graphs_reused_.store(llama_perf_context(context_).n_reused, std::memory_order_relaxed);
    switch (status) {
    case 0:
        retired_pools_.clear();
        n_outputs_ = is_encode || !has_memory() || is_embedding_ ? batch.n_tokens() : batch.n_outputs();
        return;
    case 1:
        throw Error(ErrorCode::kv_full, "the KV cache has no room for " + std::to_string(batch.n_tokens()) + " tokens",
                    "remove or evict sequences, then decode the same batch again");
    case 2:
        drop_broken_sequences(batch);
        throw Error(ErrorCode::aborted, "the computation was aborted on request");
    case -1:
        throw Error(ErrorCode::invalid_batch, "llama.cpp refused the batch");
    default:
        drop_broken_sequences(batch);
        throw Error(ErrorCode::compute, "the computation failed with status " + std::to_string(status));
    }
}

// llama.cpp takes the failed part of a batch back where it can: cells of attention. A recurrent state keeps what the
// part made of it, at positions of before, so that the sequence would go on with a wrong state.
void Context::drop_broken_sequences(const Batch & batch) {
    if (!has_memory() || can_remove_tail()) {
        return;
    }
    for (const BatchSpan & span : batch.spans()) {
        llama_memory_seq_rm(llama_get_memory(context_), span.seq_id, -1, -1);
    }
}

void Context::decode(const Batch & batch) {
    const Guard guard = lock();
    decode_locked(guard, batch);
}

void Context::decode_locked(const Guard &, const Batch & batch) {
    if (!llama_model_has_decoder(model_->raw())) {
        throw Error(ErrorCode::unsupported, "this model is an encoder only", "use encode()");
    }
    run_locked(batch, false);
}

void Context::encode(const Batch & batch) {
    const Guard guard = lock();
    if (has_memory() && !llama_model_has_encoder(model_->raw())) {
        throw Error(ErrorCode::unsupported, "this model has no encoder", "use decode()");
    }
    encoded_seq_ids_.clear();
    run_locked(batch, true);
    for (const BatchSpan & span : batch.spans()) {
        encoded_seq_ids_.push_back(span.seq_id);
    }
}

int32_t Context::n_outputs_locked(const Guard &) const {
    return n_outputs_;
}

const float * Context::logits_row_locked(const Guard &, int32_t row) const {
    if (!has_logits_) {
        throw Error(ErrorCode::unsupported, "this embedding model computes no logits");
    }
    require_range("row", int64_t{row}, 0, int64_t{n_outputs_} - 1);
    // Reorders the rows of split batches into batch order on first use.
    return llama_get_logits(context_) + static_cast<size_t>(row) * static_cast<size_t>(model_->n_vocab());
}

bool Context::memory_remove_tail_locked(const Guard &, int32_t seq_id, int32_t p0) {
    require_range("seq_id", int64_t{seq_id}, 0, int64_t{n_seq_max_} - 1);
    return can_remove_tail() && llama_memory_seq_rm(llama_get_memory(context_), seq_id, p0, -1);
}

// --- outputs --------------------------------------------------------------------------------------------------------

Context::View::View(std::shared_ptr<Context> context, const float * first, int32_t rows, int32_t columns)
    : data(first), n_rows(rows), n_columns(columns), context_(std::move(context)) {
    context_->n_views_.fetch_add(1, std::memory_order_acq_rel);
}

Context::View::~View() {
    context_->n_views_.fetch_sub(1, std::memory_order_acq_rel);
}

std::unique_ptr<Context::View> Context::logits_view() {
    const Guard guard = lock();
    if (!has_logits_) {
        throw Error(ErrorCode::unsupported, "this embedding model computes no logits");
    }
    const float * first = n_outputs_ == 0 ? nullptr : logits_row_locked(guard, 0);
    return std::make_unique<View>(shared_from_this(), first, n_outputs_, model_->n_vocab());
}

int32_t Context::n_embedding_columns() const {
    return std::strcmp(pooling_, "rank") == 0 ? static_cast<int32_t>(llama_model_n_cls_out(model_->raw()))
                                              : llama_model_n_embd_out(model_->raw());
}

void Context::copy_sequence_embeddings(const int32_t * seq_ids, size_t n, float * out) const {
    const Guard guard = lock();
    if (!is_embedding_ || std::strcmp(pooling_, "none") == 0) {
        throw Error(ErrorCode::unsupported, "this context does not pool embeddings",
                    "create it with embeddings=True and a pooling other than none");
    }
    const auto n_columns = static_cast<size_t>(n_embedding_columns());
    for (size_t i = 0; i < n; i++) {
        const float * row = llama_get_embeddings_seq(context_, seq_ids[i]);
        if (row == nullptr) {
            refuse("sequence " + std::to_string(seq_ids[i]) + " was not in the last batch");
        }
        std::copy(row, row + n_columns, out + i * n_columns);
    }
}

std::vector<float> Context::token_embeddings() const {
    const Guard guard = lock();
    if (!is_embedding_ || std::strcmp(pooling_, "none") != 0) {
        throw Error(ErrorCode::unsupported, "this context has no embeddings of single tokens",
                    "create it with embeddings=True and pooling none");
    }
    const size_t size = static_cast<size_t>(n_outputs_) * static_cast<size_t>(llama_model_n_embd_out(model_->raw()));
    const float * rows = size == 0 ? nullptr : llama_get_embeddings(context_);
    return rows == nullptr ? std::vector<float>() : std::vector<float>(rows, rows + size);
}

// --- settings -------------------------------------------------------------------------------------------------------

void Context::set_adapters(const std::vector<std::pair<std::shared_ptr<Adapter>, float>> & adapters) {
    const Guard guard = lock();
    std::vector<std::shared_ptr<Adapter>> kept;
    std::vector<llama_adapter_lora *> raws;
    std::vector<float> scales;
    for (const auto & [adapter, scale] : adapters) {
        if (adapter->model() != model_) {
            refuse("adapter '" + adapter->path() + "' belongs to another model");
        }
        require_range("scale", double{scale}, -1e6, 1e6);
        kept.push_back(adapter);
        raws.push_back(adapter->raw());
        scales.push_back(scale);
    }
    llama_set_adapters_lora(context_, raws.data(), raws.size(), scales.data());
    adapters_.swap(kept);
}

void Context::set_threads(int32_t n_threads, int32_t n_threads_batch) {
    require_range("n_threads", int64_t{n_threads}, 0, max_threads);
    require_range("n_threads_batch", int64_t{n_threads_batch}, 0, max_threads);
    const Guard guard = lock();
    const int32_t n = resolve_threads(n_threads);
    const int32_t n_batch = resolve_threads(n_threads_batch != 0 ? n_threads_batch : n_threads);
    if (n == pools_->n_threads() && n_batch == pools_->n_threads_batch()) {
        return;
    }
    auto pools = std::make_unique<ThreadPools>(n, n_batch, poll_);
    llama_synchronize(context_);
    retired_pools_.reserve(retired_pools_.size() + 1);
    pools->attach(context_);
    pools_.swap(pools);
    retired_pools_.push_back(std::move(pools));
}

void Context::set_causal(bool causal) {
    const Guard guard = lock();
    llama_set_causal_attn(context_, causal);
    is_causal_ = causal;
}

std::vector<MemoryUse> Context::memory_breakdown() const {
    const Guard guard = lock();
    std::vector<MemoryUse> uses;
    for (const auto & [buffer_type, use] : llama_get_memory_breakdown(context_)) {
        uses.push_back({ggml_backend_buft_name(buffer_type), use.model, use.context, use.compute});
    }
    return uses;
}

// One token through every weight, so that the first request does not pay for page faults and kernel loading. Leaves the
// memory empty, so it must be empty before.
void Context::warm_up() {
    const Guard guard = lock();
    for (int32_t seq_id = 0; has_memory() && seq_id < n_seq_max_; seq_id++) {
        if (llama_memory_seq_pos_max(llama_get_memory(context_), seq_id) >= 0) {
            throw Error(ErrorCode::unsupported, "warm_up() clears the memory, but a sequence is in use");
        }
    }
    const llama_vocab * vocab = model_->vocab_raw();
    const int32_t candidates[] = {llama_vocab_bos(vocab), llama_vocab_eos(vocab), 0};
    const int32_t token = *std::find_if(std::begin(candidates), std::end(candidates),
                                        [this](int32_t id) { return id >= 0 && id < model_->n_vocab(); });
    Batch batch(1);
    batch.add_tokens(0, &token, 1, 0, BatchOutputs::last);
    if (llama_model_has_encoder(model_->raw())) {
        run_locked(batch, true);
    } else {
        run_locked(batch, false);
    }
    llama_memory_clear(llama_get_memory(context_), true);
    n_outputs_ = 0;
}

void Context::synchronize() {
    const Guard guard = lock();
    llama_synchronize(context_);
}

} // namespace donabe
