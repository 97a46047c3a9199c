#include "worker_pool.h"

#include <chrono>

#include "base/errors.h"
#include "base/process.h"

namespace donabe {

namespace {

constexpr std::chrono::microseconds WORTH_WAKING{150}; // what is left must take longer, on this thread alone

} // namespace

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
    next_item_.store(0, std::memory_order_relaxed);
    if (workers_.empty() || process_is_forked() || take_short_loop(n_items, task)) {
        take_items(task, n_items, 0);
        return;
    }
    {
        std::lock_guard<std::mutex> lock(mutex_);
        task_ = &task;
        n_items_ = n_items;
        round_++;
    }
    wake_.notify_all();
    take_items(task, n_items, 0);
    std::unique_lock<std::mutex> lock(mutex_);
    task_ = nullptr; // who wakes up now has nothing to do
    done_.wait(lock, [this] { return n_busy_ == 0; });
}

bool WorkerPool::take_short_loop(size_t n_items, const std::function<void(size_t, size_t)> & task) {
    const auto start = std::chrono::steady_clock::now();
    for (size_t n_left = n_items; n_left > 0; n_left--) {
        const auto spent = std::chrono::steady_clock::now() - start;
        const size_t n_done = n_items - n_left;
        if (n_done > 0 && spent / n_done * n_left > WORTH_WAKING) {
            return false;
        }
        task(next_item_.fetch_add(1, std::memory_order_relaxed), 0);
    }
    return true;
}

void WorkerPool::take_items(const std::function<void(size_t, size_t)> & task, size_t n_items, size_t thread) {
    for (;;) {
        const size_t item = next_item_.fetch_add(1, std::memory_order_relaxed);
        if (item >= n_items) {
            return;
        }
        task(item, thread);
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
        if (task_ == nullptr) {
            continue;
        }
        const auto & task = *task_; // stays until n_busy_ is back to 0
        const size_t n_items = n_items_;
        n_busy_++;
        lock.unlock();
        take_items(task, n_items, thread);
        lock.lock();
        if (--n_busy_ == 0) {
            done_.notify_one();
        }
    }
}

} // namespace donabe
