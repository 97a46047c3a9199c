#include "sampler.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <unordered_map>

#include "base/errors.h"

namespace donabe {

namespace {

int32_t model_n_ctx_train(const Model & model) {
    const int32_t n_ctx_train = llama_model_n_ctx_train(model.raw());
    return n_ctx_train > 0 ? n_ctx_train : 1 << 16; // a file with a vocabulary only does not say
}

uint32_t resolve_seed(uint32_t seed) {
    if (seed != random_seed) {
        return seed;
    }
    std::random_device device;
    // The clock too: some platforms' device always gives the same sequence.
    const auto now = static_cast<uint32_t>(std::chrono::steady_clock::now().time_since_epoch().count());
    return (device() ^ now) % random_seed;
}

llama_sampler_ptr clone_sampler(const llama_sampler_ptr & sampler) {
    return llama_sampler_ptr(sampler ? llama_sampler_clone(sampler.get()) : nullptr);
}

// The user's biases and the model's suppressed tokens, one entry per token, by token.
std::vector<std::pair<int32_t, float>> merge_biases(const Vocab & vocab, const SamplerParams & params) {
    std::unordered_map<int32_t, float> merged;
    for (const auto & [token, bias] : params.logit_bias) {
        vocab.require_token(token);
        merged[token] += bias;
    }
    int32_t n_suppressed = 0;
    const llama_token * suppressed = llama_vocab_get_suppress_tokens(vocab.raw(), &n_suppressed);
    for (int32_t i = 0; i < n_suppressed; i++) {
        if (suppressed[i] >= 0 && suppressed[i] < vocab.n_tokens()) {
            merged[suppressed[i]] = -INFINITY;
        }
    }
    std::vector<std::pair<int32_t, float>> biases(merged.begin(), merged.end());
    std::sort(biases.begin(), biases.end());
    return biases;
}

// llama.cpp's typical and mirostat samplers take logarithms of probabilities: none may underflow to 0.
void drop_hopeless(Candidates & candidates) {
    const float bar = candidates.front().logit - 70.0f;
    const auto end = std::find_if(candidates.begin(), candidates.end(),
                                  [&](const llama_token_data & candidate) { return !(candidate.logit >= bar); });
    candidates.erase(end, candidates.end());
}

void run_sampler(const llama_sampler_ptr & sampler, Candidates & candidates) {
    llama_token_data_array array{candidates.data(), candidates.size(), -1, true};
    llama_sampler_apply(sampler.get(), &array);
    // Samplers shrink the array from either end.
    candidates.erase(candidates.begin(), candidates.begin() + (array.data - candidates.data()));
    candidates.resize(array.size);
}

} // namespace

// --- life -----------------------------------------------------------------------------------------------------------

Sampler::Sampler(std::shared_ptr<Model> model, SamplerParams params, int32_t n_ctx_train)
    : model_(std::move(model)), vocab_(model_), params_(std::move(params)), n_vocab_(model_->n_vocab()),
      n_ctx_train_(n_ctx_train > 0 ? n_ctx_train : model_n_ctx_train(*model_)), seed_(resolve_seed(params_.seed)),
      window_(0) {
    params_.validate();
    require_range("n_ctx_train", static_cast<int64_t>(n_ctx_train), int64_t(0), int64_t(INT32_MAX));
    for (int32_t token : params_.preserved_tokens) {
        vocab_.require_token(token);
    }
    std::sort(params_.preserved_tokens.begin(), params_.preserved_tokens.end());
    biases_ = merge_biases(vocab_, params_);
    create_penalties();
    if (params_.typical_p < 1.0f) {
        typical_.reset(llama_sampler_init_typical(params_.typical_p, 1));
    }
    create_random();
    constraint_ = GrammarConstraint::create(vocab_, params_);
}

Sampler::Sampler(const Sampler & other)
    : model_(other.model_), vocab_(other.vocab_), params_(other.params_), n_vocab_(other.n_vocab_),
      n_ctx_train_(other.n_ctx_train_), seed_(other.seed_), biases_(other.biases_), window_(other.window_),
      penalties_(clone_sampler(other.penalties_)), dry_(clone_sampler(other.dry_)),
      typical_(clone_sampler(other.typical_)), xtc_(clone_sampler(other.xtc_)),
      mirostat_(clone_sampler(other.mirostat_)), constraint_(other.constraint_ ? other.constraint_->clone() : nullptr),
      random_(other.random_) {}

int32_t Sampler::window_length(int32_t last_n) const {
    return last_n < 0 ? n_ctx_train_ : std::min(last_n, n_ctx_train_);
}

std::shared_ptr<Sampler> Sampler::clone() const {
    return std::shared_ptr<Sampler>(new Sampler(*this));
}

void Sampler::create_penalties() {
    int32_t capacity = 0;
    if (params_.has_penalties()) {
        const int32_t last_n = window_length(params_.repeat_last_n);
        penalties_.reset(llama_sampler_init_penalties(n_vocab_, last_n, params_.repeat_penalty,
                                                      params_.frequency_penalty, params_.presence_penalty));
        capacity = std::max(capacity, last_n);
    }
    if (params_.has_dry()) {
        const int32_t last_n = window_length(params_.dry_penalty_last_n);
        std::vector<const char *> breakers;
        for (const std::string & breaker : params_.dry_sequence_breakers) {
            breakers.push_back(breaker.c_str());
        }
        dry_.reset(llama_sampler_init_dry(vocab_.raw(), params_.dry_multiplier, params_.dry_base,
                                          params_.dry_allowed_length, last_n, breakers.data(), breakers.size()));
        capacity = std::max(capacity, last_n);
    }
    window_ = TokenWindow(capacity);
}

void Sampler::create_random() {
    random_.seed(seed_);
    if (params_.has_xtc()) {
        xtc_.reset(llama_sampler_init_xtc(params_.xtc_probability, params_.xtc_threshold, 1, seed_));
    }
    if (params_.mirostat == 1) {
        mirostat_.reset(llama_sampler_init_mirostat(n_vocab_, seed_, params_.mirostat_tau, params_.mirostat_eta, 100));
    } else if (params_.mirostat == 2) {
        mirostat_.reset(llama_sampler_init_mirostat_v2(seed_, params_.mirostat_tau, params_.mirostat_eta));
    }
}

void Sampler::reset() {
    window_.clear();
    for (const llama_sampler_ptr & sampler : {std::cref(penalties_), std::cref(dry_)}) {
        if (sampler) {
            llama_sampler_reset(sampler.get());
        }
    }
    create_random();
    constraint_ = GrammarConstraint::create(vocab_, params_);
}

void Sampler::set_seed(uint32_t seed) {
    seed_ = resolve_seed(seed);
    create_random();
}

std::unique_lock<std::mutex> Sampler::use() const {
    std::unique_lock<std::mutex> lock(mutex_, std::try_to_lock);
    if (!lock.owns_lock()) {
        throw Error(ErrorCode::busy, "the sampler is in use by another thread", "clone() it for another sequence");
    }
    return lock;
}

bool Sampler::is_preserved(int32_t token) const {
    return std::binary_search(params_.preserved_tokens.begin(), params_.preserved_tokens.end(), token);
}

// --- history --------------------------------------------------------------------------------------------------------

void Sampler::accept_prompt(const int32_t * tokens, size_t n_tokens) {
    for (size_t i = 0; i < n_tokens; i++) {
        vocab_.require_token(tokens[i]);
    }
    const size_t n_skipped = n_tokens - std::min(n_tokens, window_.capacity());
    for (size_t i = n_skipped; i < n_tokens; i++) {
        window_.push(tokens[i]);
        if (penalties_) {
            llama_sampler_accept(penalties_.get(), tokens[i]);
        }
        if (dry_) {
            llama_sampler_accept(dry_.get(), tokens[i]);
        }
    }
}

void Sampler::accept(int32_t token) {
    if (constraint_) {
        vocab_.require_token(token);
        constraint_->accept(token);
    }
    accept_prompt(&token, 1);
}

// --- sampling -------------------------------------------------------------------------------------------------------

int32_t Sampler::sample(const float * row, const std::vector<int32_t> & banned, SampleScratch & scratch) {
    const float * adjusted = adjusted_row(row, banned, scratch);
    if (constraint_ && constraint_->is_forcing()) {
        adjusted = forced_row(adjusted, scratch);
    }
    int32_t token = choose(adjusted, scratch);
    if (token >= 0 && constraint_ && !constraint_->allows(token)) {
        token = choose_allowed(adjusted, scratch);
    }
    if (token < 0 && !banned.empty()) {
        return sample(row, {}, scratch); // a finished grammar allows nothing but the end
    }
    if (token < 0) {
        const bool is_row_empty = row_argmax(row, n_vocab_) < 0;
        throw is_row_empty
            ? Error(ErrorCode::compute, "the model gave no finite logits")
            : Error(constraint_ ? ErrorCode::grammar : ErrorCode::invalid_argument,
                    constraint_ ? "no token of the vocabulary fits the grammar here" : "logit_bias bans every token");
    }
    return token;
}

// Bias, penalties and dry only change tokens that are biased or in the window.
const float * Sampler::adjusted_row(const float * row, const std::vector<int32_t> & banned,
                                    SampleScratch & scratch) const {
    if (biases_.empty() && banned.empty() && window_.counts().empty()) {
        return row;
    }
    scratch.row.assign(row, row + n_vocab_);
    for (const auto & [token, bias] : biases_) {
        scratch.row[static_cast<size_t>(token)] += bias;
    }
    Candidates & touched = scratch.candidates;
    touched.clear();
    for (const auto & entry : window_.counts()) {
        touched.push_back({entry.first, scratch.row[static_cast<size_t>(entry.first)], 0.0f});
    }
    llama_token_data_array array{touched.data(), touched.size(), -1, false};
    if (penalties_) {
        llama_sampler_apply(penalties_.get(), &array);
    }
    if (dry_) {
        llama_sampler_apply(dry_.get(), &array);
    }
    for (const llama_token_data & candidate : touched) {
        scratch.row[static_cast<size_t>(candidate.id)] = candidate.logit;
    }
    for (int32_t token : banned) {
        scratch.row[static_cast<size_t>(token)] = -INFINITY;
    }
    return scratch.row.data();
}

// The budget leaves one token; which, only its sampler knows.
const float * Sampler::forced_row(const float * row, SampleScratch & scratch) const {
    Candidates & all = scratch.candidates;
    all.clear();
    for (int32_t i = 0; i < n_vocab_; i++) {
        all.push_back({i, 0.0f, 0.0f});
    }
    llama_token_data_array array{all.data(), all.size(), -1, false};
    constraint_->apply_budget(array);
    std::vector<float> forced(row, row + n_vocab_);
    for (const llama_token_data & candidate : all) {
        float & logit = forced[static_cast<size_t>(candidate.id)];
        logit = candidate.logit == 0.0f ? std::max(logit, -1e30f) : -INFINITY; // even a banned token, when forced
    }
    scratch.row = std::move(forced);
    return scratch.row.data();
}

int32_t Sampler::choose(const float * row, SampleScratch & scratch) {
    Candidates & candidates = scratch.candidates;
    if (params_.is_greedy()) {
        return row_argmax(row, n_vocab_);
    }
    if (mirostat_) {
        select_all(row, n_vocab_, candidates);
        return choose_mirostat(candidates);
    }
    const bool has_top_p = params_.top_p < 1.0f;
    const bool is_nucleus = has_top_p && params_.top_k <= 0 && !typical_;
    if (params_.top_k > 0) {
        select_top_k(row, n_vocab_, params_.top_k, candidates);
    } else if (typical_ || (xtc_ && !has_top_p && params_.min_p <= 0.0f)) {
        select_all(row, n_vocab_, candidates);
    } else if (has_top_p) {
        select_top_p(row, n_vocab_, params_.top_p, candidates);
    } else if (params_.min_p > 0.0f) {
        select_min_p(row, n_vocab_, params_.min_p, candidates);
    } else {
        return draw_from_row(row, scratch.block_sums);
    }
    return choose_among(candidates, is_nucleus);
}

// Again, from what the grammar allows.
int32_t Sampler::choose_allowed(const float * row, SampleScratch & scratch) {
    const bool is_greedy = params_.is_greedy();
    const bool has_top_k = params_.top_k > 0 && !mirostat_;
    const auto n_vocab = static_cast<size_t>(n_vocab_);
    const size_t n_wanted = is_greedy ? 1 : has_top_k ? static_cast<size_t>(params_.top_k) : n_vocab;
    Candidates & allowed = scratch.candidates;
    collect_allowed(row, n_wanted, allowed);
    if (allowed.empty()) {
        return -1;
    }
    if (is_greedy) {
        return allowed.front().id;
    }
    if (mirostat_) {
        return choose_mirostat(allowed);
    }
    allowed.resize(std::min(allowed.size(), n_wanted));
    return choose_among(allowed, false);
}

// The allowed tokens in order: at least the n_wanted best of them. The grammar is slow per token, so it is first asked
// about the most likely ones only.
void Sampler::collect_allowed(const float * row, size_t n_wanted, Candidates & allowed) const {
    const auto n_vocab = static_cast<size_t>(n_vocab_);
    for (size_t n_asked = std::max<size_t>(64, n_wanted * 2);; n_asked *= 16) {
        const bool is_all = n_asked >= n_vocab / 2;
        if (is_all) {
            collect_all(row, n_vocab_, allowed);
        } else {
            select_top_k(row, n_vocab_, static_cast<int32_t>(n_asked), allowed);
        }
        llama_token_data_array array{allowed.data(), allowed.size(), -1, !is_all};
        constraint_->apply_grammar(array);
        allowed.erase(std::remove_if(allowed.begin(), allowed.end(),
                                     [](const llama_token_data & candidate) { return candidate.logit == -INFINITY; }),
                      allowed.end());
        if (is_all) {
            std::sort(allowed.begin(), allowed.end(), candidate_before);
        }
        if (is_all || allowed.size() >= n_wanted) {
            return;
        }
    }
}

// Candidates are in order. `is_nucleus`: cut by top_p already.
int32_t Sampler::choose_among(Candidates & candidates, bool is_nucleus) {
    if (candidates.empty()) {
        return -1;
    }
    if (typical_) {
        drop_hopeless(candidates);
        run_sampler(typical_, candidates);
        std::sort(candidates.begin(), candidates.end(), candidate_before);
    }
    if (params_.top_p < 1.0f && !is_nucleus) {
        cut_top_p(candidates, params_.top_p);
    }
    if (params_.min_p > 0.0f) {
        cut_min_p(candidates, params_.min_p);
    }
    if (xtc_) {
        run_sampler(xtc_, candidates);
    }
    return draw(candidates);
}

int32_t Sampler::choose_mirostat(Candidates & candidates) {
    if (candidates.empty()) {
        return -1;
    }
    for (llama_token_data & candidate : candidates) {
        candidate.logit /= params_.temperature;
    }
    drop_hopeless(candidates);
    if (candidates.size() <= 1) {
        return candidates.empty() ? -1 : candidates.front().id; // mirostat 1 divides by the candidates' spread
    }
    llama_token_data_array array{candidates.data(), candidates.size(), -1, true};
    llama_sampler_apply(mirostat_.get(), &array);
    return array.selected < 0 ? -1 : array.data[array.selected].id;
}

double Sampler::next_uniform() {
    const uint32_t high = random_() >> 5;
    const uint32_t low = random_() >> 6;
    return (high * 67108864.0 + low) / 9007199254740992.0;
}

int32_t Sampler::draw(const Candidates & candidates) {
    const float max = candidates.front().logit;
    const float scale = 1.0f / params_.temperature;
    double total = 0.0;
    for (const llama_token_data & candidate : candidates) {
        total += exp_negative((candidate.logit - max) * scale);
    }
    const double target = next_uniform() * total;
    double sum = 0.0;
    for (const llama_token_data & candidate : candidates) {
        sum += exp_negative((candidate.logit - max) * scale);
        if (sum > target) {
            return candidate.id;
        }
    }
    return candidates.front().id; // infinite logits
}

int32_t Sampler::draw_from_row(const float * row, std::vector<double> & block_sums) {
    const float max = row_max(row, n_vocab_);
    if (max == -INFINITY) {
        return -1;
    }
    const float scale = 1.0f / params_.temperature;
    const double total = row_exp_sum(row, n_vocab_, max, scale, &block_sums);
    const double target = next_uniform() * total;
    double sum = 0.0;
    for (size_t block = 0; block < block_sums.size(); block++) {
        if (sum + block_sums[block] <= target) {
            sum += block_sums[block];
            continue;
        }
        const auto begin = static_cast<int32_t>(block) * row_block;
        const int32_t end = std::min(begin + row_block, n_vocab_);
        int32_t last = -1;
        for (int32_t i = begin; i < end; i++) {
            if (row[i] > -INFINITY) {
                sum += exp_negative((row[i] - max) * scale);
                last = i;
                if (sum > target) {
                    return i;
                }
            }
        }
        if (last >= 0) {
            return last; // the block's lanes were summed in another order
        }
    }
    return row_argmax(row, n_vocab_);
}

} // namespace donabe
