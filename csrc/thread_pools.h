// The persistent thread pools of one context. Without them ggml starts and joins threads for every graph. The pools
// live in the CPU backend, reached by name so that it works whether that backend is linked in or loaded at run time.
//
// Not thread-safe; the context's lock guards it. Must be destroyed after the llama_context is freed or detached.
#pragma once

#include <cstdint>

struct ggml_threadpool;
struct llama_context;

namespace donabe {

class ThreadPools {
  public:
    // Throws load when the pools can't be made.
    ThreadPools(int32_t n_threads, int32_t n_threads_batch, int32_t poll);
    ~ThreadPools();
    ThreadPools(const ThreadPools &) = delete;
    ThreadPools & operator=(const ThreadPools &) = delete;

    void attach(llama_context * context) const; // also tells the context the thread counts
    int32_t n_threads() const { return n_threads_; }
    int32_t n_threads_batch() const { return n_threads_batch_; }

  private:
    int32_t n_threads_;
    int32_t n_threads_batch_;
    ggml_threadpool * decode_ = nullptr; // for batches of one token
    ggml_threadpool * batch_ = nullptr;  // the same pool when the counts are equal
};

} // namespace donabe
