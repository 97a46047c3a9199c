#include "candidates.h"

#include <algorithm>
#include <cmath>
#include <functional>

namespace donabe {

namespace {

constexpr int32_t n_lanes = 16;
constexpr int32_t maxima_block = 64; // tokens; small, so that a few thousand candidates still skip most blocks
constexpr float minus_infinity = -INFINITY;

float block_max(const float * row, int32_t n) {
    float lanes[n_lanes];
    std::fill(lanes, lanes + n_lanes, minus_infinity);
    int32_t i = 0;
    for (; i + n_lanes <= n; i += n_lanes) {
        for (int32_t j = 0; j < n_lanes; j++) {
            lanes[j] = row[i + j] > lanes[j] ? row[i + j] : lanes[j]; // NaN compares false
        }
    }
    for (int32_t width = n_lanes / 2; width > 0; width /= 2) {
        for (int32_t j = 0; j < width; j++) {
            lanes[j] = lanes[j + width] > lanes[j] ? lanes[j + width] : lanes[j];
        }
    }
    float max = lanes[0];
    for (; i < n; i++) {
        max = row[i] > max ? row[i] : max;
    }
    return max;
}

double block_exp_sum(const float * row, int32_t n, float max, float scale) {
    float lanes[n_lanes] = {};
    int32_t i = 0;
    for (; i + n_lanes <= n; i += n_lanes) {
        for (int32_t j = 0; j < n_lanes; j++) {
            lanes[j] += exp_negative((row[i + j] - max) * scale);
        }
    }
    double sum = 0.0;
    for (; i < n; i++) {
        sum += exp_negative((row[i] - max) * scale);
    }
    for (float lane : lanes) {
        sum += lane;
    }
    return sum;
}

// Adds every token with a logit of at least `threshold`, skipping blocks whose maximum is below it.
void collect_at_least(const float * row, int32_t n, float threshold, const std::vector<float> & maxima,
                      Candidates & out) {
    for (size_t block = 0; block < maxima.size(); block++) {
        if (!(maxima[block] >= threshold)) {
            continue;
        }
        const auto begin = static_cast<int32_t>(block) * maxima_block;
        const int32_t end = std::min(begin + maxima_block, n);
        for (int32_t i = begin; i < end; i++) {
            if (row[i] >= threshold && row[i] > minus_infinity) {
                out.push_back({i, row[i], 0.0f});
            }
        }
    }
}

std::vector<float> block_maxima(const float * row, int32_t n) {
    std::vector<float> maxima;
    maxima.reserve(static_cast<size_t>(n / maxima_block + 1));
    for (int32_t begin = 0; begin < n; begin += maxima_block) {
        maxima.push_back(block_max(row + begin, std::min(maxima_block, n - begin)));
    }
    return maxima;
}

void keep_best(Candidates & candidates, size_t k) {
    if (candidates.size() > k) {
        std::nth_element(candidates.begin(), candidates.begin() + static_cast<std::ptrdiff_t>(k), candidates.end(),
                         candidate_before);
        candidates.resize(k);
    }
    std::sort(candidates.begin(), candidates.end(), candidate_before);
}

// Number of leading candidates whose mass reaches p of `total`, or 0 when all together do not.
size_t nucleus_size(const Candidates & candidates, float p, double total) {
    const float max = candidates.front().logit;
    const double target = static_cast<double>(p) * total;
    double sum = 0.0;
    for (size_t i = 0; i < candidates.size(); i++) {
        sum += exp_negative(candidates[i].logit - max);
        if (sum >= target) {
            return i + 1;
        }
    }
    return 0;
}

} // namespace

bool candidate_before(const llama_token_data & a, const llama_token_data & b) {
    return a.logit != b.logit ? a.logit > b.logit : a.id < b.id;
}

float row_max(const float * row, int32_t n) {
    return block_max(row, n);
}

int32_t row_argmax(const float * row, int32_t n) {
    // Blockwise, so that the second look for the position stays in cache.
    float best = minus_infinity;
    int32_t best_begin = -1;
    for (int32_t begin = 0; begin < n; begin += row_block) {
        const float max = block_max(row + begin, std::min(row_block, n - begin));
        if (max > best) {
            best = max;
            best_begin = begin;
        }
    }
    if (best_begin < 0) {
        return -1;
    }
    return static_cast<int32_t>(std::find(row + best_begin, row + n, best) - row);
}

double row_exp_sum(const float * row, int32_t n, float max, float scale, std::vector<double> * block_sums) {
    double total = 0.0;
    if (block_sums) {
        block_sums->clear();
    }
    for (int32_t begin = 0; begin < n; begin += row_block) {
        const double sum = block_exp_sum(row + begin, std::min(row_block, n - begin), max, scale);
        total += sum;
        if (block_sums) {
            block_sums->push_back(sum);
        }
    }
    return total;
}

void select_top_k(const float * row, int32_t n, int32_t k, Candidates & out) {
    out.clear();
    const std::vector<float> maxima = block_maxima(row, n);
    float threshold = minus_infinity;
    if (static_cast<size_t>(k) < maxima.size()) {
        // The k-th largest block maximum: at least k tokens, one in each of k blocks, reach it.
        std::vector<float> sorted = maxima;
        std::nth_element(sorted.begin(), sorted.begin() + (k - 1), sorted.end(), std::greater<float>());
        threshold = sorted[static_cast<size_t>(k - 1)];
    }
    collect_at_least(row, n, threshold, maxima, out);
    keep_best(out, static_cast<size_t>(k));
}

void select_top_p(const float * row, int32_t n, float p, Candidates & out) {
    const float max = row_max(row, n);
    const double total = row_exp_sum(row, n, max, 1.0f, nullptr);
    for (int32_t k = std::min(256, n);; k = k > n / 8 ? n : k * 8) {
        select_top_k(row, n, k, out);
        if (out.empty()) {
            return;
        }
        const size_t size = nucleus_size(out, p, total);
        if (size > 0) {
            out.resize(size);
            return;
        }
        if (k >= n) {
            return; // rounding kept the sum of all below p = 1
        }
    }
}

void select_min_p(const float * row, int32_t n, float min_p, Candidates & out) {
    out.clear();
    const std::vector<float> maxima = block_maxima(row, n);
    const float max = maxima.empty() ? minus_infinity : *std::max_element(maxima.begin(), maxima.end());
    collect_at_least(row, n, max + std::log(min_p), maxima, out);
    std::sort(out.begin(), out.end(), candidate_before);
}

void collect_all(const float * row, int32_t n, Candidates & out) {
    out.clear();
    for (int32_t i = 0; i < n; i++) {
        if (row[i] > minus_infinity) {
            out.push_back({i, row[i], 0.0f});
        }
    }
}

void select_all(const float * row, int32_t n, Candidates & out) {
    collect_all(row, n, out);
    std::sort(out.begin(), out.end(), candidate_before);
}

void cut_top_p(Candidates & candidates, float p) {
    if (candidates.empty()) {
        return;
    }
    double total = 0.0;
    for (const llama_token_data & candidate : candidates) {
        total += exp_negative(candidate.logit - candidates.front().logit);
    }
    const size_t size = nucleus_size(candidates, p, total);
    candidates.resize(size > 0 ? size : candidates.size());
}

void cut_min_p(Candidates & candidates, float min_p) {
    if (candidates.empty()) {
        return;
    }
    const float threshold = candidates.front().logit + std::log(min_p);
    const auto end = std::find_if(candidates.begin() + 1, candidates.end(),
                                  [&](const llama_token_data & candidate) { return candidate.logit < threshold; });
    candidates.erase(end, candidates.end());
}

} // namespace donabe
