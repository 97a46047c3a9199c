// Checks that run before a recursive-descent parser of llama.cpp sees a text: none of them bounds its recursion, so
// deep nesting would overflow the stack. Iterative, linear in the text.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

#include "base/errors.h"

namespace donabe {

struct TextLimits {
    size_t max_bytes;
    int max_depth; // of objects and arrays
};
inline constexpr TextLimits chat_input_limits{64u << 20, 128};
inline constexpr TextLimits schema_limits{4u << 20, 64};

// Throws Error(code) "<what> ..." when the JSON text is larger or nests deeper. Does not check that it is JSON.
void require_json_limits(const std::string & text, const TextLimits & limits, const char * what, ErrorCode code);

// Most groups open at once in one string of the text: JSON Schema patterns are parsed recursively too.
int max_parenthesis_depth(std::string_view text);
// Most brackets and braces open at once, inside strings as well.
int max_bracket_depth(std::string_view text);

// Limits of a Jinja template: 256 KiB of source, blocks and brackets nested up to 64, 1024 tokens in a tag, 256
// branches in an `if`. Throws chat_template, also for a source that does not even split into tokens.
void require_template_limits(const std::string & source);

} // namespace donabe
