#include "quantize.h"

#include <algorithm>
#include <cctype>
#include <filesystem>
#include <regex>

#include "llama.h"

#include "base/errors.h"
#include "base/log_ring.h"
#include "base/process.h"
#include "devices.h"

namespace donabe {
namespace {

namespace fs = std::filesystem;

struct FtypeName {
    const char * name;
    llama_ftype ftype;
};

// Types that llama.cpp refuses without an importance matrix (IQ1, IQ2, IQ3_XXS, IQ3_XS, Q2_K_S) are left out.
constexpr FtypeName ftypes[] = {
    {"F32", LLAMA_FTYPE_ALL_F32},          {"F16", LLAMA_FTYPE_MOSTLY_F16},
    {"BF16", LLAMA_FTYPE_MOSTLY_BF16},     {"Q8_0", LLAMA_FTYPE_MOSTLY_Q8_0},
    {"Q6_K", LLAMA_FTYPE_MOSTLY_Q6_K},     {"Q5_K_M", LLAMA_FTYPE_MOSTLY_Q5_K_M},
    {"Q5_K_S", LLAMA_FTYPE_MOSTLY_Q5_K_S}, {"Q5_1", LLAMA_FTYPE_MOSTLY_Q5_1},
    {"Q5_0", LLAMA_FTYPE_MOSTLY_Q5_0},     {"Q4_K_M", LLAMA_FTYPE_MOSTLY_Q4_K_M},
    {"Q4_K_S", LLAMA_FTYPE_MOSTLY_Q4_K_S}, {"Q4_1", LLAMA_FTYPE_MOSTLY_Q4_1},
    {"Q4_0", LLAMA_FTYPE_MOSTLY_Q4_0},     {"IQ4_NL", LLAMA_FTYPE_MOSTLY_IQ4_NL},
    {"IQ4_XS", LLAMA_FTYPE_MOSTLY_IQ4_XS}, {"MXFP4_MOE", LLAMA_FTYPE_MOSTLY_MXFP4_MOE},
    {"Q3_K_L", LLAMA_FTYPE_MOSTLY_Q3_K_L}, {"Q3_K_M", LLAMA_FTYPE_MOSTLY_Q3_K_M},
    {"Q3_K_S", LLAMA_FTYPE_MOSTLY_Q3_K_S}, {"IQ3_M", LLAMA_FTYPE_MOSTLY_IQ3_M},
    {"IQ3_S", LLAMA_FTYPE_MOSTLY_IQ3_S},   {"Q2_K", LLAMA_FTYPE_MOSTLY_Q2_K},
    {"TQ2_0", LLAMA_FTYPE_MOSTLY_TQ2_0},   {"TQ1_0", LLAMA_FTYPE_MOSTLY_TQ1_0},
};

std::string to_upper(std::string text) {
    std::transform(text.begin(), text.end(), text.begin(),
                   [](unsigned char c) { return static_cast<char>(std::toupper(c)); });
    return text;
}

llama_ftype parse_ftype(const std::string & name) {
    for (const FtypeName & item : ftypes) {
        if (to_upper(name) == item.name) {
            return item.ftype;
        }
    }
    std::string known;
    for (const FtypeName & item : ftypes) {
        known += (known.empty() ? "" : ", ") + std::string(item.name);
    }
    throw Error(ErrorCode::invalid_argument, "ftype '" + name + "' is not known", "one of " + known);
}

ggml_type parse_tensor_type(const char * field, const std::string & name) {
    for (int i = 0; i < GGML_TYPE_COUNT; i++) {
        const auto type = static_cast<ggml_type>(i);
        const ggml_type_traits * traits = ggml_get_type_traits(type);
        const bool is_weight = type == GGML_TYPE_F32 || type == GGML_TYPE_F16 || type == GGML_TYPE_BF16 ||
                               (traits->is_quantized && traits->from_float_ref != nullptr);
        if (is_weight && traits->type_name != nullptr && to_upper(name) == to_upper(traits->type_name)) {
            return type;
        }
    }
    throw Error(ErrorCode::invalid_argument, std::string(field) + ": '" + name + "' is not a weight type of ggml");
}

} // namespace

std::vector<std::string> quantize_ftype_names() {
    std::vector<std::string> names;
    for (const FtypeName & item : ftypes) {
        names.emplace_back(item.name);
    }
    return names;
}

void QuantizeParams::validate() const {
    parse_ftype(ftype);
    require_range("n_threads", int64_t{n_threads}, 0, 512);
    if (output_tensor_type) {
        parse_tensor_type("output_tensor_type", *output_tensor_type);
    }
    if (token_embedding_type) {
        parse_tensor_type("token_embedding_type", *token_embedding_type);
    }
    for (const auto & [pattern, type] : tensor_types) {
        parse_tensor_type("tensor_types", type);
        try {
            std::regex compiled(pattern);
        } catch (const std::regex_error & error) {
            throw Error(ErrorCode::invalid_argument,
                        "tensor_types: '" + pattern + "' is not a regular expression: " + error.what());
        }
    }
}

void quantize_file(const std::string & source, const std::string & target, const QuantizeParams & params) {
    process_require_not_forked();
    params.validate();
    const std::string name = fs::path(source).filename().string();
    std::error_code failed;
    if (!fs::is_regular_file(source, failed)) {
        throw Error(ErrorCode::load, "the model file '" + name + "' does not exist or is not a file");
    }
    if (fs::equivalent(source, target, failed)) {
        throw Error(ErrorCode::invalid_argument, "source and target are the same file");
    }
    devices_require_init();

    std::vector<llama_model_tensor_override> overrides;
    for (const auto & [pattern, type] : params.tensor_types) {
        overrides.push_back({pattern.c_str(), parse_tensor_type("tensor_types", type)});
    }
    overrides.push_back({nullptr, GGML_TYPE_COUNT});
    llama_model_quantize_params raw = llama_model_quantize_default_params();
    raw.nthread = params.n_threads > 0 ? params.n_threads : process_n_physical_cores();
    raw.ftype = parse_ftype(params.ftype);
    raw.allow_requantize = params.allow_requantize;
    raw.pure = params.pure;
    raw.quantize_output_tensor = params.quantize_output_tensor;
    raw.keep_split = params.keep_split;
    raw.tt_overrides = overrides.size() > 1 ? overrides.data() : nullptr;
    if (params.output_tensor_type) {
        raw.output_tensor_type = parse_tensor_type("output_tensor_type", *params.output_tensor_type);
    }
    if (params.token_embedding_type) {
        raw.token_embedding_type = parse_tensor_type("token_embedding_type", *params.token_embedding_type);
    }

    log_tail_reset();
    bool is_done = false;
    try {
        is_done = llama_model_quantize(source.c_str(), target.c_str(), &raw) == 0;
    } catch (const std::bad_alloc &) {
        throw;
    } catch (const std::exception & error) {
        throw Error(ErrorCode::load, "quantizing '" + name + "' failed: " + error.what());
    }
    if (!is_done) {
        throw Error(ErrorCode::load, "'" + name + "' can't be quantized to " + params.ftype,
                    "the reason is in the log lines attached to this error");
    }
}

} // namespace donabe
