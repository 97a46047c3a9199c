// Saved memory of one sequence: bytes as llama.cpp wrote them, plus what is needed to refuse a wrong use. Immutable
// after construction, so usable from any thread. No checksum: whoever stores blobs outside the process protects them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

namespace donabe {

class StateBlob {
  public:
    // Memory for `capacity` bytes, aligned to 64, uninitialised. Throws std::bad_alloc.
    StateBlob(size_t capacity, bool is_partial, int32_t n_tokens);

    uint8_t * data() { return data_.get(); }
    const uint8_t * data() const { return data_.get(); }
    size_t n_bytes() const { return n_bytes_; }
    void set_n_bytes(size_t n_bytes) { n_bytes_ = n_bytes; } // <= capacity; only while building
    bool is_partial() const { return is_partial_; }
    int32_t n_tokens() const { return n_tokens_; }

  private:
    struct Free {
        void operator()(uint8_t * p) const noexcept;
    };
    std::unique_ptr<uint8_t[], Free> data_;
    size_t n_bytes_;
    bool is_partial_;
    int32_t n_tokens_;
};

} // namespace donabe
