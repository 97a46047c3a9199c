// A loaded model. `Model` lives as long as anything uses it (contexts, vocabularies, samplers, adapters hold a
// shared_ptr); `ModelHandle` is what Python closes.
//
// Threads: const after load, usable from any thread, except load_adapter(), which takes the model's own lock.
#pragma once

#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <variant>
#include <vector>

struct llama_adapter_lora;
struct llama_model;
struct llama_vocab;

namespace donabe {

class Adapter;

// What a sequence's memory is made of; decides what fork() can share (memory.cpp).
enum class MemoryKind : int32_t {
    dense,       // one attention cache over all positions
    iswa,        // attention, some layers with a sliding window
    recurrent,   // a state per sequence, no history
    hybrid,      // attention + recurrent
    hybrid_iswa, // attention with a window + recurrent
    opaque,      // caches with rules of their own: nothing is shared, states are copied whole
    none,        // no memory (encoders, embedding models)
};
const char * memory_kind_name(MemoryKind kind) noexcept;

class LoadProgress {
  public:
    std::atomic<float> value{0.0f};
    std::atomic<bool> is_cancelled{false};
};

using KvOverride = std::variant<bool, int64_t, double, std::string>;

struct ModelParams {
    int32_t n_gpu_layers = -1;
    std::string split_mode = "layer";
    int32_t main_gpu = 0;
    std::vector<float> tensor_split;
    std::optional<std::vector<std::string>> devices;
    std::string load_mode = "auto";
    bool vocab_only = false;
    bool check_tensors = false;
    bool use_extra_bufts = true;
    bool no_alloc = false;                // weights are not read: such a model only tells facts and plans memory
    std::vector<std::string> cpu_tensors; // regular expressions over tensor names
    std::map<std::string, KvOverride> kv_overrides;

    void validate() const; // throws invalid_argument
};

class Model : public std::enable_shared_from_this<Model> {
  public:
    // One path (its splits are found by name) or all splits in order. Throws load, aborted (cancelled),
    // invalid_argument.
    static std::shared_ptr<Model> load(const std::vector<std::string> & paths, const ModelParams & params,
                                       std::shared_ptr<LoadProgress> progress);
    ~Model();
    Model(const Model &) = delete;
    Model & operator=(const Model &) = delete;

    const llama_model * raw() const; // throws unsupported in a forked child
    llama_model * raw_mutable() const;
    const llama_vocab * vocab_raw() const;

    std::string description() const;
    const std::string & architecture() const { return architecture_; }
    MemoryKind memory_kind() const { return memory_kind_; }
    bool is_vocab_only() const { return is_vocab_only_; }
    bool has_weights() const { return has_weights_; }
    bool is_causal() const { return is_causal_; }
    bool uses_mrope() const;
    int32_t n_vocab() const { return n_vocab_; }
    int32_t n_expert() const; // experts of a layer, 0 for a model without
    int32_t n_swa() const;    // 0 unless a cache with a sliding window is used
    std::map<std::string, std::string> meta() const;
    std::optional<std::string> meta_value(const std::string & key) const;
    std::optional<std::string> chat_template(const std::string & name) const; // "": the default one
    std::vector<std::string> class_labels() const;
    std::shared_ptr<Adapter> load_adapter(const std::string & path);
    void free_adapter(llama_adapter_lora * adapter) noexcept; // for ~Adapter

  private:
    Model(llama_model * model, const ModelParams & params);

    llama_model * model_;
    bool is_vocab_only_;
    bool has_weights_;
    bool is_causal_ = true;
    int32_t n_vocab_ = 0;
    std::string architecture_;
    MemoryKind memory_kind_ = MemoryKind::none;
    std::mutex adapter_mutex_;
};

// The closable reference Python holds. close() and get() may race: get() returns a model that stays valid, or throws.
class ModelHandle {
  public:
    explicit ModelHandle(std::shared_ptr<Model> model) : model_(std::move(model)) {}
    std::shared_ptr<Model> get() const; // throws closed
    void close();                       // frees the model when this was the last user: call without the GIL

  private:
    mutable std::mutex mutex_;
    std::shared_ptr<Model> model_;
};

} // namespace donabe
