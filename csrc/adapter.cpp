#include "adapter.h"

#include "llama.h"

#include "base/process.h"
#include "model.h"

namespace donabe {

Adapter::Adapter(std::shared_ptr<Model> model, llama_adapter_lora * adapter, std::string path)
    : model_(std::move(model)), adapter_(adapter), path_(std::move(path)) {}

Adapter::~Adapter() {
    if (!process_is_forked()) {
        model_->free_adapter(adapter_);
    }
}

} // namespace donabe
