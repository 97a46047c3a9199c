#include "text_limits.h"

#include <algorithm>
#include <vector>

#include "jinja/lexer.h"

namespace donabe {

namespace {

constexpr size_t max_template_bytes = 256u << 10;
constexpr int max_template_depth = 64;
constexpr int max_template_branches = 256; // an elif is parsed inside the one before
constexpr int max_tag_tokens = 1024;       // a chain of operators is evaluated one inside the other

Error too_deep(const std::string & what, int limit, ErrorCode code) {
    return Error(code, what + " is nested deeper than " + std::to_string(limit));
}

// Follows one template's tokens; throws at the token that is too much.
class TemplateNesting {
  public:
    void add(const jinja::token & token) {
        using Token = jinja::token;
        switch (token.t) {
        case Token::open_statement:
        case Token::open_expression:
            n_tag_tokens_ = 0;
            brackets_ = 0;
            break;
        case Token::open_paren:
        case Token::open_square_bracket:
        case Token::open_curly_bracket:
            brackets_++;
            break;
        case Token::close_paren:
        case Token::close_square_bracket:
        case Token::close_curly_bracket:
            brackets_ = std::max(0, brackets_ - 1);
            break;
        case Token::identifier:
            if (n_tag_tokens_ == 1) {
                add_keyword(token.value);
            }
            break;
        default:
            break;
        }
        n_tag_tokens_++;
        if (n_tag_tokens_ > max_tag_tokens) {
            throw Error(ErrorCode::chat_template,
                        "the chat template has a tag of more than " + std::to_string(max_tag_tokens) + " tokens");
        }
        if (brackets_ + static_cast<int>(branches_.size()) > max_template_depth) {
            throw too_deep("the chat template", max_template_depth, ErrorCode::chat_template);
        }
    }

  private:
    void add_keyword(const std::string & word) {
        // `set` opens a block only without "="; counting it always would need an endset, so it is not counted: a nested
        // set block recurses like the macro, call or if around it.
        if (word == "if" || word == "for" || word == "macro" || word == "call" || word == "filter" || word == "set") {
            if (word != "set") {
                branches_.push_back(0);
            }
        } else if (word.compare(0, 3, "end") == 0 && word != "endset") {
            if (!branches_.empty()) {
                branches_.pop_back();
            }
        } else if (word == "elif" && !branches_.empty() && ++branches_.back() > max_template_branches) {
            throw Error(ErrorCode::chat_template, "the chat template has an `if` with more than " +
                                                      std::to_string(max_template_branches) + " branches");
        }
    }

    int n_tag_tokens_ = 0;
    int brackets_ = 0;
    std::vector<int> branches_; // one per open block
};

} // namespace

void require_json_limits(const std::string & text, const TextLimits & limits, const char * what, ErrorCode code) {
    if (text.size() > limits.max_bytes) {
        throw Error(code, std::string(what) + " has " + std::to_string(text.size()) + " bytes, more than " +
                              std::to_string(limits.max_bytes));
    }
    int depth = 0;
    bool in_string = false;
    for (size_t i = 0; i < text.size(); i++) {
        const char c = text[i];
        if (in_string) {
            i += c == '\\';
            in_string = c != '"';
        } else if (c == '"') {
            in_string = true;
        } else if (c == '[' || c == '{') {
            if (++depth > limits.max_depth) {
                throw too_deep(what, limits.max_depth, code);
            }
        } else if (c == ']' || c == '}') {
            depth--;
        }
    }
}

int max_parenthesis_depth(std::string_view text) {
    int depth = 0;
    int deepest = 0;
    for (const char c : text) {
        depth = c == '(' ? depth + 1 : c == ')' ? std::max(0, depth - 1) : c == '"' ? 0 : depth;
        deepest = std::max(deepest, depth);
    }
    return deepest;
}

int max_bracket_depth(std::string_view text) {
    int depth = 0;
    int deepest = 0;
    for (const char c : text) {
        depth = c == '[' || c == '{' ? depth + 1 : c == ']' || c == '}' ? std::max(0, depth - 1) : depth;
        deepest = std::max(deepest, depth);
    }
    return deepest;
}

void require_template_limits(const std::string & source) {
    if (source.size() > max_template_bytes) {
        throw Error(ErrorCode::chat_template, "the chat template has " + std::to_string(source.size()) +
                                                  " bytes, more than " + std::to_string(max_template_bytes));
    }
    TemplateNesting nesting;
    try {
        jinja::lexer lexer;
        for (const jinja::token & token : lexer.tokenize(source).tokens) {
            nesting.add(token);
        }
    } catch (const Error &) {
        throw;
    } catch (const std::exception & e) {
        throw Error(ErrorCode::chat_template, std::string("the chat template does not parse: ") + e.what());
    }
}

} // namespace donabe
