#include "text_stream.h"

#include <algorithm>

namespace donabe {

size_t utf8_complete_length(std::string_view bytes) {
    const size_t n = bytes.size();
    for (size_t back = 1; back <= std::min<size_t>(3, n); back++) {
        const auto lead = static_cast<uint8_t>(bytes[n - back]);
        if ((lead & 0xC0) == 0x80) {
            continue; // a continuation byte: look further back for its lead
        }
        size_t length = 1;
        if (lead >= 0xC2 && lead <= 0xDF) {
            length = 2;
        } else if (lead >= 0xE0 && lead <= 0xEF) {
            length = 3;
        } else if (lead >= 0xF0 && lead <= 0xF4) {
            length = 4;
        }
        return length > back ? n - back : n;
    }
    return n;
}

TextStream::TextStream(const std::vector<std::string> & stops) {
    matchers_.reserve(stops.size());
    for (const std::string & stop : stops) {
        Matcher matcher{stop, std::vector<int32_t>(stop.size() + 1, 0), 0};
        int32_t border = 0;
        for (size_t i = 1; i < stop.size(); i++) {
            while (border > 0 && stop[i] != stop[static_cast<size_t>(border)]) {
                border = matcher.border[static_cast<size_t>(border)];
            }
            border += stop[i] == stop[static_cast<size_t>(border)];
            matcher.border[i + 1] = border;
        }
        matchers_.push_back(std::move(matcher));
    }
}

void TextStream::Matcher::advance(char c) {
    if (is_match()) {
        state = border[static_cast<size_t>(state)];
    }
    while (state > 0 && c != text[static_cast<size_t>(state)]) {
        state = border[static_cast<size_t>(state)];
    }
    state += c == text[static_cast<size_t>(state)];
}

int32_t TextStream::longest_match() const {
    int32_t best = -1;
    for (size_t i = 0; i < matchers_.size(); i++) {
        if (matchers_[i].is_match() &&
            (best < 0 || matchers_[i].text.size() > matchers_[static_cast<size_t>(best)].text.size())) {
            best = static_cast<int32_t>(i);
        }
    }
    return best;
}

size_t TextStream::longest_partial_match() const {
    int32_t longest = 0;
    for (const Matcher & matcher : matchers_) {
        // A match that was passed over needs no holding back, but what it may begin again does.
        longest = std::max(longest, matcher.is_match() ? matcher.border[matcher.text.size()] : matcher.state);
    }
    return static_cast<size_t>(longest);
}

int32_t TextStream::append(std::string_view bytes, bool can_stop, std::string & out) {
    for (const char c : bytes) {
        held_ += c;
        for (Matcher & matcher : matchers_) {
            matcher.advance(c);
        }
        const int32_t match = can_stop ? longest_match() : -1;
        if (match >= 0) {
            out.append(held_, 0, held_.size() - matchers_[static_cast<size_t>(match)].text.size());
            held_.clear();
            return match;
        }
    }
    const size_t n_free = held_.size() - std::min(held_.size(), longest_partial_match());
    const size_t n_out = utf8_complete_length(std::string_view(held_).substr(0, n_free));
    out.append(held_, 0, n_out);
    held_.erase(0, n_out);
    return -1;
}

void TextStream::flush(std::string & out) {
    out += held_;
    held_.clear();
}

} // namespace donabe
