// A LoRA adapter of one model. Keeps the model alive; the model owns the weights.
#pragma once

#include <memory>
#include <string>

struct llama_adapter_lora;

namespace donabe {

class Model;

class Adapter {
  public:
    Adapter(std::shared_ptr<Model> model, llama_adapter_lora * adapter, std::string path);
    ~Adapter();
    Adapter(const Adapter &) = delete;
    Adapter & operator=(const Adapter &) = delete;

    llama_adapter_lora * raw() const { return adapter_; }
    const std::shared_ptr<Model> & model() const { return model_; }
    const std::string & path() const { return path_; }

  private:
    std::shared_ptr<Model> model_;
    llama_adapter_lora * adapter_;
    std::string path_;
};

} // namespace donabe
