#include "json_schema_grammar.h"

#include "json-schema-to-grammar.h"
#include "json.h"

#include "base/errors.h"
#include "text_limits.h"

namespace donabe {

namespace {
constexpr int max_pattern_depth = 64;
}

void require_schema_limits(const std::string & schema) {
    require_json_limits(schema, schema_limits, "the JSON schema", ErrorCode::grammar);
    if (max_parenthesis_depth(schema) > max_pattern_depth) {
        throw Error(ErrorCode::grammar,
                    "a pattern in the JSON schema nests groups deeper than " + std::to_string(max_pattern_depth));
    }
}

std::string json_schema_grammar(const std::string & schema) {
    require_schema_limits(schema);
    try {
        return json_schema_to_grammar(common_json::parse(schema));
    } catch (const common_json_error & e) {
        throw Error(ErrorCode::grammar, std::string("the JSON schema is not JSON: ") + e.what());
    } catch (const std::exception & e) {
        throw Error(ErrorCode::grammar, std::string("the JSON schema can't be turned into a grammar: ") + e.what());
    }
}

} // namespace donabe
