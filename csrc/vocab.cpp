#include "vocab.h"

#include "llama.h"

#include "base/errors.h"
#include "base/log_ring.h"

namespace donabe {
namespace {

constexpr size_t max_text_bytes = size_t{1} << 30;
constexpr size_t max_detokenize_tokens = size_t{1} << 26;

} // namespace

Vocab::Vocab(std::shared_ptr<Model> model)
    : model_(std::move(model)), vocab_(model_->vocab_raw()), n_tokens_(llama_vocab_n_tokens(vocab_)) {}

const llama_vocab * Vocab::raw() const {
    return model_->vocab_raw();
}

const char * Vocab::kind() const {
    switch (llama_vocab_type(raw())) {
    case LLAMA_VOCAB_TYPE_SPM:
        return "spm";
    case LLAMA_VOCAB_TYPE_BPE:
        return "bpe";
    case LLAMA_VOCAB_TYPE_WPM:
        return "wpm";
    case LLAMA_VOCAB_TYPE_UGM:
        return "ugm";
    case LLAMA_VOCAB_TYPE_RWKV:
        return "rwkv";
    case LLAMA_VOCAB_TYPE_PLAMO2:
        return "plamo2";
    case LLAMA_VOCAB_TYPE_TEST:
        return "test";
    case LLAMA_VOCAB_TYPE_NONE:
        break;
    }
    return "none";
}

bool Vocab::has_tokenizer() const {
    return llama_vocab_type(raw()) != LLAMA_VOCAB_TYPE_NONE;
}

SpecialTokens Vocab::special_tokens() const {
    const llama_vocab * vocab = raw();
    // Some vocabulary kinds have built-in ids that a small vocabulary does not contain.
    const auto in_range = [this](int32_t token) { return token >= 0 && token < n_tokens_ ? token : -1; };
    SpecialTokens tokens;
    tokens.bos = in_range(llama_vocab_bos(vocab));
    tokens.eos = in_range(llama_vocab_eos(vocab));
    tokens.eot = in_range(llama_vocab_eot(vocab));
    tokens.sep = in_range(llama_vocab_sep(vocab));
    tokens.fim_pre = in_range(llama_vocab_fim_pre(vocab));
    tokens.fim_suf = in_range(llama_vocab_fim_suf(vocab));
    tokens.fim_mid = in_range(llama_vocab_fim_mid(vocab));
    return tokens;
}

bool Vocab::adds_bos() const {
    return llama_vocab_get_add_bos(raw());
}

bool Vocab::adds_eos() const {
    return llama_vocab_get_add_eos(raw());
}

void Vocab::require_token(int32_t token) const {
    if (token < 0 || token >= n_tokens_) {
        throw Error(ErrorCode::invalid_argument,
                    "token must be in [0, " + std::to_string(n_tokens_ - 1) + "], not " + std::to_string(token));
    }
}

void Vocab::require_tokenizer() const {
    if (!has_tokenizer()) {
        throw Error(ErrorCode::unsupported, "this model file carries no tokenizer");
    }
}

bool Vocab::is_eog(int32_t token) const {
    require_token(token);
    return llama_vocab_is_eog(raw(), token);
}

bool Vocab::is_control(int32_t token) const {
    require_token(token);
    return has_tokenizer() && llama_vocab_is_control(raw(), token);
}

std::vector<int32_t> Vocab::eog_tokens() const {
    std::vector<int32_t> tokens;
    const llama_vocab * vocab = raw();
    for (int32_t token = 0; token < n_tokens_; token++) {
        if (llama_vocab_is_eog(vocab, token)) {
            tokens.push_back(token);
        }
    }
    return tokens;
}

// llama.cpp aborts when the file asks for a special token that it does not define.
void Vocab::require_special_tokens() const {
    const llama_vocab * vocab = raw();
    const bool is_wpm = llama_vocab_type(vocab) == LLAMA_VOCAB_TYPE_WPM;
    const bool lacks_bos = (is_wpm || adds_bos()) && llama_vocab_bos(vocab) < 0;
    const bool lacks_eos = !is_wpm && adds_eos() && llama_vocab_eos(vocab) < 0;
    const bool lacks_sep = is_wpm && llama_vocab_sep(vocab) < 0;
    if (lacks_bos || lacks_eos || lacks_sep) {
        throw Error(ErrorCode::unsupported,
                    std::string("this vocabulary wants a ") +
                        (lacks_bos   ? "BOS"
                         : lacks_eos ? "EOS"
                                     : "SEP") +
                        " token added but defines none",
                    "tokenize with add_special=False");
    }
}

std::vector<int32_t> Vocab::tokenize(std::string_view text, bool add_special, bool parse_special) const {
    require_tokenizer();
    if (text.size() > max_text_bytes) {
        throw Error(ErrorCode::invalid_argument,
                    "the text has " + std::to_string(text.size()) + " bytes; at most 2**30 can be tokenized at once");
    }
    if (add_special) {
        require_special_tokens();
    }
    const auto run = [&](std::vector<int32_t> & out) {
        return llama_tokenize(raw(), text.data(), static_cast<int32_t>(text.size()), out.data(),
                              static_cast<int32_t>(out.size()), add_special, parse_special);
    };
    try {
        std::vector<int32_t> tokens(text.size() / 3 + 16);
        int32_t n = run(tokens);
        if (n < 0) {
            tokens.resize(static_cast<size_t>(-static_cast<int64_t>(n)));
            n = run(tokens);
        }
        tokens.resize(static_cast<size_t>(n));
        return tokens;
    } catch (const std::bad_alloc &) {
        throw;
    } catch (const std::exception & error) {
        throw Error(ErrorCode::invalid_argument, std::string("the text can't be tokenized: ") + error.what());
    }
}

std::string Vocab::piece(int32_t token, bool special) const {
    require_tokenizer();
    require_token(token);
    std::string text(64, '\0');
    int32_t n = llama_token_to_piece(raw(), token, text.data(), static_cast<int32_t>(text.size()), 0, special);
    if (n < 0) {
        text.resize(static_cast<size_t>(-n));
        n = llama_token_to_piece(raw(), token, text.data(), static_cast<int32_t>(text.size()), 0, special);
    }
    text.resize(static_cast<size_t>(n));
    return text;
}

std::string Vocab::detokenize(const int32_t * tokens, size_t n_tokens, bool remove_special,
                              bool unparse_special) const {
    require_tokenizer();
    if (n_tokens > max_detokenize_tokens) {
        throw Error(ErrorCode::invalid_argument, "at most 2**26 tokens can be turned into text at once");
    }
    for (size_t i = 0; i < n_tokens; i++) {
        require_token(tokens[i]);
    }
    const auto run = [&](std::string & out) {
        return llama_detokenize(raw(), tokens, static_cast<int32_t>(n_tokens), out.data(),
                                static_cast<int32_t>(out.size()), remove_special, unparse_special);
    };
    std::string text(n_tokens * 8 + 64, '\0');
    int32_t n = run(text);
    if (n < 0) {
        text.resize(static_cast<size_t>(-static_cast<int64_t>(n)));
        n = run(text);
    }
    text.resize(static_cast<size_t>(n));
    return text;
}

} // namespace donabe
