#include "base/errors.h"

#include <cmath>
#include <utility>

#include "base/log_ring.h"

namespace donabe {

const char * error_class_name(ErrorCode code) noexcept {
    switch (code) {
    case ErrorCode::load:
        return "LoadError";
    case ErrorCode::invalid_batch:
        return "InvalidBatchError";
    case ErrorCode::invalid_argument:
        return "InvalidArgumentError";
    case ErrorCode::kv_full:
        return "KvFullError";
    case ErrorCode::aborted:
        return "AbortedError";
    case ErrorCode::compute:
        return "ComputeError";
    case ErrorCode::state:
        return "StateError";
    case ErrorCode::grammar:
        return "GrammarError";
    case ErrorCode::chat_template:
        return "TemplateError";
    case ErrorCode::unsupported:
        return "UnsupportedError";
    case ErrorCode::closed:
        return "ClosedError";
    case ErrorCode::busy:
        return "BusyError";
    }
    return "NativeError";
}

namespace {

// These are found by our own checks, before llama.cpp has a say: what it logged earlier does not explain them.
bool has_log_tail(ErrorCode code) {
    return code != ErrorCode::invalid_argument && code != ErrorCode::unsupported && code != ErrorCode::closed &&
           code != ErrorCode::busy;
}

} // namespace

Error::Error(ErrorCode code, std::string message, std::string hint)
    : code_(code), message_(std::move(message)), hint_(std::move(hint)) {
    if (has_log_tail(code)) {
        log_tail_ = log_tail_take();
    }
}

void require_range(const char * name, int64_t value, int64_t lo, int64_t hi) {
    if (value < lo || value > hi) {
        throw Error(ErrorCode::invalid_argument, std::string(name) + " must be in [" + std::to_string(lo) + ", " +
                                                     std::to_string(hi) + "], not " + std::to_string(value));
    }
}

void require_range(const char * name, double value, double lo, double hi) {
    if (!std::isfinite(value) || value < lo || value > hi) {
        throw Error(ErrorCode::invalid_argument, std::string(name) + " must be in [" + std::to_string(lo) + ", " +
                                                     std::to_string(hi) + "], not " + std::to_string(value));
    }
}

} // namespace donabe
