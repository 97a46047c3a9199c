#include "base/log_ring.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <deque>
#include <mutex>

#include "ggml.h"
#include "llama.h"
#include "log.h" // llama.cpp's common library

namespace donabe {
namespace {

constexpr size_t max_line_bytes = 4096; // longer lines are cut: a chat template in a log line helps nobody

struct Ring {
    std::mutex mutex;
    std::deque<LogLine> lines;
};

// Leaked: other libraries' threads may log while static objects are destroyed.
Ring & ring() {
    static Ring * instance = new Ring;
    return *instance;
}

std::atomic<int> min_level{GGML_LOG_LEVEL_INFO};

struct ThreadLog {
    std::deque<std::string> tail;
    std::string partial; // text of a line whose newline has not come yet
    int partial_level = GGML_LOG_LEVEL_INFO;
};
thread_local ThreadLog thread_log;

void finish_line() {
    std::string line;
    line.swap(thread_log.partial);
    while (!line.empty() && (line.back() == '\n' || line.back() == '\r')) {
        line.pop_back();
    }
    if (!line.empty()) {
        log_push(thread_log.partial_level, line);
    }
}

// ggml logs pieces of lines; GGML_LOG_LEVEL_CONT continues the piece before it.
void on_log(ggml_log_level level, const char * text, void *) {
    try {
        if (level != GGML_LOG_LEVEL_CONT) {
            finish_line();
            thread_log.partial_level = level;
        }
        const size_t room = max_line_bytes - std::min(max_line_bytes, thread_log.partial.size());
        const size_t size = std::strlen(text);
        thread_log.partial.append(text, std::min(size, room));
        if (size > 0 && text[size - 1] == '\n') {
            finish_line();
        }
    } catch (const std::exception &) { // out of memory: lose the line, not the process
        thread_log.partial.clear();
    }
}

} // namespace

void log_install() {
    llama_log_set(&on_log, nullptr);
    ggml_log_set(&on_log, nullptr);
    // The common library prints through a logger of its own; below zero nothing passes, not even its output level.
    common_log_set_verbosity_thold(-1);
}

void log_set_level(int level) {
    min_level.store(level, std::memory_order_relaxed);
}

void log_push(int level, const std::string & line) {
    if (level == GGML_LOG_LEVEL_WARN || level == GGML_LOG_LEVEL_ERROR) {
        if (thread_log.tail.size() == log_tail_capacity) {
            thread_log.tail.pop_front();
        }
        thread_log.tail.push_back(line);
    }
    if (level != GGML_LOG_LEVEL_NONE && level < min_level.load(std::memory_order_relaxed)) {
        return;
    }
    std::lock_guard<std::mutex> held(ring().mutex);
    if (ring().lines.size() == log_ring_capacity) {
        ring().lines.pop_front();
    }
    ring().lines.emplace_back(level, line);
}

std::vector<LogLine> log_drain(size_t max_lines) {
    std::lock_guard<std::mutex> held(ring().mutex);
    const size_t n = std::min(max_lines, ring().lines.size());
    const auto end = ring().lines.begin() + static_cast<std::ptrdiff_t>(n);
    std::vector<LogLine> taken(std::make_move_iterator(ring().lines.begin()), std::make_move_iterator(end));
    ring().lines.erase(ring().lines.begin(), end);
    return taken;
}

void log_tail_reset() noexcept {
    thread_log.tail.clear();
}

std::vector<std::string> log_tail_take() noexcept {
    try {
        finish_line();
        std::vector<std::string> tail(thread_log.tail.begin(), thread_log.tail.end());
        thread_log.tail.clear();
        return tail;
    } catch (const std::exception &) {
        return {};
    }
}

} // namespace donabe
