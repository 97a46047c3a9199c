// Kernels over one row of logits, (n_vocab,) float32: maximum, softmax sums, and the best candidates by partial
// selection instead of a full sort. Pure functions of the row, so the same on every thread.
//
// Order everywhere: logit descending, then token id ascending. Tokens at -inf (banned) and NaN are never candidates.
// Inner loops keep independent accumulators per lane, so compilers vectorise them without fast-math.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

#include "llama.h"

namespace donabe {

using Candidates = std::vector<llama_token_data>;

bool candidate_before(const llama_token_data & a, const llama_token_data & b);

// Largest logit; -inf when nothing can be sampled.
float row_max(const float * row, int32_t n);
// Lowest id with the largest logit, -1 when nothing can be sampled.
int32_t row_argmax(const float * row, int32_t n);
// exp(x) for x <= 0, relative error below 2e-7; never below exp(-87), also for -inf and NaN: as a weight beside one of
// 1 that is nothing. In the header, because loops over it must inline it.
inline float exp_negative(float x) {
    // exp(x) = 2^n * exp(r), n = round(x / ln 2), |r| <= ln 2 / 2; exp(r) by its Taylor series of degree 6. Adding
    // 1.5 * 2^23 rounds to an integer and leaves it in the low bits.
    x = x > -87.0f ? x : -87.0f;
    const float shifted = x * 1.44269504f + 12582912.0f;
    const float n = shifted - 12582912.0f;
    const float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
    const float poly =
        1.0f +
        r * (1.0f + r * (0.5f + r * (1.6666667e-1f + r * (4.1666668e-2f + r * (8.3333338e-3f + r * 1.3888889e-3f)))));
    uint32_t bits;
    std::memcpy(&bits, &shifted, sizeof(bits));
    bits = (bits - 0x4B400000u + 127u) << 23;
    float power;
    std::memcpy(&power, &bits, sizeof(power));
    return poly * power;
}
// Sum of exp((row[i] - max) * scale), also per block of row_block tokens when `block_sums` is given.
inline constexpr int32_t row_block = 256;
double row_exp_sum(const float * row, int32_t n, float max, float scale, std::vector<double> * block_sums);

// The k best, in order; fewer when the row has fewer.
void select_top_k(const float * row, int32_t n, int32_t k, Candidates & out);
// The smallest set of best tokens whose probabilities reach p (at least one), in order. Selects a few, checks that
// their mass reaches p, and takes more only when it does not.
void select_top_p(const float * row, int32_t n, float p, Candidates & out);
// All tokens with at least min_p times the probability of the best one, in order. min_p > 0.
void select_min_p(const float * row, int32_t n, float min_p, Candidates & out);
// All tokens that can be sampled, by id.
void collect_all(const float * row, int32_t n, Candidates & out);
// The same in order (a full sort).
void select_all(const float * row, int32_t n, Candidates & out);

// The same cuts on candidates that are in order already; probabilities are relative to the candidates.
void cut_top_p(Candidates & candidates, float p);
void cut_min_p(Candidates & candidates, float min_p);

} // namespace donabe
