// The one exception of the native core. Every failure a caller can meet is a donabe::Error with a code; the binding
// maps the code to the class of donabe.errors with the name error_class_name() gives. Codes and classes come and go
// together. Nothing classifies an error by its text.
#pragma once

#include <cstdint>
#include <exception>
#include <string>
#include <vector>

namespace donabe {

enum class ErrorCode : int32_t {
    load,             // a model, adapter or projector can't be loaded
    invalid_batch,    // llama.cpp would reject the batch or abort on it; memory is untouched
    invalid_argument, // any other argument out of range
    kv_full,          // no room in the KV cache; memory is untouched
    aborted,          // stopped by request_abort()
    compute,          // the backend failed; the context is broken
    state,            // a state blob that does not fit
    grammar,          // a grammar or JSON schema that does not compile
    chat_template,    // a chat template that does not parse or render
    unsupported,      // this model, context or process can't do that
    closed,           // used after close()
    busy,             // another thread is inside, or a view is alive
};

inline constexpr int32_t n_error_codes = static_cast<int32_t>(ErrorCode::busy) + 1;

// Name of the class in donabe.errors.
const char * error_class_name(ErrorCode code) noexcept;

class Error : public std::exception {
  public:
    // Takes the calling thread's log tail (see log_ring.h) where llama.cpp was involved, so throw on the thread that
    // did the work.
    Error(ErrorCode code, std::string message, std::string hint = {});

    ErrorCode code() const noexcept { return code_; }
    const char * what() const noexcept override { return message_.c_str(); }
    const std::string & hint() const noexcept { return hint_; } // empty: none
    const std::vector<std::string> & log_tail() const noexcept { return log_tail_; }

  private:
    ErrorCode code_;
    std::string message_;
    std::string hint_;
    std::vector<std::string> log_tail_;
};

// Throws invalid_argument "<name> must be in [lo, hi], not <value>" unless lo <= value <= hi.
void require_range(const char * name, int64_t value, int64_t lo, int64_t hi);
// The same for floating point; NaN and infinities are always refused.
void require_range(const char * name, double value, double lo, double hi);

} // namespace donabe
