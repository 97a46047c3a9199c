#include "worker_pool.h"

#include "base/errors.h"
#include "base/process.h"

namespace donabe {

WorkerPool::WorkerPool(int32_t n_threads) {
    require_range("n_threads", static_cast<int64_t>(n_threads), int64_t(1), int64_t(256));
    for (int32_t i = 1; i < n_threads; i++) {
        workers_.emplace_back([this, i] { work(static_cast<size_t>(i)); });
    }
}

WorkerPool::~WorkerPool() {
    if (process_is_forked()) {
        for (std::thread & worker : workers_) {
            worker.detach(); // it lives in the parent only
        }
        return;
    }
    {
        std::lock_guard<std::mutex> lock(mutex_);
        is_stopping_ = true;
    }
    wake_.notify_all();
    for (std::thread & worker : workers_) {
        worker.join();
    }
}

void WorkerPool::run(size_t n_items, const std::function<void(size_t, size_t)> & task) {
    if (workers_.empty() || n_items < 2 || process_is_forked()) {
        for (size_t i = 0; i < n_items; i++) {
            task(i, 0);
        }
        return;
    }
    {
        std::lock_guard<std::mutex> lock(mutex_);
        task_ = &task;
        n_items_ = n_items;
        next_item_.store(0, std::memory_order_relaxed);
        n_busy_ = workers_.size();
        round_++;
    }
    wake_.notify_all();
    take_items(0);
    std::unique_lock<std::mutex> lock(mutex_);
    done_.wait(lock, [this] { return n_busy_ == 0; });
    task_ = nullptr;
}

void WorkerPool::take_items(size_t thread) {
    for (;;) {
        const size_t item = next_item_.fetch_add(1, std::memory_order_relaxed);
        if (item >= n_items_) {
            return;
        }
        (*task_)(item, thread);
    }
}

void WorkerPool::work(size_t thread) {
    uint64_t seen = 0;
    std::unique_lock<std::mutex> lock(mutex_);
    for (;;) {
        wake_.wait(lock, [&] { return is_stopping_ || round_ != seen; });
        if (is_stopping_) {
            return;
        }
        seen = round_;
        lock.unlock();
        take_items(thread);
        lock.lock();
        if (--n_busy_ == 0) {
            done_.notify_one();
        }
    }
}

} // namespace donabe
