#include "gguf_file.h"

#include <filesystem>

#include "ggml.h"
#include "gguf.h"

#include "base/errors.h"
#include "base/log_ring.h"
#include "base/process.h"

namespace donabe {
namespace {

template <typename To, typename From> std::vector<To> widen(const gguf_context * gguf, int64_t key) {
    const auto * data = static_cast<const From *>(gguf_get_arr_data(gguf, key));
    return std::vector<To>(data, data + gguf_get_arr_n(gguf, key));
}

GgufValue read_array(const gguf_context * gguf, int64_t key) {
    switch (gguf_get_arr_type(gguf, key)) {
    case GGUF_TYPE_UINT8:
        return widen<uint64_t, uint8_t>(gguf, key);
    case GGUF_TYPE_INT8:
        return widen<int64_t, int8_t>(gguf, key);
    case GGUF_TYPE_UINT16:
        return widen<uint64_t, uint16_t>(gguf, key);
    case GGUF_TYPE_INT16:
        return widen<int64_t, int16_t>(gguf, key);
    case GGUF_TYPE_UINT32:
        return widen<uint64_t, uint32_t>(gguf, key);
    case GGUF_TYPE_INT32:
        return widen<int64_t, int32_t>(gguf, key);
    case GGUF_TYPE_UINT64:
        return widen<uint64_t, uint64_t>(gguf, key);
    case GGUF_TYPE_INT64:
        return widen<int64_t, int64_t>(gguf, key);
    case GGUF_TYPE_FLOAT32:
        return widen<double, float>(gguf, key);
    case GGUF_TYPE_FLOAT64:
        return widen<double, double>(gguf, key);
    case GGUF_TYPE_BOOL:
        return widen<bool, int8_t>(gguf, key);
    case GGUF_TYPE_STRING: {
        std::vector<std::string> texts;
        for (size_t i = 0; i < gguf_get_arr_n(gguf, key); i++) {
            texts.emplace_back(gguf_get_arr_str(gguf, key, i));
        }
        return texts;
    }
    case GGUF_TYPE_ARRAY:
    case GGUF_TYPE_COUNT:
        break;
    }
    throw Error(ErrorCode::load, std::string("'") + gguf_get_key(gguf, key) + "' is an array of an unknown type");
}

// The typed getters of gguf.h abort on another type, hence the switch.
GgufValue read_value(const gguf_context * gguf, int64_t key) {
    switch (gguf_get_kv_type(gguf, key)) {
    case GGUF_TYPE_UINT8:
        return uint64_t{gguf_get_val_u8(gguf, key)};
    case GGUF_TYPE_INT8:
        return int64_t{gguf_get_val_i8(gguf, key)};
    case GGUF_TYPE_UINT16:
        return uint64_t{gguf_get_val_u16(gguf, key)};
    case GGUF_TYPE_INT16:
        return int64_t{gguf_get_val_i16(gguf, key)};
    case GGUF_TYPE_UINT32:
        return uint64_t{gguf_get_val_u32(gguf, key)};
    case GGUF_TYPE_INT32:
        return int64_t{gguf_get_val_i32(gguf, key)};
    case GGUF_TYPE_UINT64:
        return uint64_t{gguf_get_val_u64(gguf, key)};
    case GGUF_TYPE_INT64:
        return int64_t{gguf_get_val_i64(gguf, key)};
    case GGUF_TYPE_FLOAT32:
        return double{gguf_get_val_f32(gguf, key)};
    case GGUF_TYPE_FLOAT64:
        return gguf_get_val_f64(gguf, key);
    case GGUF_TYPE_BOOL:
        return gguf_get_val_bool(gguf, key);
    case GGUF_TYPE_STRING:
        return std::string(gguf_get_val_str(gguf, key));
    case GGUF_TYPE_ARRAY:
        return read_array(gguf, key);
    case GGUF_TYPE_COUNT:
        break;
    }
    throw Error(ErrorCode::load, std::string("'") + gguf_get_key(gguf, key) + "' has an unknown type");
}

} // namespace

GgufFile::GgufFile(const std::string & path) : gguf_(nullptr) {
    process_require_not_forked();
    const std::string name = std::filesystem::path(path).filename().string();
    std::error_code failed;
    if (!std::filesystem::is_regular_file(path, failed)) {
        throw Error(ErrorCode::load, "'" + name + "' does not exist or is not a file");
    }
    log_tail_reset();
    gguf_ = gguf_init_from_file(path.c_str(), {/*no_alloc =*/true, /*ctx =*/nullptr});
    if (gguf_ == nullptr) {
        throw Error(ErrorCode::load, "'" + name + "' is not a GGUF file that ggml can read",
                    "the reason is in the log lines attached to this error");
    }
}

GgufFile::~GgufFile() {
    gguf_free(gguf_);
}

uint32_t GgufFile::version() const {
    return gguf_get_version(gguf_);
}

std::vector<std::pair<std::string, GgufValue>> GgufFile::meta() const {
    std::vector<std::pair<std::string, GgufValue>> items;
    for (int64_t key = 0; key < gguf_get_n_kv(gguf_); key++) {
        items.emplace_back(gguf_get_key(gguf_, key), read_value(gguf_, key));
    }
    return items;
}

std::vector<GgufTensor> GgufFile::tensors() const {
    std::vector<GgufTensor> tensors;
    for (int64_t i = 0; i < gguf_get_n_tensors(gguf_); i++) {
        const int64_t * ne = gguf_get_tensor_ne(gguf_, i);
        int n_dims = GGML_MAX_DIMS;
        while (n_dims > 1 && ne[n_dims - 1] == 1) {
            n_dims--;
        }
        tensors.push_back({gguf_get_tensor_name(gguf_, i), ggml_type_name(gguf_get_tensor_type(gguf_, i)),
                           std::vector<int64_t>(ne, ne + n_dims), gguf_get_tensor_offset(gguf_, i)});
    }
    return tensors;
}

} // namespace donabe
