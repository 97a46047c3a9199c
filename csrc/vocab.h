// Text to tokens and back. Keeps its model alive; every method is const and may be called from any thread.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "model.h"

namespace donabe {

// -1: the vocabulary has none.
struct SpecialTokens {
    int32_t bos = -1;
    int32_t eos = -1;
    int32_t eot = -1;
    int32_t sep = -1;
    int32_t fim_pre = -1;
    int32_t fim_suf = -1;
    int32_t fim_mid = -1;
};

class Vocab {
  public:
    explicit Vocab(std::shared_ptr<Model> model);

    const llama_vocab * raw() const; // throws unsupported in a forked child
    int32_t n_tokens() const { return n_tokens_; }
    const char * kind() const;
    bool has_tokenizer() const; // false: the file carries no vocabulary, tokenize() throws unsupported
    SpecialTokens special_tokens() const;
    bool adds_bos() const;
    bool adds_eos() const;
    bool is_eog(int32_t token) const;
    bool is_control(int32_t token) const;
    std::vector<int32_t> eog_tokens() const;

    // Throws invalid_argument for more than 2**30 bytes, unsupported without a tokenizer.
    std::vector<int32_t> tokenize(std::string_view text, bool add_special, bool parse_special) const;
    // Bytes of one token; `special` renders control tokens too. Throws invalid_argument for a token out of range.
    std::string piece(int32_t token, bool special) const;
    std::string detokenize(const int32_t * tokens, size_t n_tokens, bool remove_special, bool unparse_special) const;
    void require_token(int32_t token) const; // throws invalid_argument unless 0 <= token < n_tokens

  private:
    void require_tokenizer() const;
    void require_special_tokens() const;

    std::shared_ptr<Model> model_;
    const llama_vocab * vocab_;
    int32_t n_tokens_;
};

} // namespace donabe
