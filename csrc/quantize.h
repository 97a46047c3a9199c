// Rewriting a GGUF with smaller tensor types. Blocks for as long as it takes; its progress is in the log lines.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace donabe {

struct QuantizeParams {
    std::string ftype; // as in quantize_ftype_names, in any case
    int32_t n_threads = 0;
    std::optional<std::string> output_tensor_type;
    std::optional<std::string> token_embedding_type;
    std::vector<std::pair<std::string, std::string>> tensor_types; // (regular expression, ggml type); first match wins
    bool allow_requantize = false;
    bool pure = false;
    bool quantize_output_tensor = true;
    bool keep_split = false;

    void validate() const; // throws invalid_argument
};

std::vector<std::string> quantize_ftype_names();
// Throws load (source or target can't be used), invalid_argument.
void quantize_file(const std::string & source, const std::string & target, const QuantizeParams & params);

} // namespace donabe
