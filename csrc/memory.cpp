#include "memory.h"

#include <algorithm>
#include <limits>

#include "llama.h"

#include "base/errors.h"
#include "base/log_ring.h"
#include "llama_internals.h"

namespace donabe {
namespace {

constexpr int32_t end_of_sequence = std::numeric_limits<int32_t>::max();

[[noreturn]] void refuse(const std::string & message) {
    throw Error(ErrorCode::invalid_argument, message);
}

// Half-open range with the conventions of llama.cpp resolved.
struct Range {
    int32_t p0;
    int32_t p1;

    Range(int32_t from, int32_t to) : p0(std::max(from, 0)), p1(to < 0 ? end_of_sequence : to) {}
    bool is_empty() const { return p0 >= p1; }
};

void clear_sequence(llama_context * context, int32_t seq_id) {
    llama_memory_seq_rm(llama_get_memory(context), seq_id, -1, -1);
}

llama_state_seq_flags state_flags(bool is_partial) {
    return is_partial ? LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY : LLAMA_STATE_SEQ_FLAGS_NONE;
}

} // namespace

Memory::Memory(std::shared_ptr<Context> context) : context_(std::move(context)), kind_(context_->memory_kind()) {
    if (kind_ == MemoryKind::none) {
        throw Error(ErrorCode::unsupported, "this model keeps no memory between batches");
    }
}

void Memory::require_seq(const char * name, int32_t seq_id) const {
    require_range(name, int64_t{seq_id}, 0, int64_t{context_->n_seq_max()} - 1);
}

bool Memory::has_recurrent_state() const {
    return kind_ == MemoryKind::recurrent || kind_ == MemoryKind::hybrid || kind_ == MemoryKind::hybrid_iswa;
}

bool Memory::has_window() const {
    return kind_ == MemoryKind::iswa || kind_ == MemoryKind::hybrid_iswa;
}

bool Memory::has_streams() const {
    return !context_->is_kv_unified() && context_->n_seq_max() > 1;
}

// --- reading --------------------------------------------------------------------------------------------------------

bool Memory::can_shift() const {
    const auto guard = context_->lock();
    return kind_ != MemoryKind::opaque && llama_memory_can_shift(llama_get_memory(context_->raw(guard)));
}

int32_t Memory::pos_min(int32_t seq_id) const {
    require_seq("seq_id", seq_id);
    const auto guard = context_->lock();
    return llama_memory_seq_pos_min(llama_get_memory(context_->raw(guard)), seq_id);
}

int32_t Memory::pos_max(int32_t seq_id) const {
    require_seq("seq_id", seq_id);
    const auto guard = context_->lock();
    return llama_memory_seq_pos_max(llama_get_memory(context_->raw(guard)), seq_id);
}

// The token at position n_tokens sees positions from n_tokens - n_window + 1 on (chunked windows: fewer). llama.cpp
// keeps [pos_min, pos_max] of the window cache without holes.
bool Memory::has_window_at(llama_context * context, int32_t seq_id, int32_t n_tokens) const {
    if (!has_window() || n_tokens == 0) {
        return true;
    }
    const int32_t first = internals_memory_window_pos_min(context, seq_id);
    return first >= 0 && first <= std::max(0, n_tokens - internals_memory_n_window(context) + 1);
}

// --- removing -------------------------------------------------------------------------------------------------------

void Memory::clear(bool data) {
    const auto guard = context_->lock();
    llama_memory_clear(llama_get_memory(context_->raw(guard)), data);
}

bool Memory::seq_rm(int32_t seq_id, int32_t p0, int32_t p1) {
    require_seq("seq_id", seq_id);
    const Range range(p0, p1);
    const auto guard = context_->lock();
    llama_context * context = context_->raw(guard);
    llama_memory_t memory = llama_get_memory(context);
    const int32_t pos_max = llama_memory_seq_pos_max(memory, seq_id);
    const bool is_partial = range.p0 > 0 || range.p1 <= pos_max;
    const bool hits = !range.is_empty() && pos_max >= range.p0;
    if (!hits) {
        return true;
    }
    if (is_partial && (has_recurrent_state() || kind_ == MemoryKind::opaque)) {
        return false;
    }
    // What is left must still have the window its next token looks at.
    if (is_partial && has_window() && range.p1 > pos_max && !has_window_at(context, seq_id, range.p0)) {
        return false;
    }
    return llama_memory_seq_rm(memory, seq_id, range.p0, is_partial ? range.p1 : -1);
}

void Memory::seq_keep(int32_t seq_id) {
    require_seq("seq_id", seq_id);
    const auto guard = context_->lock();
    llama_context * context = context_->raw(guard);
    for (int32_t other = 0; other < context_->n_seq_max(); other++) {
        if (other != seq_id) {
            clear_sequence(context, other); // llama_memory_seq_keep only looks into the stream of seq_id
        }
    }
}

// --- moving ---------------------------------------------------------------------------------------------------------

void Memory::seq_cp(int32_t src, int32_t dst, int32_t p0, int32_t p1) {
    require_seq("src", src);
    require_seq("dst", dst);
    const Range range(p0, p1);
    if (src == dst || range.is_empty()) {
        return;
    }
    const auto guard = context_->lock();
    llama_context * context = context_->raw(guard);
    llama_memory_t memory = llama_get_memory(context);
    if (kind_ == MemoryKind::opaque || has_streams()) {
        throw Error(ErrorCode::unsupported, "this memory can't share cells between sequences", "use fork()");
    }
    const int32_t src_max = llama_memory_seq_pos_max(memory, src);
    const int32_t dst_max = llama_memory_seq_pos_max(memory, dst);
    if (dst_max >= range.p0 && llama_memory_seq_pos_min(memory, dst) < range.p1) {
        refuse("sequence " + std::to_string(dst) + " has positions in that range already");
    }
    if (has_recurrent_state() && (range.p0 > 0 || range.p1 <= src_max || dst_max >= 0)) {
        throw Error(ErrorCode::unsupported, "recurrent state can only be shared whole, with an empty sequence",
                    "use fork() with a checkpoint");
    }
    if (has_window() && range.p1 <= src_max && !has_window_at(context, src, range.p1)) {
        throw Error(ErrorCode::unsupported,
                    "the sliding window before position " + std::to_string(range.p1) + " is gone",
                    "use fork() with a checkpoint");
    }
    llama_memory_seq_cp(memory, src, dst, range.p0, range.p1);
}

void Memory::require_shift(llama_context * context, int32_t seq_id, int32_t p0, int32_t p1) const {
    if (kind_ == MemoryKind::opaque || !llama_memory_can_shift(llama_get_memory(context))) {
        throw Error(ErrorCode::unsupported, "positions of this memory can't be moved");
    }
    if (internals_memory_is_shared(context, seq_id, p0, p1)) {
        throw Error(ErrorCode::unsupported, "cells of sequence " + std::to_string(seq_id) +
                                                " are shared with another sequence, which would move too");
    }
}

void Memory::seq_add(int32_t seq_id, int32_t p0, int32_t p1, int32_t delta) {
    require_seq("seq_id", seq_id);
    const Range range(p0, p1);
    require_range("delta", int64_t{delta}, -int64_t{range.p0}, (int64_t{1} << 30) - 1);
    const auto guard = context_->lock();
    llama_context * context = context_->raw(guard);
    require_shift(context, seq_id, range.p0, range.p1);
    if (!range.is_empty()) {
        llama_memory_seq_add(llama_get_memory(context), seq_id, range.p0, range.p1, delta);
    }
}

void Memory::seq_div(int32_t seq_id, int32_t p0, int32_t p1, int32_t divisor) {
    require_seq("seq_id", seq_id);
    require_range("divisor", int64_t{divisor}, 1, 1 << 20);
    const Range range(p0, p1);
    const auto guard = context_->lock();
    llama_context * context = context_->raw(guard);
    require_shift(context, seq_id, range.p0, range.p1);
    if (!range.is_empty()) {
        llama_memory_seq_div(llama_get_memory(context), seq_id, range.p0, range.p1, divisor);
    }
}

// --- forking --------------------------------------------------------------------------------------------------------

bool Memory::fork(int32_t src, int32_t dst, int32_t n_tokens, const StateBlob * checkpoint) {
    require_seq("src", src);
    require_seq("dst", dst);
    if (src == dst) {
        refuse("src and dst must be two sequences");
    }
    require_range("n_tokens", int64_t{n_tokens}, 0, end_of_sequence);
    if (checkpoint != nullptr && checkpoint->n_tokens() != n_tokens) {
        refuse("the checkpoint was taken at " + std::to_string(checkpoint->n_tokens()) + " tokens, not at " +
               std::to_string(n_tokens));
    }
    const auto guard = context_->lock();
    llama_context * context = context_->raw(guard);
    const int32_t src_end = llama_memory_seq_pos_max(llama_get_memory(context), src) + 1;
    if (n_tokens > src_end) {
        refuse("sequence " + std::to_string(src) + " has only " + std::to_string(src_end) + " tokens, not " +
               std::to_string(n_tokens));
    }
    clear_sequence(context, dst);
    if (n_tokens == 0) {
        return true;
    }
    log_tail_reset();
    if (share(context, src, dst, n_tokens, n_tokens == src_end, checkpoint) && is_exact_fork(context, dst, n_tokens)) {
        return true;
    }
    clear_sequence(context, dst);
    return false;
}

// See the table in memory.h. The caller verifies the result and empties dst when this says false.
bool Memory::share(llama_context * context, int32_t src, int32_t dst, int32_t n_tokens, bool is_at_end,
                   const StateBlob * checkpoint) const {
    llama_memory_t memory = llama_get_memory(context);
    const bool can_share = kind_ != MemoryKind::opaque && !has_streams();
    const bool is_exact = (is_at_end || !has_recurrent_state()) && has_window_at(context, src, n_tokens);
    if (can_share && is_exact) {
        llama_memory_seq_cp(memory, src, dst, 0, is_at_end ? -1 : n_tokens);
        return true;
    }
    if (checkpoint != nullptr && !checkpoint->is_partial()) {
        return restore(context, dst, *checkpoint);
    }
    if (can_share && checkpoint != nullptr) {
        llama_memory_seq_cp(memory, src, dst, 0, n_tokens);
        return restore(context, dst, *checkpoint);
    }
    if (has_streams() && kind_ != MemoryKind::opaque && (is_at_end || !has_recurrent_state())) {
        const auto copy = read_state(context, src, false);
        if (!restore(context, dst, *copy)) {
            return false;
        }
        return is_at_end || llama_memory_seq_rm(memory, dst, n_tokens, -1);
    }
    return false;
}

bool Memory::is_exact_fork(llama_context * context, int32_t dst, int32_t n_tokens) const {
    const bool has_attention = kind_ != MemoryKind::recurrent && kind_ != MemoryKind::opaque;
    return llama_memory_seq_pos_max(llama_get_memory(context), dst) == n_tokens - 1 &&
           (!has_attention || internals_memory_attention_pos_max(context, dst) == n_tokens - 1) &&
           has_window_at(context, dst, n_tokens);
}

// --- saving ---------------------------------------------------------------------------------------------------------

std::shared_ptr<StateBlob> Memory::get_state(int32_t seq_id, bool is_partial) const {
    require_seq("seq_id", seq_id);
    if (is_partial && !has_window() && !has_recurrent_state()) {
        throw Error(ErrorCode::unsupported, std::string("memory of kind ") + kind() + " has no partial state",
                    "share it with fork(), or save it whole");
    }
    const auto guard = context_->lock();
    llama_context * context = context_->raw(guard);
    if (llama_memory_seq_pos_max(llama_get_memory(context), seq_id) < 0) {
        throw Error(ErrorCode::state, "sequence " + std::to_string(seq_id) + " is empty");
    }
    return read_state(context, seq_id, is_partial);
}

// Enough for the whole state of n_tokens of a dense sequence; 0: not known. llama.cpp's own answer walks all cells and
// takes longer than copying them.
size_t Memory::state_size_bound(int32_t n_tokens, bool is_partial) const {
    if (kind_ != MemoryKind::dense || is_partial || context_->model()->uses_mrope()) {
        return 0;
    }
    constexpr size_t meta_bytes_per_cell = 64;
    constexpr size_t header_bytes = 1 << 16;
    return static_cast<size_t>(n_tokens) * (context_->kv_bytes_per_cell() + meta_bytes_per_cell) + header_bytes;
}

std::shared_ptr<StateBlob> Memory::read_state(llama_context * context, int32_t seq_id, bool is_partial) const {
    log_tail_reset();
    const int32_t n_tokens = llama_memory_seq_pos_max(llama_get_memory(context), seq_id) + 1;
    const llama_state_seq_flags flags = state_flags(is_partial);
    const auto read = [&](size_t capacity) {
        auto blob = std::make_shared<StateBlob>(capacity, is_partial, n_tokens);
        blob->set_n_bytes(llama_state_seq_get_data_ext(context, blob->data(), capacity, seq_id, flags));
        return blob;
    };
    const size_t bound = state_size_bound(n_tokens, is_partial);
    std::shared_ptr<StateBlob> blob = bound == 0 ? nullptr : read(bound);
    if (!blob || blob->n_bytes() == 0) {
        blob = read(llama_state_seq_get_size_ext(context, seq_id, flags));
    }
    if (blob->n_bytes() == 0) {
        throw Error(ErrorCode::state, "the state of sequence " + std::to_string(seq_id) + " can't be saved");
    }
    return blob;
}

// True when llama.cpp took exactly the whole blob.
bool Memory::restore(llama_context * context, int32_t seq_id, const StateBlob & blob) const {
    return llama_state_seq_set_data_ext(context, blob.data(), blob.n_bytes(), seq_id, state_flags(blob.is_partial())) ==
           blob.n_bytes();
}

void Memory::set_state(int32_t seq_id, const StateBlob & blob) {
    require_seq("seq_id", seq_id);
    const auto guard = context_->lock();
    llama_context * context = context_->raw(guard);
    log_tail_reset();
    if (blob.is_partial()) {
        require_partial_fits(context, seq_id, blob);
    } else {
        clear_sequence(context, seq_id);
    }
    const bool lacks_room = !blob.is_partial() && has_attention_cells() &&
                            internals_memory_attention_n_free(context, seq_id) < static_cast<uint32_t>(blob.n_tokens());
    if (!lacks_room && restore(context, seq_id, blob)) {
        if (blob.is_partial()) {
            internals_memory_attention_remove_tail(context, seq_id, blob.n_tokens());
        }
        if (is_exact_fork(context, seq_id, blob.n_tokens())) {
            return;
        }
    }
    clear_sequence(context, seq_id);
    if (lacks_room) {
        throw Error(ErrorCode::kv_full,
                    "the KV cache has no room for a state of " + std::to_string(blob.n_tokens()) + " tokens");
    }
    throw Error(ErrorCode::state, "the state does not fit this context",
                "states are only valid for the model, context layout and version that saved them");
}

bool Memory::has_attention_cells() const {
    return kind_ != MemoryKind::recurrent && kind_ != MemoryKind::opaque;
}

// A partial state completes attention cells that are there already.
void Memory::require_partial_fits(llama_context * context, int32_t seq_id, const StateBlob & blob) const {
    if (!has_window() && !has_recurrent_state()) {
        throw Error(ErrorCode::state, std::string("memory of kind ") + kind() + " has no partial state");
    }
    if (has_attention_cells() && internals_memory_attention_pos_max(context, seq_id) < blob.n_tokens() - 1) {
        clear_sequence(context, seq_id);
        throw Error(ErrorCode::state, "sequence " + std::to_string(seq_id) + " lacks the first " +
                                          std::to_string(blob.n_tokens()) + " tokens that the partial state completes");
    }
}

} // namespace donabe
