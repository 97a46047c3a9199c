// The last tokens of a sequence and how often each is among them: what penalties look at. One thread at a time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <unordered_map>

namespace donabe {

class TokenWindow {
  public:
    explicit TokenWindow(int32_t capacity) : capacity_(static_cast<size_t>(capacity)) {}

    void push(int32_t token) {
        if (capacity_ == 0) {
            return;
        }
        if (tokens_.size() == capacity_) {
            const auto oldest = counts_.find(tokens_.front());
            if (--oldest->second == 0) {
                counts_.erase(oldest);
            }
            tokens_.pop_front();
        }
        tokens_.push_back(token);
        counts_[token]++;
    }
    void clear() {
        tokens_.clear();
        counts_.clear();
    }
    size_t capacity() const { return capacity_; }
    const std::unordered_map<int32_t, int32_t> & counts() const { return counts_; }

  private:
    size_t capacity_;
    std::deque<int32_t> tokens_;
    std::unordered_map<int32_t, int32_t> counts_;
};

} // namespace donabe
