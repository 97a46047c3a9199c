#include "logprobs.h"

#include <cmath>

#include "candidates.h"

namespace donabe {

TokenLogprobs row_logprobs(const float * row, int32_t n, int32_t token, int32_t n_top) {
    const float max = row_max(row, n);
    const double log_sum = max + std::log(row_exp_sum(row, n, max, 1.0f, nullptr));
    const auto logprob = [&](float logit) { return static_cast<float>(logit - log_sum); };

    TokenLogprobs result{token, logprob(row[token]), {}};
    if (n_top > 0) {
        Candidates best;
        select_top_k(row, n, n_top < n ? n_top : n, best);
        result.top.reserve(best.size());
        for (const llama_token_data & candidate : best) {
            result.top.emplace_back(candidate.id, logprob(candidate.logit));
        }
    }
    return result;
}

} // namespace donabe
