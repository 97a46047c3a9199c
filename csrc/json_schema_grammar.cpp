#include "json_schema_grammar.h"

#include "json-schema-to-grammar.h"
#include "json.h"

#include "base/errors.h"
#include "text_limits.h"

namespace donabe {

namespace {

constexpr int max_pattern_depth = 64;

template <typename Converter> std::string convert(const std::string & schema, Converter && converter) {
    require_schema_limits(schema);
    try {
        return converter(common_json::parse(schema));
    } catch (const common_json_error & e) {
        throw Error(ErrorCode::grammar, std::string("the JSON schema is not JSON: ") + e.what());
    } catch (const std::exception & e) {
        throw Error(ErrorCode::grammar, std::string("the JSON schema can't be turned into a grammar: ") + e.what());
    }
}

} // namespace

void require_schema_limits(const std::string & schema) {
    require_json_limits(schema, schema_limits, "the JSON schema", ErrorCode::grammar);
    if (max_parenthesis_depth(schema) > max_pattern_depth) {
        throw Error(ErrorCode::grammar,
                    "a pattern in the JSON schema nests groups deeper than " + std::to_string(max_pattern_depth));
    }
}

std::string json_schema_grammar(const std::string & schema) {
    return convert(schema, [](const common_json & json) { return json_schema_to_grammar(json); });
}

std::string json_schema_grammar_after(const std::string & literal, const std::string & schema) {
    return convert(schema, [&](const common_json & json) {
        const common_chat_schema_document document = common_chat_schema_from_json(json);
        return build_grammar([&](const common_grammar_builder & builder) {
            const std::string value = builder.add_schema("response", *document.root);
            builder.add_rule("root", gbnf_format_literal(literal) + " [ \\t\\n]* " + value);
        });
    });
}

} // namespace donabe
