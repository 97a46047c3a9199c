#include "grammar_check.h"

#include <exception>

#include "llama-grammar.h"

#include "base/errors.h"

namespace donabe {

namespace {

constexpr size_t max_grammar_bytes = 4u << 20;
constexpr int max_group_depth = 256; // groups are parsed recursively
// llama.cpp walks rule references recursively.
constexpr size_t max_grammar_rules = 20000;

const char * skip_space_and_comments(const char * p) {
    while (*p == ' ' || *p == '\t' || *p == '\r' || *p == '\n' || *p == '#') {
        if (*p == '#') {
            while (*p && *p != '\n') {
                p++;
            }
        } else {
            p++;
        }
    }
    return p;
}

} // namespace

void grammar_require_valid(const llama_vocab * vocab, const std::string & grammar) {
    llama_grammar_parser parser(vocab);
    try {
        const char * position = skip_space_and_comments(grammar.c_str());
        while (*position) {
            position = parser.parse_rule(position);
        }
    } catch (const std::exception & e) {
        throw Error(ErrorCode::grammar, "the grammar does not parse: " + std::string(e.what()).substr(0, 200));
    }
    for (const auto & [name, id] : parser.symbol_ids) {
        if (id >= parser.rules.size() || parser.rules[id].empty()) {
            throw Error(ErrorCode::grammar, "the grammar uses the rule '" + name + "' but does not define it");
        }
    }
    if (parser.symbol_ids.count("root") == 0) {
        throw Error(ErrorCode::grammar, "the grammar has no rule 'root'");
    }
    if (parser.rules.size() > max_grammar_rules) {
        throw Error(ErrorCode::grammar, "the grammar has " + std::to_string(parser.rules.size()) +
                                            " rules, more than " + std::to_string(max_grammar_rules));
    }
}

void grammar_require_limits(const std::string & grammar) {
    if (grammar.size() > max_grammar_bytes) {
        throw Error(ErrorCode::grammar, "the grammar has " + std::to_string(grammar.size()) + " bytes, more than " +
                                            std::to_string(max_grammar_bytes));
    }
    if (grammar.find('\0') != std::string::npos) {
        throw Error(ErrorCode::grammar, "the grammar contains a NUL character");
    }
    int depth = 0;
    bool in_literal = false;
    bool in_class = false;
    bool in_comment = false;
    for (size_t i = 0; i < grammar.size(); i++) {
        const char c = grammar[i];
        if (in_comment) {
            in_comment = c != '\n';
        } else if (in_literal || in_class) {
            if (c == '\\') {
                i++;
            } else if (c == (in_literal ? '"' : ']')) {
                in_literal = in_class = false;
            }
        } else if (c == '"') {
            in_literal = true;
        } else if (c == '[') {
            in_class = true;
        } else if (c == '#') {
            in_comment = true;
        } else if (c == '(' && ++depth > max_group_depth) {
            throw Error(ErrorCode::grammar, "the grammar nests groups deeper than " + std::to_string(max_group_depth),
                        "name inner groups as rules of their own");
        } else if (c == ')') {
            depth--;
        }
    }
}

} // namespace donabe
