#include "state_blob.h"

#include <new>

namespace donabe {
namespace {

constexpr std::align_val_t blob_alignment{64};

} // namespace

void StateBlob::Free::operator()(uint8_t * p) const noexcept {
    ::operator delete[](p, blob_alignment);
}

StateBlob::StateBlob(size_t capacity, bool is_partial, int32_t n_tokens)
    : data_(static_cast<uint8_t *>(::operator new[](capacity == 0 ? 1 : capacity, blob_alignment))), n_bytes_(capacity),
      is_partial_(is_partial), n_tokens_(n_tokens) {}

} // namespace donabe
