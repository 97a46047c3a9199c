// Log probabilities of the model itself: log_softmax of the raw logits, before any bias, penalty or truncation.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

namespace donabe {

struct TokenLogprobs {
    int32_t token;
    float logprob;
    std::vector<std::pair<int32_t, float>> top; // the most likely tokens, best first
};

// row (n,) float32; top holds min(n_top, n) entries.
TokenLogprobs row_logprobs(const float * row, int32_t n, int32_t token, int32_t n_top);

} // namespace donabe
