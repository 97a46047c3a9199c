// The tokens of one step, grouped by sequence: one span per sequence, tokens of a span contiguous in the batch and in
// position. Filled by one thread; knows no context, so limits of a context are checked when it is decoded. While a
// decode reads it (class Reading) every change throws busy.
//
//   row    index of an output (logits row) in batch order, 0 .. n_outputs
//   span   one sequence's tokens [first_token, first_token + n_tokens) and rows [first_row, first_row + n_rows)
#pragma once

#include <atomic>
#include <cstdint>
#include <string>
#include <unordered_set>
#include <vector>

#include "llama.h"

namespace donabe {

enum class BatchOutputs : int32_t { none, last, all };

struct BatchSpan {
    int32_t seq_id;
    int32_t pos0;
    int32_t first_token;
    int32_t n_tokens;
    int32_t first_row;
    int32_t n_rows;
    // Row i holds the logits after token first_token + i; tokens[first_token + 1 ..] of the span are drafted.
    bool is_draft;
};

class Batch {
  public:
    explicit Batch(int32_t capacity); // throws invalid_argument unless 1 <= capacity <= 2**20

    int32_t capacity() const { return capacity_; }
    int32_t n_tokens() const { return static_cast<int32_t>(tokens_.size()); }
    int32_t n_outputs() const { return n_outputs_; }
    const std::vector<BatchSpan> & spans() const { return spans_; }
    const std::vector<int32_t> & tokens() const { return tokens_; }
    void clear();

    // All throw invalid_batch and leave the batch as it was.
    void add_tokens(int32_t seq_id, const int32_t * tokens, size_t n_tokens, int32_t pos0, BatchOutputs outputs);
    void add_decode(const int32_t * seq_ids, const int32_t * tokens, const int32_t * positions, size_t n);
    void add_draft(int32_t seq_id, const int32_t * tokens, size_t n_tokens, int32_t pos0);

    class Reading {
      public:
        explicit Reading(const Batch & batch) : batch_(batch) { batch_.n_readers_.fetch_add(1); }
        ~Reading() { batch_.n_readers_.fetch_sub(1); }
        Reading(const Reading &) = delete;
        Reading & operator=(const Reading &) = delete;

      private:
        const Batch & batch_;
    };

    // A view for llama_decode, valid until the batch changes.
    llama_batch view() const;

  private:
    void require_unread() const;
    void require_span(int32_t seq_id, const int32_t * tokens, size_t n_tokens, int64_t pos0) const;
    void append(int32_t seq_id, const int32_t * tokens, size_t n_tokens, int32_t pos0, BatchOutputs outputs,
                bool is_draft);

    mutable std::atomic<int32_t> n_readers_{0};
    int32_t capacity_;
    int32_t n_outputs_ = 0;
    std::vector<BatchSpan> spans_;
    std::unordered_set<int32_t> seq_ids_;
    // One entry per token, as llama_batch wants them.
    std::vector<int32_t> tokens_;
    std::vector<int32_t> positions_;
    std::vector<int32_t> token_seq_ids_;
    std::vector<int32_t> n_seq_ids_;
    std::vector<int8_t> is_output_;
    mutable std::vector<int32_t *> seq_id_pointers_;
};

} // namespace donabe
