// A few persistent threads for short row-parallel loops. The calling thread works too, so n_threads = 1 starts none.
//
// The caller never waits for a thread that has not begun: on a machine whose cores are all busy (compute threads poll
// between two steps) a wake-up costs more than most loops. Loops that would be over sooner wake nobody.
//
// Threads: run() by one thread at a time; the task must not throw. Workers never touch Python. After fork() there are
// no workers in the child: run() then does everything on the caller.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace donabe {

class WorkerPool {
  public:
    explicit WorkerPool(int32_t n_threads); // 1 .. 256, counts the caller
    ~WorkerPool();
    WorkerPool(const WorkerPool &) = delete;
    WorkerPool & operator=(const WorkerPool &) = delete;

    int32_t n_threads() const { return static_cast<int32_t>(workers_.size()) + 1; }
    // task(item, thread) for every item in [0, n_items), thread in [0, n_threads). Returns when all are done.
    void run(size_t n_items, const std::function<void(size_t, size_t)> & task);

  private:
    void work(size_t thread);
    bool take_short_loop(size_t n_items, const std::function<void(size_t, size_t)> & task); // false: items are left
    void take_items(const std::function<void(size_t, size_t)> & task, size_t n_items, size_t thread);

    std::vector<std::thread> workers_;
    std::mutex mutex_;
    std::condition_variable wake_;
    std::condition_variable done_;
    uint64_t round_ = 0; // guarded by mutex_, like n_busy_, task_ and is_stopping_
    size_t n_busy_ = 0;  // workers inside the task
    bool is_stopping_ = false;
    const std::function<void(size_t, size_t)> * task_ = nullptr;
    size_t n_items_ = 0;
    std::atomic<size_t> next_item_{0};
};

} // namespace donabe
