// Whether a GBNF grammar compiles, and what is wrong with it. llama.cpp's sampler only says that it does not, prints
// the reason, and recurses without bound. Uses its private parser: read again at every move of the pin.
#pragma once

#include <string>

struct llama_vocab;

namespace donabe {

// Size and nesting. Throws grammar.
void grammar_require_limits(const std::string & grammar);
// Syntax, undefined rules, number of rules; grammars within the limits only. Throws grammar.
void grammar_require_valid(const llama_vocab * vocab, const std::string & grammar);

} // namespace donabe
