#include "batch.h"

#include "base/errors.h"

namespace donabe {
namespace {

constexpr int64_t max_position = (int64_t{1} << 30) - 1;

[[noreturn]] void refuse(const std::string & message) {
    throw Error(ErrorCode::invalid_batch, message);
}

} // namespace

Batch::Batch(int32_t capacity) : capacity_(capacity) {
    require_range("capacity", int64_t{capacity}, 1, 1 << 20);
    const auto n = static_cast<size_t>(capacity);
    tokens_.reserve(n);
    positions_.reserve(n);
    token_seq_ids_.reserve(n);
    n_seq_ids_.reserve(n);
    is_output_.reserve(n);
    seq_id_pointers_.reserve(n);
}

void Batch::require_unread() const {
    if (n_readers_.load() != 0) {
        throw Error(ErrorCode::busy, "the batch is being decoded");
    }
}

void Batch::clear() {
    require_unread();
    n_outputs_ = 0;
    spans_.clear();
    seq_ids_.clear();
    tokens_.clear();
    positions_.clear();
    token_seq_ids_.clear();
    n_seq_ids_.clear();
    is_output_.clear();
}

void Batch::require_span(int32_t seq_id, const int32_t * tokens, size_t n_tokens, int64_t pos0) const {
    require_unread();
    if (seq_id < 0 || seq_id >= static_cast<int32_t>(llama_max_parallel_sequences())) {
        refuse("seq_id must be in [0, " + std::to_string(llama_max_parallel_sequences() - 1) + "], not " +
               std::to_string(seq_id));
    }
    if (n_tokens == 0) {
        refuse("no tokens for sequence " + std::to_string(seq_id));
    }
    if (n_tokens > static_cast<size_t>(capacity_ - this->n_tokens())) {
        refuse("the batch has room for " + std::to_string(capacity_ - this->n_tokens()) + " more tokens, not " +
               std::to_string(n_tokens));
    }
    if (pos0 < 0 || pos0 + static_cast<int64_t>(n_tokens) - 1 > max_position) {
        refuse("positions of sequence " + std::to_string(seq_id) + " must be in [0, " + std::to_string(max_position) +
               "]; they start at " + std::to_string(pos0));
    }
    for (size_t i = 0; i < n_tokens; i++) {
        if (tokens[i] < 0) {
            refuse("token " + std::to_string(i) + " of sequence " + std::to_string(seq_id) + " is negative (" +
                   std::to_string(tokens[i]) + ")");
        }
    }
    if (seq_ids_.count(seq_id) != 0) {
        refuse("sequence " + std::to_string(seq_id) + " is in the batch already");
    }
}

void Batch::append(int32_t seq_id, const int32_t * tokens, size_t n_tokens, int32_t pos0, BatchOutputs outputs,
                   bool is_draft) {
    const auto n = static_cast<int32_t>(n_tokens);
    const int32_t n_rows = outputs == BatchOutputs::all ? n : outputs == BatchOutputs::last ? 1 : 0;
    seq_ids_.insert(seq_id);
    spans_.push_back({seq_id, pos0, this->n_tokens(), n, n_outputs_, n_rows, is_draft});
    tokens_.insert(tokens_.end(), tokens, tokens + n_tokens);
    for (int32_t i = 0; i < n; i++) {
        positions_.push_back(pos0 + i);
        is_output_.push_back(i >= n - n_rows ? 1 : 0);
    }
    token_seq_ids_.insert(token_seq_ids_.end(), n_tokens, seq_id);
    n_seq_ids_.insert(n_seq_ids_.end(), n_tokens, 1);
    n_outputs_ += n_rows;
}

void Batch::add_tokens(int32_t seq_id, const int32_t * tokens, size_t n_tokens, int32_t pos0, BatchOutputs outputs) {
    require_span(seq_id, tokens, n_tokens, pos0);
    append(seq_id, tokens, n_tokens, pos0, outputs, false);
}

void Batch::add_decode(const int32_t * seq_ids, const int32_t * tokens, const int32_t * positions, size_t n) {
    if (n > static_cast<size_t>(capacity_ - n_tokens())) {
        refuse("the batch has room for " + std::to_string(capacity_ - n_tokens()) + " more tokens, not " +
               std::to_string(n));
    }
    std::unordered_set<int32_t> fresh;
    for (size_t i = 0; i < n; i++) {
        require_span(seq_ids[i], tokens + i, 1, positions[i]);
        if (!fresh.insert(seq_ids[i]).second) {
            refuse("sequence " + std::to_string(seq_ids[i]) + " is given twice");
        }
    }
    for (size_t i = 0; i < n; i++) {
        append(seq_ids[i], tokens + i, 1, positions[i], BatchOutputs::last, false);
    }
}

void Batch::add_draft(int32_t seq_id, const int32_t * tokens, size_t n_tokens, int32_t pos0) {
    require_span(seq_id, tokens, n_tokens, pos0);
    append(seq_id, tokens, n_tokens, pos0, BatchOutputs::all, true);
}

llama_batch Batch::view() const {
    seq_id_pointers_.clear();
    for (const int32_t & seq_id : token_seq_ids_) {
        seq_id_pointers_.push_back(const_cast<int32_t *>(&seq_id)); // llama_batch is not const-correct; it only reads
    }
    llama_batch view{};
    view.n_tokens = n_tokens();
    view.token = const_cast<int32_t *>(tokens_.data());
    view.pos = const_cast<int32_t *>(positions_.data());
    view.n_seq_id = const_cast<int32_t *>(n_seq_ids_.data());
    view.seq_id = seq_id_pointers_.data();
    view.logits = const_cast<int8_t *>(is_output_.data());
    return view;
}

} // namespace donabe
