// Where every log line of ggml, llama.cpp and its common library goes: a bounded ring that Python drains. Nothing is
// printed. Each thread also keeps the tail of its own warnings and errors, which Error takes along: llama.cpp says why
// a load failed only in the log.
//
// All functions may be called from any thread. The ring is guarded by a mutex held for one push or one drain.
#pragma once

#include <cstddef>
#include <string>
#include <utility>
#include <vector>

namespace donabe {

inline constexpr size_t log_ring_capacity = 4096; // lines; the oldest are dropped
inline constexpr size_t log_tail_capacity = 24;   // warning and error lines kept per thread

// Levels as in ggml: 1 debug, 2 info, 3 warn, 4 error.
using LogLine = std::pair<int, std::string>;

// Route ggml, llama.cpp and common logging into the ring. Idempotent.
void log_install();
void log_set_level(int level); // lines below are dropped at the source; the tail is not affected
void log_push(int level, const std::string & line);
std::vector<LogLine> log_drain(size_t max_lines);

// Forget this thread's tail: call where an operation begins, so that an error does not carry lines of an older one.
void log_tail_reset() noexcept;
// This thread's tail, oldest first; leaves it empty.
std::vector<std::string> log_tail_take() noexcept;

} // namespace donabe
