// JSON Schema to GBNF, by llama.cpp's converter, behind limits on size and nesting. Pure; from any thread.
#pragma once

#include <string>

namespace donabe {

// `schema` is JSON text. Throws grammar.
std::string json_schema_grammar(const std::string & schema);
// The same behind a literal text and optional space, as after the end tag of a thinking block.
std::string json_schema_grammar_after(const std::string & literal, const std::string & schema);

// Throws Error(code) for a schema the converter could overflow the stack on.
void require_schema_limits(const std::string & schema);

} // namespace donabe
