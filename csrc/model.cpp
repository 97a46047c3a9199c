#include "model.h"

#include <filesystem>
#include <regex>

#include "llama.h"

#include "adapter.h"
#include "base/errors.h"
#include "base/log_ring.h"
#include "base/process.h"
#include "devices.h"
#include "llama_internals.h"

namespace donabe {
namespace {

namespace fs = std::filesystem;

[[noreturn]] void refuse(const std::string & message) {
    throw Error(ErrorCode::invalid_argument, message);
}

std::string file_name(const std::string & path) {
    return fs::path(path).filename().string();
}

llama_split_mode parse_split_mode(const std::string & name) {
    if (name == "none") {
        return LLAMA_SPLIT_MODE_NONE;
    }
    if (name == "layer") {
        return LLAMA_SPLIT_MODE_LAYER;
    }
    if (name == "row") {
        return LLAMA_SPLIT_MODE_ROW;
    }
    refuse("split_mode must be none, layer or row, not '" + name + "'");
}

llama_load_mode parse_load_mode(const std::string & name) {
    if (name == "auto") {
        return LLAMA_LOAD_MODE_AUTO;
    }
    if (name == "none") {
        return LLAMA_LOAD_MODE_NONE;
    }
    if (name == "mmap") {
        return LLAMA_LOAD_MODE_MMAP;
    }
    if (name == "mlock") {
        return LLAMA_LOAD_MODE_MLOCK;
    }
    if (name == "mmap_mlock") {
        return LLAMA_LOAD_MODE_MMAP_MLOCK;
    }
    refuse("load_mode must be auto, none, mmap, mlock or mmap_mlock, not '" + name + "'");
}

void require_override_fits(const std::string & text, const char * what) {
    if (text.empty() || text.size() >= sizeof(llama_model_kv_override::key)) {
        refuse(std::string("kv_overrides: ") + what + " must be 1 to 127 bytes, not " + std::to_string(text.size()));
    }
}

llama_model_kv_override make_override(const std::string & key, const KvOverride & value) {
    llama_model_kv_override item{};
    key.copy(item.key, sizeof(item.key) - 1);
    if (const auto * flag = std::get_if<bool>(&value)) {
        item.tag = LLAMA_KV_OVERRIDE_TYPE_BOOL;
        item.val_bool = *flag;
    } else if (const auto * integer = std::get_if<int64_t>(&value)) {
        item.tag = LLAMA_KV_OVERRIDE_TYPE_INT;
        item.val_i64 = *integer;
    } else if (const auto * number = std::get_if<double>(&value)) {
        item.tag = LLAMA_KV_OVERRIDE_TYPE_FLOAT;
        item.val_f64 = *number;
    } else {
        item.tag = LLAMA_KV_OVERRIDE_TYPE_STR;
        std::get<std::string>(value).copy(item.val_str, sizeof(item.val_str) - 1);
    }
    return item;
}

// llama_model_params points into these, so they live until the load has returned.
struct LoadInputs {
    std::vector<ggml_backend_dev_t> devices;
    std::vector<float> tensor_split;
    std::vector<llama_model_tensor_buft_override> cpu_tensors;
    std::vector<llama_model_kv_override> kv_overrides;
    llama_model_params params;

