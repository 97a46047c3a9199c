#include "thread_pools.h"

#include "ggml-backend.h"
#include "ggml-cpu.h"
#include "llama.h"

#include "base/errors.h"
#include "base/process.h"

namespace donabe {
namespace {

void * cpu_function(const char * name) {
    ggml_backend_dev_t device = ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU);
    void * function =
        device == nullptr ? nullptr : ggml_backend_reg_get_proc_address(ggml_backend_dev_backend_reg(device), name);
    if (function == nullptr) {
        throw Error(ErrorCode::load, std::string("the CPU backend has no function ") + name);
    }
    return function;
}

ggml_threadpool * new_pool(int32_t n_threads, int32_t poll) {
    auto * create = reinterpret_cast<decltype(ggml_threadpool_new) *>(cpu_function("ggml_threadpool_new"));
    ggml_threadpool_params params = ggml_threadpool_params_default(n_threads);
    params.poll = static_cast<uint32_t>(poll);
    ggml_threadpool * pool = create(&params);
    if (pool == nullptr) {
        throw Error(ErrorCode::load, "a pool of " + std::to_string(n_threads) + " threads can't be created");
    }
    return pool;
}

void free_pool(ggml_threadpool * pool) {
    reinterpret_cast<decltype(ggml_threadpool_free) *>(cpu_function("ggml_threadpool_free"))(pool);
}

} // namespace

ThreadPools::ThreadPools(int32_t n_threads, int32_t n_threads_batch, int32_t poll)
    : n_threads_(n_threads), n_threads_batch_(n_threads_batch), decode_(new_pool(n_threads, poll)) {
    try {
        batch_ = n_threads == n_threads_batch ? decode_ : new_pool(n_threads_batch, poll);
    } catch (...) {
        free_pool(decode_);
        throw;
    }
}

ThreadPools::~ThreadPools() {
    if (process_is_forked()) {
        return; // the pool's threads do not exist here; joining them would wait forever
    }
    if (batch_ != decode_) {
        free_pool(batch_);
    }
    free_pool(decode_);
}

void ThreadPools::attach(llama_context * context) const {
    llama_attach_threadpool(context, decode_, batch_);
    llama_set_n_threads(context, n_threads_, n_threads_batch_);
}

} // namespace donabe