    explicit LoadInputs(const ModelParams & from) : params(llama_model_default_params()) {
        params.n_gpu_layers = from.n_gpu_layers;
        params.split_mode = parse_split_mode(from.split_mode);
        params.main_gpu = from.main_gpu;
        params.load_mode = parse_load_mode(from.load_mode);
        params.vocab_only = from.vocab_only;
        params.check_tensors = from.check_tensors;
        params.use_extra_bufts = from.use_extra_bufts;
        params.no_alloc = from.no_alloc;
        if (from.no_alloc) {
            params.load_mode = LLAMA_LOAD_MODE_NONE; // else the files are mapped all the same
        }
        if (from.devices) {
            for (const std::string & name : *from.devices) {
                devices.push_back(devices_find(name));
            }
            devices.push_back(nullptr);
            params.devices = devices.data();
        }
        if (!from.tensor_split.empty()) {
            tensor_split = from.tensor_split;
            tensor_split.resize(llama_max_devices(), 0.0f);
            params.tensor_split = tensor_split.data();
        }
        if (!from.cpu_tensors.empty()) {
            for (const std::string & pattern : from.cpu_tensors) {
                cpu_tensors.push_back({pattern.c_str(), ggml_backend_cpu_buffer_type()});
            }
            cpu_tensors.push_back({nullptr, nullptr});
            params.tensor_buft_overrides = cpu_tensors.data();
        }
        if (!from.kv_overrides.empty()) {
            for (const auto & [key, value] : from.kv_overrides) {
                kv_overrides.push_back(make_override(key, value));
            }
            kv_overrides.push_back({});
            params.kv_overrides = kv_overrides.data();
        }
    }
};

bool on_progress(float value, void * user_data) {
    auto * progress = static_cast<LoadProgress *>(user_data);
    progress->value.store(value, std::memory_order_relaxed);
    return !progress->is_cancelled.load(std::memory_order_relaxed);
}

llama_model * load_files(const std::vector<std::string> & paths, llama_model_params params) {
    if (paths.size() == 1) {
        return llama_model_load_from_file(paths[0].c_str(), params);
    }
    std::vector<const char *> raw;
    for (const std::string & path : paths) {
        raw.push_back(path.c_str());
    }
    return llama_model_load_from_splits(raw.data(), raw.size(), params);
}

// llama.cpp writes snprintf-style: the return value is the size the text has.
template <typename F> std::string read_text(F && write) {
    std::string text(256, '\0');
    int32_t n = write(text.data(), text.size());
    if (n >= static_cast<int32_t>(text.size())) {
        text.resize(static_cast<size_t>(n) + 1);
        n = write(text.data(), text.size());
    }
    text.resize(n < 0 ? 0 : static_cast<size_t>(n));
    return text;
}

} // namespace

const char * memory_kind_name(MemoryKind kind) noexcept {
    switch (kind) {
    case MemoryKind::dense:
        return "dense";
    case MemoryKind::iswa:
        return "iswa";
    case MemoryKind::recurrent:
        return "recurrent";
    case MemoryKind::hybrid:
        return "hybrid";
    case MemoryKind::hybrid_iswa:
        return "hybrid_iswa";
    case MemoryKind::opaque:
        return "opaque";
    case MemoryKind::none:
        break;
    }
    return "none";
}

void ModelParams::validate() const {
    require_range("n_gpu_layers", int64_t{n_gpu_layers}, -1, 100000);
    require_range("main_gpu", int64_t{main_gpu}, 0, static_cast<int64_t>(llama_max_devices()) - 1);
    parse_split_mode(split_mode);
    parse_load_mode(load_mode);
    if (tensor_split.size() > llama_max_devices()) {
        refuse("tensor_split has " + std::to_string(tensor_split.size()) + " values; there can be at most " +
               std::to_string(llama_max_devices()));
    }
    for (float share : tensor_split) {
        require_range("tensor_split", double{share}, 0.0, 1e9);
    }
    if (cpu_tensors.size() >= llama_max_tensor_buft_overrides()) {
        refuse("cpu_tensors has more than " + std::to_string(llama_max_tensor_buft_overrides() - 1) + " patterns");
    }
    for (const std::string & pattern : cpu_tensors) {
        try {
            std::regex compiled(pattern);
        } catch (const std::regex_error & error) {
            refuse("cpu_tensors: '" + pattern + "' is not a regular expression: " + error.what());
        }
    }
    for (const auto & [key, value] : kv_overrides) {
        require_override_fits(key, "a key");
        if (const auto * text = std::get_if<std::string>(&value)) {
            require_override_fits(*text, "a string value");
        }
    }
}

std::shared_ptr<Model> Model::load(const std::vector<std::string> & paths, const ModelParams & params,
                                   std::shared_ptr<LoadProgress> progress) {
    process_require_not_forked();
    params.validate();
    if (paths.empty()) {
        refuse("path is empty: give one file, or all parts of a split model");
    }
    for (const std::string & path : paths) {
        std::error_code failed;
        if (!fs::is_regular_file(path, failed)) {
            throw Error(ErrorCode::load, "the model file '" + file_name(path) + "' does not exist or is not a file");
        }
    }
    devices_require_init();
    LoadInputs inputs(params);
    if (!progress) {
        progress = std::make_shared<LoadProgress>();
    }
    inputs.params.progress_callback = &on_progress;
    inputs.params.progress_callback_user_data = progress.get();

    log_tail_reset();
    llama_model * model = nullptr;
    try {
        model = load_files(paths, inputs.params);
    } catch (const std::bad_alloc &) {
        throw;
    } catch (const std::exception & error) {
        throw Error(ErrorCode::load, "loading '" + file_name(paths[0]) + "' failed: " + error.what());
    }
    if (model == nullptr && progress->is_cancelled.load()) {
        throw Error(ErrorCode::aborted, "loading '" + file_name(paths[0]) + "' was cancelled");
    }
    if (model == nullptr) {
        throw Error(ErrorCode::load, "the model file '" + file_name(paths[0]) + "' can't be loaded",
                    "the reason is in the log lines attached to this error");
    }
    progress->value.store(1.0f, std::memory_order_relaxed);
    return std::shared_ptr<Model>(new Model(model, params));
}

Model::Model(llama_model * model, const ModelParams & params)
    : model_(model), is_vocab_only_(params.vocab_only), has_weights_(!params.vocab_only && !params.no_alloc),
      is_causal_(internals_model_is_causal(model)), n_vocab_(llama_vocab_n_tokens(llama_model_get_vocab(model))),
      architecture_(meta_value("general.architecture").value_or("")),
      memory_kind_(is_vocab_only_ ? MemoryKind::none : internals_model_memory_kind(model)) {}

Model::~Model() {
    if (!process_is_forked()) { // in a forked child the backends' threads and devices are gone: leak instead
        llama_model_free(model_);
    }
}

const llama_model * Model::raw() const {
    process_require_not_forked();
    return model_;
}

llama_model * Model::raw_mutable() const {
    process_require_not_forked();
    return model_;
}

const llama_vocab * Model::vocab_raw() const {
    return llama_model_get_vocab(raw());
}

std::string Model::description() const {
    return read_text([this](char * out, size_t size) { return llama_model_desc(raw(), out, size); });
}

bool Model::uses_mrope() const {
    const llama_rope_type type = llama_model_rope_type(raw());
    return type == LLAMA_ROPE_TYPE_MROPE || type == LLAMA_ROPE_TYPE_IMROPE;
}

int32_t Model::n_expert() const {
    return internals_model_n_expert(raw());
}

int32_t Model::n_swa() const {
    const bool has_window = memory_kind_ == MemoryKind::iswa || memory_kind_ == MemoryKind::hybrid_iswa;
    return has_window ? llama_model_n_swa(raw()) : 0;
}

std::map<std::string, std::string> Model::meta() const {
    std::map<std::string, std::string> items;
    for (int32_t i = 0; i < llama_model_meta_count(raw()); i++) {
        std::string key = read_text(
            [this, i](char * out, size_t size) { return llama_model_meta_key_by_index(model_, i, out, size); });
        items[std::move(key)] = read_text(
            [this, i](char * out, size_t size) { return llama_model_meta_val_str_by_index(model_, i, out, size); });
    }
    return items;
}

std::optional<std::string> Model::meta_value(const std::string & key) const {
    char probe[1];
    if (llama_model_meta_val_str(raw(), key.c_str(), probe, sizeof(probe)) < 0) {
        return std::nullopt;
    }
    return read_text([&](char * out, size_t size) { return llama_model_meta_val_str(model_, key.c_str(), out, size); });
}

std::optional<std::string> Model::chat_template(const std::string & name) const {
    const char * text = llama_model_chat_template(raw(), name.empty() ? nullptr : name.c_str());
    return text == nullptr ? std::nullopt : std::optional<std::string>(text);
}

std::vector<std::string> Model::class_labels() const {
    std::vector<std::string> labels;
    for (uint32_t i = 0; i < llama_model_n_cls_out(raw()); i++) {
        if (const char * label = llama_model_cls_label(model_, i)) {
            labels.emplace_back(label);
        }
    }
    return labels;
}

std::shared_ptr<Adapter> Model::load_adapter(const std::string & path) {
    if (!has_weights_) {
        throw Error(ErrorCode::unsupported, "a model loaded with vocab_only or no_alloc has no weights to adapt");
    }
    std::error_code failed;
    if (!fs::is_regular_file(path, failed)) {
        throw Error(ErrorCode::load, "the adapter file '" + file_name(path) + "' does not exist or is not a file");
    }
    std::lock_guard<std::mutex> held(adapter_mutex_);
    log_tail_reset();
    llama_adapter_lora * adapter = llama_adapter_lora_init(raw_mutable(), path.c_str());
    if (adapter == nullptr) {
        throw Error(ErrorCode::load, "the adapter '" + file_name(path) + "' can't be applied to this model",
                    "the reason is in the log lines attached to this error");
    }
    return std::make_shared<Adapter>(shared_from_this(), adapter, path);
}

void Model::free_adapter(llama_adapter_lora * adapter) noexcept {
    std::lock_guard<std::mutex> held(adapter_mutex_);
    llama_adapter_lora_free(adapter);
}

std::shared_ptr<Model> ModelHandle::get() const {
    std::lock_guard<std::mutex> held(mutex_);
    if (!model_) {
        throw Error(ErrorCode::closed, "the model was closed");
    }
    return model_;
}

void ModelHandle::close() {
    std::shared_ptr<Model> last; // declared first, so freed after the lock is released
    std::lock_guard<std::mutex> held(mutex_);
    last.swap(model_);
}

} // namespace donabe
